"""Random programs over weights, their views and copies, containers and changes in place never change a model."""

import warnings
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import loupe
from loupe import Model
from loupe.errors import WriteError
from tests.sites.weights import Held, check_unchanged, state_of

X = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))

SOURCES = {
    "lin.weight": lambda m: m.lin.weight,
    "scale": lambda m: m.scale,
    "lin.weight as an operand": lambda m: m.lin.ops.linear[0].inputs[0][1],
    "lin.weight as an argument": lambda m: m.tied.inputs[0][1],
    "many.1": lambda m: m.tied.inputs[1]["more"][1],
    "table.weight": lambda m: m.table.output,
}

# A name, what it does, and whether the result is still the weight's memory: True, False (a copy).
STEPS = {
    "view": (lambda v: v.view(-1), True),
    "row": (lambda v: v[0:1], True),
    "detach": (lambda v: v.detach(), True),
    "turn": (lambda v: torch.movedim(v, 0, -1), True),
    "plus": (lambda v: +v, True),
    "to": (lambda v: v.to(torch.float32), True),
    "pack": (lambda v: loupe.fn(lambda values: values[1])([0, v]), True),
    "eval dropout": (lambda v: F.dropout(v, 0.3, False), True),
    "same": (None, True),
    "clone": (lambda v: v.clone(), False),
    "double": (lambda v: v * 2, False),
    "negate": (lambda v: -v, False),
    "gather": (lambda v: v[torch.tensor([0])], False),
    "join": (lambda v: torch.cat([v, v]), False),
    "relu": (lambda v: F.relu(v), False),
}
ENDS = {
    "zero": lambda v: v.zero_(),
    "fill": lambda v: torch.fill_(v, 3.0),
    "item": lambda v: put(v, 5.0),
    "add": lambda v: v.add_(1),
    "out": lambda v: torch.mul(v.detach(), 3, out=v.detach()),
    "place": lambda v: F.threshold(v, 100.0, 7.0, True),
    "unsqueeze": lambda v: v.unsqueeze_(0),
    "function": lambda v: loupe.fn(lambda value: value.fill_(2))(v),
    "foreach": lambda v: loupe.fn(torch._foreach_add_)([v], 1.0),
    "none": lambda v: v,
}


def put(value, number):
    value[...] = number
    return value


@dataclass(frozen=True)
class Program:
    """Where a value comes from, what is done to it, and how it is changed at last."""

    source: str
    steps: tuple[str, ...]
    end: str


programs = st.builds(
    Program,
    source=st.sampled_from(list(SOURCES)),
    steps=st.lists(st.sampled_from(list(STEPS)), max_size=4).map(tuple),
    end=st.sampled_from(list(ENDS)),
)


def run(value, program, same):
    """The program on a value: a weight of a block, or a plain tensor."""
    for step in program.steps:
        value = same(value) if step == "same" else STEPS[step][0](value)
    return ENDS[program.end](value)


def is_weight(program):
    """Whether what the program changes is the memory of a weight."""
    return all(STEPS[step][1] for step in program.steps) and program.end != "none"


@pytest.mark.parametrize("grad", [False, True])
@settings(max_examples=100, deadline=None)
@given(program=programs)
def test_a_random_program_changes_copies_and_never_a_weight(program, grad):
    torch.manual_seed(0)
    module = Held().eval()
    before, model = state_of(module), Model(module)
    own = before[program.source.split(" ")[0]][0].detach().clone()

    def block():
        with torch.set_grad_enabled(grad), model.trace(X, parameter_gradients=grad):
            result = run(SOURCES[program.source](model), program, model.same)
            kept = result.save() if program.end != "foreach" else None
            out = model.output.save()
        return kept, out

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if is_weight(program):
            with pytest.raises(WriteError, match="the model's own " + program.source.split(" ")[0].replace(".", r"\.")):
                block()
        else:
            kept, out = block()
            with torch.no_grad():
                torch.testing.assert_close(out.value.detach(), module(X))
                if kept is not None:
                    torch.testing.assert_close(kept.value.detach(), plainly(own, program))
    check_unchanged(module, before)


def plainly(value, program):
    """The oracle: the same lines on a copy of the weight, without a model."""
    return run(value, program, lambda each: each)
