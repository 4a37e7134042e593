"""Hold graphs as data: how they print, what rules they keep, who shares memory with whom, what a plan drops."""

import copy

import pytest
import torch

from loupe import Graph, LanguageModel, Model
from loupe.errors import GraphError, Line
from loupe.graph.lint import lint
from loupe.graph.node import Const, Event, Node, Ref, Site, map_argument
from loupe.graph.passes import needed, trace_memory
from loupe.runtime.plan import make_plan
from tests import tiny
from tests.trace import Pass, value


def graph_of(*nodes, constants=(), functions=None):
    """A graph of nodes `(kind, target, args, kwargs)`, numbered in order."""
    graph = Graph()
    for place, (kind, target, *rest) in enumerate(nodes):
        graph.nodes.append(Node(place, kind, target, *rest))
    graph.constants.extend(constants)
    graph.functions.update(functions or {})
    return graph


def read(path="a", port="output", call=0):
    return ("read", Site(path, port, call))


def write(ref, path="a", port="output"):
    return ("write", Site(path, port), (Ref(ref),))


def apply(name, *args, **kwargs):
    return ("apply", name, args, kwargs)


def save(ref, name="kept"):
    return ("save", name, (Ref(ref),))


# -- the printed form --------------------------------------------------------------------------------------------------

PRINTED = """\
%0 = read first.output                             # 1: v = model.first.output
%1 = operator.getitem(%0, (..., -1:))              # 2: v = v[..., -1:] * 2.5
%2 = operator.mul(%1, 2.5)
%3 = torch.cat([%0, f32[3, 8], %2], dim=1)         # 3: v = torch.cat([model.first.output, const, v], dim=1)
%4 = Tensor.mean(%3, 0, keepdim=True)              # 4: v = v.mean(0, keepdim=True)
%5 = write second.output <- %4                     # 5: model.second.output = v
%6 = save %4 as 'kept'                             # 6: v.save("kept")
%7 = operator.setitem(%0, 0, f64[2])               # 7: model.first.output[0] = double"""


def test_a_recorded_graph_prints_a_node_a_line_with_the_line_of_the_user(tmp_path):
    lines = [row.split(": ", 1)[1] for row in PRINTED.split("\n") if "  # " in row]
    program = tmp_path / "program.py"
    program.write_text("\n".join(lines))
    model = Model(Pass())
    space = {"torch": torch, "const": value(), "double": torch.zeros(2, dtype=torch.float64), "model": model}
    tracer = model.trace(value())
    with pytest.raises(StopAsyncIteration), tracer:
        exec(compile(program.read_text(), str(program), "exec"), space)
        raise StopAsyncIteration
    assert [row.split() for row in str(tracer.graph).split("\n")] == [row.split() for row in PRINTED.split("\n")]
    columns = {row.index("  # ") for row in str(tracer.graph).split("\n") if "  # " in row}
    assert len(columns) == 1


def test_a_graph_without_source_prints_file_and_number():
    graph = graph_of(read(), save(0))
    graph.nodes[0].line = graph.nodes[1].line = Line("<nowhere>", 3)
    assert str(graph) == "%0 = read a.output      # <nowhere>:3\n%1 = save %0 as 'kept'"


def test_every_kind_of_node_prints_its_parts():
    graph = graph_of(
        read("a.b", "inputs", 2),
        ("read", Site("a", "input", 0, "softmax", 1)),
        ("parameter", "a.weight"),
        ("call", "a", (Ref(0),), {"scale": Const(0)}),
        apply("operator.getitem", Ref(0), (slice(None, 2), slice(1, None, 3), None, Ellipsis, Ref(1))),
        apply("torch.where", Ref(0), [Ref(1), (Ref(2),)], {"k": Ref(3)}),
        ("read", Site("", "output")),
        constants=["a long constant of text that goes on and on and on"],
    )
    graph.nodes[5].invoke = 1
    assert str(graph).split("\n") == [
        "%0 = read a.b.calls[2].inputs",
        "%1 = read a.ops.softmax[1].input",
        "%2 = parameter a.weight",
        "%3 = a:call(%0, scale='a long constant of text that goes on...)",
        "%4 = operator.getitem(%0, (:2, 1::3, None, ..., %1))",
        "%5 @1 = torch.where(%0, [%1, (%2,)], {'k': %3})",
        "%6 = read model.output",
    ]
    assert str(Graph()) == "(empty graph)"


def test_a_graph_names_its_saves_and_sites_and_is_walked_in_order():
    graph = graph_of(read("a"), read("b"), write(0, "b"), save(0, "x"), save(1, "y"))
    assert graph.saves == {"x": 0, "y": 1}
    assert graph.sites == [Site("a", "output"), Site("b", "output")]
    assert [node.id for node in graph] == list(range(len(graph)))
    assert graph[2].refs() == [0]


