"""Write files of graphs with json, struct and hashlib alone, so that any part of one can be made wrong on purpose."""

import copy
import hashlib
import json
import struct
from dataclasses import dataclass

NODES = [
    {"kind": "read", "site": {"path": "layers.0", "port": "output"}},
    {"kind": "given", "target": "strength"},
    {"kind": "apply", "target": "operator.mul", "args": [{"ref": 0}, {"ref": 1}]},
    {"kind": "apply", "target": "operator.add", "args": [{"ref": 2}, {"const": 0}]},
    {"kind": "write", "site": {"path": "layers.0", "port": "output"}, "args": [{"ref": 3}]},
    {"kind": "read", "site": {"path": "", "port": "output"}},
    {"kind": "save", "target": "out", "args": [{"ref": 5}]},
]


@dataclass
class Stored:
    """A tensor as a container has it."""

    dtype: str
    shape: list
    data: bytes

    @property
    def name(self):
        shape = ",".join(map(str, self.shape))
        return hashlib.sha256(f"{self.dtype}[{shape}]\n".encode() + self.data).hexdigest()


@dataclass
class File:
    """The parts of a file: its document as plain data, and its tensors by name."""

    document: dict
    tensors: dict

    @property
    def blocks(self):
        return self.document["session"] if "session" in self.document else [self.document["graph"]]

    @property
    def block(self):
        return self.blocks[0]

    @property
    def content(self):
        return self.block["content"]

    @property
    def nodes(self):
        return self.content["nodes"]

    def node(self, **fields):
        """One more node at the end."""
        self.nodes.append(fields)
        self.block["notes"]["places"].append(None)

    def applied(self, target, /, *args, **kwargs):
        """One more node at the end, an operation."""
        self.node(kind="apply", target=target, args=list(args), **({"kwargs": kwargs} if kwargs else {}))

    def constant(self, stored, **fields):
        """Put another tensor in the place of the graph's constant."""
        self.tensors = {stored.name: stored}
        self.content["constants"] = [{"tensor": stored.name, **fields}]

    @property
    def text(self):
        """The canonical text of the document, with hashes that are right."""
        for block in self.blocks:
            block["hash"] = hashlib.sha256(dumps(block["content"]).encode()).hexdigest()
        return dumps(self.document)

    @property
    def bytes(self):
        return container(self.text, self.tensors)


def dumps(value):
    """Canonical JSON."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def entries(tensors):
    """What a header says about tensors that lie one after the other."""
    found, end = {}, 0
    for name, stored in tensors.items():
        start, end = end, end + len(stored.data)
        found[name] = {"dtype": stored.dtype, "shape": stored.shape, "data_offsets": [start, end]}
    return found


def packed(header, data=b""):
    """A container of a header's text (or data), as long as it says it is."""
    written = header if type(header) is bytes else dumps(header).encode() if type(header) is dict else header.encode()
    return struct.pack("<Q", len(written)) + written + data


def container(text, tensors):
    """A container with a graph's text and tensors."""
    header = {"__metadata__": {"loupe": text}, **entries(tensors)}
    return packed(header, b"".join(stored.data for stored in tensors.values()))


def valid():
    """A file that is right: it scales the first layer's output by a parameter, adds a constant, saves the output."""
    stored = Stored("F32", [8], struct.pack("<8f", *range(8)))
    content = {
        "constants": [{"tensor": stored.name}],
        "nodes": copy.deepcopy(NODES),
        "parameters": [{"name": "strength", "default": 1.0}],
    }
    notes = {"lines": [["block.py", 3, "h = h * strength"]], "places": [0, 0, 0, None, 0, 0, 0]}
    block = {"content": content, "hash": "", "notes": notes}
    return File({"format": "loupe.graph", "version": 1, "graph": block}, {stored.name: stored})


def session():
    """A file of two blocks that is right: the second saves what it takes from the first, as 'kept0' and as 'again'."""
    taking = {
        "constants": [],
        "nodes": [
            {"kind": "given", "target": "block0.out"},
            {"kind": "save", "target": "again", "args": [{"ref": 0}]},
        ],
    }
    file = valid()
    first = file.document.pop("graph")
    second = {"content": taking, "hash": "", "notes": {"lines": [], "places": [None, None]}}
    file.document["session"] = [first, second]
    return file
