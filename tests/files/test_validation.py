"""A graph is looked at before it runs: everything that is wrong with it is told at once, each with the user's line."""

import pytest
import torch

import loupe
from loupe import LanguageModel, Model
from loupe.errors import GraphError, LoupeError
from loupe.graph.node import Node, Ref
from tests import tiny

X = torch.linspace(-1, 1, 16).reshape(2, 8)


def recorded(body, model=None):
    """The graph of a block that is left before it runs."""
    model = model or Model(tiny.stack())
    try:
        with model.trace(X) as tracer:
            body(model)
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        return tracer.graph


def runs(module):
    """Watch how often a module runs with data."""
    seen = []

    def note(_module, args, _output):
        if not args[0].is_meta:
            seen.append(1)

    return seen, module.register_forward_hook(note)


def test_a_graph_that_is_right_has_nothing_to_be_said_about_it():
    model = Model(tiny.stack())
    seen, handle = runs(tiny.stack())
    report = recorded(lambda model: (model.layers[0].output * 2).save("x")).validate(model, X)
    handle.remove()
    assert report
    assert report.portable
    assert report.findings == ()
    assert seen == []
    assert str(report).startswith("the graph can run\nmemory: ")
    report.check()


def several(model):
    hidden = model.layers[0].output
    (hidden + torch.ones(3)).save("a")
    (hidden @ torch.ones(3, 3)).sum().save("b")
    hidden[:, 20].save("c")
    (hidden * 2).save("right")


def test_all_errors_of_shape_are_found_at_once_with_their_lines():
    report = recorded(several).validate(Model(tiny.stack()), X)
    assert not report
    assert [error.line.text for error in report.errors] == [
        '(hidden + torch.ones(3)).save("a")',
        '(hidden @ torch.ones(3, 3)).sum().save("b")',
        'hidden[:, 20].save("c")',
    ]
    for error, words in zip(report.errors, ("operator.add", "operator.matmul", "operator.getitem"), strict=True):
        assert error.fact.startswith(words)
        assert "f32[2, 8]" in error.fact
    assert str(report).startswith("the graph cannot run: 3 errors")
    with pytest.raises(GraphError, match=r"operator\.add failed"):
        report.check()


def test_an_error_that_hides_others_of_its_value_is_told_once():
    report = recorded(lambda model: ((model.layers[0].output + torch.ones(3)) * 2 - 1).save()).validate(
        Model(tiny.stack()), X
    )
    assert len(report.errors) == 1


PRODUCTS = {
    "operator.matmul": lambda hidden, other: hidden @ other,
    "nn.functional.linear": lambda hidden, other: torch.nn.functional.linear(hidden, other, other[0]),
    "Tensor.bmm": lambda hidden, other: hidden[None].bmm(other[None]),
    "torch.einsum": lambda hidden, other: torch.einsum("bi,ij->bj", hidden, other),
    "torch.conv1d": lambda hidden, other: torch.nn.functional.conv1d(hidden[None], other[:, :2, None]),
}


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_a_product_of_two_dtypes_fails_before_a_run_as_it_does_in_one(name, dtype):
    other, product = torch.ones(8, 8, dtype=dtype), PRODUCTS[name]
    with pytest.raises(RuntimeError):
        product(torch.ones(2, 8), other)
    report = recorded(lambda model: product(model.layers[0].output, other).save()).validate(Model(tiny.stack()), X)
    assert len(report.errors) == 1
    assert report.errors[0].fact.startswith(f"{name} failed on (")
    assert recorded(lambda model: product(model.layers[0].output.to(dtype), other).save()).validate(
        Model(tiny.stack()), X
    )


def test_shapes_depend_on_the_inputs_that_are_given():
    graph = recorded(lambda model: (model.layers[0].output + torch.ones(2, 8)).save("x"))
    model = Model(tiny.stack())
    assert graph.validate(model, torch.ones(2, 8))
    assert graph.validate(model, torch.ones(1, 8))
    assert not graph.validate(model, torch.ones(3, 8))


def test_parameters_that_are_given_are_tried():
    factor = loupe.param("factor", 1.0)
    graph = recorded(lambda model: (model.layers[0].output * factor).save("x"))
    model = Model(tiny.stack())
    assert graph.validate(model, X)
    assert graph.validate(model, X, factor=torch.ones(8))
    assert not graph.validate(model, X, factor=torch.ones(3))
    report = graph.validate(model, X, factr=1.0)
    assert "'factor'" in report.errors[0].remedy


def test_every_module_that_is_missing_is_told_with_near_names():
    graph = recorded(lambda model: (model.layers[0].output + model.layers[1].weight.sum()).save("x"))
    report = graph.rename_sites({"layers": "layer"}).validate(Model(tiny.stack()))
    assert [error.fact for error in report.errors] == [
        "no module 'layer.0' in the model",
        "no module 'layer.1' in the model",
    ]
    assert all("'layers" in error.remedy for error in report.errors)
    assert report.errors[0].line.text.startswith("graph = recorded(lambda model")
    assert report.estimate is None


