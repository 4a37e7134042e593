"""Be a saved value after its block: a tensor that shares the memory of what the run gave."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from loupe.trace.display import tensor_html

_GRAD: Any = vars(torch._C.TensorBase)["grad"]
_REQUIRES_GRAD: Any = vars(torch._C.TensorBase)["requires_grad"]


class SavedTensor(torch.Tensor):
    """A saved value after its block: shares the memory of `.value`; what is computed from it are plain tensors."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # pyrefly: ignore[bad-override]

    @property
    def value(self) -> Any:
        """The bare tensor, as the run gave it."""
        return self.__dict__["_value"]

    def save(self, name: str | None = None) -> SavedTensor:
        """It is saved already."""
        return self

    @property
    def grad(self) -> Any:
        """The gradient that the run, or a backward pass since, left on the value or on this tensor."""
        own = _GRAD.__get__(self) if self.is_leaf else None
        return self.value.grad if own is None else own

    @grad.setter
    def grad(self, gradient: Any) -> None:
        self.value.grad = gradient

    @property
    def requires_grad(self) -> bool:
        """Whether gradients are tracked for it."""
        return _REQUIRES_GRAD.__get__(self)

    @requires_grad.setter
    def requires_grad(self, tracked: bool) -> None:
        self.value.requires_grad = tracked
        _REQUIRES_GRAD.__set__(self, tracked)

    def requires_grad_(self, mode: bool = True) -> SavedTensor:
        """Track gradients from here on."""
        self.requires_grad = mode
        return self

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        array = self.value.detach().cpu().numpy()
        return array if dtype is None and not copy else np.array(array, dtype=dtype)

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
        return torch.as_tensor(array)

    def retain_grad(self) -> None:
        """Keep the gradient of the value."""
        self.value.retain_grad()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_value" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.value, name)

    def __format__(self, format_spec: str) -> str:
        value = self.value
        return format(value.item() if format_spec and value.dim() == 0 else value, format_spec)

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return repr(self.value)

    def _repr_html_(self) -> str:
        return tensor_html(self.as_subclass(torch.Tensor))

    def __reduce_ex__(self, proto: Any) -> Any:
        return self.value.__reduce_ex__(proto)

    def __copy__(self) -> Any:
        return copy.copy(self.value)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self.value, memo)


class SavedOutput(SavedTensor):
    """A saved model output that is seen as its logits: its fields are attributes and items too."""

    def __getitem__(self, key: Any) -> Any:
        return self.value[key] if isinstance(key, str) else super().__getitem__(key)


def operand(other: Any) -> Any:
    """A numpy array beside a value is taken as a tensor: torch refuses most such pairs."""
    return torch.tensor(other) if type(other) is np.ndarray else other


def _take_arrays() -> None:
    """Let the operators of a saved tensor take numpy arrays on either side."""

    def taking(method: Callable[..., Any]) -> Callable[..., Any]:
        def taken(self: Any, other: Any) -> Any:
            return method(self, operand(other))

        return taken

    names = "add sub mul truediv floordiv mod pow matmul radd rsub rmul rtruediv rfloordiv rmod rpow rmatmul"
    for name in f"{names} eq ne lt le gt ge".split():
        setattr(SavedTensor, f"__{name}__", taking(getattr(torch.Tensor, f"__{name}__")))


_take_arrays()
