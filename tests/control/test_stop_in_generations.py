"""Count the steps of a generation that a block stops, by a step, by a condition, and at every step."""

import pytest
import torch

from loupe.errors import NotReachedError
from tests import tiny
from tests.control.by_hand import IDS, OPTIONS, gpt2, watched

LAYERS = [f"transformer.h.{layer}" for layer in range(3)]


@pytest.fixture
def ran():
    """The blocks of GPT-2 that begin to run, in order."""
    with watched(tiny.hf_model("gpt2"), LAYERS) as seen:
        yield seen


def tokens(steps):
    """The first new tokens of a plain generation."""
    return tiny.hf_model("gpt2").generate(IDS, **OPTIONS)[0, 4 : 4 + steps].tolist()


@pytest.mark.parametrize("breaks", [True, False])
def test_a_stop_in_a_loop_ends_the_generation_at_that_step(ran, breaks):
    model = gpt2()
    with model.generate(IDS, **OPTIONS) as tracer:
        found = list().save()
        for step in tracer.iter[:5]:
            found.append(model.lm_head.output[0, -1].argmax())
            if step == 2:
                tracer.stop()
                if breaks:
                    break
    assert ran == LAYERS * 3
    assert [int(each) for each in found] == tokens(3)


@pytest.mark.parametrize("endless", [True, False])
def test_a_condition_on_a_value_that_is_looked_at_ends_the_generation(ran, endless):
    model, found = gpt2(), []
    wanted = tokens(5)
    with model.generate(IDS, **OPTIONS) as tracer:
        for _step in tracer.iter[:] if endless else tracer.iter[:5]:
            found.append(int(model.lm_head.output[0, -1].argmax()))
            if len(found) == 3:
                tracer.stop()
                if not endless:
                    break
    assert ran[:9] == LAYERS * 3
    assert len(ran) == 9 + 15  # those of the plain generation
    assert found == wanted[:3]


def test_a_look_at_a_step_behind_the_stop_names_the_stop():
    model = gpt2()
    with pytest.raises(NotReachedError, match="the block stops the pass before it"):
        with model.generate(IDS, **OPTIONS) as tracer:
            for step in tracer.iter[:5]:
                int(model.lm_head.output[0, -1].argmax())
                if step == 2:
                    tracer.stop()


def test_a_stop_at_a_step_needs_no_line_beside_it_and_keeps_what_every_step_has_given(ran):
    model = gpt2()
    with model.generate(IDS, **OPTIONS) as tracer, tracer.iter[2]:
        tracer.stop()
    assert ran == LAYERS * 2  # the third step does not begin
    ran.clear()
    with model.generate(IDS, **OPTIONS) as tracer:
        for step in tracer.iter[:4]:
            if step == 1:
                tracer.stop()
    assert ran == LAYERS
    ran.clear()
    with model.generate(IDS, **OPTIONS) as tracer:
        found = list().save()
        with tracer.all():
            found.append(model.lm_head.output[0, -1].argmax())
        with tracer.iter[2]:
            model.transformer.h[1].output
            tracer.stop()
    assert ran == LAYERS * 3
    assert [int(each) for each in found] == tokens(3)


def test_a_stop_at_every_step_ends_the_generation_at_the_first(ran):
    model = gpt2()
    with model.generate(IDS, **OPTIONS) as tracer:
        found = list().save()
        with tracer.all():
            found.append(model.transformer.h[1].output[0][:, -1])
            tracer.stop()
    assert ran == LAYERS[:2]
    assert torch.equal(found[0], tiny.outputs_of(tiny.hf_model("gpt2"), LAYERS, IDS)[0][LAYERS[1]][:, -1])
    assert len(found) == 1


def test_the_ids_of_a_generation_that_is_stopped_are_not_there():
    model = gpt2()
    with pytest.raises(NotReachedError, match=r"tracer\.result was not reached"):
        with model.generate(IDS, **OPTIONS) as tracer:
            with tracer.iter[2]:
                tracer.stop()
            tracer.result.save()
