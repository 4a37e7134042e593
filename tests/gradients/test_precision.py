"""Hold gradients of models in bfloat16 against plain hooks on the same models: their dtype, and each number."""

import copy
from functools import cache

import pytest
import torch

from loupe import LanguageModel
from tests import tiny
from tests.gradients.by_hand import IDS, blocks_of, gradients, keeping


@cache
def half(family):
    return copy.deepcopy(tiny.hf_model(family)).to(torch.bfloat16)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_values_and_gradients_in_bfloat16_are_those_of_hooks(family):
    hf = half(family)
    want = gradients(family, module=hf)
    with torch.no_grad():
        want_logits = hf(IDS).logits
    model = LanguageModel(hf)
    layers = model.get(tiny.BLOCKS[family])
    with model.trace(IDS):
        hidden = [layer.output for layer in layers]
        logits = model.output.save()
        with logits[:, -1, 0].sum().backward():
            found = [each.grad.save() for each in hidden]
    assert torch.equal(logits.value, want_logits)
    for gradient, expected in zip(found, want, strict=True):
        assert gradient.dtype == torch.bfloat16
        assert torch.equal(gradient.value, expected)


def test_a_gradient_written_in_another_dtype_becomes_the_models():
    hf = half("gpt2")
    scale = torch.linspace(0, 1, 32)

    def hook(hidden):
        hidden = hidden.clone()
        hidden.register_hook(lambda gradient: (gradient.float() * scale).to(gradient.dtype))
        return hidden

    want = gradients("gpt2", module=hf, change={"transformer.h.1": hook})[0]
    model = LanguageModel(hf)
    with model.trace(IDS):
        early, hidden = model.transformer.h[0].output, model.transformer.h[1].output
        with model.output[:, -1, 0].sum().backward():
            hidden.grad = hidden.grad.float() * scale
            found = early.grad.save()
    assert found.dtype == torch.bfloat16
    assert torch.equal(found.value, want)


def test_a_float_probe_trains_on_states_in_bfloat16():
    hf = half("llama")
    torch.manual_seed(0)
    probe = torch.nn.Linear(32, 1)
    with keeping(hf, blocks_of("llama")) as kept:
        hf(IDS)
        probe(kept["model.layers.1"].float()).pow(2).mean().backward()
        want = kept["model.layers.1"].grad
    want_weight = probe.weight.grad.clone()
    probe.zero_grad(set_to_none=True)
    model = LanguageModel(hf)
    with model.trace(IDS):
        hidden = model.model.layers[1].output
        probe(hidden.float()).pow(2).mean().backward()
        found = hidden.grad.save()
    torch.testing.assert_close(probe.weight.grad, want_weight)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found.value, want)


def test_the_bundled_model_runs_in_bfloat16():
    model = LanguageModel("loupe/landmarks", dtype=torch.bfloat16)
    paris = model.tokenizer.encode(" Paris")[0]
    with model.trace("The Eiffel Tower is in"):
        hidden = model.transformer.h[5].output[0]
        logits = model.output.save()
        with logits[0, -1, paris].backward():
            gradient = hidden.grad.save()
    assert model.dtype == logits.dtype == gradient.dtype == torch.bfloat16
    assert int(logits[0, -1].argmax()) == paris
    ids = torch.tensor([model.tokenizer.encode("The Eiffel Tower is in")])
    with keeping(model._model, ["transformer.h.5"]) as kept:
        model._model(ids).logits[0, -1, paris].backward()
        assert torch.equal(gradient.value, kept["transformer.h.5"].grad)
