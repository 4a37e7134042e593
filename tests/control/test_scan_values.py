"""Refuse every look at a value in a scan: with the user's line, the fact that there is none, and what to write."""

import copy
import operator
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import loupe
from loupe import LanguageModel, Model
from loupe.errors import BlockError
from tests import tiny
from tests.control.by_hand import IDS, gpt2

LOOKS = {
    "if": lambda x: bool(x.sum() > 0),
    "not": lambda x: not x.any(),
    "float": lambda x: float(x.sum()),
    "int": lambda x: int(x.argmax()),
    "complex": lambda x: complex(x.sum()),
    "an index": lambda x: list(range(500))[x.argmax()],
    "operator.index": lambda x: operator.index(x.argmax()),
    "print": str,
    "a format": lambda x: f"{x.sum():.2f}",
    "a plain format": lambda x: f"{x}",
    "item": lambda x: x.sum().item(),
    "tolist": lambda x: x.tolist(),
    "numpy": lambda x: x.numpy(),
    "asarray": np.asarray,
    "value": lambda x: x.value,
    "in": lambda x: 3.0 in x,
    "sorted": lambda x: sorted(x[0, :, 0]),
    "a copy": copy.copy,
    "pickle": pickle.dumps,
    "a new tensor": lambda x: torch.tensor(x),
}
# These are recorded, and fail where they run: the size of what they give, or a number, depends on the data.
NEEDS = {
    "nonzero": lambda x: x.nonzero(),
    "a mask": lambda x: x[x > 0],
    "unique": lambda x: x.unique(),
    "equal": lambda x: torch.equal(x, x + 1),
    "allclose": lambda x: torch.allclose(x, x + 1),
    "a function of the user": loupe.fn(lambda x: x.sum().item()),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_a_look_at_a_value_is_refused(look):
    model = gpt2()
    with pytest.raises(BlockError, match="a scan has shapes and dtypes, and no values") as caught:
        with model.scan(IDS):
            look(model.transformer.h[1].output)
            pytest.fail("the line above had to raise")
    assert "look at values in model.trace(...)" in caught.value.remedy
    assert caught.value.line.filename == __file__
    assert tiny.hooks_on(tiny.hf_model("gpt2")) == 0


@pytest.mark.parametrize("need", NEEDS.values(), ids=NEEDS)
def test_an_operation_that_needs_values_says_so_whether_or_not_something_comes_of_it(need):
    model = gpt2()
    for saved in (True, False):
        with pytest.raises(BlockError, match="no values, which this line needs") as caught, model.scan(IDS):
            found = need(model.transformer.h[1].output)
            if saved:
                loupe.save(found)
        assert "model.trace(...)" in caught.value.remedy
        assert caught.value.line is not None


def test_a_wrong_shape_is_not_taken_for_want_of_values():
    model = gpt2()
    with pytest.raises(loupe.LoupeError, match="matmul failed") as caught, model.scan(IDS):
        model.transformer.h[1].output @ torch.ones(3, 3)
    assert "no values" not in str(caught.value)


def test_after_the_block_a_saved_tensor_is_one_without_data():
    model = gpt2()
    with model.scan(IDS):
        hidden = model.transformer.h[1].output.save()
    assert hidden.is_meta
    assert hidden.shape == (1, 4, 32)
    assert (hidden * 2).is_meta
    with pytest.raises(RuntimeError, match="meta"):
        hidden.sum().item()


class Decides(nn.Module):
    """Goes on as its data decides."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        h = self.a(x)
        return self.b(h + 1 if h.sum() > -1e9 else h)


@pytest.mark.parametrize("writes", [False, True])
def test_a_model_that_data_decides_about_is_scanned_as_far_as_that_goes(writes):
    model, x = Model(Decides()), torch.ones(3, 4)
    with model.scan(x):
        found = model.a.output.save()
    assert found.shape == (3, 4)
    with pytest.raises(BlockError, match="cannot be run to its end without data") as caught, model.scan(x):
        if writes:
            model.a.output = torch.zeros(3, 4)
        model.b.output.save()
    assert "model.trace(...)" in caught.value.remedy
    assert "model.scan(x)" in str(caught.value)
    with model.trace(x):
        assert model.b.output.shape == (3, 4)  # known there, by a run


def test_a_scan_leaves_the_next_trace_as_it_would_have_been():
    hf, model = tiny.hf_model("llama"), LanguageModel(tiny.hf_model("llama"))
    with model.scan(IDS):
        model.model.layers[0].output[:] = 0
        model.output.sum().backward()
        model.lm_head.weight.grad.save()
    with pytest.raises(BlockError), model.scan(IDS):
        float(model.output.sum())
    with model.trace(IDS):
        logits = model.output.save()
    with torch.no_grad():
        assert torch.equal(logits, hf(IDS).logits)
    assert all(parameter.grad is None for parameter in hf.parameters())
