"""Name steps of a generation by slices, numbers and lists; loop over them, and use their values elsewhere."""

import copy

import pytest
import torch

from loupe import LanguageModel
from loupe.errors import BlockError, NotReachedError, UnsavedError
from tests import tiny
from tests.generation.by_hand import BLOCK, FAMILY, IDS, OPTIONS, end_of_text, generated, same, wrapped

STEPS = OPTIONS["max_new_tokens"]
KEYS = {
    "a slice": (slice(1, 3), [1, 2]),
    "a slice with a stride": (slice(None, None, 2), [0, 2, 4]),
    "a slice that goes beyond": (slice(3, 50), [3, 4]),
    "an empty slice": (slice(3, 3), []),
    "a number": (2, [2]),
    "a list": ([0, 3, 2], [0, 2, 3]),
    "a list that goes beyond": ([1, 17], [1]),
    "an empty list": ([], []),
    "several numbers": ((4, 1), [1, 4]),
    "a range": (range(1, 5, 3), [1, 4]),
    "a number of another library": (torch.tensor(3), [3]),
}


@pytest.mark.parametrize("key", KEYS)
def test_a_block_is_about_the_steps_that_are_named(key):
    named, steps = KEYS[key]
    want, _ = generated(change=lambda step, hidden: hidden * (-1 if step in steps else 1))
    _, seen = generated()
    model = wrapped()
    with model.generate(IDS, **OPTIONS) as tracer:
        states = list().save()
        with tracer.iter[named]:
            states.append(model.get(BLOCK).output)
        tracer.result.save()
    same(states, [seen[step] for step in steps])
    with model.generate(IDS, **OPTIONS) as tracer:
        with tracer.iter[named]:
            model.get(BLOCK).output[:] *= -1
        ids = tracer.result.save()
    assert torch.equal(ids, want)


@pytest.mark.parametrize("key", [key for key in KEYS if "beyond" not in key])
def test_a_loop_goes_through_the_steps_that_are_named(key):
    named, steps = KEYS[key]
    _, seen = generated()
    model = wrapped()
    found = []
    with model.generate(IDS, **OPTIONS) as tracer:
        for step in tracer.iter[named]:
            found.append((step, model.get(BLOCK).output.save()))
        tracer.result.save()
    assert [step for step, _ in found] == steps
    same([state for _, state in found], [seen[step] for step in steps])


@pytest.mark.parametrize("key", [-1, slice(-2, None), slice(None, -1), slice(None, None, -1), slice(0, 3, 0), [0, -2]])
def test_steps_counted_from_the_end_are_refused(key):
    model = wrapped()
    with pytest.raises(BlockError, match="count steps from 0") as caught, model.generate(IDS, **OPTIONS) as tracer:
        tracer.iter[key]
    assert "tracer.iter[key]" in str(caught.value)


@pytest.mark.parametrize("key", ["first", 1.5, None, ["a"], slice(0, 1.5)])
def test_what_names_no_steps_is_refused(key):
    model = wrapped()
    with pytest.raises(BlockError, match="name steps by a slice, a number or a list"):
        with model.generate(IDS, **OPTIONS) as tracer:
            tracer.iter[key]


def test_variables_of_python_go_from_step_to_step():
    change = {}

    def by_hand(step, hidden):
        change["total"] = hidden if step == 0 else change["total"][:, -1:] + hidden
        return change["total"] if step < 3 else hidden

    want, seen = generated(change=by_hand)
    model = wrapped()
    block = model.get(BLOCK)
    with model.generate(IDS, **OPTIONS) as tracer:
        total, states = None, []
        for _step in tracer.iter[:3]:
            total = block.output if total is None else total[:, -1:] + block.output
            block.output = total
            states.append(total.save())
        ids = tracer.result.save()
    assert torch.equal(ids, want)
    same(states, seen[:3])


def test_next_goes_from_step_to_step_also_of_two_modules():
    _, seen = generated()
    _, logits = generated("lm_head")
    model = wrapped()
    block = model.get(BLOCK)
    with model.generate(IDS, **OPTIONS):
        states = [block.output.save(), block.next().output.save(), block.next().next().output.save()]
        heads = [model.lm_head.output.save(), model.lm_head.next().output.save()]
    same(states, [seen[0], seen[1], seen[3]])
    same(heads, logits[:2])


def test_a_module_that_each_step_calls_twice_is_read_and_written_by_step_and_call():
    hf = copy.deepcopy(tiny.hf_model(FAMILY))
    hf.model.layers[2] = hf.model.layers[0]
    model, options, seen = LanguageModel(hf), {**OPTIONS, "use_cache": False}, []

    def hook(_module, _inputs, output):
        seen.append(output.clone())
        return output * 2 if len(seen) == 2 * 3 + 1 + 1 else None  # the second call of step 3

    handle = hf.model.layers[0].register_forward_hook(hook)
    want = hf.generate(IDS, **options)
    handle.remove()
    shared = model.model.layers[0]
    with model.generate(IDS, **options) as tracer:
        first, second, later = list().save(), list().save(), list().save()
        with tracer.all():
            first.append(shared.output)
            second.append(shared.calls[1].output)
        with tracer.iter[3]:
            shared.calls[1].output = shared.calls[1].output * 2
        for _step in tracer.iter[1:3]:
            later.append(shared.calls[1].output)
        ids = tracer.result.save()
    assert torch.equal(ids, want)
    same(first, seen[::2])
    same(second, seen[1::2])
    same(later, [seen[3], seen[5]])


