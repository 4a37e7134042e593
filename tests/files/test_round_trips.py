"""Everything that a block can say is there again when its graph is loaded, and does what it did."""

import math

import pytest
import torch
from torch import nn

import loupe
from loupe import LanguageModel, Model
from loupe.errors import PortableError
from tests import tiny
from tests.tiny import hooked, outputs_of

X = torch.linspace(-1, 1, 16).reshape(2, 8)
IDS = torch.tensor([[5, 9, 2, 7]])
OPTIONS = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}


@pytest.fixture
def carried(tmp_path):
    """Save a graph and load it: it is equal, prints the same, and is the same bytes when it is saved again."""

    def carry(graph):
        graph.save(tmp_path / "one.loupe")
        loaded = loupe.load(tmp_path / "one.loupe")
        loaded.save(tmp_path / "two.loupe")
        assert (tmp_path / "one.loupe").read_bytes() == (tmp_path / "two.loupe").read_bytes()
        assert loaded == graph
        assert sorted(str(loaded)) == sorted(str(graph))  # keyword arguments stand in the order of their names
        return loaded

    return carry


def stack():
    return Model(tiny.stack())


def layers():
    """What the layers of the stack return for X."""
    with torch.no_grad():
        found, out = outputs_of(tiny.stack(), [f"layers.{n}" for n in range(3)], X)
    return [found[f"layers.{n}"] for n in range(3)], out


def test_reads_writes_and_calls_do_what_hooks_do(carried):
    model = stack()
    with model.trace(X) as tracer:
        hidden = model.layers[0].output
        hidden[:, 2:] = 0
        model.layers[2].input = model.layers[2].input * 2 + model.layers[1](hidden)
        model.output.save("out")
    net = tiny.stack()
    kept = {}

    def zero(output):
        output[:, 2:] = 0
        kept["hidden"] = output.clone()

    def double(args, kwargs):
        return (args[0] * 2 + nn.functional.linear(kept["hidden"], net.layers[1].weight, net.layers[1].bias),), kwargs

    with hooked(net, {"layers.0": zero}, {"layers.2": double}):
        want = net(X)
    torch.testing.assert_close(model.run(carried(tracer.graph), X)["out"], want)


def test_calls_of_a_module_and_keyword_arguments_come_back(carried):
    model, x = Model(tiny.net()), torch.ones(2, 4)
    with model.trace(x, scale=2.0) as tracer:
        model.shared.calls[1].output.save("second")
        model.inputs[1]["scale"].save("scale")
        model.output["pair"][1].save("sum")
        model.never.weight.sum().save("weight")
    found = model.run(carried(tracer.graph), x, scale=3.0)
    seen, out = outputs_of(tiny.net(), ["shared"], x, scale=3.0)
    torch.testing.assert_close(found["second"], seen["shared"][1])
    torch.testing.assert_close(found["sum"], out["pair"][1])
    assert found["scale"] == 3.0
    torch.testing.assert_close(found["weight"], tiny.net().never.weight.sum())


def test_a_cache_comes_back_as_a_cache(carried):
    model = stack()
    with model.trace(X) as tracer:
        tracer.cache(modules=[model.layers[0], model.layers[2]], dtype=torch.float64, include_inputs=True)
    (found,) = model.run(carried(tracer.graph), X).values()
    want, _ = layers()
    torch.testing.assert_close(found["layers.2"].output, want[2].double())
    assert found["layers.0"].output.dtype is torch.float64
    torch.testing.assert_close(found["layers.0"].inputs[0][0], X.double())


def test_a_skip_and_a_stop_come_back(carried):
    model = stack()
    ran = []
    with model.trace(X) as tracer:
        model.layers[1].skip(model.layers[1].input * 0 + 5)
        model.layers[1].output.save("five")
        tracer.stop()
    loaded = carried(tracer.graph)
    handles = [
        layer.register_forward_pre_hook(lambda *_, number=number: ran.append(number))
        for number, layer in enumerate(tiny.stack().layers)
    ]
    found = model.run(loaded, X)
    for handle in handles:
        handle.remove()
    assert torch.equal(found["five"], torch.full((2, 8), 5.0))
    assert 2 not in ran


def test_a_tap_on_an_operation_comes_back(carried):
    model = stack()
    with model.trace(X) as tracer:
        model.ops.tanh[1].output[:, 0] = 0
        model.ops.tanh[1].output.save("second")
    found = model.run(carried(tracer.graph), X)["second"]
    net = tiny.stack()
    with torch.no_grad():
        table = net.table(net.places).sum(0)
        want = torch.tanh(net.layers[1](torch.tanh(net.layers[0](X)) + table))
        want[:, 0] = 0
    torch.testing.assert_close(found, want)


