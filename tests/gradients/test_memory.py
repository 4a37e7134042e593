"""Hold that a block leaves no autograd graph behind: what autograd had packed away is gone when the block is over."""

import gc
import weakref
from contextlib import contextmanager

import pytest
import torch

from loupe import LanguageModel
from tests import tiny
from tests.gradients.by_hand import IDS


class Packed:
    """A tensor that autograd keeps for a backward pass; it lives as long as the graph does."""

    def __init__(self, tensor):
        self.tensor = tensor.detach()


@contextmanager
def counted():
    """Count what autograd keeps: gives a list of weak references."""
    kept = []

    def pack(tensor):
        packed = Packed(tensor)
        kept.append(weakref.ref(packed))
        return packed

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda packed: packed.tensor):
        yield kept


def alive(kept):
    gc.collect()
    return sum(reference() is not None for reference in kept)


def _plain(model, tracer):
    hidden = model.transformer.h[0].output
    with model.output[0, -1, 0].backward(retain_graph=True):
        return hidden.grad.save()


def _detached(model, tracer):
    hidden = model.transformer.h[0].output
    hidden.retain_grad()
    loss = model.output[0, -1, 0]
    loss.backward()
    return loss.detach().save()


def _second_order(model, tracer):
    hidden = model.transformer.h[1].output
    with model.output[0, -1, 0].backward(create_graph=True):
        penalty = hidden.grad.pow(2).sum()
    with penalty.backward():
        return hidden.grad.save()


@pytest.mark.parametrize("block", [_plain, _detached, _second_order])
def test_no_graph_is_alive_after_a_block_that_saves_nothing_with_a_gradient(block):
    model = LanguageModel(tiny.hf_model("gpt2"))
    with counted() as kept:
        with model.trace(IDS) as tracer:
            saved = block(model, tracer)
    assert len(kept) > 20
    assert alive(kept) == 0
    assert not saved.requires_grad
    assert len(tracer.graph) > 0  # the graph that was recorded is still there


def test_no_graph_is_alive_after_prompts_of_one_pass():
    model = LanguageModel(tiny.hf_model("gpt2"))
    with counted() as kept:
        with model.trace() as tracer:
            for prompt in (IDS, IDS + 1):
                with tracer.invoke(prompt):
                    hidden = model.transformer.h[0].output
                    squares = hidden.pow(2).sum()
                    hidden[:, 0] = 0
                    hidden.retain_grad()
                    (model.output[0, -1, 0] + squares).backward()
                    found = hidden.grad.save()
    assert len(kept) > 20
    assert alive(kept) == 0
    assert found.shape == (1, 4, 32)


def test_no_activation_is_alive_after_a_block_that_looked_at_a_gradient():
    hf, kept = tiny.hf_model("gpt2"), []
    model = LanguageModel(hf)
    keep = lambda _module, _args, output: kept.append(weakref.ref(output))  # noqa: E731
    handles = [module.register_forward_hook(keep) for module in hf.modules() if not list(module.children())]
    try:
        with model.trace(IDS):
            hidden = model.transformer.h[0].output
            model.output[0, -1, 0].backward()
            assert float(hidden.grad.norm()) > 0
            norm = hidden.grad.norm().save()
    finally:
        for handle in handles:
            handle.remove()
    assert len(kept) > 20
    assert alive(kept) == 0
    assert not norm.requires_grad


def test_the_graph_of_a_saved_loss_lives_as_long_as_the_loss():
    model = LanguageModel(tiny.hf_model("gpt2"))
    probe = torch.nn.Linear(32, 1)
    with counted() as kept:
        with model.trace(IDS):
            loss = probe(model.transformer.h[1].output).sum().save()
    assert loss.requires_grad
    assert alive(kept) > 0
    del loss
    assert alive(kept) == 0


def test_a_block_that_fails_leaves_no_graph_when_its_error_is_gone():
    model = LanguageModel(tiny.hf_model("gpt2"))
    with counted() as kept:
        try:
            with model.trace(IDS):
                hidden = model.transformer.h[0].output
                with model.output[0, -1, 0].backward():
                    (hidden.grad @ torch.ones(7)).save()
        except Exception as error:
            message = str(error)
    assert "matmul" in message
    assert len(kept) > 20
    assert alive(kept) == 0
