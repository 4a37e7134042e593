"""Op taps list, read and write the torch operations of one module's own forward pass."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from loupe import LanguageModel, Model
from loupe.errors import BlockError, NotReachedError
from tests import tiny


class Gate(nn.Module):
    """Gates its input by a softmax, with operations of its own around those of a child."""

    def __init__(self):
        super().__init__()
        self.child = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

    def forward(self, x):
        weights = torch.softmax(x, -1)
        x = self.child(x * weights)
        x = torch.relu(x + 1)
        return F.softmax(x, dim=-1) * 2


class Twice(nn.Module):
    """Calls its gate twice, with an operation in between."""

    def __init__(self):
        super().__init__()
        self.gate = Gate()

    def forward(self, x):
        return self.gate(torch.relu(self.gate(x) - 0.3))


@pytest.fixture
def x():
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def twice():
    torch.manual_seed(5)
    return Twice()


def gate_by_hand(gate, x, change_weights=lambda w: w):
    """The gate's forward pass, line by line: every value on the way."""
    with torch.no_grad():
        weights = change_weights(torch.softmax(x, -1))
        after_child = gate.child(x * weights)
        relu = torch.relu(after_child + 1)
        soft = torch.softmax(relu, -1)
        return {"weights": weights, "into_relu": after_child + 1, "relu": relu, "soft": soft, "out": soft * 2}


def same(one, other):
    torch.testing.assert_close(torch.as_tensor(one.value if hasattr(one, "value") else one), other)


def test_the_list_has_the_modules_own_operations_in_order_with_shapes_and_lines(twice, x):
    model = Model(twice)
    with model.trace(x):
        listed = str(model.gate.ops)
        length = len(model.gate.ops)
        names = dir(model.gate.ops)
        model.output.save()
    rows = listed.splitlines()
    assert [row.split()[0] for row in rows] == ["softmax[0]", "mul[0]", "add[0]", "relu[0]", "softmax[1]", "mul[1]"]
    assert length == 6
    assert names == ["add", "mul", "relu", "softmax"]
    assert all("f32[3, 4]" in row for row in rows)
    assert rows[0].endswith("weights = torch.softmax(x, -1)")
    assert rows[3].endswith("x = torch.relu(x + 1)")


def test_listing_the_operations_runs_nothing_and_leaves_the_block_as_it_was(twice, x):
    model, runs = Model(twice), []
    with tiny.hooked(twice, {"gate.child": lambda output: runs.append(1)}):
        with model.trace(x):
            str(model.gate.ops)
            assert runs == []
            out = model.output.save()
    assert len(runs) == 2
    same(out, twice(x).detach())


def test_an_operation_is_read_with_its_inputs(twice, x):
    model = Model(twice)
    want = gate_by_hand(twice.gate, x)
    with model.trace(x):
        weights, soft = model.gate.ops.softmax[0].output.save(), model.gate.ops.softmax[1].output.save()
        relu, into = model.gate.ops.relu[0].output.save(), model.gate.ops.relu[0].input.save()
        inputs = model.gate.ops.softmax[1].inputs.save()
    same(weights, want["weights"])
    same(soft, want["soft"])
    same(relu, want["relu"])
    same(into, want["into_relu"])
    same(inputs[0][0], want["relu"])
    assert inputs[1]["dim"] == -1


def test_an_operation_is_written_and_the_module_goes_on_with_it(twice, x):
    gate = twice.gate
    model = Model(gate)
    with model.trace(x):
        model.ops.softmax[0].output = model.ops.softmax[0].output.flip(-1)
        assigned = model.output.save()
    same(assigned, gate_by_hand(gate, x, lambda w: w.flip(-1))["out"])
    with model.trace(x):
        model.ops.softmax[0].output[:, 0] = 0
        in_place = model.output.save()

    def zero(weights):
        weights[:, 0] = 0
        return weights

    same(in_place, gate_by_hand(gate, x, zero)["out"])
    with model.trace(x):
        model.ops.softmax[0].input = x * 0
        by_input = model.output.save()
    same(by_input, gate_by_hand(gate, x, lambda w: torch.full_like(w, 0.25))["out"])
    with model.trace(x):
        model.ops.mul[1].inputs = ((model.ops.mul[1].input, 3), {})
        by_inputs = model.output.save()
    same(by_inputs, gate_by_hand(gate, x)["soft"] * 3)


