"""What the opset says: every function of torch is allowed or refused for a reason, and what each operation takes."""

import collections
import warnings

import pytest
import torch
from torch.overrides import get_overridable_functions

from loupe.errors import GraphError
from loupe.graph.arguments import given, is_bounded, parameters_of, wrong_arguments
from loupe.graph.graph import Graph
from loupe.graph.lint import lint
from loupe.graph.node import Const, Named, Node, Ref
from loupe.graph.opset import (
    OPSET,
    PORTABLE_ATTRIBUTES,
    is_portable_attribute,
    operation_of,
    operations,
)
from loupe.graph.refusals import REASONS, refused, why_refused, why_refused_attribute
from loupe.ops.table import function_name, function_of

SPACES = {
    torch: "torch",
    torch.functional: "torch",
    torch.nn.functional: "nn.functional",
    torch.linalg: "linalg",
    torch.fft: "fft",
    torch.special: "special",
    torch.Tensor: "Tensor",
}


def listed() -> dict[str, object]:
    """Torch's listing of what can be overridden, in these namespaces, by loupe's names."""
    found: dict[str, object] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        listing = get_overridable_functions()
    for home, space in SPACES.items():
        for function in listing[home]:
            leaf = getattr(function, "__name__", "").removeprefix(f"{space}_")
            if leaf != "__get__":
                found[f"{space}.{leaf}"] = function
    return found


def test_every_function_that_torch_lists_is_allowed_or_refused_for_a_reason():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        missing = [
            name
            for name, function in listed().items()
            if name not in OPSET and function_name(function) is None and why_refused(name) is None
        ]
    assert missing == []


def test_every_attribute_that_torch_lists_may_be_read_or_is_refused_for_a_reason():
    members = vars(torch.Tensor) | vars(torch._C.TensorBase)
    attributes = [name for name, member in members.items() if not name.startswith("_") and not callable(member)]
    assert {"shape", "grad_fn", "H", "name"} <= set(attributes)
    missing = [each for each in attributes if not is_portable_attribute(each) and f"Tensor.{each}" not in refused()]
    assert missing == []


def test_nothing_is_both_allowed_and_refused():
    assert [name for name in OPSET if why_refused(name)] == []
    named_results = {"values", "indices"}  # fields of torch.max; of a tensor they are methods for sparse ones
    both = {name for name in PORTABLE_ATTRIBUTES if f"Tensor.{name}" in refused()}
    assert both == named_results


def test_each_refusal_is_a_name_of_its_own_with_a_fact_and_a_remedy():
    assert set(refused().values()) == set(REASONS) - {"private"}
    for name in refused():
        fact, remedy = why_refused(name)
        assert len(fact) > 15, name
        assert len(remedy) > 10, name
    repeated = collections.Counter(fact for fact, _ in REASONS.values())
    assert max(repeated.values()) == 1


@pytest.mark.parametrize(
    "name",
    "torch.as_strided Tensor.as_strided Tensor.as_strided_scatter torch.as_strided_scatter torch.as_strided_copy "
    "Tensor.data_ptr Tensor.storage Tensor.untyped_storage Tensor.set_ Tensor.resize_ Tensor._base Tensor.apply_ "
    "Tensor.map_ Tensor.register_hook torch.empty_like Tensor.new_empty torch.load torch.from_file Tensor.numpy "
    "torch.compile torch.ctc_loss nn.functional.ctc_loss torch.grid_sampler_2d Tensor.__reduce_ex__ Tensor.__class__ "
    "torch._sync".split(),
)
def test_what_reaches_beyond_its_tensor_is_refused_with_the_reason(name):
    fact, remedy = why_refused(name)
    assert name not in OPSET
    with pytest.raises(GraphError) as raised:
        function_of(name)
    assert fact in raised.value.fact
    assert raised.value.remedy == remedy
    graph = Graph()
    graph.nodes.append(Node(0, "apply", name))
    with pytest.raises(GraphError, match="which is refused"):
        lint(graph)


def test_pure_functions_that_look_like_others_are_allowed():
    for name in (
        "torch.stft torch.block_diag torch.masked_scatter torch.index_copy nn.functional.multi_head_attention_forward "
        "torch.lstm_cell torch.detach_copy torch.select_copy linalg.vander torch.nan_to_num Tensor.copy_"
    ).split():
        assert name in OPSET, name


def test_attributes_are_a_list_without_names_of_python():
    assert {"logits", "values", "logabsdet", "hidden_states", "past_key_values", "T", "shape"} <= PORTABLE_ATTRIBUTES
    assert not any(name.startswith("_") for name in PORTABLE_ATTRIBUTES)
    for name in ("__class__", "_base", "data", "grad_fn", "grad", "is_shared", "no_such_field", "__dict__", "func"):
        assert not is_portable_attribute(name)
        assert why_refused_attribute(name).remedy
    assert '["field"]' in why_refused_attribute("no_such_field").remedy


