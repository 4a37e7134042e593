"""Look at values of a generation while it goes on: in loops, which end with it, and not in a block of all steps."""

import pytest
import torch

from loupe.errors import BlockError, NotReachedError
from tests.generation.by_hand import BLOCK, IDS, OPTIONS, end_of_text, generated, same, wrapped

STEPS = OPTIONS["max_new_tokens"]

LOOKS = {
    "float": float,
    "if": bool,
    "int": int,
    "item": lambda value: value.item(),
    "list": lambda value: value.tolist(),
    "text": str,
    "a formatted string": lambda value: f"{value:.2f}",
    "numpy": lambda value: value.numpy(),
    "value": lambda value: value.value,
    "index": lambda value: [1, 2][value > 1e9],
}


@pytest.mark.parametrize("form", ["all", "iter"])
@pytest.mark.parametrize("look", LOOKS)
def test_a_look_inside_a_block_of_steps_is_refused_on_its_line(look, form):
    model = wrapped()
    with pytest.raises(BlockError, match="which is written once for all its steps") as caught:
        with model.generate(IDS, **OPTIONS) as tracer:
            with tracer.all() if form == "all" else tracer.iter[2:5]:
                total = model.get(BLOCK).output.sum()
                LOOKS[look](total)  # this line
    assert caught.value.line.text.endswith("# this line") or caught.value.line.text.startswith(f'"{look}": lambda')
    assert f"for step in tracer.iter[{':' if form == 'all' else '2:5'}]:" in str(caught.value)


def test_a_look_at_another_blocks_steps_is_refused_inside_a_block_of_steps():
    model = wrapped()
    with pytest.raises(BlockError, match="for step in"), model.generate(IDS, **OPTIONS) as tracer:
        with tracer.all():
            hidden = model.get(BLOCK).output
        with tracer.iter[1:3]:
            float(hidden.sum())


def test_shapes_are_described_inside_a_block_of_steps():
    model = wrapped()
    _, seen = generated()
    with model.generate(IDS, **OPTIONS) as tracer:
        with tracer.all():
            first = model.get(BLOCK).output.shape  # as it is at the first of the steps
            assert len(model.get(BLOCK).output) == 1
        with tracer.iter[2:4]:
            later = model.get(BLOCK).output
            described = later.shape, later.dtype, later.size(-1), later.ndim
            states = list().save()
            states.append(later.view(later.shape[0], -1))
    assert first == seen[0].shape
    assert described == (seen[2].shape, seen[2].dtype, 32, 3)
    same(states, [seen[2][:, 0], seen[3][:, 0]])


def test_a_value_of_the_whole_run_can_be_looked_at_inside_a_block_of_steps():
    model = wrapped()
    _, seen = generated()
    mean = float(seen[0].mean())
    want, _ = generated("model.layers.2", change=lambda step, hidden: hidden * mean)
    with model.generate(IDS, **OPTIONS) as tracer:
        first = model.get(BLOCK).output.mean()
        states = list().save()
        with tracer.all():
            states.append(model.get(BLOCK).output[:, -1])
            factor = float(first)
            model.model.layers[2].output = model.model.layers[2].output * factor
            states.append(model.get(BLOCK).output[:, -1] * factor)
        ids = tracer.result.save()
    assert factor == pytest.approx(mean, abs=1e-6)
    assert torch.equal(ids, want)
    assert len(states) == 2 * STEPS
    same([states[0] * factor, states[2] * factor], [states[1], states[3]])


@pytest.mark.parametrize("happens", [1, 3, STEPS])
def test_a_loop_without_an_end_that_looks_ends_with_the_generation(happens):
    options = end_of_text(happens) if happens < STEPS else {}
    want, seen = generated("lm_head", **options)
    model, tokens = wrapped(), []
    with model.generate(IDS, **{**OPTIONS, **options}) as tracer:
        for _step in tracer.iter[:]:
            tokens.append(int(model.lm_head.output[0, -1].argmax()))
        first = model.lm_head.output.save()
        ids = tracer.result.save()
    assert torch.equal(ids, want)
    assert tokens == want[0, IDS.shape[1] :].tolist()
    assert len(tokens) == happens
    same([first], seen[:1])


def test_a_loop_that_looks_steers_by_what_it_sees():
    def by_hand(step, hidden):
        return hidden * -1 if float(hidden[0, -1, 0]) > 0 else hidden

    want, _ = generated(change=by_hand)
    assert not torch.equal(want, generated()[0])
    model = wrapped()
    block = model.get(BLOCK)
    with model.generate(IDS, **OPTIONS) as tracer:
        for _step in tracer.iter[:]:
            if float(block.output[0, -1, 0]) > 0:
                block.output = block.output * -1
        ids = tracer.result.save()
    assert torch.equal(ids, want)


def test_a_look_at_a_step_that_never_happens_says_so():
    model, totals = wrapped(), []
    with pytest.raises(NotReachedError, match="the generation ended before this step") as caught:
        with model.generate(IDS, **{**OPTIONS, **end_of_text(2)}) as tracer:
            for _step in tracer.iter[:STEPS]:
                totals.append(float(model.lm_head.output.sum()))  # this line
    assert caught.value.line.text.endswith("# this line")
    assert totals == pytest.approx([float(logits.sum()) for logits in generated("lm_head")[1][:2]], abs=1e-4)


def test_a_loop_that_is_left_early_leaves_the_block_where_it_was():
    model = wrapped()
    _, seen = generated()
    with model.generate(IDS, **OPTIONS) as tracer:
        for step in tracer.iter[:]:
            second = model.get(BLOCK).output.save()
            if step == 1:
                break
        first = model.get(BLOCK).output.save()
        states = [
            state for state, _ in zip((model.get(BLOCK).output.save() for _ in tracer.iter[:]), "ab", strict=False)
        ]
        again = model.get(BLOCK).output.save()
    same([second, first, *states, again], [seen[1], seen[0], seen[0], seen[1], seen[0]])


@pytest.mark.parametrize("outer", ["all", "loop"])
@pytest.mark.parametrize("inner", ["all", "loop"])
def test_steps_inside_steps_are_refused(outer, inner):
    model = wrapped()
    if outer == inner == "loop":
        return
    with pytest.raises(BlockError, match="put one after the other"), model.generate(IDS, **OPTIONS) as tracer:
        if outer == "loop":
            for _step in tracer.iter[:2]:
                with tracer.all():
                    pass
        else:
            with tracer.all():
                if inner == "all":
                    with tracer.iter[1]:
                        pass
                for _step in tracer.iter[:2]:
                    pass
