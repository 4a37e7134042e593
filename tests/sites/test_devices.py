"""Tensors of the user's follow the values and modules that they meet to another device; those of the model stay."""

import pytest
import torch
from torch import nn

from loupe import Model
from loupe.graph.graph import Graph
from loupe.graph.node import Const, Node, Ref, Site
from loupe.runtime.devices import Devices
from loupe.runtime.plan import make_plan

META = torch.device("meta")
INPUT = torch.ones(3, 4, device=META)


class Net(nn.Module):
    """Two layers on a device that every machine has, the first of which gives a tuple."""

    class Pair(nn.Linear):
        def forward(self, x):
            return super().forward(x), x

    def __init__(self):
        super().__init__()
        self.first, self.second = self.Pair(4, 8, device=META), nn.Linear(8, 8, device=META)

    def forward(self, x):
        return self.second(self.first(x)[0])


WAYS = {
    "operator": lambda model, states: states * torch.ones(8),
    "left operand": lambda model, states: torch.ones(8) - states,
    "list": lambda model, states: torch.stack([states[0], torch.ones(8)]),
    "lone number in a list": lambda model, states: torch.stack([states.sum(), torch.tensor(1.0)]),
    "keyword": lambda model, states: torch.addmm(states, mat1=torch.ones(3, 5), mat2=torch.ones(5, 8)),
    "the model's own module": lambda model, states: model.second(torch.ones(3, 8)),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_tensor_of_the_users_goes_to_the_values_that_it_meets(way):
    model = Model(Net())
    with model.trace(INPUT):
        found = WAYS[way](model, model.first.output[0]).save()
    assert found.device == META


def test_a_tensor_of_the_users_is_written_on_the_device_of_what_it_replaces():
    model = Model(Net())
    with model.trace(INPUT):
        model.first.output[0] = torch.zeros(3, 8)
        replaced = model.second.output.save()
    with model.trace(INPUT):
        model.first.output = (torch.zeros(3, 8), torch.zeros(3, 4))
        both = model.second.output.save()
    with model.trace(INPUT):
        model.second.input = torch.zeros(3, 8)
        entered = model.second.output.save()
    with model.trace(INPUT):
        model.second.skip(torch.zeros(3, 8))
        skipped = model.output.save()
    assert [each.device for each in (replaced, both, entered, skipped)] == [META] * 4


def test_a_device_that_is_asked_for_is_kept():
    model = Model(Net())
    with model.trace(INPUT):
        states = model.first.output[0]
        asked = torch.ones(8, device=states.device)
        found = (states + asked).save()
        there = torch.ones(8).to(states).save()
    assert found.device == there.device == META


def test_a_tensor_that_the_block_changes_stays_where_it_is():
    graph, mine, other = Graph(), torch.zeros(3), torch.ones(3)
    graph.constants += [mine, other]
    graph.nodes += [
        Node(0, "read", Site("first", "output")),
        Node(1, "apply", "operator.setitem", (Const(0), 0, Ref(0))),
        Node(2, "apply", "torch.stack", ([Ref(0), Const(0), Const(1)],)),
        Node(3, "save", "value", (Ref(2),)),
    ]
    devices, plan = Devices(), make_plan(graph)
    assert devices.brought(plan, Const(0), mine, META) is mine
    assert devices.brought(plan, Const(1), other, META).device == META

    args = [[torch.ones(3, device=META), mine, other]]
    devices.bring(plan, graph[2], args, {}, META)
    assert args[0][1] is mine
    assert args[0][2].device == META
