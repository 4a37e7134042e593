"""Hold blocks that are traced again to plain torch, and to being planned once; looks, to planning what is new."""

import pytest
import torch
from torch import nn

from loupe import Model
from loupe.runtime import growing, plans

x = torch.randn(3, 8)


class Stack(nn.Module):
    """Four layers in a row."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(*(nn.Linear(8, 8) for _ in range(4)))

    def forward(self, x):
        return self.layers(x)


@pytest.fixture
def planned(monkeypatch):
    """The graphs for which a plan was made."""
    made = []
    real = plans.make_plan
    monkeypatch.setattr(plans, "make_plan", lambda graph, **options: made.append(graph) or real(graph, **options))
    return made


def by_hand(net, layer, factor, shift):
    with torch.no_grad():
        value = x
        for place, each in enumerate(net.layers):
            value = each(value)
            if place == layer:
                value = value * factor + shift
        return value


def test_a_block_that_is_traced_again_with_other_constants_and_numbers_is_planned_once(planned):
    net = Stack()
    model = Model(net)
    for factor in (2.0, -1.0, 0.5):
        shift = torch.randn(8)
        with model.trace(x):
            model.layers[1].output = model.layers[1].output * factor + shift
            out = model.output.save()
        torch.testing.assert_close(out.value, by_hand(net, 1, factor, shift))
    assert len(planned) == 1


def test_a_block_at_another_layer_or_with_another_order_of_lines_has_a_plan_of_its_own(planned):
    net = Stack()
    model = Model(net)
    for layer in (0, 1, 0, 1):
        with model.trace(x):
            model.layers[layer].output = model.layers[layer].output * 2.0 + 1.0
            out = model.output.save()
        torch.testing.assert_close(out.value, by_hand(net, layer, 2.0, 1.0))
    assert len(planned) == 2


@pytest.mark.parametrize("inplace", [True, False])
def test_an_option_that_decides_about_memory_is_part_of_the_plan(inplace):
    model = Model(Stack())
    for flag in (inplace, not inplace):
        with model.trace(x):
            hidden = model.layers[1].output
            before = hidden.clone().save()
            nn.functional.relu(hidden, inplace=flag)
            after = model.layers[2].input.save()
        want = before.value.relu() if flag else before.value
        torch.testing.assert_close(after.value, want)


def test_one_value_as_two_arguments_is_another_plan_than_two_values(planned):
    model = Model(Stack())
    for same in (True, False):
        with model.trace(x):
            one, other = model.layers[0].output, model.layers[1].output
            out = torch.maximum(one, one if same else other).save()
            pair = torch.stack([one, other]).save()
        want = pair.value[0] if same else pair.value.amax(0)
        assert torch.equal(out.value, want)
    assert len(planned) == 2


def test_kept_plans_hold_nothing_of_the_users():
    import gc
    import weakref

    model = Model(Stack())
    shift = torch.randn(8)
    gone = weakref.ref(shift)
    with model.trace(x):
        out = (model.layers[0].output + shift).save()
    assert out.shape == (3, 8)
    del shift, out
    gc.collect()
    assert gone() is None


def test_each_look_plans_only_the_lines_since_the_look_before(monkeypatch):
    added, made = [], []
    real = growing.Growing._add
    monkeypatch.setattr(
        growing.Growing, "_add", lambda self, node, changing: added.append(node.id) or real(self, node, changing)
    )
    monkeypatch.setattr("loupe.runtime.local.make_plan", lambda *args, **options: made.append(1))
    net = Stack()
    model = Model(net)
    sizes = []
    with model.trace(x) as tracer:
        value = model.layers[1].output
        for _ in range(20):
            value = value + 1
            sizes.append(float(value.sum()))
        nodes = len(tracer.graph)
    with torch.no_grad():
        want = net.layers[1](net.layers[0](x))
    assert sizes == pytest.approx([float((want + count).sum()) for count in range(1, 21)], rel=1e-5)
    assert added == list(range(nodes))
    assert not made


def test_looks_between_changes_in_place_see_each_line_in_its_place():
    net = Stack()
    model = Model(net)
    with model.trace(x):
        hidden = model.layers[1].output
        first = float(hidden.sum())
        kept = hidden * 1
        hidden[:] = 0
        second = float(hidden.sum())
        third = float(kept.sum())
        hidden += 2
        fourth = float(hidden.sum())
        out = model.output.save()
    with torch.no_grad():
        value = net.layers[1](net.layers[0](x))
        want = net.layers[3](net.layers[2](torch.full_like(value, 2.0)))
    assert (first, third) == pytest.approx((float(value.sum()), float(value.sum())), rel=1e-5)
    assert (second, fourth) == (0.0, 48.0)
    torch.testing.assert_close(out.value, want)
