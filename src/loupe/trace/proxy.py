"""Stand for a value of a block: record what is done to it, and be the value once the block has run."""

from __future__ import annotations

import copy
import functools
import operator
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from loupe.errors import BlockError, UnknownModuleError, UnsavedError, nearest
from loupe.graph.node import Ref, Site
from loupe.graph.opset import OBJECT_METHODS, TENSOR_ATTRIBUTES, TENSOR_METHODS
from loupe.ops.table import function_name

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

    __slots__ = ("filled", "most", "proxy", "steps", "value")

    def __init__(self, proxy: Any = None) -> None:
        self.proxy = None if proxy is None else weakref.ref(proxy)
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

    __slots__ = ()
    __array_priority__ = 1000
    _cell: Cell | None
    _recorder: Recorder
    _ref: Ref
    _block_site: Site | None

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
        if name in _OWN_NAMES:
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
        return call_function(func, args, kwargs or {})

    @property
    def __class__(self) -> type:
        if _is_filled(self):
            return type(self._cell.value)  # pyrefly: ignore
        if self._recorder.open:
            return type(_describe(self))
        return type(self)

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
        apply = self._recorder.apply
        return iter([apply("operator.getitem", (self, place)) for place in range(len(described))])

    def __getitem__(self, key: Any) -> Any:
        if self._recorder.open:
            if self._block_site is not None and type(key) is int and key == 0:
                return self._recorder.apply("loupe.hidden_states", (self,))
            return self._recorder.apply("operator.getitem", (self, key))
        return self.value[unwrap(key)]

    def __setitem__(self, key: Any, value: Any) -> None:
        if self._recorder.open:
            if self._block_site is not None and type(key) is int and key == 0:
                self._recorder.write(self._block_site, self._recorder.apply("loupe.with_hidden_states", (self, value)))
            else:
                self._recorder.set_item(self, key, value)
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
_OWN_NAMES = ("_block_site", "_cell", "_recorder", "_ref")


class ValueProxy(Proxy):
    """A value of a block that is no tensor: a tuple, a model output, a dict."""

    __slots__ = ("__weakref__", *_OWN_NAMES)


class TensorProxy(Proxy, torch.Tensor):
    """A value of a block that is, or may be, a tensor.

    It is a tensor by type, so that torch's own argument parser may look at it: a tensor without data stands in for the
    value until the block has run. Then a saved one becomes a tensor that shares the value's memory (`SavedTensor`).
    """


class SavedTensor(torch.Tensor):
    """A saved value after its block: a tensor that shares the memory of `.value`; results of functions are plain tensors."""

    __torch_function__ = torch._C._disabled_torch_function_impl

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
        own = torch.Tensor.grad.__get__(self) if self.is_leaf else None
        return self.value.grad if own is None else own

    @grad.setter
    def grad(self, gradient: Any) -> None:
        self.value.grad = gradient

    @property
    def requires_grad(self) -> bool:
        """Whether gradients are tracked for it."""
        return torch.Tensor.requires_grad.__get__(self)

    @requires_grad.setter
    def requires_grad(self, tracked: bool) -> None:
        self.value.requires_grad = tracked
        torch.Tensor.requires_grad.__set__(self, tracked)

    def requires_grad_(self, requires_grad: bool = True) -> SavedTensor:
        """Track gradients from here on."""
        self.requires_grad = requires_grad
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

    def __format__(self, spec: str) -> str:
        value = self.value
        return format(value.item(), spec) if spec and value.dim() == 0 else format(value, spec)

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return repr(self.value)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.value.__reduce_ex__(protocol)

    def __copy__(self) -> Any:
        return copy.copy(self.value)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self.value, memo)


class SavedOutput(SavedTensor):
    """A saved model output that is seen as its logits: its fields are attributes and items too."""

    def __getitem__(self, key: Any) -> Any:
        return self.value[key] if isinstance(key, str) else super().__getitem__(key)


# What a tensor proxy is to torch's argument parser, which reads numbers and sizes before it asks for our functions.
_STAND_IN = torch.empty((), dtype=torch.int64, device="meta")


