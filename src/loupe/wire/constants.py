"""Say how tensors of every dtype lie in a container that does not have all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loupe.errors import WireError, nearest
from loupe.wire.container import RawTensor
from loupe.wire.fields import Fields

STORED = {  # torch's name of a dtype, and the container's
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "int16": "I16",
    "uint16": "U16",
    "int32": "I32",
    "uint32": "U32",
    "int64": "I64",
    "uint64": "U64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
}
PAIRS = {"complex32": "F16", "complex64": "F32", "complex128": "F64"}  # real and imaginary part, along a last axis of 2
BYTES = ("float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu")  # as U8
_PIECE = 1 << 20
_PLAIN = {stored: name for name, stored in STORED.items()}


@dataclass(frozen=True, slots=True)
class Constant:
    """A constant of a graph as a file has it: torch's name of its dtype, its shape, and the tensor that holds it."""

    dtype: str
    shape: tuple[int, ...]
    tensor: RawTensor
    requires_grad: bool = False


def write_constant(constant: Constant, name: str) -> dict[str, Any]:
    """A constant as plain data; `name` is that of its tensor."""
    found: dict[str, Any] = {"tensor": name}
    if constant.dtype not in STORED:
        found["dtype"] = constant.dtype
    if constant.requires_grad:
        found["requires_grad"] = True
    return found


def read_constant(value: object, place: int, tensors: Mapping[str, RawTensor]) -> Constant:
    """The constant at a place; raises WireError."""
    where = f"constant {place}"
    fields = Fields(value, where)
    name, dtype = fields.take("tensor", str), fields.get("dtype", str, "")
    requires_grad = fields.get("requires_grad", bool, False)
    fields.end()
    tensor = tensors.get(name)
    if tensor is None:
        raise WireError(f"{where} is the tensor {name!r:.80}, which the file does not have", remedy="store it")
    if not dtype:
        found = Constant(_PLAIN[tensor.dtype], tensor.shape, tensor, requires_grad)
    elif dtype in PAIRS:
        if tensor.dtype != PAIRS[dtype] or tensor.shape[-1:] != (2,):
            raise WireError(f"{where} is {dtype}, and its tensor has no pairs of {PAIRS[dtype]}", remedy="store pairs")
        found = Constant(dtype, tensor.shape[:-1], tensor, requires_grad)
    elif dtype in BYTES:
        if tensor.dtype != "U8":
            raise WireError(f"{where} is {dtype}, and its tensor is not U8", remedy="store its bytes as U8")
        found = Constant(dtype, tensor.shape, tensor, requires_grad)
    else:
        raise WireError(f"{where} is of the dtype {dtype!r:.40}", remedy=nearest(dtype, [*PAIRS, *BYTES]))
    if found.dtype == "bool" and not _is_boolean(tensor.data):
        raise WireError(f"{where} is bool, and has other bytes than 0 and 1", remedy="store 0 for false and 1 for true")
    if requires_grad and not found.dtype.startswith(("float", "bfloat", "complex")):
        raise WireError(f"{where} is {found.dtype}, which collects no gradients", remedy="leave requires_grad out")
    return found


def _is_boolean(data: memoryview) -> bool:
    """Whether all bytes are 0 or 1; what torch computes with others in place of them is not defined."""
    pieces = (bytes(data[start : start + _PIECE]) for start in range(0, len(data), _PIECE))
    return not any(piece.translate(None, b"\0\1") for piece in pieces)