def test_the_edits_of_a_model_come_back_with_a_graph_that_was_recorded_on_it(carried):
    model = stack()
    with model.edit() as edited:
        edited.layers[0].weight[0] = 0
        edited.layers[1].output[:] = edited.layers[1].output * 2
    with edited.trace(X) as tracer:
        edited.output.save("out")
    with torch.no_grad():
        net = tiny.stack()
        weight = net.layers[0].weight.clone()
        weight[0] = 0
        table = net.table(net.places).sum(0)
        value = torch.tanh(nn.functional.linear(X, weight, net.layers[0].bias)) + table
        value = torch.tanh(net.layers[1](value) * 2) + table
        want = torch.tanh(net.layers[2](value)) + table
    loaded = carried(tracer.graph)
    assert loaded.edited
    torch.testing.assert_close(model.run(loaded, X)["out"], want)
    torch.testing.assert_close(edited.run(loaded, X)["out"], want)


def test_the_modes_of_lines_come_back(carried):
    model = stack()
    with model.trace(X) as tracer:
        hidden = model.layers[0].output
        with torch.no_grad():
            scale = hidden * 2
        with torch.autocast("cpu", torch.bfloat16):
            (hidden @ hidden.T).save("product")
        with (scale * hidden).sum().backward():
            hidden.grad.save("gradient")
    found = model.run(carried(tracer.graph), X)
    hidden = layers()[0][0]
    assert found["product"].dtype is torch.bfloat16
    torch.testing.assert_close(found["gradient"], 2 * hidden)  # with the way through `scale` it would be 4


def test_several_backward_passes_come_back(carried):
    model = stack()
    with model.trace(X) as tracer:
        hidden = model.layers[1].output
        with hidden.pow(2).sum().backward(retain_graph=True):
            hidden.grad.save("first")
        with (hidden * 3).sum().backward():
            hidden.grad = hidden.grad * 2
            hidden.grad.save("second")
    found = model.run(carried(tracer.graph), X)
    torch.testing.assert_close(found["first"], 2 * layers()[0][1])
    torch.testing.assert_close(found["second"], torch.full((2, 8), 6.0))


def generated():
    """The ids, and what the first block returns at each of four steps; its last position is halved at steps 1 and 2."""
    hf, seen = tiny.hf_model("gpt2"), []

    def hook(output):
        value = output[0] if isinstance(output, tuple) else output
        if len(seen) in (1, 2):
            value[:, -1] *= 0.5
        seen.append(value[:, -1].clone())

    with hooked(hf, {"transformer.h.0": hook}):
        ids = hf.generate(IDS, **OPTIONS)
    return ids, seen


def test_step_wise_blocks_and_loops_over_listed_steps_come_back(carried):
    model = LanguageModel(tiny.hf_model("gpt2"), tokenizer=tiny.tokenizer())
    with model.generate(IDS, **OPTIONS) as tracer:
        with tracer.iter[1:3]:
            model.transformer.h[0].output[0][:, -1] *= 0.5
        with tracer.all():
            model.transformer.h[0].output[0][:, -1].save("states")
        with tracer.iter[[0, 3]]:
            model.transformer.h[0].output[0][:, -1].save("ends")
        tracer.result.save("ids")
    found = model.run(carried(tracer.graph), IDS)
    ids, seen = generated()
    assert torch.equal(found["ids"], ids)
    torch.testing.assert_close(found["states"], seen, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found["ends"], [seen[0], seen[3]], atol=1e-5, rtol=1e-4)


def test_step_wise_blocks_that_are_recorded_twice_are_equal():
    def graph():
        model = LanguageModel(tiny.hf_model("gpt2"), tokenizer=tiny.tokenizer())
        with model.generate(IDS, **OPTIONS) as tracer:
            for _ in range(2):
                with tracer.all():
                    model.transformer.h[0].output[0][:, -1].save(f"states{_}")
        return tracer.graph

    assert graph().hash == graph().hash


def test_a_session_comes_back(carried):
    model = stack()
    with model.session() as session:
        with model.trace(X):
            hidden = model.layers[0].output
            named = model.layers[1].output.save("kept_for_later")
        with model.trace(X * 2):
            model.layers[0].output[:] = hidden + named * 0
            model.layers[0].output.save("patched")
    loaded = carried(session.graphs)
    first, second = model.run(loaded, X, X * 2)
    assert list(first) == ["kept_for_later"]
    torch.testing.assert_close(first["kept_for_later"], layers()[0][1])
    torch.testing.assert_close(second["patched"], layers()[0][0])
    assert loaded.inputs == 2