def make_proxy(recorder: Recorder, ref: Ref, *, tensor: bool = True, block_site: Site | None = None) -> Proxy:
    """A handle on a node; `tensor` says whether its value is, or may be, a tensor."""
    proxy: Any
    if tensor:
        proxy = torch.Tensor._make_subclass(TensorProxy, _STAND_IN)
        proxy.__dict__.update(_recorder=recorder, _ref=ref, _cell=None, _block_site=block_site)
        return proxy
    proxy = ValueProxy()
    for name, value in zip(_OWN_NAMES, (block_site, None, recorder, ref), strict=True):
        set_slot(proxy, name, value)
    return proxy


def settle(proxy: Any) -> None:
    """Let a saved proxy be its value, where that is a tensor."""
    value = proxy._cell.value
    if type(proxy) is not TensorProxy or not isinstance(value, torch.Tensor) or value.layout != torch.strided:
        if type(proxy) is TensorProxy and type(value) in (bool, int, float):
            torch._C._swap_tensor_impl(proxy, torch.tensor(value))  # torch reads numbers from the tensor itself
        return
    with torch.set_grad_enabled(value.requires_grad):
        alias = torch.ops.aten.alias.default(value.as_subclass(torch.Tensor))
    torch._C._swap_tensor_impl(proxy, alias)
    proxy.__dict__.clear()
    object.__dict__["__class__"].__set__(proxy, SavedTensor if type(value) is torch.Tensor else SavedOutput)
    proxy.__dict__["_value"] = value


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


_FACTORIES = frozenset(
    "tensor as_tensor asarray scalar_tensor from_numpy zeros ones full empty empty_strided arange range linspace logspace "
    "eye rand randn randint randperm tril_indices triu_indices manual_seed is_tensor".split()
)


def call_function(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A torch function on values of a block: recorded while it is open, called on the values after it.

    Functions that make tensors from numbers get the numbers.
    """
    recorder = _open_recorder((args, kwargs))
    if recorder is None or getattr(func, "__name__", "") in _FACTORIES:
        return func(*unwrap(args), **unwrap(kwargs))
    if getattr(func, "__name__", "") in ("__get__", "__set__"):
        raise AttributeError("this attribute of a tensor is not recorded in a block")
    return recorder.apply_function(func, args, kwargs)


class BlockMode(TorchFunctionMode):
    """Active while a block is open: records the calls that torch would not hand to a proxy.

    These are the calls in which torch sees a value of the block only as a number, and those on a tensor of the user's
    own into which a line above has written a value of the block.
    """

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the function, or record it where a value of the block is among its arguments."""
        kwargs = kwargs or {}
        if _open_recorder((args, kwargs)) is not None:
            return call_function(func, args, kwargs)
        written = self._recorder.written
        if written and any(id(arg) in written for arg in args) and self._recorder.open and is_recorded(func):
            return self._recorder.apply_function(func, args, kwargs)
        return func(*args, **kwargs)


def is_recorded(function: Callable[..., Any]) -> bool:
    """Whether the opset has a torch function, other than the reading of an attribute."""
    return function_name(function) not in (None, "python.getattr")


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


def _define_names() -> None:
    """Send every public name of a tensor through `Proxy.__getattr__`, which knows what is recorded and what is known."""
    for name in dir(torch.Tensor):
        if not name.startswith("_") and name not in Proxy.__dict__:
            setattr(TensorProxy, name, property(functools.partial(_named, name)))


def _named(name: str, proxy: Proxy) -> Any:
    return Proxy.__getattr__(proxy, name)


def _take_arrays() -> None:
    """Let the operators of a saved tensor take numpy arrays on either side."""

    def taking(method: Callable[..., Any]) -> Callable[..., Any]:
        return lambda self, other: method(self, _operand(other))

    names = "add sub mul truediv floordiv mod pow matmul radd rsub rmul rtruediv rfloordiv rmod rpow rmatmul"
    for name in f"{names} eq ne lt le gt ge".split():
        setattr(SavedTensor, f"__{name}__", taking(getattr(torch.Tensor, f"__{name}__")))


_define_operators()
_take_arrays()
_define_names()
