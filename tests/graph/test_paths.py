"""A path in a graph names a module, a parameter or a buffer, and reaches nothing else that a module has."""

import pytest
import torch

from loupe import Model
from loupe.errors import GraphError, Line, LoupeError, OperationError, UnknownModuleError
from loupe.graph.graph import Graph
from loupe.graph.lint import lint
from loupe.graph.node import Node, Ref, Site
from tests import tiny

X = torch.ones(2, 4)


def run(*nodes, module=None, scans=False):
    """Run a graph that was built by hand."""
    graph = Graph()
    for place, (kind, target, *rest) in enumerate(nodes):
        graph.nodes.append(Node(place, kind, target, *rest, line=Line("by_hand.py", place + 1)))
    model = Model(module or tiny.net())
    execution = model.local_run(graph)
    execution.add_input((X,), {}, Line("by_hand.py", 0))
    outcome = execution.finish()
    if outcome.error is not None:
        raise outcome.error
    return outcome.results


def test_a_path_of_a_parameter_or_buffer_gives_it():
    kept = run(("parameter", "shared.weight"), ("save", "kept", (Ref(0),)))["kept"]
    assert torch.equal(kept, tiny.net().shared.weight)
    wide = torch.ones(2, 8)
    graph = Graph()
    graph.nodes += [Node(0, "parameter", "places"), Node(1, "save", "kept", (Ref(0),))]
    execution = Model(tiny.stack()).local_run(graph)
    execution.add_input((wide,), {}, Line("by_hand.py", 0))
    assert torch.equal(execution.finish().results["kept"], torch.arange(2))


ODD = [
    "a._forward_hooks",
    "a.__class__",
    "a.__dict__",
    "a.weight.data",
    "a.weight.grad",
    "a.in_features",
    "a.forward",
    "a.training",
    "a._parameters",
    "a._parameters.weight",
    "__class__",
    "_modules",
    "_modules.a.weight",
    "a",
    "",
    "a.",
    ".a",
    "a..weight",
    "a.wieght",
    "nowhere.weight",
    "shared.0.weight",
]


@pytest.mark.parametrize("path", ODD)
def test_any_other_path_of_a_parameter_is_unknown(path):
    with pytest.raises(UnknownModuleError) as caught:
        run(("parameter", path), ("save", "kept", (Ref(0),)))
    assert caught.value.line == Line("by_hand.py", 1)
    assert tiny.hooks_on(tiny.net()) == 0


@pytest.mark.parametrize("path", [*ODD, "shared.weight"])
def test_any_other_path_of_a_module_that_is_called_is_unknown(path):
    if path in ("", "a"):
        return
    with pytest.raises(UnknownModuleError) as caught:
        run(("read", Site("shared", "output")), ("call", path, (Ref(0),)), ("save", "kept", (Ref(1),)))
    assert caught.value.line == Line("by_hand.py", 2)


@pytest.mark.parametrize("path", ["a.weight", "a.__class__", "_modules.a", "sharde", "a._forward_hooks"])
@pytest.mark.parametrize("op", [None, "relu"])
def test_any_other_path_of_a_site_is_unknown(path, op):
    with pytest.raises(UnknownModuleError) as caught:
        run(("read", Site(path, "output", 0, op)), ("save", "kept", (Ref(0),)))
    assert caught.value.line == Line("by_hand.py", 1)
    assert tiny.hooks_on(tiny.net()) == 0


def test_the_near_names_are_offered():
    for nodes, near in (
        ([("parameter", "a.wieght"), ("save", "kept", (Ref(0),))], "did you mean 'weight'?"),
        ([("parameter", "sharde.weight"), ("save", "kept", (Ref(0),))], "did you mean 'shared'?"),
        ([("parameter", "a.weight"), ("call", "shred", (Ref(0),)), ("save", "kept", (Ref(1),))], "'shared'"),
        ([("read", Site("share", "input")), ("save", "kept", (Ref(0),))], "'shared'"),
    ):
        with pytest.raises(UnknownModuleError) as caught:
            run(*nodes)
        assert near in caught.value.remedy
    with pytest.raises(UnknownModuleError, match=r"no module 'l' under shared"):
        run(("parameter", "shared.l.weight"), ("save", "kept", (Ref(0),)))


def test_a_parameter_that_a_module_goes_without_is_unknown():
    module = tiny.Net()
    module.a.bias = None
    with pytest.raises(UnknownModuleError, match=r"a\.bias is None in this model"):
        run(("parameter", "a.bias"), ("save", "kept", (Ref(0),)), module=module)


