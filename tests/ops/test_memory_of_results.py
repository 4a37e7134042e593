"""A block means what plain torch means, where an operation shares memory or changes it in a less usual way."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from loupe import Model

CHANGES = {
    "a switch given in order": lambda h: F.relu(h, True),
    "a switch after others": lambda h: F.leaky_relu(h, 0.5, True),
    "a function of nn.functional": lambda h: F.hardtanh_(h, -0.1, 0.1),
    "a dropout that drops nothing": lambda h: F.dropout(h, 0.5, False).mul_(2),
    "the second of several views": lambda h: torch.broadcast_tensors(torch.zeros(1), h)[1].zero_(),
    "a transposition by einsum": lambda h: torch.einsum("ij->ji", h)[0].fill_(3),
    "a view of what is given by name": lambda h: torch.linalg.diagonal(A=h).zero_(),
    "a conjugate of what is real": lambda h: torch.conj_physical(h).add_(1),
    "one of several in one": lambda h: torch.atleast_2d(torch.zeros(1), h)[1].neg_(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_reaches_the_model_as_it_would_in_a_hook(change):
    torch.manual_seed(0)
    module, x = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), torch.randn(3, 4)
    with torch.no_grad():
        plain = module(x)
        changed = module[0](x)
        change(changed)
        expected = module[1](changed)
    model = Model(module)
    with model.trace(x):
        change(model[0].output)
        result = model.output.save()
    assert torch.equal(result.value, expected)
    assert not torch.equal(result.value, plain)
