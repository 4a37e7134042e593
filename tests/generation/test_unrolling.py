"""Unroll step-wise nodes without a model: copies by step, values of other blocks, and what stays where it was."""

from loupe.graph.graph import Graph
from loupe.graph.node import Node, Ref, Site, Steps
from loupe.graph.steps import LAST_STEP, unroll

ALL, LATER, FIRST = Steps(1, 0, None), Steps(2, 1, None), Steps(3, 0, 1)


def graph(*nodes):
    """A graph of (kind, target, args, steps)."""
    found = Graph()
    for kind, target, args, steps in nodes:
        found.nodes.append(Node(len(found), kind, target, args, steps=steps))
    return found


def read(path, steps, call=0):
    return ("read", Site(path, "output", call), (), steps)


def text(unrolled):
    return [unrolled.graph.node_text(node) for node in unrolled.graph]


def test_the_nodes_of_a_block_are_repeated_together_step_by_step():
    block = graph(read("a", ALL), ("apply", "Tensor.sum", (Ref(0),), ALL), ("save", "x", (Ref(1),), ALL))
    assert text(unroll(block, 2)) == [
        "%0 = read a.output",
        "%1 = Tensor.sum(%0)",
        "%2 = save %1 as 'x@0'",
        "%3 = read a.calls[1].output",
        "%4 = Tensor.sum(%3)",
        "%5 = save %4 as 'x@1'",
    ]


def test_listed_steps_and_those_of_a_slice_are_picked_within_the_run():
    for steps, calls in (
        (Steps(1, 0, 0, listed=(0, 2, 9)), [0, 2]),
        (Steps(1, 1, None, 2), [1, 3]),
        (Steps(1, 2, 50), [2, 3]),
        (Steps(1, 7, 9), []),
    ):
        unrolled = unroll(graph(read("a", steps)), 4)
        assert [node.site.call for node in unrolled.graph] == calls
        assert [step for step in range(20) if steps.has(step)][: len(calls)] == calls


def test_a_module_that_each_step_calls_several_times_is_counted_on_by_steps():
    unrolled = unroll(graph(read("a", ALL, call=1), read("b", ALL)), 3, lambda path: {"a": 2, "b": 1}[path])
    assert [(node.site.path, node.site.call) for node in unrolled.graph] == [
        ("a", 1),
        ("b", 0),
        ("a", 3),
        ("b", 1),
        ("a", 5),
        ("b", 2),
    ]


def test_a_value_of_another_block_is_that_of_the_same_step_or_of_the_last_before():
    block = graph(read("a", ALL), read("b", FIRST), ("apply", "operator.add", (Ref(0), Ref(1)), LATER))
    unrolled = unroll(block, 3)
    assert text(unrolled)[-2:] == ["%4 = operator.add(%1, %3)", "%5 = operator.add(%2, %3)"]


def test_a_value_of_the_last_step_takes_all_that_could_be_the_last():
    last = ("apply", LAST_STEP, (Ref(0),), None)
    assert text(unroll(graph(read("a", ALL), last), 3))[-1] == "%3 = loupe.last_step([%0, %1, %2])"
    at_step = ("apply", LAST_STEP, (Ref(0), 1), None)
    assert text(unroll(graph(read("a", ALL), at_step), 3))[-1] == "%3 = loupe.last_step([%1])"
    never = graph(read("a", Steps(1, 7, 9)), last)
    assert text(unroll(never, 3)) == ["%0 = loupe.last_step([])"]


def test_a_longer_graph_keeps_the_copies_of_a_shorter_one_unless_a_block_has_grown():
    nodes = [read("a", ALL), ("apply", "Tensor.sum", (Ref(0),), ALL)]
    short, grown = unroll(graph(*nodes[:1]), 2), unroll(graph(*nodes), 2)
    longer = unroll(graph(*nodes, read("c", None)), 2)
    assert not grown.extends(short)
    assert longer.extends(grown)


def test_a_graph_without_steps_is_left_as_it_is():
    plain = graph(read("a", None), ("save", "x", (Ref(0),), None))
    assert unroll(plain, 5).graph is plain
