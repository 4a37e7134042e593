"""Hold that a mistake about gradients is named with its line and the way out, and leaves the model as it was."""

import pytest
import torch

from loupe import LanguageModel
from loupe.errors import BlockError, NotReachedError, OperationError, WriteError
from tests import tiny
from tests.gradients.by_hand import IDS


def _twice(model, hidden):
    loss = model.output[0, -1, 0]
    loss.backward()
    hidden.grad.save()
    loss.backward()
    hidden.grad.save()


def _another_view(model, hidden):
    inner = model.transformer.h[1].mlp.output
    flat = inner.flatten()
    inner[..., -1] += 1
    flat.pow(2).sum().backward()
    inner.grad.save()


def _replaced(model, hidden, value):
    with model.output[0, -1, 0].backward():
        hidden.grad = value


def _tuple(model, hidden):
    value = model.transformer.h[1].attn.output
    model.output[0, -1, 0].backward()
    value.grad.save()


MISTAKES = {
    "no number": (lambda model, hidden: model.output.backward(), OperationError, "loss.sum().backward()"),
    "twice": (_twice, OperationError, "retain_graph=True"),
    "nobody asks": (lambda model, hidden: model.output.sum().backward(), OperationError, "x.grad"),
    "integers": (lambda model, hidden: model.output.argmax().backward(), OperationError, "floating-point"),
    "detached": (
        lambda model, hidden: (model.output.sum().backward(), hidden.detach().grad.save()),
        NotReachedError,
        "detached",
    ),
    "another view": (_another_view, NotReachedError, "compute the loss from it"),
    "no backward": (lambda model, hidden: hidden.grad.save(), NotReachedError, "call loss.backward()"),
    "another shape": (lambda m, h: _replaced(m, h, torch.zeros(3, 3)), WriteError, "assign a number"),
    "none": (lambda model, hidden: _replaced(model, hidden, None), WriteError, "assign a number"),
    "a tuple": (_tuple, OperationError, "x[0].grad"),
    "unknown option": (lambda model, hidden: model.output.sum().backward(keep=1), BlockError, "retain_graph"),
    "inputs": (lambda model, hidden: model.output.sum().backward(inputs=[hidden]), BlockError, "x.grad"),
    "a hook": (lambda model, hidden: hidden.register_hook(print), BlockError, "x.grad"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_with_its_line_and_the_way_out(mistake):
    block, kind, remedy = MISTAKES[mistake]
    model = LanguageModel(tiny.hf_model("gpt2"))
    with pytest.raises(kind) as caught, model.trace(IDS):
        block(model, model.transformer.h[1].output)
    assert remedy in caught.value.remedy
    assert caught.value.line.filename == __file__
    with model.trace(IDS):
        assert model.output.save().shape == (1, 4, 64)
