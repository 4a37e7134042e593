"""A random program, saved, and run in another process, gives what the same program gives by hand."""

import warnings

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import loupe
from tests.files.worker import Elsewhere, bare
from tests.properties import test_random_generations as generations
from tests.properties import test_random_gradients as gradients
from tests.properties import test_random_programs as programs
from tests.properties.places import envoy_of, inputs_of, places_of

FAMILIES = ["gpt2", "stack"]
QUICK = {  # to make a failing program smaller would take many runs in the other process
    "deadline": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture],
    "phases": [Phase.explicit, Phase.generate],
}


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    other = Elsewhere(tmp_path_factory.mktemp("elsewhere"))
    yield other
    other.close()


def names_of(values):
    """The names under which values are saved; a block knows them until it ends."""
    return {key: value._cell.name for key, value in values.items()}


def equal(found, want):
    torch.testing.assert_close(torch.as_tensor(found), want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=12, **QUICK)
@given(program=programs.lines)
def test_a_random_program_does_the_same_from_a_file_in_another_process(elsewhere, family, program):
    inputs, model = inputs_of(family), envoy_of(family)
    with warnings.catch_warnings(), model.trace(inputs) as tracer:
        kept, peeked = programs.record([model.get(name) for name in places_of(family)], program)
        names = names_of({**kept, **{number: value for number, (_, value) in peeked.items()}})
        model.output.save("out")
    (found,) = elsewhere.run(tracer.graph, family, inputs)
    want, want_out = programs.run_with_hooks(family, program, inputs)
    for number, name in names.items():
        equal(found[name], want[number])
    equal(found["out"], want_out)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=8, **QUICK)
@given(several=st.lists(programs.lines, min_size=2, max_size=3))
def test_random_programs_of_several_invokes_do_the_same_from_a_file(elsewhere, family, several):
    model = envoy_of(family)
    envoys = [model.get(name) for name in places_of(family)]
    inputs = [inputs_of(family, seed, rows=1 + seed % 2) for seed in range(len(several))]
    kept = []
    with model.trace() as tracer:
        for each, program in zip(inputs, several, strict=True):
            with tracer.invoke(each):
                kept.append(names_of(programs.record(envoys, program)[0]))
                model.output[..., :1].save()
    (found,) = elsewhere.run(tracer.graph, family, *inputs)
    for each, program, names in zip(inputs, several, kept, strict=True):
        want, _ = programs.run_with_hooks(family, program, each)
        for number, name in names.items():
            equal(found[name], want[number])


@settings(max_examples=8, **QUICK)
@given(program=generations.programs)
def test_a_random_program_over_steps_does_the_same_from_a_file(elsewhere, program):
    family, inputs = "gpt2", inputs_of("gpt2")
    want = generations.ByHand(program).run(family, inputs)
    model = envoy_of(family)
    envoys = [model.get(name) for name in places_of(family)]
    with warnings.catch_warnings(), model.generate(inputs, **generations.OPTIONS) as tracer:
        ids = generations.Recorded(program, tracer, envoys).found.ids._cell.name
    (found,) = elsewhere.run(tracer.graph, family, inputs)
    assert torch.equal(found[ids], want.ids)
    single = [value for value in found.values() if not isinstance(value, list)]
    for expected in want.kept.values():
        stepwise = [value for value in found.values() if isinstance(value, list) and len(value) == len(expected)]
        assert any(map(alike, stepwise, [expected] * len(stepwise))) or all(
            any(alike([value], [each]) for value in single) for each in expected
        )


def alike(found, want):
    return all(
        one.shape == other.shape and torch.allclose(one, other, atol=1e-4, rtol=1e-4)
        for one, other in zip(found, want, strict=True)
    )


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=8, **QUICK)
@given(program=gradients.programs)
def test_a_random_program_with_backward_passes_does_the_same_from_a_file(elsewhere, family, program):
    inputs = inputs_of(family)
    want = gradients.ByHand(family, program).run(inputs)
    model = envoy_of(family)
    envoys = [model.get(name) for name in places_of(family)]
    with warnings.catch_warnings(), model.trace(inputs) as tracer:
        recorded = gradients.Recorded(family, program, envoys, model, want)
        for number in range(len(program.passes)):
            recorded.backward(number)
        names = names_of(recorded.found.read)
    (found,) = elsewhere.run(tracer.graph, family, inputs)
    for at, name in names.items():
        torch.testing.assert_close(found[name], want.read[at], atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=8, **QUICK)
@given(several=st.lists(programs.lines, min_size=2, max_size=3))
def test_random_programs_of_a_session_do_the_same_from_a_file(elsewhere, family, several):
    model = envoy_of(family)
    envoys = [model.get(name) for name in places_of(family)]
    inputs = [inputs_of(family, seed) for seed in range(len(several))]
    kept = []
    with warnings.catch_warnings(), model.session() as session:
        before = None
        for each, program in zip(inputs, several, strict=True):
            with model.trace(each):
                if before is not None:
                    (before + 1).save("carried")
                kept.append(names_of(programs.record(envoys, program)[0]))
                before = envoys[3].output.sum()
    found = elsewhere.run(session.graphs, family, *inputs)
    for place, (each, program) in enumerate(zip(inputs, several, strict=True)):
        want, want_out = programs.run_with_hooks(family, program, each)
        for number, name in kept[place].items():
            equal(found[place][name], want[number])
        if place + 1 < len(several) and family == "stack":
            torch.testing.assert_close(found[place + 1]["carried"], want_out.sum() + 1, atol=1e-2, rtol=1e-3)


@settings(max_examples=25, **QUICK)
@given(program=programs.lines)
def test_what_a_random_program_writes_is_read_and_written_again_byte_by_byte(tmp_path_factory, program):
    model, folder = envoy_of("stack"), tmp_path_factory.mktemp("again")
    with warnings.catch_warnings(), model.trace(inputs_of("stack")) as tracer:
        programs.record([model.get(name) for name in places_of("stack")], program)
        model.output.save("out")
    tracer.graph.save(folder / "one")
    loaded = loupe.load(folder / "one")
    loaded.save(folder / "two")
    assert (folder / "one").read_bytes() == (folder / "two").read_bytes()
    assert loaded == tracer.graph
    assert bare(model.run(loaded, inputs_of("stack")))["out"].shape == (1, 8)
