"""Operations that change a tensor in place, take keyword arguments or fill `out=`: what is read stays, what is written
is what the model goes on with."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from loupe import Model
from loupe.errors import WriteError
from tests import tiny


class Mixed(nn.Module):
    """Computes with operations of every form, and goes on with what they change."""

    def __init__(self):
        super().__init__()
        self.lin, self.child = nn.Linear(4, 4), nn.ReLU()

    def forward(self, x, *, scale=2.0):
        y = torch.add(input=x, other=1.0)  # add[0]
        y.mul_(scale)  # mul[0]: the call is a statement
        kept = y
        y += 1  # add[1]: so is this, and `kept` is the same tensor
        buffer = torch.empty_like(y)
        torch.sin(y, out=buffer)  # sin[0]
        z = self.child(buffer) + kept  # add[2]
        z[:, 0] = 5  # setitem[0]
        F.relu(z, inplace=True)  # relu[0]
        first, second = z.chunk(2, -1)  # chunk[0]
        return torch.cat([first, self.lin(z)[:, :2], second], dim=-1)  # getitem[0], cat[0]


def by_hand(module, x, at=None, change=None):
    """The forward pass line by line: what each operation takes and gives; `change` is made of what `at` names."""
    seen = {}

    def note(name, value):
        value = change(value) if name == at else value
        seen[name] = value.clone() if isinstance(value, torch.Tensor) else value
        return value

    with torch.no_grad():
        y = note("add0", x + 1.0)
        y = note("mul0", note("into mul0", y) * 2.0)
        y = note("add1", note("into add1", y) + 1)
        buffer = note("sin0", note("into sin0", y).sin())
        z = note("add2", buffer.relu() + y)
        z = note("into setitem0", z)
        z = torch.cat([torch.full_like(z[:, :1], 5), z[:, 1:]], -1)
        z = note("relu0", note("into relu0", z).relu())
        first, second = note("chunk0", z.chunk(2, -1))
        seen["out"] = torch.cat([first, module.lin(z)[:, :2], second], -1)
    return seen


@pytest.fixture
def mixed():
    torch.manual_seed(2)
    return Mixed()


@pytest.fixture
def x():
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(1))


def same(found, want):
    torch.testing.assert_close(found.value if hasattr(found, "value") else found, want)


OUTPUTS = {"add0": ("add", 0), "mul0": ("mul", 0), "add1": ("add", 1), "sin0": ("sin", 0), "add2": ("add", 2)}
OUTPUTS |= {"relu0": ("relu", 0)}
INPUTS = {"mul0": ("mul", 0), "add1": ("add", 1), "sin0": ("sin", 0), "setitem0": ("setitem", 0), "relu0": ("relu", 0)}


def operation(model, name, index):
    return getattr(model.ops, name)[index]


def test_the_oracle_is_the_module(mixed, x):
    same(mixed(x).detach(), by_hand(mixed, x)["out"])


def test_everything_is_read_as_it_was_although_it_is_overwritten_later(mixed, x):
    model, want = Model(mixed), by_hand(mixed, x)
    with model.trace(x):
        outputs = {name: operation(model, *place).output.save() for name, place in OUTPUTS.items() if name != "add0"}
        inputs = {name: operation(model, *place).input.save() for name, place in INPUTS.items()}
        halves = model.ops.chunk[0].output.save()
        result = model.output.save()
    for name, found in outputs.items():
        if name != "add2":
            same(found, want[name])
    for name, found in inputs.items():
        same(found, want[f"into {name}"])
    same(halves[0], want["chunk0"][0])
    same(result, want["out"])


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("form", ["replaced", "in place"])
def test_what_is_written_is_what_the_model_goes_on_with(mixed, x, name, form):
    model = Model(mixed)
    want = by_hand(mixed, x, name, lambda value: value * -0.5)["out"]
    with model.trace(x):
        site = operation(model, *OUTPUTS[name])
        if form == "replaced":
            before = site.output.clone().save()
            site.output = site.output * -0.5
        else:
            before = site.output.clone().save()
            site.output[:] *= -0.5
        result = model.output.save()
    same(result, want)
    same(before, by_hand(mixed, x)[name])


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("form", ["input", "inputs", "in place"])
def test_a_written_input_is_what_the_operation_takes_and_what_it_changes(mixed, x, name, form):
    model = Model(mixed)
    want = by_hand(mixed, x, f"into {name}", lambda value: value * -0.5)["out"]
    if name == "sin0":  # torch.sin changes its `out`, not its input, which the module uses once more
        y = by_hand(mixed, x)["add1"]
        z = (y * -0.5).sin().relu() + (y * -0.5 if form == "in place" else y)
        z = torch.cat([torch.full_like(z[:, :1], 5), z[:, 1:]], -1).relu()
        want = torch.cat([z[:, :2], mixed.lin(z)[:, :2], z[:, 2:]], -1).detach()
    with model.trace(x):
        site = operation(model, *INPUTS[name])
        if form == "input":
            site.input = site.input * -0.5
        elif form == "inputs":
            args, kwargs = site.inputs
            site.inputs = ((args[0] * -0.5, *tuple(args)[1:]), kwargs)
        else:
            site.input[:] *= -0.5
        result = model.output.save()
    same(result, want)


def test_keyword_arguments_are_read_and_written_by_name(mixed, x):
    model = Model(mixed)
    with model.trace(x):
        first = model.ops.add[0].input.save()
        arguments = model.ops.add[0].inputs.save()
        model.ops.add[0].inputs = ((), {"input": first, "other": 3.0})
        result = model.ops.add[0].output.save()
    same(first, x)
    assert arguments[0] == ()
    assert list(arguments[1]) == ["input", "other"]
    assert arguments[1]["other"] == 1.0
    same(result, x + 3)


def test_a_part_of_several_outputs_is_written(mixed, x):
    model = Model(mixed)
    want = by_hand(mixed, x, "chunk0", lambda halves: (halves[0] * 0, halves[1]))["out"]
    with model.trace(x):
        first, second = model.ops.chunk[0].output
        model.ops.chunk[0].output = (first * 0, second)
        result = model.output.save()
    same(result, want)


def test_the_output_of_an_operation_that_gives_nothing_cannot_be_written(mixed, x):
    model = Model(mixed)
    with pytest.raises(WriteError, match="gives nothing") as caught, model.trace(x):
        nothing = model.ops.setitem[0].output.save()
        model.ops.setitem[0].output = x  # this line
        model.output.save()
    assert caught.value.line.text.endswith("# this line")
    assert tiny.hooks_on(mixed) == 0
    with model.trace(x):
        nothing = model.ops.setitem[0].output.save()
    assert nothing.value is None


def test_gradients_go_through_what_an_operation_has_changed_in_place(mixed, x):
    model = Model(mixed)
    with model.trace(x):
        doubled = model.ops.mul[0].output
        taken = model.ops.mul[0].input
        model.ops.sin[0].input.sum().backward()
        gradients = [value.grad.save() for value in (taken, doubled)]
    for found, want in zip(gradients, (2.0, 1.0), strict=True):
        same(found, torch.full((3, 4), want))
    weight = torch.full((3, 4), 0.5, requires_grad=True)
    with model.trace(x):
        model.ops.mul[0].output = weight * 3
        model.ops.add[1].output.sum().backward()
    same(weight.grad, torch.full((3, 4), 3.0))