def test_references_are_found_and_replaced_at_any_depth():
    argument = (Ref(1), [Ref(2), {"k": (Ref(3), slice(Ref(4), None, Ref(5)))}], 7, "text")
    node = Node(9, "apply", "torch.add", argument, {"out": Ref(6)})
    assert node.refs() == [1, 2, 3, 4, 5, 6]
    shifted = map_argument(argument, lambda leaf: Ref(leaf.node + 10) if type(leaf) is Ref else leaf)
    assert Node(9, "apply", "torch.add", shifted).refs() == [11, 12, 13, 14, 15]
    assert shifted[2:] == (7, "text")
    assert argument[0] == Ref(1)


# -- the rules ---------------------------------------------------------------------------------------------------------

BROKEN = {
    "node 1 has the id 5": lambda g: setattr(g.nodes[1], "id", 5),
    "unknown kind 'jump'": lambda g: setattr(g.nodes[0], "kind", "jump"),
    "takes %1, which is not before it": lambda g: setattr(g.nodes[1], "args", (Ref(1), 2)),
    "takes %9, which is not before it": lambda g: setattr(g.nodes[1], "args", (Ref(0), [{"k": slice(Ref(9))}])),
    "takes %-1, which is not before it": lambda g: setattr(g.nodes[1], "args", (Ref(-1), 2)),
    "takes %7, which": lambda g: setattr(g.nodes[1], "kwargs", {"alpha": Ref(7)}),
    "takes constant 3, which is not there": lambda g: setattr(g.nodes[1], "args", (Ref(0), [Const(3)])),
    "takes constant -1": lambda g: setattr(g.nodes[1], "args", (Const(-1), Ref(0))),
    "does not name a site": lambda g: setattr(g.nodes[0], "target", "a.output"),
    "unknown operation 'os.system'": lambda g: setattr(g.nodes[1], "target", "os.system"),
    "unknown operation 'local.mine'": lambda g: setattr(g.nodes[1], "target", "local.mine"),
    "(write) takes one value, not 2": lambda g: setattr(g.nodes[2], "args", (Ref(1), Ref(1))),
    "(write) takes one value, not 0": lambda g: setattr(g.nodes[2], "args", ()),
    "(save) takes one value, not 0": lambda g: setattr(g.nodes[3], "args", ()),
    "saves something that is no node": lambda g: setattr(g.nodes[3], "args", (3,)),
    "the name 'kept' is saved twice": lambda g: setattr(g.nodes[4], "target", "kept"),
}


def sound():
    return graph_of(
        read("a"),
        apply("operator.mul", Ref(0), Const(0)),
        write(1, "b"),
        save(0, "kept"),
        save(1, "other"),
        constants=[torch.ones(2)],
    )


def test_a_sound_graph_passes():
    lint(sound())
    lint(Graph())
    lint(graph_of(read(), apply("local.mine", Ref(0)), functions={"local.mine": abs}))


@pytest.mark.parametrize("fact", BROKEN)
def test_each_broken_rule_is_named_with_its_line_and_a_way_out(fact):
    graph = sound()
    for node in graph.nodes:
        node.line = Line(__file__, 10 + node.id)
    BROKEN[fact](graph)
    with pytest.raises(GraphError) as caught:
        lint(graph)
    assert fact in caught.value.fact
    assert caught.value.remedy
    assert caught.value.line.filename == __file__
    assert f"test_graph.py:{caught.value.line.number}" in str(caught.value)


@pytest.mark.parametrize("family", ["gpt2", "llama", "mamba", "mixtral"])
def test_what_a_block_writes_passes(family):
    model = LanguageModel(tiny.hf_model(family))
    blocks = model.get(tiny.BLOCKS[family])
    with model.trace(torch.tensor([[1, 2, 3]])) as tracer:
        hidden = blocks[0].output[0]
        hidden[:, -1] += torch.ones(32)
        blocks[1].output[0][:] = hidden * 2
        model.output.softmax(-1).topk(2).values.save("top")
        float(hidden.sum())
    lint(tracer.graph)
    assert list(tracer.graph.saves) == ["top"]


# -- memory ------------------------------------------------------------------------------------------------------------


def changed_by(graph, node):
    return trace_memory(graph).mutates.get(node, frozenset())


def test_views_share_the_memory_of_what_they_look_at_and_results_of_arithmetic_do_not():
    graph = graph_of(
        read("a"),
        apply("operator.getitem", Ref(0), 0),
        apply("Tensor.view", Ref(1), -1),
        apply("operator.add", Ref(2), 1),
        apply("Tensor.mul_", Ref(2), 0),
        apply("Tensor.mul_", Ref(3), 0),
        apply("Tensor.add_", Ref(4), 1),
    )
    memory = trace_memory(graph)
    a, own = ("node", 0), ("node", 3)
    assert [memory.roots[n] for n in range(7)] == [frozenset([r]) for r in (a, a, a, own, a, own, a)]
    assert memory.mutates == {4: frozenset([a]), 5: frozenset([own]), 6: frozenset([a])}
    assert memory.after[6] == (4,)


def test_a_later_use_of_a_changed_tensor_waits_for_the_change():
    graph = graph_of(
        read("a"),
        apply("operator.getitem", Ref(0), 0),
        apply("operator.add", Ref(1), 1),
        apply("operator.setitem", Ref(0), 0, 5),
        apply("operator.add", Ref(1), 1),
        save(4),
    )
    memory = trace_memory(graph)
    assert 3 not in memory.after.get(2, ())
    assert memory.after[4] == (3,)
    plan = make_plan(graph)
    assert plan.needs[4] == (1, 3)
    assert {2}.isdisjoint(plan.live)


