"""Write the arguments of nodes as JSON, and read them: plain data as it is, all else as an object with one key."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from loupe.errors import GraphError, WireError, nearest
from loupe.graph.node import Const, Named, Ref
from loupe.wire.canonical import encodes
from loupe.wire.fields import expect, number
from loupe.wire.limits import DEFAULT, Limits

DTYPES: tuple[str, ...] = tuple(
    "bool uint8 int8 int16 uint16 int32 uint32 int64 uint64 float16 bfloat16 float32 float64 complex32 complex64 "
    "complex128 float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu".split()
)
DEVICES = re.compile(r"(cpu|cuda|mps|xpu|meta)(:(0|[1-9][0-9]?|1[01][0-9]|12[0-7]))?")  # torch counts to 127
_NAMES: dict[str, tuple[str, ...]] = {
    "layout": ("strided",),
    "memory_format": ("contiguous_format", "channels_last", "channels_last_3d", "preserve_format"),
    "dtype": DTYPES,
}
_LEAST, _MOST = -(1 << 63), (1 << 64) - 1
_FLOATS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def write_argument(value: Any) -> Any:
    """An argument as plain data; raises GraphError for what no file can hold."""
    kind = type(value)
    if value is None or kind is bool:
        return value
    if kind is str:
        return write_text(value)
    if kind is int:
        if not _LEAST <= value <= _MOST:
            raise GraphError(f"the number {value} does not fit into 64 bits", remedy="use a float, or a tensor")
        return value
    if kind is float:
        return value if math.isfinite(value) else {"float": "nan" if math.isnan(value) else str(value)}
    if kind is Ref:
        return {"ref": value.node}
    if kind is Const:
        return {"const": value.index}
    if kind is Named:
        return {value.kind: value.name}
    if kind is list:
        return [write_argument(item) for item in value]
    if kind is tuple:
        return {"tuple": [write_argument(item) for item in value]}
    if kind is dict:
        return {"dict": [[_write_key(key), write_argument(item)] for key, item in value.items()]}
    if kind is slice:
        return {"slice": [write_argument(part) for part in (value.start, value.stop, value.step)]}
    if value is Ellipsis:
        return {"ellipsis": True}
    if kind is complex:
        return {"complex": [write_argument(value.real), write_argument(value.imag)]}
    raise GraphError(
        f"a value of type {kind.__name__} cannot stand in a file",
        remedy="use numbers, strings, tensors, and lists, tuples, dicts and slices of these",
    )


def _write_key(key: Any) -> Any:
    if type(key) not in (str, int):
        raise GraphError(
            f"a dict with the key {key!r:.60} cannot stand in a file", remedy="use strings and whole numbers as keys"
        )
    return write_argument(key)


def write_text(value: str) -> str:
    """A string as it is; raises GraphError for one that no file can hold."""
    if len(value) > DEFAULT.text:
        raise GraphError(
            f"a string of {len(value)} characters cannot stand in a file", remedy=f"{DEFAULT.text} are the most"
        )
    if not value.isascii() and not encodes(value):
        raise GraphError(f"{value!r:.60} has half a surrogate pair in it", remedy="use text that UTF-8 can hold")
    return value


class ArgumentReader:
    """Reads arguments; a node may refer to nodes before `nodes`, and to the first `constants` constants."""

    def __init__(self, limits: Limits, nodes: int, constants: int) -> None:
        self.nodes = nodes
        self.used: set[int] = set()
        self._limits = limits
        self._constants = constants
        self._readers: dict[str, Callable[[Any, str, int], Any]] = {
            "ref": self._ref,
            "const": self._const,
            "tuple": lambda value, where, depth: tuple(self._items(value, where, depth)),
            "dict": self._dict,
            "slice": self._slice,
            "ellipsis": _ellipsis,
            "complex": self._complex,
            "float": _float,
            "dtype": _named("dtype"),
            "layout": _named("layout"),
            "memory_format": _named("memory_format"),
            "device": _device,
        }

    def read(self, value: Any, where: str, depth: int = 0) -> Any:
        """An argument of plain data; raises WireError."""
        kind = type(value)
        if value is None or kind is bool or kind is float:
            return value
        if kind is int:
            return number(value, where, _LEAST, _MOST)
        if kind is str:
            return text(value, where, self._limits)
        if depth > self._limits.depth:
            raise WireError(
                f"{where} has containers more than {self._limits.depth} deep", remedy="nest fewer containers"
            )
        if kind is list:
            return self._items(value, where, depth)
        if len(value) != 1:
            raise WireError(f"{where} is an object with {len(value)} keys", remedy="write one, which says what it is")
        ((tag, inner),) = value.items()
        reader = self._readers.get(tag)
        if reader is None:
            raise WireError(f"{where} is of the unknown kind {tag!r:.60}", remedy=nearest(tag, sorted(self._readers)))
        return reader(inner, where, depth)

    def _items(self, value: Any, where: str, depth: int) -> list[Any]:
        items = expect(value, list, where)
        if len(items) > self._limits.items:
            raise WireError(
                f"{where} has {len(items)} items, and {self._limits.items} are the most", remedy="use a tensor"
            )
        return [self.read(item, where, depth + 1) for item in items]

    def _ref(self, value: Any, where: str, _depth: int) -> Ref:
        node = expect(value, int, where)
        if not 0 <= node < self.nodes:
            raise WireError(f"{where} refers to node {node}, which is not before it", remedy="refer to earlier nodes")
        return Ref(node)

    def _const(self, value: Any, where: str, _depth: int) -> Const:
        index = expect(value, int, where)
        if not 0 <= index < self._constants:
            raise WireError(
                f"{where} takes constant {index}, and there are {self._constants}", remedy="list the constant"
            )
        self.used.add(index)
        return Const(index)

    def _dict(self, value: Any, where: str, depth: int) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for pair in expect(value, list, where):
            key, item = _several(pair, 2, where)
            if type(key) not in (str, int):
                raise WireError(f"{where} has a key that is no string and no whole number", remedy="write such keys")
            if key in found:
                raise WireError(f"{where} has the key {key!r:.60} twice", remedy="write each key once")
            found[self.read(key, where)] = self.read(item, where, depth + 1)
        return found

    def _slice(self, value: Any, where: str, depth: int) -> slice:
        start, stop, step = _several(value, 3, where)
        for part in (start, stop, step):
            if (
                part is not None
                and type(part) is not int
                and not (type(part) is dict and set(part) <= {"ref", "const"})
            ):
                raise WireError(f"{where} has a slice of something else than whole numbers", remedy="write numbers")
        return slice(*(self.read(part, where, depth + 1) for part in (start, stop, step)))

    def _complex(self, value: Any, where: str, depth: int) -> complex:
        parts = [self.read(part, where, depth + 1) for part in _several(value, 2, where)]
        if not all(type(part) is float for part in parts):
            raise WireError(f"{where} is a complex number of something else than two floats", remedy="write 1.0, not 1")
        return complex(*parts)


def text(value: object, where: str, limits: Limits) -> str:
    """A string no longer than the limit."""
    found = expect(value, str, where)
    if len(found) > limits.text:
        raise WireError(
            f"{where} is a string of {len(found)} characters, and {limits.text} are the most", remedy="shorten it"
        )
    return found


def _several(value: object, count: int, where: str) -> list[Any]:
    found = expect(value, list, where)
    if len(found) != count:
        raise WireError(f"{where} has {len(found)} parts where {count} are meant", remedy=f"write {count}")
    return found


def _ellipsis(value: Any, where: str, _depth: int) -> Any:
    if not expect(value, bool, where):
        raise WireError(f"{where} is no ellipsis", remedy='write {"ellipsis": true}')
    return Ellipsis


def _float(value: Any, where: str, _depth: int) -> float:
    if type(value) is not str or value not in _FLOATS:
        raise WireError(f"{where} is a float of the name {value!r:.40}", remedy="write nan, inf or -inf, or a number")
    return _FLOATS[value]


def _named(kind: Any) -> Callable[[Any, str, int], Named]:
    def read(value: Any, where: str, _depth: int) -> Named:
        if type(value) is not str or value not in _NAMES[kind]:
            raise WireError(
                f"{where} names the unknown {kind} {value!r:.40}", remedy=nearest(str(value), list(_NAMES[kind]))
            )
        return Named(kind, value)

    return read


def _device(value: Any, where: str, _depth: int) -> Named:
    if type(value) is not str or not DEVICES.fullmatch(value):
        raise WireError(f"{where} names the unknown device {value!r:.40}", remedy="write cpu, cuda or cuda:0")
    return Named("device", value)