# -- values of each step, used elsewhere -------------------------------------------------------------------------------


@pytest.mark.parametrize("happens", [STEPS, 2])
def test_a_value_of_each_step_is_that_of_the_last_one_where_it_is_used_after_the_block(happens):
    options = end_of_text(happens) if happens < STEPS else {}
    _, seen = generated(**options)
    model = wrapped()
    with model.generate(IDS, **{**OPTIONS, **options}) as tracer:
        with tracer.all():
            hidden = model.get(BLOCK).output
        doubled = (hidden * 2).save()
        total = model.lm_head(hidden).sum().save()
        kept = hidden.save()
        tracer.result.save()
    assert len(seen) == happens
    torch.testing.assert_close(doubled.value, seen[-1] * 2)
    torch.testing.assert_close(kept.value, seen[-1])
    torch.testing.assert_close(total.value, tiny.hf_model(FAMILY).lm_head(seen[-1]).sum().detach())


@pytest.mark.parametrize("happens", [STEPS, 2])
def test_a_look_at_a_value_of_each_step_after_the_block_sees_the_last_one(happens):
    options = end_of_text(happens) if happens < STEPS else {}
    _, seen = generated(**options)
    model = wrapped()
    with model.generate(IDS, **{**OPTIONS, **options}) as tracer:
        with tracer.all():
            hidden = model.get(BLOCK).output
        looked, shape = float(hidden.sum()), hidden.shape
        after = (hidden.sum() + 1).save()
        first = model.get(BLOCK).output.save()
    assert looked == pytest.approx(float(seen[-1].sum()), abs=1e-5)
    assert shape == seen[-1].shape
    assert float(after) == pytest.approx(looked + 1, abs=1e-5)
    same([first], seen[:1])


def test_a_value_of_each_step_is_that_of_its_own_step_in_another_block_of_steps():
    hf, early = tiny.hf_model(FAMILY), []

    def keep(output):
        early.append(output.clone())

    with tiny.hooked(hf, {"model.layers.0": keep, "model.layers.2": lambda o: o + early[-1] if early[1:] else o}):
        want = hf.generate(IDS, **OPTIONS)
    assert not torch.equal(want, generated()[0])
    model = wrapped()
    for form in ("with", "loop"):
        with model.generate(IDS, **OPTIONS) as tracer:
            with tracer.all():
                hidden = model.model.layers[0].output
            if form == "with":
                with tracer.iter[1:]:
                    model.model.layers[2].output = model.model.layers[2].output + hidden
            else:
                for _step in tracer.iter[1:]:
                    model.model.layers[2].output = model.model.layers[2].output + hidden
            ids = tracer.result.save()
        assert torch.equal(ids, want)


def test_a_value_of_an_early_step_is_used_at_every_later_one():
    _, early = generated("model.layers.0")
    want, _ = generated(change=lambda step, hidden: hidden + (early[0].mean(1, keepdim=True) if step > 0 else 0))
    model = wrapped()
    with model.generate(IDS, **OPTIONS) as tracer:
        with tracer.iter[0]:
            mean = model.model.layers[0].output.mean(1, keepdim=True)
        with tracer.iter[1:]:
            model.get(BLOCK).output[:] += mean
        ids = tracer.result.save()
    assert torch.equal(ids, want)


def test_steps_that_no_generation_can_have_are_an_error_only_where_they_are_read():
    model = wrapped()
    want, _ = generated()
    with model.generate(IDS, **OPTIONS) as tracer:
        with tracer.iter[7:9]:
            hidden = model.get(BLOCK).output.save()
        total = hidden.sum().save()
        states = list().save()
        states.append(hidden)
        ids = tracer.result.save()
    assert torch.equal(ids, want)
    assert states == []
    for value in (hidden, total):
        with pytest.raises(UnsavedError, match="ended before"):
            value.sum()
    for look in (lambda value: float(value.sum()), lambda value: value.shape):
        with pytest.raises(NotReachedError, match="none of the steps"), model.generate(IDS, **OPTIONS) as tracer:
            with tracer.iter[7:9]:
                hidden = model.get(BLOCK).output
            look(hidden)


def test_blocks_that_differ_in_the_step_of_a_value_each_take_theirs():
    _, seen = generated()
    model = wrapped()
    for step in (1, 3, 0, 2):
        with model.generate(IDS, **OPTIONS) as tracer:
            with tracer.iter[:]:
                states = model.get(BLOCK).output
            for _step in tracer.iter[step]:
                doubled = (states * 2).save()
        same([doubled], [seen[step] * 2])