def test_every_operation_has_words_that_are_known():
    words = {"tensor", "number", "bool", "string", "none", "dtype", "device", "layout", "memory_format"}
    for name, operation in operations().items():
        assert operation.effect in ("pure", "view", "inplace", "random"), name
        assert operation.cost in ("free", "linear", "product", "cubic"), name
        parameters = parameters_of(operation.takes)
        assert parameters, name
        for parameter in parameters:
            if "any" not in operation.takes:
                assert parameter.kinds <= words | {"list", "ellipsis"}, name
        assert len([each for each in parameters if each.variadic]) <= 1


@pytest.mark.parametrize(
    ("name", "cost", "bounded"),
    [
        ("Tensor.transpose", "free", True),
        ("Tensor.size", "free", True),
        ("Tensor.add_", "linear", True),
        ("torch.sum", "linear", True),
        ("torch.matmul", "product", True),
        ("operator.matmul", "product", True),
        ("fft.rfft2", "product", True),
        ("torch.sort", "product", True),
        ("linalg.svd", "cubic", True),
        ("torch.nonzero", "linear", False),
        ("Tensor.unique", "product", False),
        ("torch.masked_select", "linear", False),
        ("torch.bincount", "linear", False),
    ],
)
def test_costs_and_sizes(name, cost, bounded):
    assert (operation_of(name).cost, operation_of(name).bounded) == (cost, bounded)


X = Ref(0)
F32 = Named("dtype", "float32")
CPU = Named("device", "cpu")


@pytest.mark.parametrize(
    ("name", "args", "kwargs"),
    [
        ("torch.softmax", (X, -1), {"dtype": F32}),
        ("torch.softmax", (X,), {"dim": Ref(1)}),
        ("Tensor.mean", (X,), {"axis": (0, 1), "keepdims": True}),
        ("Tensor.view", (X, 2, Ref(1), -1), {}),
        ("Tensor.view", (X, F32), {}),
        ("Tensor.to", (X, "cpu", F32), {"non_blocking": True}),
        ("Tensor.to", (X, CPU), {"memory_format": Named("memory_format", "channels_last")}),
        ("Tensor.new_zeros", (X, (2, 3)), {"dtype": F32, "device": CPU}),
        ("torch.add", (2, X), {"alpha": 3}),
        ("torch.cat", ([X, Const(0)],), {"dim": 1}),
        ("torch.einsum", ("ij,jk->ik", X, Const(1)), {}),
        ("torch.tensordot", (X, X), {"dims": ([0], [1])}),
        ("torch.where", (X, 0.0, X), {}),
        ("nn.functional.pad", (X, (1, 1)), {"mode": "constant", "value": None}),
        ("nn.functional.relu", (X, 1), {}),
        ("nn.functional.layer_norm", (X, [8], None, Const(0)), {"eps": 1e-5}),
        ("nn.functional.scaled_dot_product_attention", (X, X, X), {"is_causal": True, "scale": None}),
        ("operator.getitem", (X, (slice(None, Ref(1)), ..., None, [0, 1], Const(0))), {}),
        ("operator.setitem", (X, (0, -1), 1.5), {}),
        ("operator.getitem", (X, "logits"), {}),
        ("operator.mul", (X, 1 + 2j), {}),
        ("python.getattr", (X, "logits"), {}),
        ("python.call_method", (X, "get", "mask"), {"default": None}),
        ("loupe.with_item", (X, 0, X), {}),
        ("Tensor.random_", (X,), {"from": 0, "to": 3}),
        ("nn.functional.normalize", (X,), {"out": None}),
    ],
)
def test_arguments_that_are_taken(name, args, kwargs):
    assert wrong_arguments(name, args, kwargs) is None