@pytest.mark.parametrize(
    ("node", "changed"),
    [
        (apply("Tensor.add_", Ref(1), Ref(0)), {("node", 1)}),
        (apply("operator.iadd", Ref(1), Ref(0)), {("node", 1)}),
        (apply("operator.setitem", Ref(1), Ref(0), 3), {("node", 1)}),
        (apply("torch.add", Ref(0), 1, out=Ref(1)), {("node", 1)}),
        (apply("nn.functional.relu", Ref(1), inplace=True), {("node", 1)}),
        (apply("nn.functional.relu", input=Ref(1), inplace=True), {("node", 1)}),
        (apply("Tensor.copy_", Const(0), Ref(1)), {("const", 0)}),
        (apply("operator.setitem", Const(0), 0, Ref(1)), {("const", 0)}),
        (apply("nn.functional.relu", Ref(1), inplace=False), set()),
        (apply("operator.add", Ref(0), Ref(1)), set()),
        (apply("Tensor.clone", Ref(1)), set()),
    ],
)
def test_each_way_to_change_a_tensor_is_seen(node, changed):
    graph = graph_of(read("a"), read("b"), node, constants=[torch.zeros(2)])
    assert changed_by(graph, 2) == changed


def test_what_was_written_to_a_site_is_what_is_read_there_afterwards():
    graph = graph_of(
        read("a"),
        apply("operator.mul", Ref(0), 2),
        write(1, "b"),
        read("b"),
        apply("Tensor.zero_", Ref(3)),
    )
    assert ("node", 1) in changed_by(graph, 4)


def test_a_function_of_the_users_may_hand_on_the_memory_of_its_argument():
    change = apply("Tensor.zero_", Ref(1))
    graph = graph_of(read("a"), apply("local.mine", Ref(0)), change, functions={"local.mine": abs})
    assert ("node", 0) in changed_by(graph, 2)


# -- plans -------------------------------------------------------------------------------------------------------------


def test_a_node_that_nobody_needs_is_dropped():
    graph = graph_of(
        read("a"),
        apply("operator.mul", Ref(0), 2),
        read("b"),
        apply("operator.add", Ref(2), 1),
        apply("Tensor.zero_", Ref(3)),
        save(1),
    )
    plan = make_plan(graph)
    assert plan.live == {0, 1, 5}
    assert list(plan.gates) == [Event("a", "out", 0)]


def test_writes_and_changes_that_reach_the_model_or_the_user_are_kept():
    graph = graph_of(
        read("a"),
        apply("operator.getitem", Ref(0), 0),
        apply("Tensor.zero_", Ref(1)),
        apply("Tensor.copy_", Const(0), Ref(0)),
        write(0, "b"),
        apply("operator.mul", Ref(0), 3),
        constants=[torch.zeros(2)],
    )
    memory = trace_memory(graph)
    assert needed(graph, memory, []) == {0, 1, 2, 3, 4}


def test_a_change_is_kept_where_a_wanted_value_is_read_after_it():
    graph = graph_of(
        read("a"),
        apply("operator.mul", Ref(0), 2),
        apply("Tensor.zero_", Ref(1)),
        save(1),
    )
    assert needed(graph, trace_memory(graph), [3]) == {0, 1, 2, 3}
    above = graph_of(read("a"), apply("operator.mul", Ref(0), 2), save(1), apply("Tensor.zero_", Ref(1)))
    live = needed(above, trace_memory(above), [2])
    assert {0, 1, 2} <= live


PLANNED = """\
start: %2
a.output: %0 %5
b.calls[1].input: %3
wanted: %6"""


def test_a_plan_prints_what_runs_at_which_moment():
    graph = graph_of(
        read("a"),
        read("never"),
        ("parameter", "a.weight"),
        read("b", "input", 1),
        apply("torch.matmul", Ref(3), Ref(2)),
        write(0, "a"),
        save(4),
    )
    assert str(make_plan(graph)) == PLANNED
    assert str(make_plan(graph_of(read("a"), write(0, "b")))).endswith("wanted: nothing, run to the end")
    assert str(make_plan(Graph())) == "wanted: nothing, run to the end"


def test_a_plan_changes_nothing_of_its_graph():
    graph = sound()
    before = copy.deepcopy([(n.id, n.kind, n.target, n.args) for n in graph.nodes[2:]])
    make_plan(graph)
    assert [(n.id, n.kind, n.target, n.args) for n in graph.nodes[2:]] == before


def test_the_plan_of_a_part_needs_that_part_alone():
    graph = graph_of(
        read("a"), read("b"), apply("operator.neg", Ref(0)), apply("operator.neg", Ref(1)), save(2), save(3, "s")
    )
    assert make_plan(graph, wanted=[2]).live == {0, 2}
    assert make_plan(graph, wanted=[2], keep=[3]).live == {0, 1, 2, 3}
    assert make_plan(graph, wanted=[2], keep=[3]).wanted == {2}
