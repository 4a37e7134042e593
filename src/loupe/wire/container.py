"""Read and write the container of a file: safetensors, with a text beside the tensors.

The format is that of the safetensors library: eight bytes with the length of a JSON header, the header, the tensors'
data one after the other.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from loupe.errors import WireError
from loupe.wire.canonical import read_json
from loupe.wire.limits import Limits

KEY = "loupe"  # of the container's metadata, under which a graph's text stands
SIZES = {  # bits of one entry of each dtype that the container knows
    **dict.fromkeys(("F64", "I64", "U64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 8),
}
_ALIGNED = 8
_LARGEST = 1 << 58  # entries
_ANEW = "write the file anew with graph.save(path)"


@dataclass(frozen=True, slots=True)
class RawTensor:
    """A tensor as bytes: the container's name of its dtype, its shape, its entries row by row, little-endian."""

    dtype: str
    shape: tuple[int, ...]
    data: memoryview

    @property
    def name(self) -> str:
        """The name under which a file holds it: a digest of dtype, shape and data, so that equal tensors are one."""
        digest = hashlib.sha256(f"{self.dtype}[{','.join(map(str, self.shape))}]\n".encode())
        digest.update(self.data)
        return digest.hexdigest()


def write_container(text: str, tensors: Mapping[str, RawTensor]) -> Iterator[bytes | memoryview]:
    """The bytes of a container, piece by piece: a text, and tensors by name."""
    header: dict[str, Any] = {"__metadata__": {KEY: text}}
    end = 0
    ordered = sorted(tensors.items(), key=lambda pair: (-SIZES[pair[1].dtype], pair[0]))
    for name, tensor in ordered:
        start, end = end, end + tensor.data.nbytes
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
    written = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    written += b" " * (-len(written) % _ALIGNED)
    yield struct.pack("<Q", len(written))
    yield written
    for _, tensor in ordered:
        yield tensor.data


def read_container(data: memoryview, limits: Limits, *, check_data: bool = True) -> tuple[str, dict[str, RawTensor]]:
    """The text and the tensors of a container; the tensors' data are windows on the bytes, which are not copied.

    `check_data` says that each tensor's name is to be compared with its data. Raises WireError.
    """
    if len(data) < 8:
        raise _broken(f"a file of {len(data)} bytes has no header")
    (length,) = struct.unpack("<Q", data[:8])
    if length > limits.header:
        raise WireError(
            f"the header says that it has {length} bytes, and {limits.header} are the most",
            remedy="split the graph into several; a file that graph.save has not written is none",
        )
    if length > len(data) - 8:
        raise _broken(f"the header says that it has {length} bytes, and the file has {len(data) - 8} after its length")
    try:
        header_text = str(data[8 : 8 + length], "utf-8")
    except UnicodeDecodeError as error:
        raise _broken(f"the header is no UTF-8 text: {error.reason} at byte {error.start}") from None
    if not header_text.startswith("{"):
        raise _broken("the header is no JSON object")
    header = read_json(header_text, "the header", limits, canonical=False)
    text = _text_of(header.pop("__metadata__", None))
    return text, _tensors_of(header, data[8 + length :], limits, check_data=check_data)


def _text_of(metadata: object) -> str:
    if type(metadata) is not dict or KEY not in metadata:
        raise WireError(
            "the file is a safetensors container without a graph in it",
            remedy="load weights with the safetensors library; loupe.load reads what graph.save has written",
        )
    if set(metadata) != {KEY}:
        other = next(name for name in metadata if name != KEY)
        raise WireError(f"the file's metadata has {other!r} beside the graph", remedy=f"write {KEY!r} alone")
    text = metadata[KEY]
    if type(text) is not str:
        raise WireError(f"the graph in the metadata is no string but {type(text).__name__}", remedy=_ANEW)
    return text


def _tensors_of(header: dict[str, Any], data: memoryview, limits: Limits, *, check_data: bool) -> dict[str, RawTensor]:
    found: dict[str, RawTensor] = {}
    places: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        start, end, tensor = _tensor_of(name, entry, data, limits)
        places.append((start, end, name))
        found[name] = tensor
    reached = 0
    for start, end, name in sorted(places):
        if start != reached:
            what = "overlaps with the one before it" if start < reached else "leaves a hole before it"
            raise _broken(f"the data of tensor {name!r} {what}: it begins at {start}, not at {reached}")
        reached = end
    if reached != len(data):
        raise _broken(f"{len(data) - reached} bytes stand behind the last tensor")
    for name, tensor in found.items() if check_data else ():
        if tensor.name != name:
            raise WireError(
                f"tensor {name!r} has other data than its name says: they were changed or damaged",
                remedy="get the file again; a tensor's name is the SHA-256 of its dtype, shape and data",
            )
    return found


def _tensor_of(name: str, entry: object, data: memoryview, limits: Limits) -> tuple[int, int, RawTensor]:
    where = f"tensor {name!r}"
    if type(entry) is not dict or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _broken(f"{where} is not described by dtype, shape and data_offsets alone")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if type(dtype) is not str or dtype not in SIZES:
        raise _broken(f"{where} has the unknown dtype {dtype!r:.40}")
    if type(shape) is not list or not all(type(size) is int and 0 <= size < 1 << 62 for size in shape):
        raise _broken(f"{where} has no shape of whole numbers: {shape!r:.60}")
    if len(shape) > limits.dimensions:
        raise _broken(f"{where} has {len(shape)} dimensions, and {limits.dimensions} are the most")
    if prod(size or 1 for size in shape) > _LARGEST:  # torch counts strides of what is empty, too
        raise _broken(f"{where} has the shape {shape}, which is more than any memory holds")
    if type(offsets) is not list or len(offsets) != 2 or not all(type(each) is int for each in offsets):
        raise _broken(f"{where} has no data_offsets of two whole numbers: {offsets!r:.60}")
    start, end = offsets
    if not 0 <= start <= end <= len(data):
        raise _broken(f"{where} lies at bytes {start} to {end} of {len(data)}")
    wanted = prod(shape) * SIZES[dtype] // 8
    if end - start != wanted:
        raise _broken(f"{where} of shape {shape} and dtype {dtype} takes {wanted} bytes, and has {end - start}")
    return start, end, RawTensor(dtype, tuple(shape), data[start:end])


def _broken(fact: str) -> WireError:
    return WireError(fact, remedy=_ANEW)