def test_only_a_parameter_or_buffer_can_be_set():
    for path in ("a.in_features", "a._forward_hooks", "a", "config", "a.weight.data"):
        with pytest.raises(UnknownModuleError) as caught:
            run(("parameter", "a.weight"), ("set_parameter", path, (Ref(0),)))
        assert caught.value.line == Line("by_hand.py", 2)
    assert tiny.net().a.in_features == 4


def test_a_gradient_is_tracked_of_parameters_alone():
    with pytest.raises(UnknownModuleError) as caught:
        run(("parameter", "a.wieght"), ("apply", "loupe.retain_grad", (Ref(0),)), ("save", "kept", (Ref(1),)))
    assert caught.value.line == Line("by_hand.py", 1)


def test_shapes_are_asked_of_parameters_alone():
    graph, model = Graph(), Model(tiny.net())
    graph.nodes += [Node(0, "parameter", "a._forward_hooks", line=Line("by_hand.py", 1))]
    execution = model.local_run(graph)
    execution.add_input((X,), {}, Line("by_hand.py", 0))
    with pytest.raises(UnknownModuleError) as caught:
        execution.describe(0)
    assert caught.value.line == Line("by_hand.py", 1)


def test_a_method_or_attribute_that_is_not_allowed_is_refused():
    before = tiny.net().a.weight.detach().clone()
    weight = ("parameter", "a.weight")
    for line in (
        ("apply", "python.call_method", (Ref(0), "zero_")),
        ("apply", "python.call_method", (Ref(0), "__class__")),
        ("apply", "python.getattr", (Ref(0), "__class__")),
        ("apply", "python.getattr", (Ref(0), "_backward_hooks")),
        ("apply", "loupe.require_grad", (), {"value": Ref(0), "tracked": False}),
        ("apply", "loupe.require_grad", (), {"tracked": False, "value": Ref(0)}),
        ("apply", "loupe.set_item", (), {"value": Ref(0), "key": 0, "item": 0}),
        ("apply", "nn.functional.relu", (), {"input": Ref(0), "inplace": True}),
        ("apply", "nn.functional.hardtanh", (Ref(0), 0, 1, 1)),
        ("apply", "torch.norm", (Ref(0), 2, None, False, Ref(0))),
    ):
        with pytest.raises(LoupeError):
            run(weight, line, ("save", "kept", (Ref(1),)))
        assert torch.equal(before, tiny.net().a.weight)
        assert tiny.net().a.weight.requires_grad
    changed = run(weight, ("apply", "loupe.with_item", (Ref(0), 0, 0.0)), ("save", "kept", (Ref(1),)))["kept"]
    assert torch.equal(changed[1:], before[1:])
    assert torch.equal(changed[0], torch.zeros(4))
    assert torch.equal(before, tiny.net().a.weight)


class Passes(torch.nn.Module):
    """Hands a module of its own to another as an argument."""

    def __init__(self):
        super().__init__()
        self.user, self.used = Uses(), torch.nn.ModuleList([torch.nn.Linear(4, 4)])

    def forward(self, x):
        return self.user(x, self.used)


class Uses(torch.nn.Module):
    """Calls the modules that it is given."""

    def forward(self, x, used):
        return used[0](x)


@pytest.mark.parametrize(
    "line",
    [
        ("apply", "python.getattr", (Ref(2), "training")),
        ("apply", "operator.setitem", (Ref(2), 0, Ref(2))),
        ("apply", "operator.delitem", (Ref(2), 0)),
        ("apply", "operator.iadd", (Ref(2), [])),
    ],
)
def test_a_module_that_passes_at_a_site_is_not_reached_into(line):
    module = Passes()
    before = list(module.used)
    with pytest.raises(LoupeError):
        run(
            ("read", Site("user", "inputs")),
            ("apply", "operator.getitem", (Ref(0), 0)),
            ("apply", "operator.getitem", (Ref(1), 1)),
            line,
            ("save", "kept", (Ref(3),)),
            module=module,
        )
    assert list(module.used) == before


def test_a_node_that_names_nothing_is_not_well_formed():
    for kind in ("parameter", "call", "given", "set_parameter"):
        graph = Graph()
        graph.nodes += [Node(0, "parameter", "a.weight"), Node(1, kind, None, (Ref(0),))]
        with pytest.raises(GraphError, match="names nothing"):
            lint(graph)


def test_what_fails_on_an_attribute_is_an_operation_that_failed():
    with pytest.raises((OperationError, GraphError)):
        run(("parameter", "a.weight"), ("apply", "python.getattr", (Ref(0), "nothing")), ("save", "kept", (Ref(1),)))
