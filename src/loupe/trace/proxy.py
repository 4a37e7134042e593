"""Stand for a value of a block: record what is done to it, and be the value once the block has run."""

from __future__ import annotations

import copy
import functools
import operator
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from loupe.errors import BlockError, UnknownModuleError, UnsavedError, nearest
from loupe.graph.node import Ref, Site
from loupe.graph.opset import OBJECT_METHODS, TENSOR_ATTRIBUTES, TENSOR_METHODS

if TYPE_CHECKING:
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


class Cell:
    """Where the value of a saved node is put when the block has run."""

    __slots__ = ("filled", "most", "steps", "value")

    def __init__(self) -> None:
        self.filled = False
        self.value: Any = None
        self.most = 0
        self.steps: dict[int, Any] = {}


class Proxy:
    """A value of a block.

    While the block is open, operators, methods, attributes and torch functions on it are recorded. Where Python needs
    the real value (`if`, `float`, `print`, numpy), the run proceeds to it. After the block a saved proxy is its value;
    `.value` is the bare object. Reading an unsaved one raises UnsavedError, which names the line that made it.

    >>> with model.trace("Hello"):
    ...     hidden = model.transformer.h[5].output[0].save()
    >>> hidden.shape
    torch.Size([1, 1, 96])
    """

    __slots__ = ("__weakref__", "_cell", "_recorder", "_ref")
    __array_priority__ = 1000

    def __init__(self, recorder: Recorder, ref: Ref) -> None:
        set_slot(self, "_recorder", recorder)
        set_slot(self, "_ref", ref)
        set_slot(self, "_cell", None)

    # -- the value -----------------------------------------------------------------------------------------------------

    @property
    def value(self) -> Any:
        """The bare value: after the block for a saved proxy, inside it by a peek."""
        cell = self._cell
        if cell is not None and cell.filled:
            return cell.value
        if self._recorder.open:
            return self._recorder.execution.peek(self._ref.node)
        raise _unsaved(self)

    def save(self, name: str | None = None) -> Proxy:
        """Keep the value past the block; `name` is its key in a graph's results.

        >>> logits = model.output.save()
        """
        if self._recorder.open:
            return self._recorder.save(self, name)
        if self._cell is not None:
            return self
        raise BlockError(
            "a value is saved after its block has ended", remedy="call .save() inside the block", line=_line_of(self)
        )

    # -- Python's protocols --------------------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        if not self._recorder.open:
            if name.startswith("__") and not _is_filled(self):
                raise AttributeError(name)
            return getattr(self.value, name)
        if name == "grad":
            return self._recorder.gradient(self)
        if name == "backward":
            return functools.partial(BackwardBlock, self)
        if name == "retain_grad":
            return lambda: self._recorder.apply("loupe.retain_grad", (self,))
        if name.startswith("_"):
            raise AttributeError(f"{name!r} is not recorded in a block")
        if name in _DESCRIBED_ATTRIBUTES:
            return getattr(_describe(self), name)
        if name in ("device", "is_cuda"):
            device = self._recorder.execution.device(self._ref.node)
            return device if name == "device" else device.type == "cuda"
        if name in TENSOR_METHODS or name in _PEEKING_METHODS:
            if not (name in _STRUCT_FIELDS and _is_struct(self)):
                return Method(self, name)
        elif name not in TENSOR_ATTRIBUTES:
            _check_attribute(self, name)
            described = _describe(self)
            if (name in OBJECT_METHODS or isinstance(described, torch.Tensor)) and callable(getattr(described, name)):
                return Method(self, name)
        return self._recorder.apply("python.getattr", (self, name))

    def __setattr__(self, name: str, value: Any) -> None:
        if name in Proxy.__slots__:
            set_slot(self, name, value)
        elif self._recorder.open and name == "grad":
            self._recorder.write_gradient(self, value)
        elif self._recorder.open and name == "requires_grad":
            self._recorder.apply("loupe.require_grad", (self, value))
        elif self._recorder.open:
            raise BlockError(
                f"the attribute {name!r} of a value cannot be set in a block",
                remedy="change the value itself (`x[:] = …`), or the site (`module.output = …`)",
                line=_line_of(self),
            )
        else:
            setattr(self.value, name, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """After the block: call the value."""
        if not self._recorder.open:
            return self.value(*args, **kwargs)
        raise BlockError(
            "a value of the block is called like a function",
            remedy="call a module or a torch function on it; wrap your own function in loupe.fn",
            line=_line_of(self),
        )

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        recorder = _open_recorder((args, kwargs))
        if recorder is None:
            return func(*unwrap(args), **unwrap(kwargs))
        return recorder.apply_function(func, args, kwargs)

    @property
    def __class__(self) -> type:
        if _is_filled(self):
            return type(self._cell.value)
        if self._recorder.open:
            return type(_describe(self))
        return Proxy

    def __repr__(self) -> str:
        if _is_filled(self):
            return repr(self._cell.value)
        return f"<{self._recorder.graph.node_text(self._recorder.graph[self._ref.node])}>"

    def __str__(self) -> str:
        return str(self.value)

    def __format__(self, spec: str) -> str:
        value = self.value
        if spec and isinstance(value, torch.Tensor) and value.dim() == 0:
            return format(value.item(), spec)
        return format(value, spec)

    def __bool__(self) -> bool:
        return bool(self.value)

    def __float__(self) -> float:
        return float(self.value)

    def __int__(self) -> int:
        return int(self.value)

    def __complex__(self) -> complex:
        return complex(self.value)

    def __index__(self) -> int:
        return operator.index(self.value)

    def __contains__(self, item: Any) -> bool:
        return (item.value if isinstance_proxy(item) else item) in self.value

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        value = self.value
        array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
        return array if dtype is None else array.astype(dtype)

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
        if not self._recorder.open and isinstance(self.value, torch.Tensor):
            return torch.as_tensor(array)  # numpy functions of a tensor give tensors
        return array[()] if return_scalar else array

    def __len__(self) -> int:
        return len(_describe(self)) if self._recorder.open else len(self.value)

    def __iter__(self) -> Iterator[Any]:
        if not self._recorder.open:
            return iter(self.value)
        described = _describe(self)
        if isinstance(described, dict):
            return iter(described)
        if isinstance(described, torch.Tensor) and described.dim() == 0:
            raise TypeError("iteration over a 0-d tensor")
        return iter([Proxy.__getitem__(self, place) for place in range(len(described))])

    def __getitem__(self, key: Any) -> Any:
        if self._recorder.open:
            return self._recorder.apply("operator.getitem", (self, key))
        return self.value[unwrap(key)]

    def __setitem__(self, key: Any, value: Any) -> None:
        if self._recorder.open:
            self._recorder.apply("operator.setitem", (self, key, value))
        else:
            self.value[unwrap(key)] = unwrap(value)

    def __delitem__(self, key: Any) -> None:
        if self._recorder.open:
            self._recorder.apply("operator.delitem", (self, key))
        else:
            del self.value[unwrap(key)]

    def __hash__(self) -> int:
        return id(self)

    def __dir__(self) -> list[str]:
        return sorted({"save", "value", *(dir(self._cell.value) if _is_filled(self) else TENSOR_METHODS)})

    def __copy__(self) -> Any:
        return copy.copy(self.value)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self.value, memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        value = self.value
        if isinstance(value, torch.Tensor):
            return value.__reduce_ex__(protocol)
        return operator.itemgetter(0), ((value,),)


set_slot = object.__setattr__


class HiddenStatesProxy(Proxy):
    """The output of a decoder block: `[0]`, the literal 0, is its hidden states under every version of transformers."""

    __slots__ = ("_site",)

    def __init__(self, recorder: Recorder, ref: Ref, site: Site) -> None:
        super().__init__(recorder, ref)
        set_slot(self, "_site", site)

    def __getitem__(self, key: Any) -> Any:
        if type(key) is int and key == 0 and self._recorder.open:
            return self._recorder.apply("loupe.hidden_states", (self,))
        return super().__getitem__(key)

    def __setitem__(self, key: Any, value: Any) -> None:
        if type(key) is int and key == 0 and self._recorder.open:
            self._recorder.write(self._site, self._recorder.apply("loupe.with_hidden_states", (self, value)))
        else:
            super().__setitem__(key, value)


# The keys of a dict are known without a run; its values are recorded one by one.
_DICT_VIEWS: dict[str, Callable[[Proxy, list[Any]], list[Any]]] = {
    "keys": lambda _proxy, keys: keys,
    "values": lambda proxy, keys: [proxy[key] for key in keys],
    "items": lambda proxy, keys: [(key, proxy[key]) for key in keys],
}


class BackwardBlock:
    """A backward pass of a block; as a context manager it says which pass the gradients inside it belong to.

    >>> with model.trace("Hello"):
    ...     hidden = model.transformer.h[5].output[0]
    ...     with model.output.sum().backward():
    ...         gradient = hidden.grad.save()
    """

    __slots__ = ("_number", "_outer", "_recorder")

    def __init__(self, loss: Proxy, *args: Any, **kwargs: Any) -> None:
        self._recorder = loss._recorder
        self._number = self._recorder.run_backward(loss, args, kwargs)
        self._outer: int | None = None

    def __enter__(self) -> None:
        self._outer, self._recorder.backward = self._recorder.backward, self._number

    def __exit__(self, *error: object) -> None:
        self._recorder.backward = self._outer


class Method:
    """A method of a value, about to be called."""

    __slots__ = ("_name", "_proxy")

    def __init__(self, proxy: Proxy, name: str) -> None:
        self._proxy = proxy
        self._name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Record the call, or answer it at once where shape or value is asked for."""
        proxy, name = self._proxy, self._name
        recorder = proxy._recorder
        if name in _DESCRIBED_METHODS:
            return getattr(_describe(proxy), name)(*unwrap(args), **unwrap(kwargs))
        if name in _PEEKING_METHODS:
            return getattr(proxy.value, name)(*unwrap(args), **unwrap(kwargs))
        if name in OBJECT_METHODS and not isinstance(described := _describe(proxy), torch.Tensor):
            if isinstance(described, dict) and name in _DICT_VIEWS:
                return _DICT_VIEWS[name](proxy, list(described))
            return recorder.apply("python.call_method", (proxy, name, *args), kwargs)
        if name not in TENSOR_METHODS:  # a method that only this process may call
            return recorder.apply_function(getattr(torch.Tensor, name), (proxy, *args), kwargs)
        return recorder.apply(f"Tensor.{name}", (proxy, *args), kwargs)

    def __repr__(self) -> str:
        return f"<method {self._name} of {self._proxy!r}>"


def isinstance_proxy(value: Any) -> bool:
    """Whether a value is a proxy; `isinstance` would answer for the value behind it."""
    return issubclass(type(value), Proxy)


def _is_filled(proxy: Proxy) -> bool:
    cell = proxy._cell
    return cell is not None and cell.filled


def _is_struct(proxy: Proxy) -> bool:
    node = proxy._recorder.graph[proxy._ref.node]
    return node.kind == "apply" and node.target.rpartition(".")[2] in _STRUCTS


def _line_of(proxy: Proxy) -> Any:
    return proxy._recorder.graph[proxy._ref.node].line


def _describe(proxy: Proxy) -> Any:
    return proxy._recorder.execution.describe(proxy._ref.node)


def _unsaved(proxy: Proxy) -> UnsavedError:
    if proxy._recorder.failed:
        return UnsavedError(
            "this value was never computed: its block ended with an exception",
            remedy="mend the error that the block raised",
            line=_line_of(proxy),
        )
    if proxy._cell is not None:
        return UnsavedError(
            "this value was saved, but the run ended before it was reached",
            remedy="read it at a module that runs in every pass",
            line=_line_of(proxy),
        )
    return UnsavedError(
        "this value was not saved, so it is gone with its block",
        remedy="add .save() to this line",
        line=_line_of(proxy),
    )


def _check_attribute(proxy: Proxy, name: str) -> None:
    """Refuse a misspelt attribute where the value's type is known without a run of the model."""
    described = _describe(proxy)
    known = [each for each in dir(described) if not each.startswith("_")]
    if not hasattr(described, name):
        kind = "a tensor" if isinstance(described, torch.Tensor) else f"a value of type {type(described).__name__}"
        raise UnknownModuleError(f"{kind} has no attribute {name!r}", remedy=nearest(name, known), line=_line_of(proxy))


def _open_recorder(value: Any) -> Recorder | None:
    kind = type(value)
    if issubclass(kind, Proxy):
        return value._recorder if value._recorder.open else None
    if kind is tuple or kind is list:
        for item in value:
            found = _open_recorder(item)
            if found is not None:
                return found
    elif kind is dict:
        return _open_recorder(list(value.values()))
    elif kind is slice:
        return _open_recorder((value.start, value.stop, value.step))
    return None


def unwrap(value: Any) -> Any:
    """Replace proxies by their values, through containers."""
    kind = type(value)
    if issubclass(kind, Proxy):
        return value.value
    if kind is tuple or kind is list:
        return kind([unwrap(item) for item in value])
    if kind is dict:
        return {key: unwrap(item) for key, item in value.items()}
    if kind is slice:
        return slice(unwrap(value.start), unwrap(value.stop), unwrap(value.step))
    return value


def _operand(other: Any) -> Any:
    """A numpy array beside a value is taken as a tensor: torch refuses most such pairs."""
    return torch.tensor(other) if type(other) is np.ndarray else other


def _operator(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    target = f"operator.{name}"

    def method(self: Proxy, *others: Any) -> Any:
        others = tuple([_operand(other) for other in others])
        if self._recorder.open:
            return self._recorder.apply(target, (self, *others))
        return function(self.value, *unwrap(others))

    return method


def _reflected(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    target = f"operator.{name}"

    def method(self: Proxy, other: Any) -> Any:
        other = _operand(other)
        if self._recorder.open:
            return self._recorder.apply(target, (other, self))
        return function(unwrap(other), self.value)

    return method


def _define_operators() -> None:
    """Give Proxy its operators, from one table."""
    for name in "add sub mul truediv floordiv mod pow matmul and_ or_ xor lshift rshift divmod".split():
        plain = name.rstrip("_")
        function = divmod if name == "divmod" else getattr(operator, name)
        setattr(Proxy, f"__{plain}__", _operator(name, function))
        setattr(Proxy, f"__r{plain}__", _reflected(name, function))
    for name in "iadd isub imul itruediv ifloordiv imod ipow imatmul iand ior ixor ilshift irshift".split():
        setattr(Proxy, f"__{name}__", _operator(name, getattr(operator, name)))
    for name in "neg pos abs invert eq ne lt le gt ge".split():
        setattr(Proxy, f"__{name}__", _operator(name, getattr(operator, name)))


_define_operators()
