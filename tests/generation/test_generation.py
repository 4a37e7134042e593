"""Hold generation in a block against the library's own generation with hooks."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loupe import LanguageModel
from loupe.errors import UnsavedError
from tests import tiny

FAMILIES = ["gpt2", "llama", "mamba"]
IDS = torch.tensor([[5, 9, 2, 7]])
OPTIONS = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}


def blocks(model, family):
    return model.get(tiny.BLOCKS[family])


def by_hand(family, change, *, options=OPTIONS, ids=IDS, place=1):
    """Generate with a hook on one block; `change(step, hidden)` gives what the model goes on with."""
    hf, seen = tiny.hf_model(family), []

    def hook(_module, _inputs, output):
        new = change(len(seen), output)
        seen.append(new.clone())
        return new

    handle = hf.get_submodule(f"{tiny.BLOCKS[family]}.{place}").register_forward_hook(hook)
    try:
        return hf.generate(ids, **options), seen
    finally:
        handle.remove()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_block_that_only_looks_generates_what_the_library_does(family):
    model, want = LanguageModel(tiny.hf_model(family)), tiny.hf_model(family).generate(IDS, **OPTIONS)
    with model.generate(IDS, **OPTIONS) as tracer:
        ids = tracer.result.save()
        same = model.generator.output.save()
    assert torch.equal(ids, want)
    assert torch.equal(same, want)
    plain = model.generate(IDS, **OPTIONS)
    assert torch.equal(plain, want)
    assert plain.shape == want.shape


steps = st.tuples(st.integers(0, 4), st.one_of(st.none(), st.integers(0, 6)), st.integers(1, 3))


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bounds=steps, factor=st.sampled_from([-1.0, 0.0, 0.5, 3.0]), loop=st.booleans())
def test_a_change_at_some_steps_equals_a_hook_at_those_steps(family, bounds, factor, loop):
    chosen = range(5)[slice(*bounds)]
    want, seen = by_hand(family, lambda step, hidden: hidden * factor if step in chosen else hidden)
    model = LanguageModel(tiny.hf_model(family))
    block = blocks(model, family)[1]
    with model.generate(IDS, **OPTIONS) as tracer:
        states = list().save()
        if loop:
            for _step in tracer.iter[slice(*bounds)]:
                block.output[:] = block.output * factor
        else:
            with tracer.iter[slice(*bounds)]:
                block.output[:] = block.output * factor
        with tracer.all():
            states.append(block.output[:, -1])
        ids = tracer.result.save()
    assert torch.equal(ids, want)
    assert len(states) == 5
    for found, expected in zip(states, seen, strict=True):
        torch.testing.assert_close(found, expected[:, -1])


def test_a_peek_in_a_loop_sees_the_real_token_of_its_step():
    model, want = LanguageModel(tiny.hf_model("gpt2")), tiny.hf_model("gpt2").generate(IDS, **OPTIONS)
    tokens = []
    with model.generate(IDS, **OPTIONS) as tracer:
        for _step in tracer.iter[:5]:
            tokens.append(int(model.lm_head.output[0, -1].argmax()))
    assert tokens == want[0, 4:].tolist()


def test_a_step_that_never_happens_raises_only_when_it_is_read():
    hf = tiny.hf_model("gpt2")
    end = int(hf.generate(IDS, **OPTIONS)[0, 5])  # the second new token ends the text
    options = OPTIONS | {"eos_token_id": end}
    model = LanguageModel(hf)
    with model.generate(IDS, **options) as tracer:
        states = list().save()
        with tracer.all():
            states.append(model.lm_head.output[:, -1])
        late = None
        for _step in tracer.iter[:4]:
            late = model.lm_head.output.save()
        ids = tracer.result.save()
    happened = ids.shape[1] - 4
    assert happened == hf.generate(IDS, **options).shape[1] - 4 < 4
    assert len(states) == happened
    with pytest.raises(UnsavedError, match="ended before"):
        late.sum()


def test_generate_inside_an_open_trace_turns_its_run_into_a_generation():
    want, _ = by_hand("gpt2", lambda step, hidden: hidden * 0 if step == 0 else hidden)
    model = LanguageModel(tiny.hf_model("gpt2"))
    with model.trace() as tracer:
        with tracer.invoke(IDS):
            model.transformer.h[1].output[:] = 0
        ids = model.generate(**OPTIONS).save()
    assert torch.equal(ids, want)
