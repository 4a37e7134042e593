"""Programs that stop early, look at shapes without running, and cache what every module returns."""

import torch

from loupe import LanguageModel
from tests import tiny
from tests.samples.plain import close, plain_run, states, tokens

PROMPT = "The Eiffel Tower is in"


def test_a_stopped_pass_runs_no_later_layer(model):
    prompt, ran = PROMPT, []
    handles = [
        block.register_forward_pre_hook(lambda module, args, i=i: ran.append(i))
        for i, block in enumerate(model._model.transformer.h)
    ]
    with model.trace(prompt) as tracer:
        early_hidden = model.transformer.h[3].output[0].save()
        tracer.stop()
    for handle in handles:
        handle.remove()

    seen, _ = plain_run(model, prompt, ["transformer.h.3"])
    assert close(early_hidden, seen["transformer.h.3"])
    assert ran == [0, 1, 2, 3]


def test_a_scan_tells_a_shape_and_loads_no_weights():
    model = LanguageModel("loupe/landmarks")
    prompt = PROMPT
    with model.scan(prompt):
        shape = model.transformer.h[0].output[0].shape.save()

    assert tuple(shape) == (1, len(model.tokenizer(prompt)["input_ids"]), 96)
    assert not model.dispatched


def test_a_cache_holds_what_every_module_returned(model):
    prompt = PROMPT
    with model.trace(prompt) as tracer:
        cache = tracer.cache()

    hf = model._model
    paths = [path for path, module in hf.named_modules() if path and not list(module.children())]
    seen, result = tiny.outputs_of(hf, [*paths, "transformer.h.3"], **tokens(model, prompt))
    ran = [path for path in paths if path in seen]
    assert "transformer.h.11.mlp.c_proj" in ran
    for path in ran:
        assert isinstance(seen[path], torch.Tensor)
        assert close(cache[path].output, seen[path]), path
    assert close(cache["transformer.h.3"].output[0], states(seen["transformer.h.3"]))
    assert close(cache["lm_head"].output, result.logits)
