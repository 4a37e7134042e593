"""Tie the names of the opset to torch functions, in both directions."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import cache
from types import MappingProxyType
from typing import Any

import torch

from loupe.errors import GraphError, nearest
from loupe.graph.opset import OBJECT_METHODS, OPSET, TENSOR_ATTRIBUTES, TENSOR_METHODS
from loupe.graph.refusals import why_refused
from loupe.ops.gradients import require_grad, retain_grad
from loupe.ops.views import (
    first_input,
    hidden_states,
    last_step,
    logits,
    set_item,
    with_hidden_states,
    with_item,
    with_logits,
)

_SPACES: MappingProxyType[str, Any] = MappingProxyType(
    {
        "torch": torch,
        "nn.functional": torch.nn.functional,
        "linalg": torch.linalg,
        "fft": torch.fft,
        "special": torch.special,
        "Tensor": torch.Tensor,
        "operator": operator,
    }
)


def _call_method(value: Any, name: str, *args: Any, **kwargs: Any) -> Any:
    if name not in OBJECT_METHODS:
        raise GraphError(f"no method {name!r} is allowed in a graph", remedy=nearest(name, sorted(OBJECT_METHODS)))
    return getattr(value, name)(*args, **kwargs)


def _getattr(value: Any, name: str) -> Any:
    if isinstance(value, torch.nn.Module) or name.startswith("_"):
        raise GraphError(
            f"the attribute {name!r} of a {type(value).__name__} is none of a graph's",
            remedy="name a module's parameters and buffers by their paths; leave out what begins with _",
        )
    return getattr(value, name)


_OWN: dict[str, Callable[..., Any]] = {
    "operator.divmod": divmod,
    "python.getattr": _getattr,
    "python.call_method": _call_method,
    "loupe.hidden_states": hidden_states,
    "loupe.with_hidden_states": with_hidden_states,
    "loupe.logits": logits,
    "loupe.with_item": with_item,
    "loupe.set_item": set_item,
    "loupe.with_logits": with_logits,
    "loupe.first_input": first_input,
    "loupe.last_step": last_step,
    "loupe.require_grad": require_grad,
    "loupe.retain_grad": retain_grad,
}

# Functions that torch hands to `__torch_function__` under another identity than their public one.
_DUNDERS = {
    "__getitem__": "operator.getitem",
    "__setitem__": "operator.setitem",
    "__delitem__": "operator.delitem",
    "__add__": "operator.add",
    "__sub__": "operator.sub",
    "__mul__": "operator.mul",
    "__truediv__": "operator.truediv",
    "__div__": "operator.truediv",
    "__floordiv__": "operator.floordiv",
    "__mod__": "operator.mod",
    "__pow__": "operator.pow",
    "__matmul__": "operator.matmul",
    "__and__": "operator.and_",
    "__or__": "operator.or_",
    "__xor__": "operator.xor",
    "__invert__": "operator.invert",
    "__lshift__": "operator.lshift",
    "__rshift__": "operator.rshift",
    "__eq__": "operator.eq",
    "__ne__": "operator.ne",
    "__lt__": "operator.lt",
    "__le__": "operator.le",
    "__gt__": "operator.gt",
    "__ge__": "operator.ge",
    "__iadd__": "operator.iadd",
    "__isub__": "operator.isub",
    "__imul__": "operator.imul",
    "__itruediv__": "operator.itruediv",
    "__idiv__": "operator.itruediv",
    "__ifloordiv__": "operator.ifloordiv",
    "__ipow__": "operator.ipow",
    "__imod__": "operator.imod",
    "__iand__": "operator.iand",
    "__ior__": "operator.ior",
    "__ixor__": "operator.ixor",
    "__ilshift__": "operator.ilshift",
    "__irshift__": "operator.irshift",
}


@cache
def function_of(name: str) -> Callable[..., Any]:
    """The function behind a name of the opset.

    Raises GraphError for a name that is not allowed, or that the installed torch does not have.
    """
    if name not in OPSET:
        fact, remedy = why_refused(name) or ("", nearest(name, sorted(OPSET)))
        raise GraphError(f"no operation {name!r} is allowed in a graph" + (fact and f": {fact}"), remedy=remedy)
    if name in _OWN:
        return _OWN[name]
    space, _, leaf = name.rpartition(".")
    function = getattr(_SPACES[space], leaf, None)
    if function is None:
        raise GraphError(
            f"torch {torch.__version__} has no {name!r}", remedy="install the torch with which the graph was written"
        )
    return function


@cache
def _names() -> dict[Any, str]:
    found: dict[Any, str] = {}
    for name in OPSET:
        space, _, leaf = name.rpartition(".")
        function = _OWN.get(name) or getattr(_SPACES.get(space), leaf, None)
        if function is not None:
            found.setdefault(function, name)
    for leaf, name in _DUNDERS.items():
        function = getattr(torch.Tensor, leaf, None)
        if function is not None:
            found.setdefault(function, name)
    for leaf in TENSOR_METHODS:  # torch.zero_ is the method zero_
        function = getattr(torch, leaf, None) if leaf.endswith("_") else None
        if function is not None:
            found.setdefault(function, f"Tensor.{leaf}")
    for leaf in TENSOR_ATTRIBUTES:
        getter = getattr(getattr(torch.Tensor, leaf, None), "__get__", None)
        if getter is not None:
            found.setdefault(getter, "python.getattr")
    return found


def function_name(function: Callable[..., Any]) -> str | None:
    """The opset's name of a torch function, or None where the opset has none."""
    try:
        return _names().get(function)
    except TypeError:  # an unhashable callable is no function of torch
        return None
