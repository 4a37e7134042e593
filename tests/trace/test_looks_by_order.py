"""Hold passes that tap what a look names, in the order that a scan has told, to plain torch and to a first look."""

import pytest
import torch
from torch import nn

from loupe import Model
from loupe.errors import NotReachedError
from loupe.graph.node import Event
from loupe.runtime.order import Order
from loupe.runtime.taps import Taps

x = torch.randn(3, 8)


class Block(nn.Module):
    """A layer with two others inside, of which the first is called twice."""

    def __init__(self):
        super().__init__()
        self.inner, self.last = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        return x + self.last(self.inner(self.inner(x)).tanh())


class Net(nn.Module):
    """Three blocks; `skipping` leaves the second one out, which no scan can know of."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.skipping = {"now": False}

    def forward(self, x):
        for place, block in enumerate(self.blocks):
            if not (place == 1 and self.skipping["now"]):
                x = block(x)
        return x


@pytest.fixture
def everywhere(monkeypatch):
    """How often every module of a model was tapped for a pass that is looked at."""
    count = []
    real = Taps.attach_everywhere

    def counted(self, root, prefix, *, skippable=False):
        if skippable:
            count.append(root)
        return real(self, root, prefix, skippable=skippable)

    monkeypatch.setattr(Taps, "attach_everywhere", counted)
    return count


def looking(model):
    with model.trace(x):
        size = float(model.blocks[1].inner.output.norm())
        model.blocks[1].output = model.blocks[1].output / size
        deep = float(model.blocks[2].inner.calls[1].output.norm())
        earlier = float(model.blocks[0].last.output.norm())
        out = model.output.save()
    return size, deep, earlier, out.value


def by_hand(net):
    with torch.no_grad():
        first = net.blocks[0](x)
        earlier = net.blocks[0].last(net.blocks[0].inner(net.blocks[0].inner(x)).tanh()).norm()
        size = net.blocks[1].inner(first).norm()
        value = net.blocks[1](first) / float(size)
        deep = net.blocks[2].inner(net.blocks[2].inner(value)).norm()
        return float(size), float(deep), float(earlier), net.blocks[2](value)


def test_looks_give_the_same_whether_every_module_is_tapped_or_only_what_is_named(everywhere):
    net = Net()
    model = Model(net)
    want = by_hand(net)
    counts = []
    for _ in range(5):
        found = looking(model)
        assert found[:3] == pytest.approx(want[:3], rel=1e-5)
        torch.testing.assert_close(found[3], want[3])
        counts.append(len(everywhere))
    assert counts[0] > 0
    assert counts[-1] == counts[-2], "once the order is known nothing is tapped that is not named"
    assert not any("forward" in module.__dict__ for module in net.modules())


def test_a_pass_that_goes_another_way_than_the_scan_said_is_done_again_with_every_module_tapped(everywhere):
    net = Net()
    model = Model(net)
    for _ in range(4):
        looking(model)
    net.skipping["now"] = True  # inside a dict, where no comparison of attributes finds it
    with torch.no_grad():
        want = net.blocks[2].inner(net.blocks[0](x)).norm()
    with model.trace(x):
        float(model.blocks[0].output.norm())
        found = float(model.blocks[2].inner.output.norm())
    assert found == pytest.approx(float(want), rel=1e-5)
    before = len(everywhere)
    with pytest.raises(NotReachedError, match=r"blocks\.1\.output did not run"):
        with model.trace(x):
            float(model.blocks[0].output.norm())
            float(model.blocks[1].output.norm())
    assert len(everywhere) > before


def test_an_order_tells_what_has_passed_and_what_a_pass_is_inside_of():
    a, b = [Event("a", "in", 0), Event("a", "out", 0)], [Event("a.b", "in", 0), Event("a.b", "out", 0)]
    again = [Event("a.b", "in", 1), Event("a.b", "out", 1)]
    order = Order([a[0], *b, *again, a[1]])
    assert order.around([again[0]]) == {Event("a", "out", 0), Event("a.b", "out", 0)}
    assert [order.passed("a.b", "in", place) for place in (-1, 0, 1, 2, 3, 5)] == [0, 0, 1, 1, 2, 2]
    assert [order.passed("a.b", "out", place) for place in (1, 2, 3, 4)] == [0, 1, 1, 2]
    assert order.has_passed(Event("a.b", "skip", 0), 2)
    assert not order.has_passed(Event("a.b", "skip", 0), 1)
    assert order.has_passed(Event("a.b", "out", 0, "relu", 0), 1)
    assert not order.has_passed(Event("never", "out", 0), 5)
