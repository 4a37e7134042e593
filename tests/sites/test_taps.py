"""Hold the ways in which a module is tapped, by its forward or by hooks, to the same sites as plain hooks see."""

import pytest
import torch
from torch import nn

from loupe import Model
from loupe.errors import NotReachedError

x = torch.randn(2, 4)


class Chain(nn.Module):
    """Three layers; `direct` has the second one's forward called, and not the layer."""

    def __init__(self, direct=False):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.direct = direct

    def forward(self, x):
        x = self.a(x)
        x = self.b.forward(x) if self.direct else self.b(x)
        return self.c(x)


class Twice(nn.Module):
    """A layer whose forward calls itself once more, on half of it."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, x, again=True):
        return self.forward(x / 2, again=False) + x if again else x * self.weight


def test_a_hook_of_the_users_own_comes_before_a_block_that_is_opened_later():
    net = Chain()
    handles = [
        net.b.register_forward_hook(lambda _module, _args, output: output * 3),
        net.b.register_forward_pre_hook(lambda _module, args: (args[0] + 1,)),
    ]
    with torch.no_grad():
        inside = net.a(x) + 1
        after = nn.functional.linear(inside, net.b.weight, net.b.bias) * 3
    with Model(net).trace(x):
        pass
    model = Model(net)
    with model.trace(x):
        seen, out = model.b.input.save(), model.b.output.save()
        model.b.output = out * 0
        end = model.output.save()
    torch.testing.assert_close(seen.value, inside)
    torch.testing.assert_close(out.value, after)
    torch.testing.assert_close(end.value, net.c.bias.detach().expand(2, 4))
    assert len(net.b._forward_hooks) == len(net.b._forward_pre_hooks) == 1
    for handle in handles:
        handle.remove()


def test_a_hook_on_all_modules_is_called_before_the_block_sees_what_it_gives():
    net = Chain()
    with torch.no_grad():
        plain = net.a(x)
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, _args, output: output + 1 if module is net.a else None
    )
    model = Model(net)
    try:
        with model.trace(x):
            out = model.a.output.save()
    finally:
        handle.remove()
    torch.testing.assert_close(out.value, plain + 1)


def test_a_forward_that_is_called_past_its_module_is_no_call_of_the_module():
    model = Model(Chain(direct=True))
    with pytest.raises(NotReachedError, match=r"b\.output did not run"):
        with model.trace(x):
            model.b.output.save()
    with model.trace(x):
        model.a.output[:] = 0
        end = model.output.save()
    net = model._model
    with torch.no_grad():
        torch.testing.assert_close(end.value, net.c(net.b(torch.zeros(2, 4))))


def test_a_forward_that_calls_itself_is_one_call():
    model = Model(nn.Sequential(Twice(), nn.Identity()))
    with model.trace(x):
        out = model[0].output.save()
        seen = model[0].input.save()
    torch.testing.assert_close(out.value, x + x)
    assert torch.equal(seen.value, x)
    with pytest.raises(NotReachedError):
        with model.trace(x):
            model[0].calls[1].output.save()


def test_one_module_under_two_names_is_tapped_under_both():
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    net.add_module("again", net[0])
    model = Model(net)
    with torch.no_grad():
        first = nn.functional.linear(x, net[0].weight, net[0].bias)
        last = nn.functional.linear(first.tanh(), net[0].weight, net[0].bias)
    with model.trace(x):
        one, other = model[0].output.save(), model["again"].output.save()
        second = model[0].calls[1].output.save()
    torch.testing.assert_close(one.value, first)
    torch.testing.assert_close(other.value, first)
    torch.testing.assert_close(second.value, last)


def test_a_full_backward_hook_of_the_users_own_still_fires_and_gives_what_it_gave():
    net = Chain()
    seen = []
    handle = net.b.register_full_backward_hook(lambda _module, grads, _outs: seen.append(grads[0].clone()))
    net(x).sum().backward()
    model = Model(net)
    with model.trace(x):
        hidden = model.b.input
        model.b.output.save()
        model.output.sum().backward()
        gradient = hidden.grad.save()
    handle.remove()
    assert len(seen) == 2
    torch.testing.assert_close(seen[0], seen[1])
    torch.testing.assert_close(gradient.value, torch.ones(2, 4) @ net.c.weight.detach() @ net.b.weight.detach())
    net.zero_grad(set_to_none=True)


def test_a_layer_that_is_replaced_or_compiled_between_two_blocks_is_noticed():
    net = Chain()
    model = Model(net)
    with model.trace(x):
        model.b.output.save()
    net.b = nn.Linear(4, 4)
    with model.trace(x):
        out = model.b.output.save()
    with torch.no_grad():
        torch.testing.assert_close(out.value, net.b(net.a(x)))
    ran = []
    net.b._compiled_call_impl = lambda value: ran.append(1) or nn.functional.linear(value, net.b.weight, net.b.bias)
    with model.trace(x):
        out = model.b.output.save()
    assert not ran
    with torch.no_grad():
        torch.testing.assert_close(out.value, net.b(net.a(x)))
    assert ran
