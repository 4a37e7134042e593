"""Files that were made to do harm, and files with mistakes: each is refused, with a message that says what is wrong."""

import io
import json
import pickle
import struct
import time
import zipfile

import pytest

import loupe
from loupe.errors import WireError
from loupe.wire.file import read_file
from tests.wire.by_hand import Stored, container, dumps, entries, packed, session, valid

HOSTILE = {}


def hostile(fragment, name=None):
    """Enter a way to make a file into the table, with a part of the message that it is refused with."""

    def enter(make):
        key = (name or make.__name__).replace("_", " ").strip()
        assert key not in HOSTILE
        HOSTILE[key] = (make, fragment)
        return make

    return enter


def changed(name, fragment, change, start=valid):
    """A file whose document is right but for one change; its hashes are right."""

    def make():
        file = start()
        change(file)
        return file.bytes

    hostile(fragment, name)(make)


def rewritten(name, fragment, change):
    """A file whose text is another one than the document's."""
    hostile(fragment, name)(lambda: container(change(valid().text), valid().tensors))


def headed(name, fragment, change, data=lambda data: data):
    """A container whose header is right but for one change."""

    def make():
        file = valid()
        header = {"__metadata__": {"loupe": file.text}, **entries(file.tensors)}
        change(header)
        return packed(header, data(b"".join(stored.data for stored in file.tensors.values())))

    hostile(fragment, name)(make)


def raw(name, fragment, change):
    """A file whose bytes are those of a right one but for one change."""
    hostile(fragment, name)(lambda: change(valid().bytes))


TENSOR = valid().content["constants"][0]["tensor"]
HEADER = struct.unpack("<Q", valid().bytes[:8])[0]


def applied(name, fragment, /, *call, **kwargs):
    """A file with one operation more."""
    changed(name, fragment, lambda file: file.applied(*call, **kwargs))


def argued(name, fragment, argument):
    """A file with an argument of an odd form."""
    applied(name, fragment, "torch.neg", argument)


def noded(name, fragment, **fields):
    """A file with one node more."""
    changed(name, fragment, lambda file: file.node(**fields))


READ = {"kind": "read"}
X = {"ref": 0}

# -- the container -----------------------------------------------------------------------------------------------------

