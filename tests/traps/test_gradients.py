"""Gradients are asked for in any order and place, several times, and with several prompts."""

import pytest
import torch

from loupe import Model
from loupe.errors import OperationError
from tests import tiny

X = torch.linspace(-1, 1, 12).reshape(3, 4)


def plain(loss_of, x=X):
    """The gradients of what `a` and `b` return, for a loss of the logits, by plain autograd."""
    net = tiny.net()
    a = net.a(x).detach().requires_grad_()
    hidden = torch.relu(a)
    for _ in range(3):
        hidden = net.shared(hidden)
    b = net.b(hidden)
    return torch.autograd.grad(loss_of(b), [a, b])


@pytest.mark.parametrize("first", ["early", "late"])
def test_gradients_are_read_in_any_order(first):
    model, found = Model(tiny.net()), {}
    with model.trace(X):
        early, late = model.a.output, model.b.output
        with late.square().sum().backward():
            for name in ("early", "late") if first == "early" else ("late", "early"):
                found[name] = (early if name == "early" else late).grad.save()
    want_early, want_late = plain(lambda logits: logits.square().sum())
    assert torch.allclose(found["early"], want_early, atol=1e-5)
    assert torch.allclose(found["late"], want_late, atol=1e-5)


def test_a_backward_block_may_be_followed_by_modules_and_may_read_them_inside():
    model, net = Model(tiny.net()), tiny.net()
    with model.trace(X):
        hidden = model.a.output
        with model.b.output.sum().backward():
            gradient = hidden.grad.save()
            inside = model.output["logits"].save()
        after = model.shared.output.save()
    with torch.no_grad():
        assert torch.equal(inside, net(X)["logits"])
        assert torch.allclose(after, net.shared(torch.relu(net.a(X))), atol=1e-6)
    assert torch.allclose(gradient, plain(torch.sum)[0], atol=1e-5)


def test_each_prompt_may_have_a_backward_pass_of_its_own():
    model = Model(tiny.net())
    with model.trace() as tracer:
        with tracer.invoke(X):
            hidden = model.a.output
            with model.b.output.sum().backward():
                first = hidden.grad.save()
        with tracer.invoke(X * 2):
            hidden = model.a.output
            with model.b.output.square().sum().backward():
                second = hidden.grad.save()
    assert torch.allclose(first, plain(torch.sum)[0], atol=1e-5)
    assert torch.allclose(second, plain(lambda logits: logits.square().sum(), X * 2)[0], atol=1e-5)


def test_a_second_backward_pass_through_one_loss_says_what_the_first_one_needs():
    model = Model(tiny.net())
    with pytest.raises(OperationError) as caught:
        with model.trace(X):
            hidden = model.a.output
            loss = model.b.output.square().sum()
            with loss.backward():
                hidden.grad.save()
            with loss.backward():
                hidden.grad.save()
    assert "retain_graph=True" in caught.value.remedy

    with model.trace(X):
        hidden = model.a.output
        loss = model.b.output.square().sum()
        with loss.backward(retain_graph=True):
            first = hidden.grad.save()
        with (loss * 3).backward():
            second = hidden.grad.save()
    want = plain(lambda logits: logits.square().sum())[0]
    assert torch.allclose(first, want, atol=1e-5)
    assert torch.allclose(second, 3 * want, atol=1e-5)
