"""See torch tensors as the bytes of a file, and such bytes as tensors, without copying where that can be."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import torch

from loupe.errors import PortableError
from loupe.graph.node import Named
from loupe.wire.constants import BYTES, PAIRS, STORED, Constant
from loupe.wire.container import RawTensor

_DTYPES: MappingProxyType[str, torch.dtype] = MappingProxyType(
    {name: getattr(torch, name) for name in (*STORED, *PAIRS, *BYTES) if hasattr(torch, name)}
)
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def dtype_of(name: str) -> torch.dtype:
    """The dtype of a name; raises PortableError where this torch has none."""
    found = _DTYPES.get(name)
    if found is None:
        raise PortableError(
            f"torch {torch.__version__} has no dtype {name}", remedy="install the torch with which the file was written"
        )
    return found


def named(value: Any) -> Named | None:
    """The name of what torch has one object of for each name; None for anything else."""
    kind = type(value)
    if kind is torch.dtype:
        return Named("dtype", str(value).removeprefix("torch."))
    if kind is torch.device:
        return Named("device", str(value))
    if kind is torch.layout:
        return Named("layout", str(value).removeprefix("torch."))
    if kind is torch.memory_format:
        return Named("memory_format", str(value).removeprefix("torch."))
    return None


def object_of(name: Named) -> Any:
    """The object of torch that a name stands for; the names were checked when they were read."""
    if name.kind == "device":
        return torch.device(name.name)
    return dtype_of(name.name) if name.kind == "dtype" else getattr(torch, name.name)


def to_constant(tensor: torch.Tensor) -> Constant:
    """A tensor as a file holds it; raises PortableError for one that has no plain data."""
    name = _NAMES.get(tensor.dtype)
    if tensor.is_meta or tensor.layout is not torch.strided or name is None or tensor.is_nested:
        what = "without data" if tensor.is_meta else f"of {tensor.dtype} and {tensor.layout}"
        raise PortableError(
            f"a tensor {what} cannot be stored", remedy="use a dense tensor of a dtype that torch computes with"
        )
    requires_grad, plain = tensor.requires_grad, tensor.detach().as_subclass(torch.Tensor)
    plain = plain.resolve_conj().resolve_neg().cpu().contiguous()
    shape = tuple(plain.shape)
    if plain.is_complex():
        stored, lies = PAIRS[name], (*shape, 2)
    else:
        stored, lies = STORED.get(name, "U8"), shape
    return Constant(name, shape, RawTensor(stored, lies, _bytes_of(plain)), requires_grad)


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    """The memory of a tensor."""
    if not tensor.numel():
        return memoryview(b"")
    real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    flat = real.reshape(-1).as_strided((real.numel(),), (1,))  # a single entry may have any stride
    entries: Any = flat.view(torch.uint8).numpy()
    return memoryview(entries).cast("B")


def to_tensor(constant: Constant, *, copied: bool = False) -> torch.Tensor:
    """A tensor on the bytes of a file; they are shared, and copied where they may not be written to, or are taken."""
    dtype, data = dtype_of(constant.dtype), constant.tensor.data
    if not data.nbytes:
        return torch.empty(constant.shape, dtype=dtype).requires_grad_(constant.requires_grad)
    aligned = torch.empty(0, dtype=dtype).element_size()
    flat = torch.frombuffer(bytearray(data) if copied or data.readonly else data, dtype=torch.uint8)
    if flat.data_ptr() % aligned:
        flat = flat.clone()
    return flat.view(dtype).view(constant.shape).requires_grad_(constant.requires_grad)
