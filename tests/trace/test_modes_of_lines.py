"""An operation of a block runs in the torch modes of its line: no_grad, autocast."""

import pytest
import torch
from torch.overrides import TorchFunctionMode

from loupe import LanguageModel, Model
from tests import tiny

X = torch.linspace(-1, 1, 12).reshape(3, 4)


def a_of():
    with torch.no_grad():
        return tiny.net().a(X)


def test_no_grad_inside_a_block_cuts_the_gradient_as_in_torch():
    model = Model(tiny.net())
    with model.trace(X):
        hidden = model.a.output
        with torch.no_grad():
            scale = hidden * 2
        with (scale * hidden).sum().backward():
            gradient = hidden.grad.save()
    assert torch.allclose(gradient, 2 * a_of(), atol=1e-5)  # with the way through `scale` it would be twice that


@pytest.mark.parametrize(
    ("context", "tracked"),
    [(torch.no_grad(), True), (torch.autocast("cpu", dtype=torch.bfloat16), False)],
    ids=["no_grad", "autocast"],
)
def test_an_operation_runs_in_the_context_in_which_it_is_written(context, tracked):
    model, weight = Model(tiny.net()), torch.ones(8, 2, requires_grad=tracked)
    hidden = a_of()  # the model runs as outside
    with context:
        want = hidden @ weight
    with model.trace(X):
        with context:
            product = (model.a.output @ weight).save()
    assert product.dtype == want.dtype
    assert product.requires_grad == want.requires_grad
    assert torch.allclose(product.detach(), want.detach())


@pytest.mark.parametrize("look", [False, True])
def test_a_context_inside_a_block_does_not_reach_the_model(look):
    model = Model(tiny.net())
    with model.trace(X):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = model.a.output.save()
            if look:
                hidden.sum().item()
    assert hidden.dtype == torch.float32
    assert torch.equal(hidden, a_of())


def test_what_happens_to_a_prompt_is_nothing_that_a_mode_of_the_users_sees():
    class Seen(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    seen, model, ids = [], LanguageModel(tiny.hf_model("gpt2")), torch.tensor([[1, 2, 3]])
    with Seen(), model.trace(ids):
        before = list(seen)
        model.output.save()
    assert before == []
