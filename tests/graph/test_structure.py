"""Hold the structure of a graph to telling apart what a plan depends on, and to leaving out what it does not."""

import pytest

from loupe.graph.graph import Graph
from loupe.graph.node import Const, Node, Ref, Site
from loupe.graph.structure import structure
from loupe.runtime.plan import make_plan

READ = Node(0, "read", Site("a", "output"))
SAVE = Node(2, "save", "x", (Ref(1),))


def graph(*nodes, constants=()):
    made = Graph()
    made.nodes, made.constants = list(nodes), list(constants)
    return made


def applied(name, *args, **kwargs):
    return graph(READ, Node(1, "apply", name, args, kwargs), SAVE, constants=[object(), object()])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (applied("operator.add", Ref(0), 1), applied("operator.add", Ref(0), 2.5)),
        (applied("operator.getitem", Ref(0), slice(1, 2)), applied("operator.getitem", Ref(0), slice(3, None))),
        (applied("torch.sum", Ref(0), dim=None), applied("torch.sum", Ref(0), dim=None)),
        (applied("operator.add", Ref(0), Const(0)), applied("operator.add", Ref(0), Const(0))),
    ],
)
def test_numbers_and_the_values_of_constants_are_no_part_of_the_structure(one, other):
    assert structure(one) == structure(other)
    assert str(make_plan(one)) == str(make_plan(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (applied("operator.add", Ref(0), Const(0)), applied("operator.add", Ref(0), Const(1))),
        (applied("operator.add", Ref(0), Ref(0)), applied("operator.add", Ref(0), 0)),
        (applied("operator.add", Ref(0), 1), applied("operator.iadd", Ref(0), 1)),
        (applied("nn.functional.relu", Ref(0), inplace=True), applied("nn.functional.relu", Ref(0), inplace=False)),
        (applied("nn.functional.relu", Ref(0), inplace=True), applied("nn.functional.relu", Ref(0), inplace=Ref(0))),
        (applied("operator.getitem", Ref(0), 0), applied("operator.getitem", Ref(0), 1)),
        (applied("operator.getitem", Ref(0), (Ref(0),)), applied("operator.getitem", Ref(0), slice(Ref(0), None))),
    ],
)
def test_what_a_node_takes_and_does_is_part_of_the_structure(one, other):
    assert structure(one) != structure(other)


def test_invokes_sites_and_calls_are_part_of_the_structure():
    reads = [
        Node(0, "read", Site("a", "output")),
        Node(0, "read", Site("b", "output")),
        Node(0, "read", Site("a", "input")),
        Node(0, "read", Site("a", "output", 1)),
        Node(0, "read", Site("a", "output"), invoke=0),
    ]
    assert len({structure(graph(read)) for read in reads}) == len(reads)


def test_functions_of_the_users_and_of_torch_are_told_apart_by_what_they_may_change():
    import torch

    made = [applied("local.f", Ref(0)) for _ in range(3)]
    for each, function in zip(
        made, (lambda x: x, torch.nn.functional.hardtanh_, torch.nn.functional.gelu), strict=True
    ):
        each.functions["local.f"] = function
    mine, changing, plain = (structure(each) for each in made)
    assert mine == changing != plain


def test_what_demands_a_change_in_its_place_is_part_of_the_structure():
    on, off = (applied("nn.functional.relu", Ref(0), flag) for flag in (True, False))
    assert structure(on) != structure(off)
    limited, free = (applied("nn.functional.embedding", Ref(0), Const(0), None, norm) for norm in (1.0, None))
    assert structure(limited) != structure(free)