@pytest.mark.parametrize(
    ("name", "args", "kwargs", "text"),
    [
        ("torch.softmax", (X, "last"), {}, "torch.softmax takes no string as dim"),
        ("torch.softmax", (X, 0), {"dtype": CPU}, "torch.softmax takes no device as dtype"),
        ("torch.softmax", (X, 0), {"dtype": "float32"}, "torch.softmax takes no string as dtype"),
        ("torch.softmax", ({"a": X}, 0), {}, "torch.softmax takes no dict as input"),
        ("Tensor.mean", (X,), {"foo": 1}, "Tensor.mean takes no keyword 'foo'"),
        ("Tensor.mean", (X,), {"self": X}, "Tensor.mean takes no keyword 'self'"),
        ("Tensor.mean", (X,), {"dim": slice(0, 1)}, "Tensor.mean takes no slice as dim"),
        ("torch.relu", (X, X), {}, "torch.relu takes no more than 1 in order, not 2"),
        ("torch.add", (X, X), {"out": X}, "torch.add takes no keyword 'out'"),
        ("nn.functional.normalize", (X,), {"out": X}, "nn.functional.normalize takes no value as out"),
        ("Tensor.bernoulli_", (X,), {"generator": X}, "Tensor.bernoulli_ takes no keyword 'generator'"),
        ("Tensor.sum", (X,), {"dim": [0, "a"]}, "Tensor.sum takes no string as dim"),
        ("Tensor.sum", (X,), {"dim": [0, [{}]]}, "Tensor.sum takes no dict as dim"),
        ("torch.cat", ([X, 1.0],), {}, "torch.cat takes no number as tensors"),
        ("Tensor.view", (X, 1, 2, "x"), {}, "Tensor.view takes no string as dtype"),
        ("Tensor.keys", (X,), {}, "there is no operation 'Tensor.keys'"),
        ("nn.functional.embedding", (X, X), {"max_norm": 1.0}, "nn.functional.embedding takes no number as max_norm"),
        ("operator.mod", ("%99999999d", X), {}, "operator.mod takes no string as a"),
        ("operator.mul", ([0], X), {}, "operator.mul takes no list as a"),
        ("operator.getitem", (X, print), {}, "operator.getitem takes no value of type builtin_function_or_method as b"),
        ("operator.getitem", (X, 0), {"b": 1, "k": 0}, "operator.getitem takes no keyword 'k'"),
        ("python.getattr", (X, "__class__"), {}, "python.getattr reads no '__class__': its name begins with"),
        ("python.getattr", (X, Ref(1)), {}, "python.getattr takes a name as its second argument"),
        ("python.getattr", (X,), {"name": "data"}, "python.getattr takes a name as its second argument"),
        ("python.getattr", (X, "shape", X), {}, "python.getattr takes no more than 2 in order, not 3"),
        ("python.call_method", (X, "__reduce__"), {}, "python.call_method calls no method '__reduce__'"),
        ("python.call_method", (X, "pop"), {}, "python.call_method calls no method 'pop'"),
        ("torch.multinomial", (X, 2, True, X), {}, "torch.multinomial takes no more than 3 in order, not 4"),
        ("Tensor.new_zeros", (X, 2), {"pin_memory": True}, "Tensor.new_zeros takes no keyword 'pin_memory'"),
        ("linalg.svd", (X,), {"driver": 3}, "linalg.svd takes no number as driver"),
        ("linalg.det", ([[1.0]],), {}, "linalg.det takes no list as A"),
    ],
)
def test_arguments_that_are_not_taken(name, args, kwargs, text):
    assert (wrong_arguments(name, args, kwargs) or "").startswith(text)


def test_a_callable_a_path_or_a_type_is_taken_nowhere():
    for name, operation in operations().items():
        for parameter in parameters_of(operation.takes):
            if name.startswith("python."):
                continue
            key = parameter.names[0]
            for bad in (print, object(), b"bytes", int, {1, 2}, torch.float32):
                args, kwargs = ((bad,), {}) if not parameter.keyword_only else ((), {key: bad})
                assert wrong_arguments(name, args, kwargs) is not None, (name, key, bad)


def test_what_is_given_in_order_is_found_by_its_name():
    assert given("nn.functional.dropout", "inplace", (X, 0.5, False, True), {}) is True
    assert given("nn.functional.dropout", "inplace", (X, 0.5), {"inplace": True}) is True
    assert given("nn.functional.dropout", "inplace", (X, 0.5), {}) is None


@pytest.mark.parametrize(
    ("name", "args", "kwargs", "bounded"),
    [
        ("torch.where", (X,), {}, False),
        ("torch.where", (X, X, 0.0), {}, True),
        ("torch.repeat_interleave", (X,), {}, False),
        ("torch.repeat_interleave", (X, 3), {}, True),
        ("Tensor.repeat_interleave", (X, X), {"dim": 0}, False),
        ("Tensor.repeat_interleave", (X, X), {"dim": 0, "output_size": 9}, True),
        ("nn.functional.one_hot", (X,), {}, False),
        ("nn.functional.one_hot", (X, 7), {}, True),
        ("Tensor.tensor_split", (X, Const(0)), {}, False),
        ("Tensor.tensor_split", (X, [1, 2]), {}, True),
        ("Tensor.nonzero", (X,), {}, False),
        ("local.f", (X,), {}, False),
    ],
)
def test_whether_a_size_can_be_told_follows_from_the_arguments(name, args, kwargs, bounded):
    assert is_bounded(name, args, kwargs) is bounded
