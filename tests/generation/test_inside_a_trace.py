"""Turn the run of an open block into a generation by calling `generate` in it, wherever in the block that stands."""

import pytest
import torch

from loupe.errors import BlockError, InputError
from tests.generation.by_hand import BLOCK, IDS, OPTIONS, end_of_text, generated, same, wrapped

PROMPTS = [[5, 9, 2, 7], [3, 8]]


@pytest.mark.parametrize("place", ["above", "below"])
def test_lines_above_and_below_are_about_the_generation(place):
    want, seen = generated()
    model = wrapped()
    with model.trace(IDS) as tracer:
        ids = model.generate(**OPTIONS).save() if place == "above" else None
        with tracer.all():
            last = model.get(BLOCK).output.save()
            states = list().save()
            states.append(model.get(BLOCK).output)
        third = [model.get(BLOCK).output.save() for _step in tracer.iter[2:3]]
        if ids is None:
            ids = model.generate(**OPTIONS).save()
        result = tracer.result.save()
    assert torch.equal(ids, want)
    assert torch.equal(result, want)
    same(states, seen)
    same([last, *third], [seen[-1], seen[2]])


@pytest.mark.parametrize("inside", [False, True])
def test_all_invokes_of_the_block_generate(inside):
    model = wrapped()
    found = []
    with model.trace() as tracer:
        for number, prompt in enumerate(PROMPTS):
            with tracer.invoke(prompt):
                if inside and number == 1:
                    model.generate(**OPTIONS)
                states = list().save()
                with tracer.all():
                    states.append(model.get(BLOCK).output)
                found.append((tracer.result.save(), states))
        if not inside:
            whole = model.generate(**OPTIONS).save()
    for (ids, states), prompt in zip(found, PROMPTS, strict=True):
        want, seen = generated(ids=torch.tensor([prompt]))
        assert torch.equal(ids[:, -5:], want[:, -5:])
        same([state[:, -1] for state in states], [state[:, -1] for state in seen])
    if not inside:
        assert torch.equal(whole, torch.cat([ids for ids, _ in found]))


def test_ids_of_a_generation_are_values_of_the_block():
    want, _ = generated()
    model = wrapped()
    with model.trace(IDS):
        ids = model.generate(**OPTIONS)
        new = ids[:, IDS.shape[1] :].save()
        first = int(new[0, 0])
        vectors = model.get("model.embed_tokens")(new).save()
    assert torch.equal(new, want[:, 4:])
    assert first == int(want[0, 4])
    assert vectors.shape == (1, 5, 32)


def test_values_found_by_a_look_before_it_are_looked_up_again():
    """What was looked at in the one forward pass is the same at the first step."""
    _, seen = generated()
    model = wrapped()
    with model.trace(IDS) as tracer:
        before = float(model.get(BLOCK).output.sum())
        ids = model.generate(**OPTIONS).save()
        with tracer.all():
            last = model.get(BLOCK).output.save()
    assert before == pytest.approx(float(seen[0].sum()), abs=1e-5)
    same([last], seen[-1:])
    assert torch.equal(ids, generated()[0])


def test_an_early_end_of_text_is_one_here_too():
    want, seen = generated(**end_of_text(2))
    model = wrapped()
    with model.trace(IDS) as tracer:
        ids = model.generate(**{**OPTIONS, **end_of_text(2)}).save()
        count = 0
        for _step in tracer.iter[:]:
            count += int(model.lm_head.output.shape[0] * bool(model.lm_head.output.sum() < 1e9))
    assert torch.equal(ids, want)
    assert count == len(seen) == 2


@pytest.mark.parametrize("given", [(IDS,), {"input_ids": IDS}, {"prompt": "w1"}, {"attention_mask": torch.ones(1, 4)}])
def test_a_prompt_is_refused_where_the_block_has_its_own(given):
    model = wrapped()
    args, options = (given, {}) if isinstance(given, tuple) else ((), given)
    with pytest.raises(BlockError, match="the prompts of the block") as caught, model.trace(IDS):
        model.generate(*args, **options, **OPTIONS)  # this line
    assert caught.value.line.text.endswith("# this line")
    assert "tracer.invoke" in str(caught.value)


@pytest.mark.parametrize("opened", ["trace", "generate"])
def test_a_block_generates_once(opened):
    model = wrapped()
    with pytest.raises(BlockError, match="a generation already") as caught:
        with model.trace(IDS) if opened == "trace" else model.generate(IDS, **OPTIONS):
            if opened == "trace":
                model.generate(**OPTIONS)
            model.generate(max_new_tokens=2)  # this line
    assert caught.value.line.text.endswith("# this line")


def test_steps_that_were_counted_before_the_generation_was_known_are_an_error():
    model = wrapped()
    with pytest.raises(BlockError, match="after its steps were counted"), model.trace(IDS) as tracer:
        for _step in tracer.iter[:]:
            pass
        model.generate(**OPTIONS)
    with pytest.raises(InputError, match="give the loop an end"), model.generate(**OPTIONS) as tracer:
        for _step in tracer.iter[:]:
            pass


def test_the_steps_of_a_trace_are_one():
    model = wrapped()
    with model.trace(IDS) as tracer:
        states = list().save()
        with tracer.all():
            states.append(model.get(BLOCK).output)
        steps = list(tracer.iter[:])
    assert steps == [0]
    same(states, generated()[1][:1])


def test_a_generation_has_no_gradients_and_says_so():
    model = wrapped()
    with pytest.raises(BlockError, match="without autograd"), model.generate(IDS, **OPTIONS):
        model.lm_head.output.sum().backward()
    with pytest.raises(BlockError, match="trace the ids"), model.trace(IDS):
        model.lm_head.output.sum().backward()
        model.generate(**OPTIONS)
