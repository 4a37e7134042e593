"""A random program, recorded and run, equals the same program run by hand with hooks."""

import warnings
from dataclasses import dataclass

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.properties.places import FAMILIES, envoy_of, inputs_of, module_of, places_of


@dataclass(frozen=True)
class Line:
    """One line of a program: what it does, to which of the places, with which number and which second place."""

    verb: str
    place: int
    number: float
    other: int


VERBS = ["read", "add", "set", "replace", "join", "push", "peek"]
lines = st.lists(
    st.builds(
        Line,
        verb=st.sampled_from(VERBS),
        place=st.integers(0, 3),
        number=st.sampled_from([-1.5, -0.5, 0.0, 0.5, 2.0]),
        other=st.integers(0, 3),
    ),
    min_size=1,
    max_size=7,
)


def run_with_hooks(family, program, inputs):
    """The oracle: at each place do the lines about it, in the order of the program; keep copies for lines about two."""
    module, names = module_of(family), places_of(family)
    copies, kept = {}, {}

    def hook_for(place):
        def hook(_module, _inputs, output):
            value = output
            for number, line in enumerate(program):
                if line.verb == "join" and place in (line.place, line.other):
                    copies[number, place] = value.clone()
                elif line.verb == "push" and place == line.other and line.other > line.place:
                    value = value + copies[number, line.place].mean() * line.number
                elif line.verb == "push" and place == line.place and line.other > line.place:
                    copies[number, place] = value.clone()
                elif place != line.place:
                    continue
                elif line.verb in ("read", "peek"):
                    kept[number] = value * line.number + 1
                elif line.verb == "add":
                    value[..., -1] += line.number
                elif line.verb == "set":
                    value[:, -1] = line.number
                elif line.verb == "replace":
                    value = value * line.number
            return value

        return hook

    handles = [module.get_submodule(name).register_forward_hook(hook_for(place)) for place, name in enumerate(names)]
    try:
        with torch.no_grad():
            out = module(inputs)
    finally:
        for handle in handles:
            handle.remove()
    for number, line in enumerate(program):
        if line.verb == "join":
            kept[number] = copies[number, line.place] * copies[number, line.other]
    return kept, out if family == "stack" else out.logits


def record(envoys, program):
    """The same program as lines of a block."""
    kept, peeked = {}, {}
    for number, line in enumerate(program):
        module = envoys[line.place]
        if line.verb == "read":
            kept[number] = (module.output * line.number + 1).save()
        elif line.verb == "peek":
            value = module.output * line.number + 1
            peeked[number] = (float(value.sum()), value.save())
        elif line.verb == "add":
            module.output[..., -1] += line.number
        elif line.verb == "set":
            module.output[:, -1] = line.number
        elif line.verb == "replace":
            module.output = module.output * line.number
        elif line.verb == "join":
            kept[number] = (module.output * envoys[line.other].output).save()
        elif line.verb == "push" and line.other > line.place:
            envoys[line.other].output = envoys[line.other].output + module.output.mean() * line.number
    return kept, peeked


def check(family, program, inputs, kept, peeked, out):
    """Saved values are those of the whole program; a peeked one is that of the lines up to it."""
    want, want_out = run_with_hooks(family, program, inputs)
    for number, value in kept.items():
        torch.testing.assert_close(value.value, want[number], atol=1e-4, rtol=1e-4)
    for number, (total, value) in peeked.items():
        torch.testing.assert_close(value.value, want[number], atol=1e-4, rtol=1e-4)
        until_then, _ = run_with_hooks(family, program[: number + 1], inputs)
        assert total == pytest.approx(float(until_then[number].sum()), abs=1e-2, rel=1e-3)
    torch.testing.assert_close(torch.as_tensor(out.value), want_out, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(program=lines)
def test_a_random_program_equals_hooks(family, program):
    inputs = inputs_of(family)
    model = envoy_of(family)
    envoys = [model.get(name) for name in places_of(family)]
    with warnings.catch_warnings(), model.trace(inputs):
        kept, peeked = record(envoys, program)
        out = model.output.save()
    check(family, program, inputs, kept, peeked, out)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(programs=st.lists(lines, min_size=2, max_size=3))
def test_random_programs_of_several_invokes_equal_each_alone(family, programs):
    model = envoy_of(family)
    envoys = [model.get(name) for name in places_of(family)]
    inputs = [inputs_of(family, seed, rows=1 + seed % 2) for seed in range(len(programs))]
    found = []
    with model.trace() as tracer:
        for each, program in zip(inputs, programs, strict=True):
            with tracer.invoke(each):
                found.append((*record(envoys, program), model.output.save()))
    for each, program, (kept, peeked, out) in zip(inputs, programs, found, strict=True):
        check(family, program, each, kept, peeked, out)
