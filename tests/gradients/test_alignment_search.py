"""Hold the example of distributed alignment search to what plain hooks measure with the rotation that it learned."""

import random

import pytest
import torch

from examples.distributed_alignment_search import (
    BLOCK,
    SIZE,
    Interchange,
    answers_of,
    interchange_accuracy,
    pairs_of,
    split_landmarks,
    swapped_logits,
    train,
)
from loupe import LanguageModel


@pytest.fixture(scope="module")
def model():
    return LanguageModel("loupe/landmarks", dispatch=True)


def logits_by_hand(model, basis, pairs):
    """The last token's logits of the base prompts, with plain hooks and the transformers library alone."""
    hf, encode = model._model, model.tokenizer
    module, kept = hf.transformer.h[BLOCK], {}

    def run(prompts, hook):
        batch = encode(prompts, return_tensors="pt", padding=True, padding_side="left")
        positions = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        handle = module.register_forward_hook(hook)
        try:
            with torch.no_grad():
                return hf(**batch, position_ids=positions).logits[:, -1]
        finally:
            handle.remove()

    def swap(_module, _args, output):
        base = output[:, -1]
        rest = base - base @ basis.T @ basis
        return torch.cat([output[:, :-1], (rest + kept["source"] @ basis.T @ basis)[:, None]], dim=1)

    run([f"{source} is in" for _, source in pairs], lambda _m, _a, output: kept.update(source=output[:, -1]))
    return run([f"{base} is in" for base, _ in pairs], swap)


def test_a_learned_rotation_swaps_the_cities_of_landmarks_that_it_never_saw(model):
    torch.manual_seed(0)
    learned, held_out = (pairs_of(landmarks) for landmarks in split_landmarks())
    assert not {name for pair in learned for name in pair} & {name for pair in held_out for name in pair}
    held_out = random.Random(0).sample(held_out, 60)
    interchange = Interchange(96, SIZE)

    def accuracy_by_hand():
        basis = interchange.rotation.weight[:SIZE].detach()
        torch.testing.assert_close(basis @ basis.T, torch.eye(SIZE), atol=1e-5, rtol=0)
        by_hand = logits_by_hand(model, basis, held_out)
        torch.testing.assert_close(swapped_logits(model, interchange, held_out).detach(), by_hand, atol=1e-3, rtol=1e-3)
        return float((by_hand.argmax(-1) == answers_of(model, held_out)).float().mean())

    before = accuracy_by_hand()
    train(model, interchange, learned, steps=25, rows=24)
    after = accuracy_by_hand()
    assert before < 0.1
    assert after > 0.8
    assert interchange_accuracy(model, interchange, held_out) == pytest.approx(after, abs=0.02)
    assert all(parameter.grad is None for parameter in model._model.parameters())
