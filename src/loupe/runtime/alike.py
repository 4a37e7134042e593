"""Notice, in a run without data, the errors of dtype that torch notices only where it has data."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_ALIKE = {  # operations whose tensors have one dtype, and how many of their first arguments that is about
    **dict.fromkeys((torch.ops.aten.mm, torch.ops.aten.bmm, torch.ops.aten.mv, torch.ops.aten.dot), 2),
    **dict.fromkeys(
        (torch.ops.aten.addmm, torch.ops.aten.addmv, torch.ops.aten.baddbmm, torch.ops.aten.convolution), 3
    ),
}


class SameDtypes(TorchDispatchMode):
    """Refuses products of tensors of different dtypes, which torch lets pass on the meta device."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        count = _ALIKE.get(func.overloadpacket, 0)
        dtypes = dict.fromkeys(arg.dtype for arg in args[:count] if isinstance(arg, torch.Tensor))
        if len(dtypes) > 1:
            raise RuntimeError(f"expected tensors of one dtype, but got {' and '.join(map(str, dtypes))}")
        return func(*args, **(kwargs or {}))
