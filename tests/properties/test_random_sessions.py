"""Random blocks of a session, which run together where they can, give what each gives alone by plain hooks."""

import warnings

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.properties import test_random_gradients as gradients
from tests.properties import test_random_programs as programs
from tests.properties.places import FAMILIES, envoy_of, inputs_of, module_of, places_of

without_looks = programs.lines.map(lambda lines: [line for line in lines if line.verb != "peek"])
blocks = st.lists(st.tuples(without_looks, st.integers(0, 1)), min_size=2, max_size=6)
one_pass = gradients.programs.map(lambda each: gradients.Program(each.forward, each.passes[:1]))
differentiated = st.lists(st.tuples(one_pass, st.integers(0, 1)), min_size=2, max_size=4)


@pytest.mark.parametrize("batch_size", [None, 2])
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(blocks=blocks, rows=st.integers(1, 2))
def test_blocks_of_a_session_give_what_hooks_give_one_by_one(family, batch_size, blocks, rows):
    inputs = [inputs_of(family, seed, rows=rows) for seed in range(2)]
    model = envoy_of(family)
    envoys = [model.get(name) for name in places_of(family)]
    found = []
    with warnings.catch_warnings(), model.session(batch_size=batch_size):
        for program, prompt in blocks:
            with model.trace(inputs[prompt]):
                found.append((*programs.record(envoys, program), model.output.save()))
    for (program, prompt), (kept, peeked, out) in zip(blocks, found, strict=True):
        programs.check(family, program, inputs[prompt], kept, peeked, out)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(blocks=blocks)
def test_blocks_take_values_of_earlier_ones_and_still_run_together(family, blocks):
    inputs = [inputs_of(family, seed) for seed in range(2)]
    model, name = envoy_of(family), places_of(family)[1]
    with torch.no_grad():
        want_of_first = {}
        handle = (
            module_of(family)
            .get_submodule(name)
            .register_forward_hook(lambda _module, _args, value: want_of_first.update(value=value.clone()))
        )
        module_of(family)(inputs[0])
        handle.remove()
    envoys = [model.get(each) for each in places_of(family)]
    found = []
    with warnings.catch_warnings(), model.session():
        with model.trace(inputs[0]):
            first = envoys[1].output
        for program, prompt in blocks:
            with model.trace(inputs[prompt]):
                ours = (first * 2).save()
                found.append((*programs.record(envoys, program), model.output.save(), ours))
    for (program, prompt), (kept, peeked, out, ours) in zip(blocks, found, strict=True):
        programs.check(family, program, inputs[prompt], kept, peeked, out)
        torch.testing.assert_close(ours.value, want_of_first["value"] * 2, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(blocks=differentiated, frozen=st.booleans())
def test_blocks_with_a_backward_pass_each_give_the_gradients_of_autograd(family, blocks, frozen):
    inputs = [inputs_of(family, seed) for seed in range(2)]
    wants = [gradients.ByHand(family, program).run(inputs[prompt]) for program, prompt in blocks]
    model = envoy_of(family)
    envoys, recorded = [model.get(name) for name in places_of(family)], []
    with warnings.catch_warnings(), gradients.weights(family, frozen), model.session():
        for (program, prompt), want in zip(blocks, wants, strict=True):
            with model.trace(inputs[prompt]):
                recorded.append(gradients.Recorded(family, program, envoys, model, want))
                rows = [row for row in recorded[-1].rows(0) if row[1].verb != "peek"]
                if rows:
                    with recorded[-1].loss(0).backward():
                        recorded[-1].read(rows)
    for (program, prompt), want, each in zip(blocks, wants, recorded, strict=True):
        gradients.check(family, program, inputs[prompt], each.found, want)
