"""Hold language models that are compiled, or compile themselves to generate, against the same models that are not."""

import copy

import pytest
import torch
from transformers import CompileConfig

from loupe import LanguageModel
from tests import tiny

IDS = torch.tensor([[5, 9, 2, 7]])


@pytest.fixture(autouse=True)
def nothing_is_compiled_yet():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("where", ["whole", "block"])
def test_a_compiled_language_model_keeps_its_names_and_views(where):
    hf = copy.deepcopy(tiny.hf_model("gpt2"))
    if where == "block":
        hf.transformer.h[1] = torch.compile(hf.transformer.h[1], backend="eager")
    model = LanguageModel(torch.compile(hf, backend="eager") if where == "whole" else hf, tokenizer=tiny.tokenizer())
    seen, out = tiny.outputs_of(tiny.hf_model("gpt2"), ["transformer.h.1", "transformer.h.1.mlp"], IDS)
    with model.trace(IDS):
        hidden, mlp = model.transformer.h[1].output[0].save(), model.transformer.h[1].mlp.output.save()
        pattern = model.transformer.h[1].attn.ops.softmax[0].output.save()
        logits = model.output.save()
    with model.trace(IDS):
        float(model.transformer.h[2].mlp.output.sum())
        looked = float(model.transformer.h[1].mlp.output.sum())  # has passed already
    assert looked == pytest.approx(float(seen["transformer.h.1.mlp"].sum()), abs=1e-4)
    torch.testing.assert_close(hidden.value, seen["transformer.h.1"])
    torch.testing.assert_close(mlp.value, seen["transformer.h.1.mlp"])
    torch.testing.assert_close(pattern.value.sum(-1), torch.ones(1, 4, 4))
    torch.testing.assert_close(logits.logits, out.logits)


def test_a_generation_that_would_compile_itself_is_written_at_each_step():
    config = CompileConfig(backend="eager", mode=None, fullgraph=False)
    config._compile_all_devices = True  # as the library does by itself on a GPU
    hf = copy.deepcopy(tiny.hf_model("llama"))
    options = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    with tiny.hooked(hf, {"model.layers.1": lambda output: output * 0.5}):
        want = hf.generate(input_ids=IDS, **options)
    model = LanguageModel(hf, tokenizer=tiny.tokenizer())
    with model.generate(IDS, cache_implementation="static", compile_config=config, **options) as tracer:
        with tracer.all():
            model.model.layers[1].output = model.model.layers[1].output * 0.5
        ids = tracer.result.save()
    assert ids.tolist() == want.tolist()
    assert ids.tolist() != hf.generate(input_ids=IDS, **options).tolist()
    assert "get_compiled_call" not in hf.__dict__