raw("no bytes at all", "a file of 0 bytes has no header", lambda data: b"")
raw("seven bytes", "a file of 7 bytes has no header", lambda data: data[:7])
raw("length of zero", "the header is no JSON object", lambda data: struct.pack("<Q", 0) + data[8:])
raw("length longer than the file", "and the file has", lambda data: struct.pack("<Q", len(data)) + data[8:])
raw("length of 2**63", f"says that it has {1 << 63} bytes", lambda data: struct.pack("<Q", 1 << 63) + data[8:])
raw(
    "length of 2**64 - 1", f"says that it has {(1 << 64) - 1}", lambda data: struct.pack("<Q", (1 << 64) - 1) + data[8:]
)
raw("length over the limit", "268435457 bytes, and 268435456 are", lambda data: struct.pack("<Q", (1 << 28) + 1) + data)
raw("length one too short", "the header is not JSON", lambda data: struct.pack("<Q", HEADER - 1) + data[8:])
raw(
    "length one too long",
    "no UTF-8 text",
    lambda d: struct.pack("<Q", HEADER + 1) + d[8 : 8 + HEADER] + b"\xff" + d[9 + HEADER :],
)
raw("cut inside the header", "and the file has", lambda data: data[: 8 + HEADER // 2])
raw("cut inside the data", "lies at bytes 0 to 32 of 31", lambda data: data[:-1])
raw("cut before the data", "lies at bytes 0 to 32 of 0", lambda data: data[: 8 + HEADER])
raw("bytes behind the end", "1 bytes stand behind the last tensor", lambda data: data + b"\0")
raw("data of another tensor", "has other data than its name says", lambda data: data[:-1] + b"\x01")
raw("a pickle", "says that it has", lambda data: pickle.dumps({"graph": [1, 2, 3]}))
raw("text", "says that it has", lambda data: b"this is no graph")
raw(
    "a byte order mark",
    "the header is no JSON object",
    lambda d: packed(b"\xef\xbb\xbf" + d[8 : 8 + HEADER], d[8 + HEADER :]),
)
raw("a header in UTF-16", "the header is no UTF-8 text", lambda d: packed(d[8 : 8 + HEADER].decode().encode("utf-16")))
raw("a header that is a list", "the header is no JSON object", lambda data: packed("[]"))
raw("a header with bytes that are no text", "no UTF-8 text: invalid", lambda data: packed(b'{"a":"\xc3\x28"}'))
raw("a header of white space", "the header is no JSON object", lambda data: packed(" " * 64))
raw("a header of brackets", "the header has containers more than 48 deep", lambda data: packed('{"a":' + "[" * 100_000))
raw("brackets in closing order", "the header is not JSON", lambda data: packed("{" + "]" * 100_000))
raw("a header with a comment", "the header is not JSON", lambda data: packed('{"a":1/*no*/}'))
raw("two headers", "the header is not JSON: Extra data", lambda data: packed("{}{}"))
raw("NaN in the header", "NaN is no number of JSON", lambda data: packed('{"a":NaN}'))
raw(
    "a long number in the header",
    "the header is not JSON: Exceeds the limit",
    lambda d: packed('{"a":' + "9" * 5000 + "}"),
)
raw("half strings with escapes", "the header is not JSON", lambda data: packed('{"a":"' + '\\"' * 200_000))
raw(
    "half strings with escapes to the end",
    "the header is not JSON",
    lambda d: packed('{"a":"' + '\\"' * 200_000 + "\\"),
)
raw("quotes without end", "the header is not JSON", lambda data: packed('{"' + '"' * 200_001))


@hostile("the key 'k0' stands twice")
def many_keys_of_which_the_last_is_there_already():
    keys = [f'"k{number}":0' for number in range(100_000)]
    return packed("{" + ",".join([*keys, '"k0":0']) + "}")


@hostile("the key 'k99999' stands twice")
def many_keys_of_which_the_last_stands_twice():
    keys = [f'"k{number}":0' for number in range(100_000)]
    return packed("{" + ",".join([*keys, '"k99999":0']) + "}")


@hostile("says that it has")
def a_zip_file():
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("data.pkl", b"\x80\x02}q\x00.")
    return held.getvalue()


@hostile("a safetensors container without a graph")
def weights_without_metadata():
    return packed(entries(valid().tensors), b"".join(each.data for each in valid().tensors.values()))


@hostile("a safetensors container without a graph")
def weights_with_the_metadata_of_another_library():
    return packed({"__metadata__": {"format": "pt"}, **entries(valid().tensors)}, b"\0" * 32)


headed("metadata that is a list", "container without a graph", lambda header: header.update(__metadata__=["loupe"]))
headed("metadata that is null", "container without a graph", lambda header: header.update(__metadata__=None))
headed("metadata beside the graph", "has 'format' beside the graph", lambda h: h["__metadata__"].update(format="pt"))
headed("a graph that is an object", "is no string but dict", lambda header: header.update(__metadata__={"loupe": {}}))
headed("a graph that is a number", "is no string but int", lambda header: header.update(__metadata__={"loupe": 1}))
headed("an entry that is a list", "is not described by dtype, shape", lambda header: header.update({TENSOR: []}))
headed("an entry without a shape", "is not described by dtype, shape", lambda header: header[TENSOR].pop("shape"))
headed("an entry with a field more", "is not described by dtype", lambda header: header[TENSOR].update(strides=[1]))
headed("a dtype that nobody has", "has the unknown dtype 'F7'", lambda header: header[TENSOR].update(dtype="F7"))
headed("a dtype that is a number", "has the unknown dtype 7", lambda header: header[TENSOR].update(dtype=7))
headed("a dtype that is a list", "has the unknown dtype []", lambda header: header[TENSOR].update(dtype=[]))
headed("a shape that is a number", "has no shape of whole numbers: 8", lambda header: header[TENSOR].update(shape=8))
headed("a negative size", "has no shape of whole numbers: [-8]", lambda header: header[TENSOR].update(shape=[-8]))
headed("two negative sizes", "has no shape of whole numbers: [-2, -4]", lambda h: h[TENSOR].update(shape=[-2, -4]))
headed("a size with a point", "has no shape of whole numbers: [8.0]", lambda h: h[TENSOR].update(shape=[8.0]))
headed("a size that is true", "has no shape of whole numbers: [True, 8]", lambda h: h[TENSOR].update(shape=[True, 8]))
headed(
    "a size of 2**62",
    "has no shape of whole numbers: [4611686018427387904]",
    lambda h: h[TENSOR].update(shape=[1 << 62]),
)
headed("a huge shape", f"takes {4 << 40} bytes, and has 32", lambda header: header[TENSOR].update(shape=[1 << 40]))
headed(
    "a shape that overflows", "than any memory holds", lambda header: header[TENSOR].update(shape=[1 << 32, 1 << 32, 1])
)
headed("a shape that overflows to 8", "than any memory holds", lambda h: h[TENSOR].update(shape=[1 << 61, 1 << 61, 8]))
headed("a shape of none by too many", "than any memory holds", lambda h: h[TENSOR].update(shape=[0, 1 << 61, 1 << 61]))
headed("sixty-five dimensions", "has 65 dimensions, and 64 are", lambda h: h[TENSOR].update(shape=[8] + [1] * 64))
headed("offsets that are one number", "no data_offsets of two", lambda header: header[TENSOR].update(data_offsets=0))
headed("three offsets", "no data_offsets of two", lambda header: header[TENSOR].update(data_offsets=[0, 8, 32]))
headed("offsets with points", "no data_offsets of two", lambda header: header[TENSOR].update(data_offsets=[0.0, 32.0]))
headed("offsets the wrong way round", "lies at bytes 32 to 0", lambda h: h[TENSOR].update(data_offsets=[32, 0]))
headed("an offset before the data", "lies at bytes -8 to 24", lambda h: h[TENSOR].update(data_offsets=[-8, 24]))
headed("an offset behind the data", "lies at bytes 8 to 40 of 32", lambda h: h[TENSOR].update(data_offsets=[8, 40]))
headed(
    "an offset of 2**64",
    "lies at bytes 0 to 18446744073709551616",
    lambda h: h[TENSOR].update(data_offsets=[0, 1 << 64]),
)
headed(
    "a hole before the first tensor",
    "leaves a hole before it: it begins at 8, not at 0",
    lambda header: header[TENSOR].update(data_offsets=[8, 40]),
    lambda data: bytes(8) + data,
)
headed(
    "two tensors in one place",
    "overlaps with the one before it: it begins at 0, not at 32",
    lambda header: header.update(other=dict(header[TENSOR])),
)
headed(
    "tensors that overlap by half",
    "overlaps with the one before it: it begins at 16, not at 32",
    lambda header: header.update(other={**header[TENSOR], "data_offsets": [16, 48]}),
    lambda data: data + bytes(16),
)
headed(
    "a hole between tensors",
    "leaves a hole before it: it begins at 40, not at 32",
    lambda header: header.update(other={**header[TENSOR], "data_offsets": [40, 72]}),
    lambda data: data + bytes(40),
)
headed(
    "data that is read as another shape",
    "has other data than its name says",
    lambda header: header[TENSOR].update(shape=[2, 4]),
)
headed(
    "data that is read as another dtype",
    "has other data than its name says",
    lambda header: header[TENSOR].update(dtype="I32"),
)

# -- the text ----------------------------------------------------------------------------------------------------------

FORM = "the graph is JSON in another form"
rewritten("an empty text", "the graph is not JSON", lambda text: "")
rewritten("a text of null", "the graph is null, not an object", lambda text: "null")
rewritten("a text that is a list", "the graph is a list, not an object", lambda text: "[]")
rewritten("a text that is a number", "the graph is a whole number, not an object", lambda text: "7")
rewritten("half a text", "the graph is not JSON", lambda text: text[: len(text) // 2])
rewritten("a text of Python", "the graph is not JSON", lambda text: "__import__('os').system('id')")
rewritten("spaces", FORM, lambda text: text.replace(":", ": ", 1))
rewritten("a space at the end", FORM, lambda text: text + " ")
rewritten("a line of its own", FORM, lambda text: "\n" + text)
rewritten("a byte order mark in the text", "the graph is not JSON", lambda text: "\ufeff" + text)
rewritten("keys in another order", FORM, lambda text: '{"version":1,' + text[1:].replace(',"version":1', ""))
rewritten("escapes that are not needed", FORM, lambda text: text.replace("strength", "\\u0073trength"))
rewritten("an escaped slash", FORM, lambda text: text.replace("block.py", "block\\/py"))
rewritten("a number with an exponent", FORM, lambda text: text.replace("1.0", "1.0e0"))
rewritten("a number with a nought more", FORM, lambda text: text.replace("1.0", "1.00"))
rewritten("a nought below nothing", FORM, lambda text: text.replace('"version":1', '"version":-0'))
rewritten("a nought before a number", "the graph is not JSON", lambda text: text.replace('"version":1', '"version":01'))
rewritten("a number with a plus", "the graph is not JSON", lambda text: text.replace('"version":1', '"version":+1'))
rewritten("a hexadecimal number", "the graph is not JSON", lambda text: text.replace('"version":1', '"version":0x1'))
rewritten("a comma at the end", "the graph is not JSON", lambda text: text[:-1] + ",}")
rewritten("quotes of the other kind", "the graph is not JSON", lambda text: text.replace('"', "'"))
rewritten("NaN", "NaN is no number of JSON", lambda text: text.replace("1.0", "NaN"))
rewritten("Infinity", "Infinity is no number of JSON", lambda text: text.replace("1.0", "Infinity"))
rewritten("minus Infinity", "-Infinity is no number of JSON", lambda text: text.replace("1.0", "-Infinity"))
rewritten("a number beyond floats", FORM, lambda text: text.replace("1.0", "1e999"))
rewritten("a whole number of 5000 digits", "Exceeds the limit", lambda text: text.replace("1.0", "9" * 5000))
rewritten("two of the outermost key", "the key 'version' stands twice", lambda text: text[:-1] + ',"version":1}')
rewritten(
    "two of a block's key", "the key 'hash' stands twice", lambda text: text.replace('"hash":', '"hash":"","hash":')
)
rewritten(
    "two of a node's key", "the key 'kind' stands twice", lambda t: t.replace('"kind":', '"kind":"read","kind":', 1)
)
rewritten(
    "two of a note's key", "the key 'lines' stands twice", lambda text: text.replace('"lines":', '"lines":[],"lines":')
)
rewritten(
    "two of a key with an escape",
    "the key 'kind' stands twice",
    lambda t: t.replace('"kind":', '"\\u006bind":"read","kind":', 1),
)
rewritten(
    "a hundred thousand lists", "the graph has containers more than 48", lambda text: "[" * 100_000 + "]" * 100_000
)
rewritten(
    "a hundred thousand objects",
    "the graph has containers more than 48",
    lambda t: '{"a":' * 100_000 + "1" + "}" * 100_000,
)
rewritten("a raw line break in a string", "the graph is not JSON", lambda text: text.replace("block.py", "block\n.py"))
rewritten("a change without a new hash", "is not the one that its hash names", lambda text: text.replace("1.0", "2.0"))


def surrogates(name, fragment, old, new):
    """A file with half a surrogate pair in its text, which UTF-8 cannot hold, and an escape in the header can."""

    def make():
        header = {"__metadata__": {"loupe": valid().text.replace(old, new)}, **entries(valid().tensors)}
        return packed(json.dumps(header), valid().bytes[-32:])

    hostile(fragment, name)(make)


surrogates("half a surrogate pair in a note", "half a surrogate pair", "block.py", "\ud800")
surrogates("half a surrogate pair by an escape", FORM, "block.py", "\\ud800")
surrogates("half a surrogate pair in a name", "half a surrogate pair", '"out"', '"\udfff"')
surrogates("half a surrogate pair in a key", "half a surrogate pair", '"version"', '"\udfff"')

# -- the document ------------------------------------------------------------------------------------------------------

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

# -- constants ---------------------------------------------------------------------------------------------------------

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


# -- nodes -------------------------------------------------------------------------------------------------------------

changed(
    "a node that is a list",
    "node 7 is a list, not an object",
    lambda file: file.nodes.append([]) or file.block["notes"]["places"].append(None),
)
noded("a node without a kind", "node 7 has no 'kind'", target="x")
noded("an unknown kind", "node 7 is of the unknown kind 'exec'", kind="exec", target="print(1)")
noded("a kind that is a list", "'kind' of node 7 is a list", kind=["apply"])
noded("an unknown field of a node", "node 7 has the unknown field 'line'", kind="given", target="strength", line=3)
noded(
    "a site where none is",
    "node 7 has the unknown field 'site'",
    kind="given",
    target="strength",
    site={"path": "", "port": "output"},
)
noded("a read without a site", "node 7 has no 'site'", **READ)
noded("a site that is a text", "'site' of node 7 is a string", **READ, site="layers.0.output")
noded("an unknown port", "node 7 names the unknown port 'weight'", **READ, site={"path": "", "port": "weight"})
noded("a gradient by its port", "names the unknown port 'grad'", **READ, site={"path": "%0", "port": "grad"})
noded(
    "an unknown field of a site",
    "has the unknown field 'hook'",
    **READ,
    site={"path": "", "port": "output", "hook": "f"},
)
noded("a negative call", "the call of node 7 is -1", **READ, site={"path": "", "port": "output", "call": -1})
noded(
    "a call that says nothing",
    "'call' of the site of node 7 says what",
    **READ,
    site={"path": "", "port": "output", "call": 0},
)
noded(
    "an index without an operation",
    "has an index without an operation",
    **READ,
    site={"path": "", "port": "output", "index": 1},
)
noded(
    "an operation by a dunder",
    "names the operation '__call__'",
    **READ,
    site={"path": "", "port": "output", "op": "__call__"},
)
noded(
    "an operation that is null",
    "'op' of the site of node 7 is null",
    **READ,
    site={"path": "", "port": "output", "op": None},
)
noded(
    "a path with a dunder",
    "names '__class__.__base__', which leads out",
    **READ,
    site={"path": "__class__.__base__", "port": "output"},
)
noded(
    "a path into a dunder",
    "names 'layers.__dict__', which leads out",
    **READ,
    site={"path": "layers.__dict__", "port": "output"},
)
noded(
    "a path of a file",
    "names '/etc/passwd', which is no path of a module",
    **READ,
    site={"path": "/etc/passwd", "port": "output"},
)
noded(
    "a path to a folder above",
    "names '../../secret', which is no path",
    **READ,
    site={"path": "../../secret", "port": "output"},
)
noded("a path with a hole", "names 'layers..0', which is no path", **READ, site={"path": "layers..0", "port": "output"})
noded("a path with a space", "names 'layers 0', which is no path", **READ, site={"path": "layers 0", "port": "output"})
noded("a path with a nought byte", "which is no path of a module", **READ, site={"path": "layers\0", "port": "output"})
noded(
    "a path of a thousand parts",
    "names a path of 3999 characters",
    **READ,
    site={"path": ".".join(["abc"] * 1000), "port": "output"},
)
noded("a result's input", "names a site of the run as a whole", **READ, site={"path": "#result", "port": "input"})
noded("a parameter by a dunder", "names '__class__', which leads out", kind="parameter", target="__class__")
noded(
    "a call of what is no module",
    "names '__init__.__globals__', which leads out",
    kind="call",
    target="__init__.__globals__",
    args=[X],
)
noded("a target that is a number", "'target' of node 7 is a whole number", kind="apply", target=7)
noded(
    "a read with arguments",
    "node 7 (read) has 1 arguments, and takes 0",
    **READ,
    site={"path": "", "port": "output"},
    args=[X],
)
noded("a save of two values", "node 7 (save) has 2 arguments, and takes 1", kind="save", target="two", args=[X, X])
noded("a save of a constant", "node 7 saves something that is no node", kind="save", target="c", args=[{"const": 0}])
noded("a save of a name that is taken", "the name 'out' is saved twice", kind="save", target="out", args=[X])
noded(
    "a cache under a name that is taken",
    "the name 'out' is saved twice",
    kind="cache",
    target="out",
    args=[{"tuple": ["layers"]}],
)
noded(
    "a given value that nobody gives",
    "takes 'strenght', which is no parameter of the graph",
    kind="given",
    target="strenght",
)
noded("a given value of another block", "takes 'block0.out', which is no parameter", kind="given", target="block0.out")
noded("an invoke that is not there", "the invoke of node 7 is 3", **READ, site={"path": "", "port": "output"}, invoke=3)
noded(
    "an invoke below nothing",
    "'invoke' of node 7 says what it is",
    **READ,
    site={"path": "", "port": "output"},
    invoke=-1,
)
noded("a gradient of what comes later", "the gradient of node 9, which is not before it", **READ, gradient={"of": 9})
noded("a gradient of itself", "the gradient of node 7, which is not before it", **READ, gradient={"of": 7})
noded("a gradient of a negative node", "the gradient of node -1", **READ, gradient={"of": -1})
noded("a backward pass from a number", "runs backward from something that is no node", kind="backward", args=[1.0])
noded("a backward pass with a hook", "node 7 (backward) takes no 'hook'", kind="backward", args=[X], kwargs={"hook": 1})
noded(
    "a graph kept by a number", "'retain_graph' of node 7 is 1", kind="backward", args=[X], kwargs={"retain_graph": 1}
)
noded("a stop at a negative step", "'step' of node 7 is -1", kind="stop", kwargs={"step": -1})
noded("a stop with arguments", "node 7 (stop) has 1 arguments", kind="stop", args=[X])
noded(
    "a cache of a list", "collects at something that is no tuple of paths", kind="cache", target="c", args=[["layers"]]
)
noded(
    "a cache of numbers",
    "collects at something that is no tuple of paths",
    kind="cache",
    target="c",
    args=[{"tuple": [1]}],
)
noded(
    "a cache at a dunder", "names '__dict__', which leads out", kind="cache", target="c", args=[{"tuple": ["__dict__"]}]
)
noded(
    "a cache at a file",
    "names 'C:\\\\\\\\secret', which is no path",
    kind="cache",
    target="c",
    args=[{"tuple": ["C:\\secret"]}],
)
noded(
    "a cache on an odd device",
    "'device' of node 7 is 'disk'",
    kind="cache",
    target="c",
    args=[{"tuple": [""]}],
    kwargs={"device": "disk"},
)
noded(
    "a cache of an odd dtype",
    "'dtype' of node 7 is 'float32'",
    kind="cache",
    target="c",
    args=[{"tuple": [""]}],
    kwargs={"dtype": "float32"},
)
noded(
    "a cache with a path to write to",
    "node 7 (cache) takes no 'file'",
    kind="cache",
    target="c",
    args=[{"tuple": [""]}],
    kwargs={"file": "/tmp/x"},
)
noded(
    "a keyword with a dunder",
    "has the keyword '__class__', which is no name",
    kind="apply",
    target="torch.neg",
    args=[X],
    kwargs={"__class__": 1},
)
noded(
    "a keyword with a dot",
    "has the keyword 'a.b', which is no name",
    kind="call",
    target="layers.0",
    args=[X],
    kwargs={"a.b": 1},
)
noded("arguments that are an object", "'args' of node 7 is an object", kind="apply", target="torch.neg", args={"0": X})
noded("keywords that are a list", "'kwargs' of node 7 is a list", kind="apply", target="torch.neg", kwargs=[X])
noded("arguments that say nothing", "'args' of node 7 says what it is without it", kind="stop", args=[])


def stepped(name, fragment, **steps):
    noded(name, fragment, **READ, site={"path": "", "port": "output"}, steps=steps)


stepped("steps out of order", "lists steps that are not in order", group=1, listed=[2, 1])
stepped("steps that stand twice", "lists steps that are not in order", group=1, listed=[1, 1])
stepped("no steps", "lists steps that are not in order", group=1, listed=[])
stepped("steps that are listed and bounded", "has the unknown field 'start'", group=1, listed=[1], start=0)
stepped("steps without a group", "the steps of node 7 has no 'group'", start=0)
stepped("a stride of nothing", "the stride of node 7 is 0", group=1, start=0, stride=0)
stepped("a stride backwards", "the stride of node 7 is -1", group=1, start=0, stride=-1)
stepped("a first step below nothing", "the first step of node 7 is -2", group=1, start=-2)
stepped(
    "a step of a huge number",
    "the last step of node 7 is 1267650600228229401496703205376",
    group=1,
    start=0,
    stop=1 << 100,
)


def in_modes(name, fragment, **modes):
    noded(name, fragment, **READ, site={"path": "", "port": "output"}, modes=modes)


in_modes("modes without a list", "the modes of node 7 has no 'autocast'", grad=True)
in_modes("a mode that is a number", "'grad' of the modes of node 7 is a whole number", grad=1, autocast=[])
in_modes(
    "an autocast to a dtype of nobody",
    "stands in the autocast ['cpu', 'object']",
    grad=True,
    autocast=[["cpu", "object"]],
)
in_modes(
    "an autocast on a device of nobody",
    "stands in the autocast ['fpga', 'float16']",
    grad=True,
    autocast=[["fpga", "float16"]],
)
in_modes("an autocast that is one text", "stands in the autocast 'bfloat16'", grad=True, autocast=["bfloat16"])
in_modes("an unknown mode", "has the unknown field 'inference'", grad=True, autocast=[], inference=True)

# -- operations --------------------------------------------------------------------------------------------------------

applied("a system call", "names the unknown operation 'os.system'", "os.system", "id")
applied("a builtin", "names the unknown operation 'builtins.eval'", "builtins.eval", "1")
applied("a builtin without a module", "names the unknown operation 'eval'", "eval", "1")
applied("an import", "names the unknown operation '__import__'", "__import__", "os")
applied("a load of torch", "names the unknown operation 'torch.load'", "torch.load", "/tmp/weights.pt")
applied("a save of torch", "names the unknown operation 'torch.save'", "torch.save", X, "/tmp/out.pt")
applied("a tensor from a file", "names the unknown operation 'torch.from_file'", "torch.from_file", "/etc/passwd")
applied("a download", "names the unknown operation 'torch.hub.load'", "torch.hub.load", "a/b", "c")
applied("an operation of torch.ops", "names the unknown operation 'torch.ops.aten.add'", "torch.ops.aten.add", X, X)
applied("a pointer", "names the unknown operation 'Tensor.data_ptr'", "Tensor.data_ptr", X)
applied("a window on memory", "names the unknown operation 'torch.as_strided'", "torch.as_strided", X, [9], [1], 100)
applied(
    "a window on memory by a method",
    "names the unknown operation 'Tensor.as_strided'",
    "Tensor.as_strided",
    X,
    [9],
    [1],
)
applied("a storage", "names the unknown operation 'Tensor.untyped_storage'", "Tensor.untyped_storage", X)
applied("a hook", "names the unknown operation 'Tensor.register_hook'", "Tensor.register_hook", X, X)
applied("a map with a function", "names the unknown operation 'Tensor.map_'", "Tensor.map_", X, X, X)
applied(
    "an attribute by its operator",
    "names the unknown operation 'operator.attrgetter'",
    "operator.attrgetter",
    "__class__",
)
applied("a call by its operator", "names the unknown operation 'operator.call'", "operator.call", X)
applied("an operation without a name", "names the unknown operation ''", "", X)
applied("an operation with a nought byte", "names the unknown operation 'torch.neg\\\\x00'", "torch.neg\0", X)
applied("an operation in capitals", "names the unknown operation 'torch.NEG'", "torch.NEG", X)
applied("a function of this process", "calls 'local.f', a function of somebody's own process", "local.f", X)
applied("a lambda of this process", "calls 'local.<lambda>', a function", "local.<lambda>", X)
for attribute in (
    "__class__",
    "__dict__",
    "_base",
    "grad_fn",
    "device_index",
    "untyped_storage",
    "_version",
    "__reduce_ex__",
):
    applied(
        f"the attribute {attribute}", f"the attribute '{attribute}' of a value is none", "python.getattr", X, attribute
    )
for method in ("__reduce__", "__class__", "__getattribute__", "numpy", "tofile", "share_memory_", "data_ptr", "pop"):
    applied(f"the method {method}", f"the method '{method}' of a value is none", "python.call_method", X, method)
applied("an attribute that is a node", "python.getattr names no attribute", "python.getattr", X, {"ref": 1})
applied("an attribute with a default", "python.getattr names no attribute", "python.getattr", X, "T", 1)
applied("an attribute that is a number", "python.getattr names no attribute", "python.getattr", X, 1)
applied("an attribute of a value without a name", "python.getattr names no attribute", "python.getattr", X)
argued("a device in other digits", "names the unknown device 'cuda:٠'", {"device": "cuda:٠"})
argued("a device with a nought too many", "names the unknown device 'cuda:01'", {"device": "cuda:01"})
argued("a device that torch cannot count to", "names the unknown device 'cuda:128'", {"device": "cuda:128"})
applied("a method that is a node", "python.call_method names no method", "python.call_method", X, {"ref": 1})
applied("an attribute by a keyword", "python.getattr names no attribute", "python.getattr", X, "T", name="__class__")

# -- arguments ---------------------------------------------------------------------------------------------------------

argued("a reference to itself", "refers to node 7, which is not before it", {"ref": 7})
argued("a reference forwards", "refers to node 8, which is not before it", {"ref": 8})
argued("a negative reference", "refers to node -1, which is not before it", {"ref": -1})
argued("a reference that is a text", "an argument of node 7 is a string, not a whole number", {"ref": "0"})
argued("a reference that is true", "an argument of node 7 is true or false, not a whole number", {"ref": True})
argued("a constant that is not there", "takes constant 1, and there are 1", {"const": 1})
argued("a negative constant", "takes constant -1, and there are 1", {"const": -1})
argued("an object with two keys", "is an object with 2 keys", {"ref": 0, "const": 0})
argued("an object without keys", "is an object with 0 keys", {})
argued("an unknown kind of argument", "is of the unknown kind 'callable'", {"callable": "os.system"})
argued("a pickle as an argument", "is of the unknown kind 'pickle'", {"pickle": "gASVIQ=="})
argued("a module as an argument", "is of the unknown kind 'module'", {"module": "layers.0"})
argued("a number of 65 bits", "is 18446744073709551616", 1 << 64)
argued("a negative number of 65 bits", "is -9223372036854775809", -(1 << 63) - 1)
argued("a dtype that torch does not compute with", "names the unknown dtype 'qint8'", {"dtype": "qint8"})
argued("a dtype by a dunder", "names the unknown dtype '__class__'", {"dtype": "__class__"})
argued("a dtype by number", "names the unknown dtype 3", {"dtype": 3})
argued("a layout of nobody", "names the unknown layout 'sparse_coo'", {"layout": "sparse_coo"})
argued("a memory format of nobody", "names the unknown memory_format 'x'", {"memory_format": "x"})
argued("a device of nobody", "names the unknown device 'disk:0'", {"device": "disk:0"})
argued("a device with a long number", "names the unknown device 'cuda:99999'", {"device": "cuda:99999"})
argued("a device with a line break", "names the unknown device 'cpu\\\\n'", {"device": "cpu\n"})
argued("a float of an odd name", "is a float of the name 'NaN'", {"float": "NaN"})
argued("a float of a number", "is a float of the name 1.5", {"float": 1.5})
argued("an ellipsis that is false", "is no ellipsis", {"ellipsis": False})
argued("a complex number of whole numbers", "is a complex number of something else", {"complex": [1, 2]})
argued("a complex number of one part", "has 1 parts where 2 are meant", {"complex": [1.0]})
argued("a slice of two", "has 2 parts where 3 are meant", {"slice": [0, 1]})
argued("a slice of texts", "has a slice of something else than whole numbers", {"slice": ["a", "b", None]})
argued("a slice of slices", "has a slice of something else", {"slice": [{"slice": [0, 1, None]}, None, None]})
argued("a tuple that is a text", "an argument of node 7 is a string, not a list", {"tuple": "abc"})
argued("a dict that is an object", "an argument of node 7 is an object, not a list", {"dict": {"a": 1}})
argued("a dict with a key of two", "has the key 'a' twice", {"dict": [["a", 1], ["a", 2]]})
argued("a dict with a key that is true", "has a key that is no string and no whole number", {"dict": [[True, 1]]})
argued("a dict with a key that is null", "has a key that is no string and no whole number", {"dict": [[None, 1]]})
argued("a dict with a key that is a node", "has a key that is no string", {"dict": [[{"ref": 0}, 1]]})
argued("a dict of triples", "has 3 parts where 2 are meant", {"dict": [["a", 1, 2]]})
argued("a long text", "is a string of 70000 characters, and 65536 are the most", "x" * 70_000)


def nested(deep, wrap):
    found = X
    for _ in range(deep):
        found = wrap(found)
    return found


argued("lists in lists", "has containers more than 32 deep", nested(33, lambda inner: [inner]))
argued("lists of a million", "has 1048577 items, and 1048576 are the most", [0] * ((1 << 20) + 1))

# -- parameters, generations, sessions, notes --------------------------------------------------------------------------


def opened(name, fragment, *parameters):
    changed(name, fragment, lambda file: file.content.update(parameters=[*file.content["parameters"], *parameters]))


opened("two parameters of a name", "leaves 'strength' open twice", {"name": "strength", "default": 2.0})
opened("a parameter with a dot", "leaves 'a.b' open, which is no name", {"name": "a.b"})
opened("a parameter without a name", "a parameter of the graph has no 'name'", {"default": 1})
opened("a parameter with a type", "has the unknown field 'type'", {"name": "x", "type": "os.PathLike"})
opened(
    "a parameter whose default is a node",
    "refers to node 0, which is not before it",
    {"name": "x", "default": {"ref": 0}},
)
opened("a parameter that is a text", "a parameter of the graph is a string", "x")
changed(
    "parameters that are an object",
    "'parameters' of the graph is an object",
    lambda f: f.content.update(parameters={"a": 1}),
)


def generating(name, fragment, **options):
    changed(name, fragment, lambda file: file.content.update(generation=options))


generating("code from the Hub", "generates with the option 'custom_generate'", custom_generate="someone/repository")
generating("a model from the Hub", "generates with the option 'assistant_model'", assistant_model="someone/model")
generating("trust in code", "generates with the option 'trust_remote_code'", trust_remote_code=True)
generating("a tokenizer from the Hub", "generates with the option 'tokenizer'", tokenizer="someone/tokenizer")
generating("a processor of logits", "generates with the option 'logits_processor'", logits_processor=["f"])
generating("a cache of a class", "generates with the option 'cache_implementation'", cache_implementation="static")
generating("an option by a dunder", "generates with the option '__class__'", __class__="x")
generating("an option that is a node", "refers to node 0, which is not before it", max_new_tokens={"ref": 0})
changed(
    "options that are a list", "'generation' of the graph is a list", lambda file: file.content.update(generation=[])
)

changed(
    "a block that takes what comes later",
    "takes 'block1.again', which no earlier block saves",
    lambda f: f.blocks[1]["content"]["nodes"][0].update(target="block1.again"),
    session,
)
changed(
    "a block that takes from one that is not there",
    "takes 'block7.out', which no earlier block saves",
    lambda f: f.blocks[1]["content"]["nodes"][0].update(target="block7.out"),
    session,
)
changed(
    "a block that takes what is not saved",
    "takes 'block0.secret', which no earlier",
    lambda f: f.blocks[1]["content"]["nodes"][0].update(target="block0.secret"),
    session,
)
changed(
    "a first block that takes from a later",
    "node 1 of block 0 takes 'block1.again'",
    lambda f: f.nodes[1].update(target="block1.again"),
    session,
)
changed(
    "a block number with a sign",
    "takes 'block-1.out'",
    lambda f: f.blocks[1]["content"]["nodes"][0].update(target="block-1.out"),
    session,
)
changed(
    "a block number in other digits",
    "takes 'block٠.out'",
    lambda f: f.blocks[1]["content"]["nodes"][0].update(target="block٠.out"),
    session,
)


def noted(name, fragment, **fields):
    changed(name, fragment, lambda file: file.block["notes"].update(fields))


noted("places of fewer nodes", "have the lines of 1 nodes, and there are 7", places=[0])
noted("a place that is not there", "a line of the graph is 5", places=[5] * 7)
noted("a negative place", "a line of the graph is -1", places=[-1] * 7)
noted("lines that are texts", "a line of the graph is not [file, number, text]", lines=["block.py:3"])
noted("a line with a negative number", "a line of the graph is -3", lines=[["block.py", -3, ""]])
noted(
    "a line with a number that is a text",
    "the number of a line of the graph is a string",
    lines=[["block.py", "3", ""]],
)
noted("an unknown note", "the notes of the graph has the unknown field 'author'", author="me")
noted("more edited nodes than there are", "the number of edited nodes of the graph is 8", edited=8)
noted("a look at what is not there", "a look of the graph is 7", looks=[[7, 0]])
noted("a look that is a number", "a look of the graph is no pair", looks=[3])
ORIGIN = {"fingerprint": "0" * 64, "kind": "Stack", "modules": {}}
noted(
    "an origin without a fingerprint",
    "the origin of the graph has no 'fingerprint'",
    origin={"kind": "Stack", "modules": {}},
)
noted("an origin with code", "has the unknown field 'source'", origin={**ORIGIN, "source": "class Stack: ..."})
noted(
    "an origin of modules by dunders",
    "names '__init__', which leads out",
    origin={**ORIGIN, "modules": {"__init__": "x"}},
)
noted(
    "an origin of modules by number",
    "the class of 'layers' is a whole number",
    origin={**ORIGIN, "modules": {"layers": 1}},
)
noted(
    "a revision that is a list",
    "'revision' of the origin of the graph is a list",
    origin={**ORIGIN, "revision": ["main"]},
)
changed("no notes", "the graph has no 'notes'", lambda file: file.block.pop("notes"))
rewritten(
    "a hash that is null",
    "'hash' of the graph is null, not a string",
    lambda t: t.replace(f'"{valid_hash(t)}"', "null"),
)
rewritten(
    "a hash in capitals",
    "is not the one that its hash names",
    lambda text: text.replace(valid_hash(text), valid_hash(text).upper()),
)


def valid_hash(text):
    return json.loads(text)["graph"]["hash"]


@pytest.mark.parametrize("start", [valid, session])
def test_the_files_that_the_others_are_made_of_are_right(start):
    assert len(read_file(start().bytes).blocks) == len(start().blocks)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_with_its_own_message_at_once(name):
    make, fragment = HOSTILE[name]
    data = make()
    started = time.process_time()
    with pytest.raises(WireError) as caught:
        read_file(data)
    assert time.process_time() - started < 5
    assert fragment.replace("\\\\", "\\") in str(caught.value)
    assert caught.value.remedy
    assert len(str(caught.value)) < 12_000


def test_there_are_more_than_sixty_of_them():
    assert len(HOSTILE) > 240


@pytest.mark.parametrize("name", list(HOSTILE)[::9])
def test_loading_a_hostile_file_from_a_path_says_the_same(name, tmp_path):
    make, fragment = HOSTILE[name]
    (tmp_path / "hostile.loupe").write_bytes(make())
    with pytest.raises(WireError) as caught:
        loupe.load(tmp_path / "hostile.loupe")
    assert fragment.replace("\\\\", "\\") in str(caught.value)