def test_prompts_of_which_nothing_is_asked_come_back(carried):
    model = stack()
    with model.trace() as tracer:
        for place in range(5):
            with tracer.invoke(X[:1] * place):
                if place == 3:
                    model.layers[0].output.save("third")
    found = model.run(carried(tracer.graph), *(X[:1] * place for place in range(5)))
    torch.testing.assert_close(found["third"], tiny.stack().layers[0](X[:1] * 3))


# -- parameters --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("default", [2.0, 3, True, torch.arange(8.0), torch.tensor(0.5)], ids=str)
def test_an_open_parameter_comes_back_with_its_default(carried, default):
    model = stack()
    factor = loupe.param("factor", default)
    with model.trace(X) as tracer:
        (model.layers[0].output * factor).save("product")
    loaded = carried(tracer.graph)
    hidden = layers()[0][0]
    torch.testing.assert_close(model.run(loaded, X)["product"], hidden * default)
    torch.testing.assert_close(model.run(loaded, X, factor=-1.5)["product"], hidden * -1.5)
    torch.testing.assert_close(model.run(loaded, X)["product"], hidden * default)


def test_an_open_parameter_without_a_default_comes_back_without_one(carried):
    model = stack()
    with model.edit():  # no run, so that none is needed while it is recorded
        pass
    rows = loupe.param("rows")
    try:
        with model.trace(X) as tracer:
            model.layers[0].output[rows].save("chosen")
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        graph = tracer.graph
    loaded = carried(graph)
    torch.testing.assert_close(model.run(loaded, X, rows=1)["chosen"], layers()[0][0][1])
    torch.testing.assert_close(model.run(loaded, X, rows=torch.tensor([1, 0]))["chosen"], layers()[0][0][[1, 0]])


# -- constants and arguments -------------------------------------------------------------------------------------------

DTYPES = [
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.int64),
    *(torch.uint64, torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex32, torch.complex64),
    *(torch.complex128, torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz),
    *((torch.float8_e8m0fnu,) if hasattr(torch, "float8_e8m0fnu") else ()),
]


def constant_of(graph):
    """The one tensor among the constants of a graph."""
    (found,) = graph.constants
    return found


def holding(value):
    """A graph with a constant."""
    model = stack()
    with model.trace(X) as tracer:
        model.layers[0].output.type_as(value).save("there")
    return tracer.graph


def same_bits(one, other):
    assert one.dtype is other.dtype
    assert one.shape == other.shape
    assert one.requires_grad == other.requires_grad
    if one.numel():
        one, other = (each.detach().contiguous().as_strided((each.numel(),), (1,)) for each in (one, other))
        assert torch.equal(one.view(torch.uint8), other.view(torch.uint8))


@pytest.mark.filterwarnings("ignore:ComplexHalf support")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (5,), (2, 3)], ids=str)
def test_a_constant_comes_back_bit_by_bit(carried, dtype, shape):
    bits = torch.arange(1, 1 + 16 * math.prod(shape), dtype=torch.int64).to(torch.uint8)
    size = torch.empty(0, dtype=dtype).element_size()
    bits = bits[: size * math.prod(shape)] % (2 if dtype is torch.bool else 251)
    value = bits.view(dtype).reshape(shape) if bits.numel() else torch.empty(shape, dtype=dtype)
    same_bits(constant_of(carried(holding(value))), value)


@pytest.mark.parametrize(
    "value",
    [
        torch.arange(12.0).reshape(3, 4).T,
        torch.arange(12.0)[::2],
        torch.arange(3.0).expand(4, 3),
        torch.tensor([1 + 2j, 3 - 4j]).conj(),
        torch.tensor([1 + 2j]).conj().imag,
        torch.ones(3, requires_grad=True),
        nn.Parameter(torch.arange(4.0)),
        torch.tensor([math.nan, math.inf, -math.inf, -0.0, 5e-324], dtype=torch.float64),
        torch.arange(8.0)[3:5],
    ],
    ids=["transposed", "strided", "expanded", "conjugate", "negated", "requires grad", "parameter", "odd", "window"],
)
def test_a_constant_that_lies_oddly_comes_back_as_its_values(carried, value):
    same_bits(
        constant_of(carried(holding(value))),
        value.detach().resolve_conj().resolve_neg().requires_grad_(value.requires_grad),
    )


def test_equal_constants_are_stored_once_and_are_two_when_they_are_loaded(carried, tmp_path):
    model = stack()
    with model.trace(X) as tracer:
        hidden = model.layers[0].output
        one, other = torch.full((1000,), 7.0), torch.full((1000,), 7.0)
        (hidden.sum() + one).save("one")
        (hidden.sum() - other).save("other")
    tracer.graph.save(tmp_path / "file")
    assert (tmp_path / "file").stat().st_size < 8000
    first, second = carried(tracer.graph).constants
    first += 1
    assert torch.equal(second, torch.full((1000,), 7.0))


