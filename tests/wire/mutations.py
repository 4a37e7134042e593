"""Change files of graphs at random, as bytes and as data, and say what a reader made of one."""

import copy
import hashlib
import json
import struct

import torch

import loupe
from loupe import Model
from loupe.errors import WireError
from loupe.files.intervention import from_document
from loupe.files.neutral import without_torch
from loupe.graph.lint import lint
from loupe.wire.document import Document, write_document
from loupe.wire.file import read_file, write_file
from tests import tiny
from tests.wire.by_hand import dumps, packed, session, valid

NUMBERS = [
    0,
    1,
    2,
    3,
    7,
    -1,
    -2,
    255,
    1 << 31,
    (1 << 31) - 1,
    1 << 32,
    1 << 58,
    1 << 62,
    1 << 63,
    (1 << 64) - 1,
    1 << 64,
]
ODD = [
    *NUMBERS,
    *(10**30, -(10**30), 0.0, -0.0, 1.0, 1.5, -1e308, 5e-324, None, True, False),
    *(
        "",
        "x",
        "é\u2028",
        "\0",
        "out",
        "again",
        "strength",
        "block0.out",
        "block1.x",
        "kept0",
        "__class__",
        "_base",
        "T",
    ),
    *("read", "write", "apply", "call", "parameter", "set_parameter", "given", "save", "cache", "backward", "stop"),
    *(
        "operator.add",
        "operator.setitem",
        "torch.neg",
        "Tensor.add_",
        "python.getattr",
        "python.call_method",
        "local.f",
    ),
    *("loupe.hidden_states", "layers.0", "layers.0.weight", "#result", "output", "input", "inputs", "grad", "skip"),
    *("F32", "BOOL", "BF16", "float8_e8m0fnu", "complex64", "complex32", "cuda:3", "bfloat16", "max_new_tokens"),
    *(
        [],
        {},
        [[]],
        [0],
        ["x", "x"],
        [1, 2],
        [0, 1 << 61, 1 << 61],
        {"x": 1},
        {"name": "x"},
        {"name": "x", "default": [1]},
    ),
    *({"ref": 0}, {"ref": 1}, {"ref": 5}, {"const": 0}, {"const": 1}, {"tuple": []}, {"tuple": ["layers.0", ""]}),
    *(
        {"dict": [["a", {"ref": 0}]]},
        {"dict": [[1, 2]]},
        {"dict": []},
        {"slice": [None, 1, {"ref": 0}]},
        {"ellipsis": True},
    ),
    *({"float": "nan"}, {"float": "-inf"}, {"complex": [1.0, -0.0]}, {"complex": [{"float": "inf"}, 0.0]}),
    *({"dtype": "float32"}, {"dtype": "float8_e5m2"}, {"device": "cpu"}, {"device": "cuda:1"}, {"layout": "strided"}),
    *({"memory_format": "channels_last"}, {"of": 0}, {"of": 1, "backward": 1}, {"path": "", "port": "output"}),
    *({"path": "a.b", "port": "inputs", "call": 2, "op": "softmax", "index": 1}, {"group": 1, "start": 0}),
    *(
        {"group": 2, "listed": [0, 3]},
        {"group": -1, "start": 1, "stop": 5, "stride": 2},
        {"grad": True, "autocast": []},
    ),
    *({"grad": False, "autocast": [["cpu", "bfloat16"]]}, {"kind": "stop"}, {"kind": "stop", "kwargs": {"step": 2}}),
    *({"kind": "read", "gradient": {"of": 0}}, {"kind": "save", "target": "y", "args": [{"ref": 0}]}),
    *({"kind": "backward", "args": [{"ref": 0}]}, {"kind": "apply", "target": "torch.neg", "args": [{"ref": 0}]}),
]
KEYS = (
    "kind site target args kwargs invoke steps modes gradient constants nodes invokes parameters generation content "
    "hash notes lines places looks edited origin call op index start stop stride listed default name tensor dtype "
    "requires_grad"
).split()


def recorded():
    """Files of graphs with all that the format has: steps, gradients, modes, caches, constants of many dtypes."""
    model, x = Model(tiny.stack()), torch.ones(2, 8)
    graphs = []
    with model.trace(x) as tracer:
        hidden = model.layers[0].output
        hidden[:, 1:3] *= loupe.param("strength", torch.arange(2.0)) + loupe.param("shift", 0.5)
        model.layers[2].input = torch.where(hidden > 0, hidden.to(torch.bfloat16).float(), torch.tensor(-0.0))
        tracer.cache(modules=[model.layers[1]], dtype=torch.float16, include_inputs=True)
        chosen = torch.tensor([True, False] * 4)
        model.layers[1].output[..., chosen].sum().save("chosen")
        (hidden * torch.tensor([1j])).real.save("real")
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            (hidden @ hidden.T).save("product")
    graphs.append(tracer.graph)
    with model.trace() as tracer:
        with tracer.invoke(x):
            loss = model.output.pow(2).sum()
            with loss.backward(retain_graph=True):
                model.layers[1].output.grad.save("gradient")
            with loss.backward():
                model.layers[1].output.grad.sum().save("sum")
        with tracer.invoke(x):
            model.layers[0].skip(model.layers[0].input + model.layers[0].weight.sum())
            model.layers[1](model.table.weight).save("called")
    graphs.append(tracer.graph)
    return [b"".join(write_file(Document((without_torch(graph),)))) for graph in graphs]


def seeds():
    """The files that mutations begin with."""
    return [valid().bytes, session().bytes, *recorded()]


