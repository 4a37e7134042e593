"""Write one node as a JSON object, and read it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, get_args

from loupe.errors import WireError, nearest
from loupe.graph.node import RESULT, Kind, Modes, Node, Port, Ref, Site, Steps
from loupe.wire.arguments import DEVICES, DTYPES, ArgumentReader, text, write_argument, write_text
from loupe.wire.fields import Fields, expect, number
from loupe.wire.limits import Limits

_KINDS = get_args(Kind)
_PORTS = tuple(port for port in get_args(Port) if port != "grad")
_MOST = 1 << 31
_TARGETS = frozenset(("apply", "call", "parameter", "set_parameter", "given", "save", "cache"))
_ARGUMENTS = {  # how many positional arguments a kind of node takes; None for any
    **dict.fromkeys(("read", "parameter", "given", "stop"), 0),
    **dict.fromkeys(("write", "set_parameter", "save", "cache", "backward"), 1),
}
_KEYWORDS = {
    "cache": ("device", "dtype", "detach", "outputs", "inputs"),
    "backward": ("gradient", "retain_graph", "create_graph", "only_inputs", "parameter_gradients"),
    "stop": ("step",),
}


def write_node(node: Node) -> dict[str, Any]:
    """A node as plain data; its number is its place, its line is told elsewhere."""
    found: dict[str, Any] = {"kind": node.kind}
    if node.gradient_of is not None:
        found["gradient"] = {"of": node.gradient_of, **({"backward": node.site.call} if node.site.call else {})}
    elif node.kind in ("read", "write"):
        found["site"] = _write_site(node.site)
    elif node.target is not None:
        found["target"] = write_text(node.target)
    if node.args:
        found["args"] = [write_argument(arg) for arg in node.args]
    if node.kwargs:
        found["kwargs"] = {key: write_argument(value) for key, value in node.kwargs.items()}
    if node.invoke is not None:
        found["invoke"] = node.invoke
    if node.steps is not None:
        found["steps"] = _write_steps(node.steps)
    if node.modes is not None:
        found["modes"] = {"grad": node.modes.grad, "autocast": [list(pair) for pair in node.modes.autocast]}
    return found


def _write_site(site: Site) -> dict[str, Any]:
    found: dict[str, Any] = {"path": site.path, "port": site.port}
    if site.call:
        found["call"] = site.call
    if site.op is not None:
        found["op"] = site.op
    if site.index:
        found["index"] = site.index
    return found


def _write_steps(steps: Steps) -> dict[str, Any]:
    found: dict[str, Any] = {"group": steps.group}
    if steps.listed:
        return found | {"listed": list(steps.listed)}
    found["start"] = steps.start
    if steps.stop is not None:
        found["stop"] = steps.stop
    if steps.stride != 1:
        found["stride"] = steps.stride
    return found


class NodeReader:
    """Reads the nodes of one block in order; `backwards` counts the backward passes so far."""

    def __init__(self, limits: Limits, constants: int, invokes: int) -> None:
        self.arguments = ArgumentReader(limits, 0, constants)
        self._limits = limits
        self._invokes = invokes

    def read(self, value: object, place: int) -> Node:
        """The node at a place; raises WireError."""
        where = f"node {place}"
        fields = Fields(value, where)
        kind: Any = fields.take("kind", str)
        if kind not in _KINDS:
            raise WireError(f"{where} is of the unknown kind {kind!r:.60}", remedy=nearest(kind, list(_KINDS)))
        self.arguments.nodes = place
        target: Any = None
        if kind in ("read", "write"):
            target = self._gradient(fields, place) if fields.has("gradient") else self._site(fields, where)
        elif kind in _TARGETS:
            target = text(fields.take("target", str), f"the target of {where}", self._limits)
            if kind in ("call", "parameter", "set_parameter"):
                check_path(target, where)
        args = self._args(fields, kind, where)
        kwargs = self._kwargs(fields, kind, where)
        invoke = fields.get("invoke", int, -1)
        if invoke != -1:
            number(invoke, f"the invoke of {where}", 0, self._invokes - 1)
        steps = read_steps(fields.take("steps", dict), where) if fields.has("steps") else None
        modes = _modes(fields.take("modes", dict), where) if fields.has("modes") else None
        fields.end()
        return Node(place, kind, target, args, kwargs, None if invoke == -1 else invoke, None, steps, modes)

    def _site(self, fields: Fields, where: str) -> Site:
        inner = Fields(fields.take("site", dict), f"the site of {where}")
        path, port = inner.take("path", str), inner.take("port", str)
        call, index = inner.get("call", int, 0), inner.get("index", int, 0)
        op = inner.take("op", str) if inner.has("op") else None
        inner.end()
        if port not in _PORTS:
            raise WireError(f"{where} names the unknown port {port!r:.60}", remedy=nearest(port, list(_PORTS)))
        if path != RESULT:
            check_path(path, where)
        elif port != "output" or call or op is not None:
            raise WireError(f"{where} names a site of the run as a whole that is not its output", remedy="name output")
        if op is not None and not _NAME.fullmatch(op):
            raise WireError(f"{where} names the operation {op!r:.60}, which is no name", remedy="write softmax, matmul")
        if op is None and index:
            raise WireError(f"{where} has an index without an operation", remedy="leave it out")
        number(call, f"the call of {where}", 0, _MOST)
        number(index, f"the index of {where}", 0, _MOST)
        return Site(path, port, call, op, index)  # pyrefly: ignore[bad-argument-type]  (it is one of _PORTS)

    def _gradient(self, fields: Fields, place: int) -> Site:
        inner = Fields(fields.take("gradient", dict), f"the gradient of node {place}")
        of, backward = inner.take("of", int), inner.get("backward", int, 0)
        inner.end()
        number(backward, f"the backward pass of node {place}", 0, _MOST)
        if not 0 <= of < place:
            raise WireError(
                f"node {place} is about the gradient of node {of}, which is not before it", remedy="name an earlier one"
            )
        return Site(f"%{of}", "grad", backward)

    def _args(self, fields: Fields, kind: str, where: str) -> tuple[Any, ...]:
        given = fields.get("args", list, [])
        count = _ARGUMENTS.get(kind)
        if count is not None and len(given) != count:
            raise WireError(f"{where} ({kind}) has {len(given)} arguments, and takes {count}", remedy=f"give {count}")
        args = tuple([self.arguments.read(arg, f"an argument of {where}") for arg in given])
        if kind == "save" and type(args[0]) is not Ref:
            raise WireError(f"{where} saves something that is no node", remedy="save the value of a node")
        if kind == "backward" and type(args[0]) is not Ref:
            raise WireError(f"{where} runs backward from something that is no node", remedy="name the loss")
        if kind == "cache":
            if type(args[0]) is not tuple or not all(type(path) is str for path in args[0]):
                raise WireError(f"{where} collects at something that is no tuple of paths", remedy="list paths")
            for path in args[0]:
                check_path(path, where)
        return args

    def _kwargs(self, fields: Fields, kind: str, where: str) -> dict[str, Any]:
        kwargs: dict[str, Any] = {}
        known = _KEYWORDS.get(kind, ())
        for key, value in fields.get("kwargs", dict, {}).items():
            if kind not in ("apply", "call") and key not in known:
                raise WireError(f"{where} ({kind}) takes no {key!r:.60}", remedy=nearest(key, list(known)))
            if not _NAME.fullmatch(key):
                raise WireError(f"{where} has the keyword {key!r:.60}, which is no name", remedy="write a name")
            kwargs[key] = self.arguments.read(value, f"{key!r} of {where}")
        for key, value in kwargs.items() if kind in _CHECKS else ():
            if not _CHECKS[kind](key, value):
                raise WireError(f"{key!r} of {where} is {value!r:.60}", remedy="write what a block would have there")
        return kwargs


_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,199}")
_PART = re.compile(r"[^\s.%#/\\'\"\x00-\x1f]{1,200}")


def check_path(path: str, where: str) -> None:
    """Refuse what can be no path of a module or parameter; raises WireError."""
    if len(path) > 2000:
        raise WireError(f"{where} names a path of {len(path)} characters", remedy="write the path of a module")
    for part in path.split(".") if path else ():
        if not _PART.fullmatch(part):
            raise WireError(f"{where} names {path!r:.80}, which is no path of a module", remedy="write transformer.h.5")
        if part.startswith("__"):
            raise WireError(f"{where} names {path!r:.80}, which leads out of the model", remedy="write transformer.h.5")


def read_steps(value: object, where: str) -> Steps:
    """The steps that a node is about; raises WireError."""
    fields = Fields(value, f"the steps of {where}")
    group = number(fields.take("group", int), f"the group of {where}", -_MOST, _MOST)
    if fields.has("listed"):
        listed = [number(expect(each, int, where), where, 0, _MOST) for each in fields.take("listed", list)]
        fields.end()
        if not listed or sorted(set(listed)) != listed:
            raise WireError(f"{where} lists steps that are not in order", remedy="write each once, the first first")
        return Steps(group, 0, 0, listed=tuple(listed))
    start = number(fields.take("start", int), f"the first step of {where}", 0, _MOST)
    stop = number(fields.take("stop", int), f"the last step of {where}", 0, _MOST) if fields.has("stop") else None
    stride = number(fields.get("stride", int, 1), f"the stride of {where}", 1, _MOST)
    fields.end()
    return Steps(group, start, stop, stride)


def _modes(value: object, where: str) -> Modes:
    fields = Fields(value, f"the modes of {where}")
    grad, pairs = fields.take("grad", bool), fields.take("autocast", list)
    fields.end()
    for pair in pairs:
        right = type(pair) is list and len(pair) == 2 and all(type(each) is str for each in pair)
        if not right or not DEVICES.fullmatch(pair[0]) or ":" in pair[0] or pair[1] not in DTYPES:
            raise WireError(f"{where} stands in the autocast {pair!r:.60}", remedy='write ["cuda", "bfloat16"]')
    return Modes(grad, tuple((device, dtype) for device, dtype in pairs))


def _fits_cache(key: str, value: Any) -> bool:
    if key == "device":
        return value is None or (type(value) is str and DEVICES.fullmatch(value) is not None)
    if key == "dtype":
        return value is None or getattr(value, "kind", None) == "dtype"
    return type(value) is bool


def _fits_backward(key: str, value: Any) -> bool:
    return key == "gradient" or value is None or type(value) is bool


def _fits_stop(key: str, value: Any) -> bool:
    return type(value) is int and 0 <= value < _MOST


_CHECKS: dict[str, Callable[[str, Any], bool]] = {
    "cache": _fits_cache,
    "backward": _fits_backward,
    "stop": _fits_stop,
}
