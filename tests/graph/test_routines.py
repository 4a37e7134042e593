"""Hold the nodes that are known ahead to run at a moment to a simulation of the pass that knows nothing ahead."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loupe.graph.graph import Graph
from loupe.graph.node import Event, Node, Ref, Site
from loupe.graph.steps import LAST_STEP
from loupe.runtime.plan import make_plan
from loupe.runtime.routines import routines_of

A, B, C = (Site(path, "output") for path in "abc")


def routines(*nodes):
    graph = Graph()
    for place, (kind, target, *args) in enumerate(nodes):
        graph.nodes.append(Node(place, kind, target, tuple(args)))
    plan = make_plan(graph)
    return {event.path: nodes for event, nodes in plan.routines.items()}


def test_what_follows_from_one_site_runs_there_in_the_order_of_the_block():
    assert routines(
        ("read", A),
        ("apply", "operator.mul", Ref(0), 2),
        ("write", A, Ref(1)),
        ("read", B),
        ("save", "b", Ref(3)),
        ("save", "a", Ref(1)),
    ) == {"a": (0, 1, 2, 5), "b": (3, 4)}


def test_a_value_of_two_sites_leaves_both_to_the_pass():
    assert routines(
        ("read", A),
        ("read", B),
        ("apply", "operator.add", Ref(0), Ref(1)),
        ("save", "sum", Ref(2)),
        ("read", C),
        ("save", "c", Ref(4)),
    ) == {"c": (4, 5)}


def test_what_is_there_before_the_pass_belongs_to_no_site():
    assert routines(
        ("parameter", "a.weight"),
        ("apply", "operator.mul", Ref(0), 2),
        ("save", "twice", Ref(1)),
        ("read", A),
        ("apply", "operator.add", Ref(3), Ref(1)),
        ("save", "a", Ref(4)),
    ) == {"a": (3, 4, 5)}


@pytest.mark.parametrize(
    ("undecided", "saved"),
    [(("backward", None, Ref(1)), 1), (("stop", None), 1), (("apply", LAST_STEP, [Ref(0)]), 2)],
    ids=["a backward pass", "a stop", "a last step"],
)
def test_a_site_is_left_to_the_pass_where_more_than_values_decides(undecided, saved):
    found = routines(("read", A), ("apply", "Tensor.sum", Ref(0)), undecided, ("save", "value", Ref(saved)))
    assert found == {}


def test_what_a_run_returns_is_left_to_the_pass():
    graph = Graph()
    name = graph.save_result()
    assert graph.saves == {name: 0}
    assert make_plan(graph).routines == {}


@st.composite
def dependencies(draw):
    """Nodes that read one of three sites, or take values of earlier nodes."""
    nodes = []
    for place in range(draw(st.integers(1, 12))):
        site = draw(st.sampled_from([None, A, B, C]))
        needs = draw(st.sets(st.integers(0, place - 1), max_size=3)) if place else set()
        nodes.append((site, tuple(sorted(needs))))
    return nodes


def simulated(nodes, order):
    """What runs at each site where all that is ready runs at once, the earliest line first."""
    done, opened, seen = set(), set(), {None: []}
    for moment in (None, *order):
        opened.add(moment)
        seen[moment] = []
        while ready := [
            place
            for place, (site, needs) in enumerate(nodes)
            if place not in done and (site is None or site in opened) and done.issuperset(needs)
        ]:
            done.add(ready[0])
            seen[moment].append(ready[0])
    return seen


@given(dependencies(), st.permutations([A, B, C]))
def test_a_routine_is_what_runs_at_its_site_in_whatever_order_the_model_comes_by(nodes, order):
    graph, gates = Graph(), {}
    for place, (site, needs) in enumerate(nodes):
        args = tuple(Ref(need) for need in needs)
        graph.nodes.append(Node(place, "apply" if site is None else "write", site or "torch.stack", args))
        if site is not None:
            gates.setdefault(site.event, []).append(place)
    found = routines_of(graph, range(len(nodes)), {p: needs for p, (_, needs) in enumerate(nodes)}, gates)
    seen = simulated(nodes, order)
    for site in (A, B, C):
        if site.event in found:
            assert list(found[site.event]) == seen[site]


def test_a_call_later_in_the_pass_is_another_moment():
    second = Site("a", "output", 1)
    graph = Graph()
    for place, site in ((0, A), (2, second)):
        graph.nodes += [Node(place, "read", site), Node(place + 1, "save", f"value{place}", (Ref(place),))]
    assert make_plan(graph).routines == {A.event: (0, 1), Event("a", "out", 1): (2, 3)}
