"""Programs that ask for gradients: after the block, and in a block of the backward pass."""

import pytest
import torch

from loupe import LanguageModel
from tests.samples.plain import close, states, tokens

PROMPT = "The Eiffel Tower is in"


def plain_gradients(model, prompt, loss_of, layer):
    """The gradients of a layer's states and of the logits, by a plain backward pass."""
    hf, kept = model._model, {}

    def keep(module, args, output):
        kept["hidden"] = states(output)
        kept["hidden"].retain_grad()

    handle = hf.transformer.h[layer].register_forward_hook(keep)
    logits = hf(**tokens(model, prompt)).logits
    logits.retain_grad()
    loss_of(logits).backward()
    handle.remove()
    hf.zero_grad(set_to_none=True)
    return kept["hidden"].grad, logits.grad


def test_a_retained_gradient_is_read_after_the_block(capsys):
    model = LanguageModel("loupe/landmarks", device_map="auto")
    with model.trace("The quick brown fox"):
        hidden = model.transformer.h[5].output[0].save()
        hidden.retain_grad()
        logits = model.output
        target_token = model.tokenizer.encode(" jumps")[0]
        loss = -logits[0, -1, target_token]
        loss.backward()
    grad = hidden.grad
    print(f"{grad.shape}")
    print(f"{grad.norm().item():.3f}")

    want, _ = plain_gradients(model, "The quick brown fox", lambda logits: -logits[0, -1, target_token], 5)
    assert close(grad, want)
    assert capsys.readouterr().out.splitlines() == ["torch.Size([1, 4, 96])", f"{want.norm().item():.3f}"]
    assert all(parameter.grad is None for parameter in model._model.parameters())


def test_a_retained_gradient_beside_saved_logits(model):
    prompt = PROMPT
    with model.trace(prompt):
        hidden = model.transformer.h[-1].output[0].save()
        hidden.retain_grad()
        logits = model.lm_head.output.save()
        logits.sum().backward()

    want, _ = plain_gradients(model, prompt, torch.sum, 11)
    assert close(hidden.grad, want)
    with torch.no_grad():
        assert close(logits, model._model(**tokens(model, prompt)).logits)


@pytest.mark.parametrize("prompt", [PROMPT, "The Colosseum is in"])
def test_gradients_are_read_in_a_block_of_the_backward_pass(model, prompt):
    with model.trace(prompt):
        hidden = model.transformer.h[-1].output[0]
        hidden.requires_grad = True
        logits = model.lm_head.output
        with logits.sum().backward():
            logits_grad = logits.grad.save()
            hidden_grad = hidden.grad.save()

    want, want_of_logits = plain_gradients(model, prompt, torch.sum, 11)
    assert torch.equal(logits_grad, want_of_logits)
    assert close(hidden_grad, want)
