"""Steps of a generation: loops end where it ends, and what stands after them is done."""

import pytest
import torch

from loupe import LanguageModel
from loupe.errors import UnsavedError
from tests import tiny

IDS = torch.tensor([[3, 4, 5]])


def model():
    return LanguageModel(tiny.hf_model("gpt2"))


def plain(tokens: int):
    """The ids of a plain generation that does not end early, and the logits of each step."""
    hf = tiny.hf_model("gpt2")
    seen = []
    with tiny.hooked(hf, {"lm_head": lambda output: seen.append(output.clone())}):
        ids = hf.generate(IDS, max_new_tokens=tokens, do_sample=False, eos_token_id=None)
    return ids, seen


@pytest.mark.parametrize("form", ["for iter", "with iter", "with all"])
def test_what_stands_after_a_loop_without_an_end_is_done(form):
    lm = model()
    with lm.generate(IDS, max_new_tokens=3, eos_token_id=None) as tracer:
        states = list().save()
        if form == "for iter":
            for _step in tracer.iter[:]:
                states.append(lm.lm_head.output)
        else:
            with tracer.iter[:] if form == "with iter" else tracer.all():
                states.append(lm.lm_head.output)
        after = (lm.transformer.wte.weight.sum() * 2).save()
    ids, seen = plain(3)
    assert len(states) == len(seen) == 3
    assert all(torch.allclose(found, want, atol=1e-5) for found, want in zip(states, seen, strict=True))
    assert torch.allclose(after, tiny.hf_model("gpt2").transformer.wte.weight.sum() * 2)
    assert ids.shape == (1, 6)


def test_the_result_is_there_after_a_loop():
    lm = model()
    with lm.generate(IDS, max_new_tokens=3, eos_token_id=None) as tracer:
        states = list().save()
        for _step in tracer.iter[:]:
            states.append(lm.lm_head.output)
        ids = tracer.result.save()
    assert torch.equal(ids, plain(3)[0])


def test_a_step_that_never_comes_leaves_no_entry_and_is_an_error_only_when_it_is_read():
    lm = model()
    with lm.generate(IDS, max_new_tokens=3, eos_token_id=None) as tracer:
        states = list().save()
        for step in tracer.iter[:6]:
            logits = lm.lm_head.output.save()
            if step == 1:
                second = logits
            states.append(logits)
        after = tracer.result.save()
    ids, seen = plain(3)
    assert len(states) == 3
    assert torch.allclose(second, seen[1], atol=1e-5)
    assert torch.equal(after, ids)
    with pytest.raises(UnsavedError, match="before it was reached"):
        logits.sum()


def test_a_loop_that_asks_for_nothing_ends():
    lm = model()
    count = 0
    with lm.generate(IDS, max_new_tokens=4, eos_token_id=None) as tracer:
        for _step in tracer.iter[:]:
            count += 1
        ids = tracer.result.save()
    assert count == 4
    assert torch.equal(ids, plain(4)[0])


def test_next_goes_a_step_on_wherever_it_stands():
    lm = model()
    with lm.generate(IDS, max_new_tokens=3, eos_token_id=None):
        first = lm.lm_head.output.save()
        second = lm.lm_head.next().output.save()
        third = lm.lm_head.next().output.save()
    _, seen = plain(3)
    for found, want in zip((first, second, third), seen, strict=True):
        assert torch.allclose(found, want, atol=1e-5)


def test_generate_inside_an_open_block_generates_in_that_block():
    lm = model()
    with lm.trace() as tracer:
        with tracer.invoke(IDS):
            first = lm.lm_head.output.save()
        ids = lm.generate(max_new_tokens=3, eos_token_id=None).save()
    want, seen = plain(3)
    assert torch.equal(ids, want)
    assert torch.allclose(first, seen[0], atol=1e-5)
