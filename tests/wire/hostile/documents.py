"""Make documents of other formats and versions, with fields of the wrong kind and odd constants."""

from tests.wire.by_hand import Stored, container, dumps, valid
from tests.wire.hostile.table import TENSOR, changed, hostile

changed("another format", "the file is of the format 'onnx'", lambda file: file.document.update(format="onnx"))
changed(
    "a format that is null", "'format' of the graph is null, not a string", lambda f: f.document.update(format=None)
)
changed("no format", "the graph has no 'format'", lambda file: file.document.pop("format"))
changed(
    "a newer version", "version 2 of the format, and this loupe reads version 1", lambda f: f.document.update(version=2)
)
changed("a version before the first", "version 0 of the format", lambda file: file.document.update(version=0))
changed(
    "a version with a point",
    "'version' of the graph is a number with a point",
    lambda f: f.document.update(version=1.0),
)
changed("a version that is true", "'version' of the graph is true or false", lambda f: f.document.update(version=True))
changed(
    "an unknown field of a file",
    "the graph has the unknown field 'code'",
    lambda f: f.document.update(code="import os"),
)
changed("a graph beside a session", "unknown field 'graph'", lambda file: file.document.update(session=[file.block]))


@hostile("the graph has no 'graph'")
def a_document_without_a_graph():
    return container(dumps({"format": "loupe.graph", "version": 1}), {})


@hostile("the session has 0 blocks")
def a_session_without_blocks():
    return container(dumps({"format": "loupe.graph", "session": [], "version": 1}), {})


@hostile("'session' of the graph is an object, not a list")
def a_session_that_is_an_object():
    return container(dumps({"format": "loupe.graph", "session": {}, "version": 1}), {})


@hostile("block 0 is a list, not an object")
def a_block_that_is_a_list():
    return container(dumps({"format": "loupe.graph", "session": [[]], "version": 1}), {})


changed(
    "an unknown field of a block", "the graph has the unknown field 'run'", lambda file: file.block.update(run="now")
)
changed("an unknown field of a content", "unknown field 'imports'", lambda file: file.content.update(imports=["os"]))
changed("a content without nodes", "the graph has no 'nodes'", lambda file: file.content.pop("nodes"))
changed(
    "nodes that are an object", "'nodes' of the graph is an object, not a list", lambda f: f.content.update(nodes={})
)
changed("no constants", "the graph has no 'constants'", lambda file: file.content.pop("constants"))
changed(
    "a negative number of invokes", "the number of invokes of the graph is -1", lambda f: f.content.update(invokes=-1)
)
changed(
    "a billion invokes", "the number of invokes of the graph is 1000000000", lambda f: f.content.update(invokes=10**9)
)
changed(
    "invokes that say nothing", "'invokes' of the graph says what it is without", lambda f: f.content.update(invokes=0)
)
changed("invokes that are a text", "'invokes' of the graph is a string", lambda file: file.content.update(invokes="2"))


changed(
    "a constant that nobody takes",
    "constant 1 of the graph is used by nothing",
    lambda f: f.content["constants"].append({"tensor": TENSOR}),
)
changed("a constant without a tensor", "constant 0 has no 'tensor'", lambda file: file.content["constants"][0].clear())
changed(
    "a tensor that is not there",
    "which the file does not have",
    lambda f: f.content["constants"][0].update(tensor="0" * 64),
)
changed(
    "a tensor by a path",
    "is the tensor '/etc/passwd', which the file does not",
    lambda f: f.content["constants"][0].update(tensor="/etc/passwd"),
)
changed(
    "a constant that is a number",
    "constant 0 is a whole number, not an object",
    lambda f: f.content.update(constants=[1]),
)
changed(
    "an unknown field of a constant",
    "unknown field 'pickle'",
    lambda f: f.content["constants"][0].update(pickle="gASV"),
)
changed(
    "a dtype that the container says already",
    "is of the dtype 'float32'",
    lambda f: f.content["constants"][0].update(dtype="float32"),
)
changed("a dtype of objects", "is of the dtype 'object'", lambda f: f.content["constants"][0].update(dtype="object"))
changed(
    "complex numbers without pairs",
    "has no pairs of F32",
    lambda f: f.content["constants"][0].update(dtype="complex64"),
)
changed(
    "pairs of the wrong half",
    "has no pairs of F64",
    lambda f: f.constant(Stored("F32", [4, 2], bytes(32)), dtype="complex128"),
)
changed(
    "bytes that are no U8",
    "and its tensor is not U8",
    lambda f: f.content["constants"][0].update(dtype="float8_e5m2fnuz"),
)
changed(
    "whole numbers with a gradient",
    "is int64, which collects no gradients",
    lambda f: f.constant(Stored("I64", [1], bytes(8)), requires_grad=True),
)
changed(
    "a gradient that says nothing",
    "'requires_grad' of constant 0 says what it is",
    lambda f: f.content["constants"][0].update(requires_grad=False),
)
changed(
    "a gradient that is a number",
    "'requires_grad' of constant 0 is a whole number",
    lambda f: f.content["constants"][0].update(requires_grad=1),
)
changed(
    "truths that are neither",
    "has other bytes than 0 and 1",
    lambda f: f.constant(Stored("BOOL", [8], bytes(range(8)))),
)


@hostile("is no constant of the graph")
def a_tensor_that_nobody_takes():
    file = valid()
    other = Stored("U8", [3], b"abc")
    file.tensors[other.name] = other
    return file.bytes
