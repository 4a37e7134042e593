"""Share what tests of weights need: a module that hands its weights around, and a look at all that a model holds."""

import torch
from torch import nn
from torch.nn import functional as F


class Table(nn.Module):
    """Returns its parameter, as position tables do."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8))

    def forward(self):
        return self.weight


class Tied(nn.Module):
    """Gets the weight that it multiplies by as an argument, alone and in a list."""

    def forward(self, x, weight, more=()):
        return x @ weight.T + sum(each.mean() for each in more)


class Clears(nn.Module):
    """Changes its argument in place."""

    def forward(self, x):
        return x.zero_()


class Held(nn.Module):
    """A module with parameters, buffers, a list of parameters, layers in place, and weights that pass at sites."""

    def __init__(self):
        super().__init__()
        self.lin, self.norm, self.table, self.tied = nn.Linear(8, 8), nn.BatchNorm1d(8), Table(), Tied()
        self.embed = nn.Embedding(8, 8)
        self.act, self.drop, self.same, self.clears = nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Identity(), Clears()
        self.many = nn.ParameterList([nn.Parameter(torch.randn(8, 8)), nn.Parameter(torch.randn(8, 8))])
        self.register_buffer("places", torch.arange(8))
        self.register_buffer("scale", torch.ones(8), persistent=False)

    def forward(self, x):
        x = self.act(self.norm(self.lin(x) + 0.0) * self.scale + self.embed(self.places).mean(0) + self.table().mean(0))
        x = self.tied(self.same(x), self.lin.weight, more=[self.many[0], self.many[1]])
        return F.linear(x, self.many[0]) + 1


def state_of(module):
    """Every parameter and buffer of a module: the object, its bits, and all else about it that a line could change."""
    named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    with torch.no_grad():
        return {name: (tensor, tensor.clone().reshape(-1).view(torch.uint8), form_of(tensor)) for name, tensor in named}


def form_of(tensor):
    """What there is of a tensor beside its values."""
    return (
        tensor.shape,
        tensor.stride(),
        tensor.storage_offset(),
        tensor.dtype,
        tensor.data_ptr(),
        tensor.requires_grad,
        tensor.is_leaf,
        tensor.grad_fn is None,
    )


def check_unchanged(module, before):
    """Every parameter and buffer is the same object with the same bits, shape and flags, and has no gradient."""
    now = state_of(module)
    assert list(now) == list(before)
    for name, (tensor, bits, form) in now.items():
        assert tensor is before[name][0], name
        assert torch.equal(bits, before[name][1]), name
        assert form == before[name][2], name
        assert tensor.grad is None, name
