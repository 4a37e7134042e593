"""Op taps at the steps of a generation: each step, some of them, with looks, and of one prompt of several."""

import pytest
import torch

from loupe import LanguageModel
from tests import tiny
from tests.sites.attention import pair, same, watched

IDS = torch.tensor([[5, 9, 3, 8]])
OPTIONS = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}


def attention(model, layer=1):
    return model.model.layers[layer].self_attn


def eager_generation(prompt=IDS, changed=(), change=None):
    """The ids, and the patterns of layer 1 at each step, of the library's generation with eager attention."""
    with watched("softmax", 4, {2 * step + 1: change for step in changed}) as seen:  # the model has two layers
        ids = pair("llama")[1].generate(torch.as_tensor(prompt), **OPTIONS)
    return ids, seen[1::2]


def test_an_operation_is_read_at_each_step_of_a_generation():
    ids, want = eager_generation()
    model = LanguageModel(pair("llama")[0])
    with model.generate(IDS, **OPTIONS) as tracer:
        states, looped = list().save(), list().save()
        with tracer.all():
            states.append(attention(model).ops.softmax[0].output)
        for _step in tracer.iter[1:3]:
            looped.append(attention(model).ops.softmax[0].output)
        looped.append(attention(model).next().ops.softmax[0].output)
        found = tracer.result.save()
    assert torch.equal(found, ids)
    for one, other in zip([*states, *looped], [*want, want[1], want[2], want[1]], strict=True):
        same(one, other)


@pytest.mark.parametrize("form", ["with", "loop", "peek"])
def test_an_operation_is_written_at_some_steps_of_a_generation(form):
    ids, want = eager_generation(changed=(2, 3), change=lambda pattern: pattern * -400)
    assert not torch.equal(eager_generation()[0], ids)
    model = LanguageModel(pair("llama")[0])
    looks = []
    with model.generate(IDS, **OPTIONS) as tracer:
        if form == "with":
            with tracer.iter[2:]:
                attention(model).ops.softmax[0].output[:] *= -400
        for _step in tracer.iter[2:4] if form != "with" else ():
            site = attention(model).ops.softmax[0]
            if form == "peek":
                looks.append(float(site.output[0, 0, 0, 0]))
            site.output = site.output * -400
        with tracer.iter[3]:
            last = attention(model).ops.softmax[0].output.save()
        found = tracer.result.save()
    assert torch.equal(found, ids)
    same(last, want[3])
    assert looks == pytest.approx([float(pattern[0, 0, 0, 0]) / -400 for pattern in want[2:]] if looks else [])


def test_a_loop_looks_at_an_operation_at_each_step_in_one_pass():
    _, want = eager_generation()
    module, passes, looks = pair("llama")[0], [], []
    model = LanguageModel(module)
    with tiny.hooked(module, {"model.layers.0": lambda output: passes.append(1)}):
        with model.generate(IDS, **OPTIONS) as tracer:
            for _step in tracer.iter[:]:
                sums = float(attention(model, 0).ops.softmax[0].output.sum())
                looks.append((sums, float(attention(model).ops.softmax[0].output[0, 0, -1, 0])))
    assert [total for total, _ in looks] == pytest.approx([4.0 * pattern.shape[2] for pattern in want])
    assert [one for _, one in looks] == pytest.approx([float(pattern[0, 0, -1, 0]) for pattern in want], abs=1e-6)
    assert len(passes) == OPTIONS["max_new_tokens"]  # nothing had to be run again


def test_operations_of_one_prompt_are_read_and_written_at_its_steps():
    prompts = [[5, 9, 3, 8]], [[3, 8]]
    ids_alone, patterns = eager_generation(prompts[0])
    ids_changed, _ = eager_generation(prompts[1], changed=[1], change=torch.zeros_like)
    model = LanguageModel(pair("llama")[0])
    with model.generate(**OPTIONS) as tracer:
        with tracer.invoke(prompts[0]):
            states, one = list().save(), tracer.result.save()
            with tracer.all():
                states.append(attention(model).ops.softmax[0].output)
        with tracer.invoke(prompts[1]):
            with tracer.iter[1]:
                attention(model).ops.softmax[0].output[:] = 0
            two = tracer.result.save()
    assert torch.equal(one[:, -4:], ids_alone[:, -4:])
    assert torch.equal(two[:, -4:], ids_changed[:, -4:])
    for found, want in zip(states, patterns, strict=True):
        same(found, want)
