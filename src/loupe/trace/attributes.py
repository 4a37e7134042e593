"""Answer for the attributes and methods of a value of an open block: known at once, looked at, or recorded."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from loupe.errors import BlockError, Line, UnknownModuleError, nearest
from loupe.graph.opset import OBJECT_METHODS, TENSOR_ATTRIBUTES, TENSOR_METHODS
from loupe.trace.backward import gradient, run_backward
from loupe.trace.handles import unwrap
from loupe.trace.source import user_line

if TYPE_CHECKING:
    from loupe.trace.proxy import Proxy
    from loupe.trace.recorder import Recorder

# Known from shapes alone, so a block has them at once and without a run.
_DESCRIBED_ATTRIBUTES = frozenset(("shape", "dtype", "ndim", "layout", "itemsize"))
_DESCRIBED_METHODS = frozenset(
    ("size", "dim", "numel", "nelement", "ndimension", "element_size", "is_floating_point", "is_complex")
)
_PEEKING_METHODS = frozenset(("item", "tolist", "numpy"))
# Results of these have fields that are called like methods of a tensor.
_STRUCTS = frozenset(("aminmax", "slogdet", "inv_ex"))
_STRUCT_FIELDS = frozenset(("max", "min", "sign", "inverse"))

# The keys of a dict are known without a run; its values are recorded one by one.
_DICT_VIEWS: dict[str, Callable[[Proxy, list[Any]], list[Any]]] = {
    "keys": lambda _proxy, keys: keys,
    "values": lambda proxy, keys: [proxy[key] for key in keys],
    "items": lambda proxy, keys: [(key, proxy[key]) for key in keys],
}


def attribute(proxy: Proxy, recorder: Recorder, name: str) -> Any:
    """What `proxy.name` is in the open block of a recorder."""
    if name == "grad":
        return gradient(recorder, proxy)
    if name == "backward":
        return functools.partial(BackwardBlock, recorder, proxy)
    if name == "retain_grad":
        return lambda: recorder.apply("loupe.retain_grad", (proxy,))
    if name == "requires_grad_":
        return lambda requires_grad=True: recorder.apply("loupe.require_grad", (proxy, requires_grad))
    if name == "register_hook":
        raise BlockError(
            "register_hook puts a function on a value that is not there yet",
            remedy="read or assign x.grad after loss.backward(), or inside `with loss.backward():`",
            line=user_line(sys._getframe(1)),
        )
    if name.startswith("_"):
        raise AttributeError(f"{name!r} is not recorded in a block")
    if name in _DESCRIBED_ATTRIBUTES:
        return getattr(value_without_data(proxy), name)
    if name in ("device", "is_cuda"):
        device = _device(proxy)
        return device if name == "device" else device.type == "cuda"
    if name in TENSOR_METHODS or name in _PEEKING_METHODS:
        if not (name in _STRUCT_FIELDS and _is_struct(proxy)):
            return Method(proxy, recorder, name)
    elif not recorder.execution.describes:
        return (
            Method(proxy, recorder, name) if name in OBJECT_METHODS else recorder.apply("python.getattr", (proxy, name))
        )
    elif name not in TENSOR_ATTRIBUTES:
        known = _having(proxy, name)
        if (name in OBJECT_METHODS or isinstance(known, torch.Tensor)) and callable(getattr(known, name)):
            return Method(proxy, recorder, name)
    return recorder.apply("python.getattr", (proxy, name))


class BackwardBlock:
    """A backward pass of a block; as a context manager it says which pass the gradients inside it belong to.

    >>> with model.trace("Hello"):
    ...     hidden = model.transformer.h[5].output[0]
    ...     with model.output.sum().backward():
    ...         gradient = hidden.grad.save()
    """

    __slots__ = ("_number", "_outer", "_recorder")

    def __init__(self, recorder: Recorder, loss: Proxy, *args: Any, **kwargs: Any) -> None:
        self._recorder = recorder
        self._number = run_backward(recorder, loss, args, kwargs)
        self._outer: int | None = None

    def __enter__(self) -> None:
        scope = self._recorder.scope
        self._outer, scope.backward = scope.backward, self._number

    def __exit__(self, *error: object) -> None:
        self._recorder.scope.backward = self._outer


class Method:
    """A method of a value, about to be called."""

    __slots__ = ("_name", "_proxy", "_recorder")

    def __init__(self, proxy: Proxy, recorder: Recorder, name: str) -> None:
        self._proxy = proxy
        self._recorder = recorder
        self._name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Record the call, or answer it at once where shape or value is asked for."""
        proxy, recorder, name = self._proxy, self._recorder, self._name
        if name in _DESCRIBED_METHODS:
            return getattr(value_without_data(proxy), name)(*unwrap(args), **unwrap(kwargs))
        if name in _PEEKING_METHODS:
            return getattr(proxy.value, name)(*unwrap(args), **unwrap(kwargs))
        if name in OBJECT_METHODS and not recorder.execution.describes:
            return recorder.apply("python.call_method", (proxy, name, *args), kwargs)
        if name in OBJECT_METHODS and not isinstance(described := value_without_data(proxy), torch.Tensor):
            if isinstance(described, dict) and name in _DICT_VIEWS:
                return _DICT_VIEWS[name](proxy, list(described))
            return recorder.apply("python.call_method", (proxy, name, *args), kwargs)
        if name not in TENSOR_METHODS:  # a method that only this process may call
            return recorder.apply_function(getattr(torch.Tensor, name), (proxy, *args), kwargs)
        return recorder.apply(f"Tensor.{name}", (proxy, *args), kwargs)

    def __repr__(self) -> str:
        return f"<method {self._name} of {self._proxy!r}>"


def _is_struct(proxy: Proxy) -> bool:
    node = proxy._recorder.graph[proxy._ref.node]
    return node.kind == "apply" and node.target.rpartition(".")[2] in _STRUCTS


def value_without_data(proxy: Proxy) -> Any:
    """The value of a proxy without data."""
    recorder = proxy._recorder
    if not recorder.open and recorder.session is not None:
        return recorder.session.described(proxy)
    ref = recorder.encode(proxy) if recorder.open else proxy._ref
    with recorder.modes.as_opened():
        return recorder.execution.describe(ref.node)


def _device(proxy: Proxy) -> torch.device:
    return proxy._recorder.execution.device(proxy._ref.node) if proxy._recorder.open else proxy.value.device


def _having(proxy: Proxy, name: str) -> Any:
    """The value without data; raises UnknownModuleError where it has no such attribute."""
    described = value_without_data(proxy)
    if not hasattr(described, name):
        known = [each for each in dir(described) if not each.startswith("_")]
        kind = "a tensor" if isinstance(described, torch.Tensor) else f"a value of type {type(described).__name__}"
        raise UnknownModuleError(
            f"{kind} has no attribute {name!r}",
            remedy=nearest(name, known),
            line=line_of(proxy),
        )
    return described


def line_of(proxy: Proxy) -> Line | None:
    """The user's line that made a value."""
    return proxy._recorder.graph[proxy._ref.node].line