ARGUMENTS = [
    *(None, True, False, 0, -1, 2**63, 2**64 - 1, -(2**63), 0.0, -0.0, 1e-320, 1.5, math.inf, -math.inf),
    *("", "é☃", '\u2028\0\n"\\', "\U0001f600", 1 + 2j, complex(-0.0, math.inf), Ellipsis, [], (), {}),
    *((1, [2, (3, {"a": [None, (True,)]})]), {"a": 1, 2: "b"}, slice(None), slice(1, -1, 2), (..., slice(0, 2), None)),
    *(torch.float32, torch.bfloat16, torch.device("cpu"), torch.device("cuda:1"), torch.strided, torch.channels_last),
    [1.0, {"x": (torch.int8, torch.device("meta"))}],
]


@pytest.mark.parametrize("value", ARGUMENTS, ids=repr)
def test_an_argument_comes_back_as_it_was(tmp_path, value):
    from loupe.files.intervention import InterventionGraph
    from loupe.graph.node import Node

    graph = InterventionGraph()
    graph.nodes = [Node(0, "apply", "loupe.with_item", (value,), {"value": value})]
    graph.save(tmp_path / "file")
    (node,) = loupe.load(tmp_path / "file")
    for found in (node.args[0], node.kwargs["value"]):
        assert type(found) is type(value)
        assert repr(found) == repr(value)  # tells -0.0 from 0.0, and True from 1


def test_a_number_that_is_none_is_a_number_that_is_none(tmp_path):
    model = stack()
    with model.trace(X) as tracer:
        (model.layers[0].output * math.nan).save("none")
    tracer.graph.save(tmp_path / "file")
    assert model.run(loupe.load(tmp_path / "file"), X)["none"].isnan().all()
    assert loupe.load(tmp_path / "file") == tracer.graph


def test_names_of_every_script_come_back(carried):
    model = stack()
    names = ["naïve", "層の出力", "😀", "a b", 'quote"s', "", "line\nbreak"]
    with model.trace(X) as tracer:
        for number, name in enumerate(names):
            (model.layers[0].output + number).save(name)
    found = model.run(carried(tracer.graph), X)
    assert list(found) == names
    for number, name in enumerate(names):
        torch.testing.assert_close(found[name], layers()[0][0] + number)


def test_lines_come_back_without_the_folders_of_their_files(carried):
    model = stack()
    with model.trace(X) as tracer:
        model.layers[0].output.save("here")
    line = carried(tracer.graph)[0].line
    assert (line.filename, line.text) == ("test_round_trips.py", 'model.layers[0].output.save("here")')


def test_lines_can_be_left_out(tmp_path):
    model = stack()
    with model.trace(X) as tracer:
        model.layers[0].output.save("here")
    tracer.graph.save(tmp_path / "file", lines=False)
    assert b"test_round_trips" not in (tmp_path / "file").read_bytes()
    assert loupe.load(tmp_path / "file") == tracer.graph
    assert tracer.graph[0].line is not None


# -- what cannot be stored ---------------------------------------------------------------------------------------------


def own(value):
    return value + 1


REFUSED = {
    "a function": (lambda model: loupe.fn(own)(model.layers[0].output).save(), "own is a Python function"),
    "a huge number": (lambda model: (model.layers[0].output * 2**70).save(), "does not fit into 64 bits"),
    "a sparse tensor": (lambda model: (model.layers[0].output + torch.eye(8).to_sparse()).save(), "cannot be stored"),
    "half a surrogate pair": (lambda model: model.layers[0].output.save("\ud800"), "half a surrogate pair"),
    "a long name": (lambda model: model.layers[0].output.save("x" * 70_000), "70000 characters"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_stored_is_refused_with_the_users_line_and_no_file_is_left(tmp_path, name):
    model = stack()
    body, fact = REFUSED[name]
    try:
        with model.trace(X) as tracer:
            body(model)
            raise KeyboardInterrupt  # the graph is what is wanted, not its run
    except KeyboardInterrupt:
        pass
    with pytest.raises(PortableError, match=fact) as caught:
        tracer.graph.save(tmp_path / "file")
    assert caught.value.line.text.startswith(f'"{name}"') or name in caught.value.line.text
    assert list(tmp_path.iterdir()) == []


def test_what_no_reader_would_take_is_never_written(tmp_path):
    from loupe.files.intervention import InterventionGraph
    from loupe.graph.node import Node

    deep = []
    for _ in range(60):
        deep = [deep]
    graph = InterventionGraph()
    graph.nodes = [Node(0, "apply", "operator.eq", (deep, 1))]
    with pytest.raises(PortableError, match="deep"):
        graph.save(tmp_path / "file")
    assert list(tmp_path.iterdir()) == []