def mutated(data, random):
    """A file that differs from another in one to four places; `random` is a source of random numbers."""
    if random.random() < 0.35:
        for _ in range(random.randint(1, 4)):
            data = _in_bytes(data, random)
        return data
    header, document, rest = taken_apart(data)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        if random.random() < 0.12:
            _in_data(header, random)
        elif random.random() < 0.1 and rest:
            rest = _in_bytes(rest, random)
        else:
            _in_data(document, random)
    return put_together(header, document, rest, renamed=random.random() < 0.8)


def taken_apart(data):
    """The header without its text, the document, and the tensors' data of a file that is right."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    return header, json.loads(header.pop("__metadata__")["loupe"]), data[8 + length :]


def put_together(header, document, rest, *, renamed):
    """A file again, with new hashes where there are some; with new names of tensors where `renamed` says so."""
    if renamed:
        header, document = _named_anew(header, document, rest)
    for block in _blocks(document):
        if type(block) is dict and type(block.get("hash")) is str and type(block.get("content")) is dict:
            block["hash"] = hashlib.sha256(dumps(block["content"]).encode()).hexdigest()
    return packed(dumps({"__metadata__": {"loupe": dumps(document)}, **header}), rest)


def _blocks(document):
    found = document.get("session", [document.get("graph")]) if type(document) is dict else []
    return found if type(found) is list else []


def _named_anew(header, document, rest):
    """Names of tensors that fit what they are now, so that a change of one is not all that a reader sees."""
    names = {}
    for name, entry in header.items():
        try:
            start, end = entry["data_offsets"]
            shape = ",".join(map(str, entry["shape"]))
            names[name] = hashlib.sha256(f"{entry['dtype']}[{shape}]\n".encode() + rest[start:end]).hexdigest()
        except (TypeError, KeyError, ValueError):
            continue
    text = dumps(document)
    for old, new in names.items():
        text = text.replace(f'"{old}"', f'"{new}"') if old else text
    return {names.get(name, name): entry for name, entry in header.items()}, json.loads(text)


def _in_bytes(data, random):
    """One change of bytes: bits, a cut, a range that is doubled, swapped or overwritten, a length that lies."""
    if not data:
        return random.randbytes(3)
    start = random.randrange(len(data))
    end = min(len(data), start + random.choice((1, 2, 8, 64)))
    other = random.randrange(len(data))
    length = end - start
    return random.choice(
        (
            lambda: data[:start] + bytes([data[start] ^ 1 << random.randrange(8)]) + data[start + 1 :],
            lambda: data[:start],
            lambda: data[:start] + data[end:],
            lambda: data[:end] + data[start:],
            lambda: data[:start] + data[other : other + length] + data[end:],
            lambda: data[:start] + random.randbytes(length) + data[end:],
            lambda: (
                struct.pack("<Q", (int.from_bytes(data[:8], "little") + random.choice(NUMBERS)) % (1 << 64)) + data[8:]
            ),
            lambda: data + random.randbytes(length),
        )
    )()


def _in_data(value, random):
    """One change of plain data, in place: something is dropped, doubled, replaced, moved, or put in."""
    holders = [each for each in _holders(value) if each]
    if not holders:
        return
    holder = random.choice(holders)
    keys = list(holder) if type(holder) is dict else list(range(len(holder)))
    key = random.choice(keys)
    what = random.choice(("drop", "replace", "replace", "replace", "copy", "nudge", "insert", "swap", "double"))
    if what == "drop":
        del holder[key]
    elif what == "replace":
        holder[key] = copy.deepcopy(random.choice(ODD))
    elif what == "copy":
        part = random.choice(holders)
        holder[key] = copy.deepcopy(random.choice(list(part.values()) if type(part) is dict else part))
    elif what == "nudge" and type(holder[key]) in (int, float):
        holder[key] += random.choice((-1, 1, 2))
    elif what == "nudge" and type(holder[key]) is str and holder[key]:
        place = random.randrange(len(holder[key]))
        holder[key] = holder[key][:place] + random.choice(("", "_", ".", "0", "é", '"')) + holder[key][place + 1 :]
    elif what == "swap":
        other = random.choice(keys)
        holder[key], holder[other] = holder[other], holder[key]
    elif what == "double" and type(holder) is list:
        holder.insert(key, copy.deepcopy(holder[key]))
    elif type(holder) is dict:
        holder[random.choice(KEYS)] = copy.deepcopy(random.choice(ODD))
    else:
        holder.insert(key, copy.deepcopy(random.choice(ODD)))


def _holders(value):
    if type(value) in (dict, list):
        yield value
        for inner in value.values() if type(value) is dict else value:
            yield from _holders(inner)


def outcome(data):
    """What becomes of a file: 'refused' with a WireError, or 'read', and then it is in its one form, and of use.

    What is read has the text that writing it would give, and a graph made of it prints, has a hash, is well formed, and
    is the same when it is written and read once more.
    """
    try:
        document = read_file(data)
    except WireError:
        return "refused"
    _, written, _ = taken_apart(data)
    text, _ = write_document(document)
    assert [block["content"] for block in _blocks(json.loads(text))] == [block["content"] for block in _blocks(written)]
    loaded = from_document(document)
    for graph in loaded if document.session else [loaded]:
        assert str(graph)
        assert len(graph.hash) == 64
        lint(graph)
    again = read_file(b"".join(write_file(Document(tuple(map(without_torch, _graphs(loaded))), document.session))))
    assert from_document(again) == loaded
    return "read"


def _graphs(loaded):
    return [loaded] if hasattr(loaded, "nodes") else list(loaded)