def test_a_parameter_that_is_missing_is_told():
    graph = recorded(lambda model: model.layers[1].weight.sum().save("x"))
    report = graph.rename_sites({"layers.1": "table"}).validate(Model(tiny.stack()))
    assert report  # an embedding has a weight too
    report = recorded(lambda model: model.layers[1].bias.sum().save("x")).rename_sites({"layers.1": "table"})
    assert [error.fact for error in report.validate(Model(tiny.stack())).errors] == [
        "no parameter 'table.bias' in the model"
    ]


def own(value):
    return value + 1


def test_a_function_of_the_user_runs_here_only():
    graph = recorded(lambda model: loupe.fn(own)(model.layers[0].output).save("x"))
    report = graph.validate(Model(tiny.stack()), X)
    assert report
    assert not report.portable
    (finding,) = report.findings
    assert finding.weight == "local"
    assert "own is a Python function" in finding.fact
    assert "loupe.fn(own)" in finding.line.text


def test_an_operation_that_this_torch_does_not_have_is_told(monkeypatch):
    from loupe.envoy import validation

    graph = recorded(lambda model: (model.layers[0].output * 2).save("x"))

    def lacking(name):
        raise GraphError(f"torch has no {name}", remedy="upgrade torch")

    monkeypatch.setattr(validation, "function_of", lacking)
    report = graph.validate(Model(tiny.stack()), X)
    assert [error.fact for error in report.errors] == ["torch has no operator.mul"]


def test_what_python_looked_at_is_named_with_its_line():
    model = Model(tiny.stack())
    with model.trace(X) as tracer:
        total = model.layers[0].output.sum()
        factor = 2 if total > 100 else 3
        (model.layers[1].output * factor).save("x")
    report = tracer.graph.validate(model, X)
    assert report
    (finding,) = report.findings
    assert finding.weight == "note"
    assert finding.line.text == "factor = 2 if total > 100 else 3"
    assert "operator.gt" in finding.fact


def test_the_memory_that_is_told_is_that_of_arithmetic():
    steer = torch.zeros(1000, 8)
    report = recorded(
        lambda model: ((model.layers[0].output.sum() + steer).save("steered"), model.output.save("out"))
    ).validate(Model(tiny.stack()), X)
    weights = 3 * (8 * 8 + 8) * 4 + 2 * 8 * 4 + 2 * 8  # three layers, the table, two places
    assert report.estimate.weights == weights
    assert report.estimate.constants == 1000 * 8 * 4
    assert report.estimate.saved == 1000 * 8 * 4 + 2 * 8 * 4
    assert report.devices == ("cpu",)


def test_the_passing_memory_is_that_of_the_largest_value_on_the_way():
    report = recorded(lambda model: model.layers[0].output.repeat(1000, 100).sum().save("x")).validate(
        Model(tiny.stack()), X
    )
    largest = 2 * 1000 * 8 * 100 * 4
    assert largest <= report.estimate.passing <= 1.1 * largest


def test_a_language_model_is_tried_with_a_token_of_its_own():
    model = LanguageModel(tiny.hf_model("gpt2"), tokenizer=tiny.tokenizer())
    with model.trace([[1, 2, 3]]) as tracer:
        (model.transformer.h[0].output[0] + torch.ones(32)).save("x")
    assert tracer.graph.validate(model)
    assert tracer.graph.validate(model).estimate is not None
    try:
        with model.trace([[1, 2, 3]]) as tracer:
            (model.transformer.h[0].output[0] + torch.ones(31)).save("x")
    except LoupeError:
        pass
    assert not tracer.graph.validate(model)


def test_without_an_input_a_plain_model_is_looked_at_and_not_tried():
    report = recorded(several).validate(Model(tiny.stack()))
    assert report
    assert report.findings[0].fact == "no input was given, so shapes were not tried"
    assert report.estimate is None


def test_a_wrong_number_of_inputs_is_an_error_of_the_report():
    model = Model(tiny.stack())
    with model.trace() as tracer:
        for name in ("one", "two"):
            with tracer.invoke(X):
                model.output.save(name)
    report = tracer.graph.validate(model, X)
    assert [error.fact for error in report.errors] == ["the graph has 2 prompts, and is given 1"]


def test_blocks_of_a_session_are_looked_at_in_order_and_findings_name_their_block():
    model = LanguageModel(tiny.hf_model("gpt2"))
    ids = torch.tensor([[1, 2, 3]])
    with model.session() as session:
        with model.trace(ids):
            hidden = model.transformer.h[0].output[0]
        with model.trace(ids):
            (hidden * 2).save("twice")
    graphs = session.graphs
    assert graphs.validate(model, ids, ids)
    graphs[1].nodes.append(Node(len(graphs[1]), "apply", "operator.matmul", (Ref(0), Ref(0))))
    report = graphs.validate(model, ids, ids)
    assert [each.fact[:8] for each in report.errors] == ["block 1:"]
