"""Hold torch.autograd's own functions, and gradients of gradients, against plain autograd."""

import pytest
import torch

from loupe import LanguageModel, Model
from loupe.errors import BlockError
from tests import tiny
from tests.gradients.by_hand import IDS, blocks_of, gradients, keeping, weights_with_gradients


def test_autograd_grad_of_values_gives_their_gradients_and_nothing_collects():
    want = gradients("gpt2")
    model = LanguageModel(tiny.hf_model("gpt2"))
    probe = torch.nn.Linear(32, 1)
    with model.trace(IDS):
        early, late = model.transformer.h[0].output, model.transformer.h[2].output
        loss = model.output[0, -1, 0] + 0 * probe(late).sum()
        found = [each.save() for each in torch.autograd.grad(loss, [late, early])]
    torch.testing.assert_close(found[0].value, want[2])
    torch.testing.assert_close(found[1].value, want[0])
    assert probe.weight.grad is None
    with model.trace(IDS):
        hidden = model.transformer.h[1].output
        torch.autograd.backward(model.output[0, -1, 0])
        plain = hidden.grad.save()
    torch.testing.assert_close(plain.value, want[1])


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_penalty_on_a_gradient_has_gradients_itself(family):
    hf = tiny.hf_model(family)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), keeping(hf, blocks_of(family)) as kept:
        logits = hf(IDS).logits
        first, second = kept[blocks_of(family)[0]], kept[blocks_of(family)[1]]
        (gradient,) = torch.autograd.grad(logits[0, -1, 0], second, create_graph=True)
        want = torch.autograd.grad(gradient.pow(2).sum(), [first, second])
    model = LanguageModel(hf)
    layers = model.get(tiny.BLOCKS[family])
    for how in ("grad", "backward"):
        with model.trace(IDS):
            early, hidden = layers[0].output, layers[1].output
            loss = model.output[0, -1, 0]
            if how == "grad":
                (inner,) = torch.autograd.grad(loss, hidden, create_graph=True)
                found = [each.save() for each in torch.autograd.grad(inner.pow(2).sum(), (early, hidden))]
            else:
                with loss.backward(create_graph=True):
                    penalty = hidden.grad.pow(2).sum()
                with penalty.backward():
                    found = [early.grad.save(), hidden.grad.save()]
        for each, expected in zip(found, want, strict=True):
            torch.testing.assert_close(each.value, expected, atol=1e-6, rtol=1e-4)


def test_a_probe_trains_on_a_penalty_of_its_own_gradient():
    torch.manual_seed(0)
    module, x = tiny.stack(), torch.randn(5, 8)
    probe = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    with torch.no_grad():
        hidden = torch.tanh(module.layers[0](x)) + module.table.weight.sum(0)
    hidden.requires_grad_()
    (gradient,) = torch.autograd.grad(probe(hidden).sum(), hidden, create_graph=True)
    (gradient.norm(dim=-1) - 1).pow(2).mean().backward()
    want = [parameter.grad.clone() for parameter in probe[:2].parameters()]
    probe.zero_grad(set_to_none=True)
    model = Model(module)
    with model.trace(x):
        value = model.layers[1].input
        (inner,) = torch.autograd.grad(probe(value).sum(), value, create_graph=True)
        (inner.norm(dim=-1) - 1).pow(2).mean().backward()
    for parameter, expected in zip(probe[:2].parameters(), want, strict=True):
        torch.testing.assert_close(parameter.grad, expected)
    assert weights_with_gradients(module) == []


@pytest.mark.parametrize(
    "call",
    [
        lambda loss, hidden: torch.autograd.grad([loss, loss], hidden),
        lambda loss, hidden: torch.autograd.grad(loss, [hidden, torch.ones(3, requires_grad=True)]),
        lambda loss, hidden: torch.autograd.grad(loss, hidden, allow_unused=True),
        lambda loss, hidden: torch.autograd.backward([loss, loss]),
    ],
)
def test_what_a_block_has_no_meaning_for_is_refused_at_its_line(call):
    model = LanguageModel(tiny.hf_model("gpt2"))
    with pytest.raises(BlockError) as caught, model.trace(IDS):
        call(model.output[0, -1, 0], model.transformer.h[1].output)
    assert caught.value.line.filename == __file__