def test_operations_of_a_module_that_is_called_twice_are_those_of_one_call(twice, x):
    model = Model(twice)
    first = gate_by_hand(twice.gate, x)
    second = gate_by_hand(twice.gate, torch.relu(first["out"] - 0.3))
    with model.trace(x):
        plain = model.gate.ops.softmax[0].output.save()
        one = model.gate.calls[0].ops.softmax[0].output.save()
        two = model.gate.calls[1].ops.softmax[0].output.save()
        last = model.gate.calls[1].ops.mul[1].output.save()
    same(plain, first["weights"])
    same(one, first["weights"])
    same(two, second["weights"])
    same(last, second["out"])
    changed = gate_by_hand(twice.gate, torch.relu(first["out"] - 0.3), lambda w: w * 0)
    with model.trace(x):
        model.gate.calls[1].ops.softmax[0].output *= 0
        out = model.output.save()
    same(out, changed["out"])


def test_a_module_and_the_module_around_it_can_both_be_watched(twice, x):
    model = Model(twice)
    first = gate_by_hand(twice.gate, x)
    with model.trace(x):
        outer = model.ops.relu[0].output.save()
        inner = model.gate.ops.relu[0].output.save()
        leaf = model.gate.child[1].ops.relu[0].output.save()
        listed = [len(model.ops), len(model.gate.ops), len(model.gate.child[1].ops), len(model.gate.child.ops)]
    same(outer, torch.relu(first["out"] - 0.3))
    same(inner, first["relu"])
    with torch.no_grad():
        same(leaf, twice.gate.child(x * first["weights"]))
    assert listed == [2, 6, 1, 0]


def test_edits_of_the_block_are_no_operations_of_the_module(twice, x):
    model = Model(twice.gate)
    gate = twice.gate
    with model.trace(x):
        hidden = torch.relu(model.child[0].output) + torch.softmax(model.child.input, -1)
        model.child[1].output = torch.relu(hidden * 1.5) + 1
        relu = model.ops.relu[0].output.save()
        soft = model.ops.softmax[1].output.save()
        called = model.child(model.child.input).save()
    with torch.no_grad():
        into = x * torch.softmax(x, -1)
        child = torch.relu((torch.relu(gate.child[0](into)) + torch.softmax(into, -1)) * 1.5) + 1
        same(relu, torch.relu(child + 1))
        same(soft, torch.softmax(torch.relu(child + 1), -1))
        same(called, gate.child(into))


def test_a_peek_between_operations_changes_nothing(twice, x):
    model = Model(twice.gate)
    want = gate_by_hand(twice.gate, x)
    with model.trace(x):
        first = float(model.ops.softmax[0].output.sum())
        relu = float((torch.relu(model.child.output) * 2).sum())
        last = model.ops.softmax[1].output.save()
        total = float(model.ops.mul[1].output.sum())
    assert first == pytest.approx(3.0)
    with torch.no_grad():
        assert relu == pytest.approx(float(torch.relu(twice.gate.child(x * want["weights"])).sum() * 2), abs=1e-5)
    same(last, want["soft"])
    assert total == pytest.approx(6.0)


def test_an_operation_that_does_not_run_raises_and_says_which_do(twice, x):
    model = Model(twice)
    with pytest.raises(NotReachedError, match=r"gate\.ops\.relu\[1\]") as caught:
        with model.trace(x):
            fine = model.gate.ops.relu[0].output.save()
            model.gate.ops.relu[1].output.save()
    assert "softmax[0], mul[0], add[0], relu[0], softmax[1], mul[1]" in str(caught.value)
    same(fine, gate_by_hand(twice.gate, x)["relu"])


def test_an_operation_without_a_number_is_refused(twice, x):
    model = Model(twice)
    for use in (lambda: model.gate.ops.relu.output, lambda: model.gate.ops.relu[-1]):
        with pytest.raises(BlockError, match="relu"):
            with model.trace(x):
                use()


def test_the_listing_of_a_module_that_does_not_run_is_refused(x):
    model = Model(tiny.net())
    with pytest.raises(NotReachedError, match="never"):
        with model.trace(x):
            str(model.never.ops)


@pytest.mark.parametrize("family", ["gpt2", "llama", "mixtral"])
def test_the_operations_of_an_attention_are_listed_for_a_prompt_with_a_mask(family):
    model = LanguageModel(tiny.hf_model(family))
    attention = model.get({"gpt2": "transformer.h.1.attn"}.get(family, "model.layers.1.self_attn"))
    with model.trace([1, 2, 3]):
        listed = str(attention.ops)
        model.output.save()
    assert "softmax[0]" in listed  # the operations that a tap on one of them would meet
    assert "f32[1, 4, 3, 8]" in listed
