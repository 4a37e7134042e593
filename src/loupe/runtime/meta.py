"""Run a model on tensors without data: learn what passes at every site, with its shape and dtype, ahead of a run."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

from loupe.graph.node import Event, Phase
from loupe.runtime.batching import Along
from loupe.runtime.host import Batch
from loupe.runtime.lookup import module_named
from loupe.runtime.offloaded import placements
from loupe.runtime.open_sites import OpenSite
from loupe.runtime.ops_tap import Operation, calling_line, watching, without_taps
from loupe.runtime.order import Order
from loupe.runtime.plain import named_parts, plainly, submodule
from loupe.runtime.plans import Plans
from loupe.runtime.taps import Taps
from loupe.runtime.tensors import map_tensors, tensors_in, version_of
from loupe.runtime.tree import Tree

_MAX_REAL = 1 << 20
_MOST = 64  # scans that are kept
_LEFT_OUT = object()


def _drop_data(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.is_meta else tensor.to("meta")


class MetaMode(TorchDispatchMode):
    """Where a tensor without data meets one with data, go on without; integers that decide the flow stay real.

    A model without data asks for masks and positions on its own device, which has none: they are made with data.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        leaves = tree_flatten((args, kwargs))[0]
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        if any(tensor.is_meta for tensor in tensors):
            if not all(tensor.is_meta for tensor in tensors):
                args, kwargs = tree_map_only(torch.Tensor, _drop_data, (args, kwargs))
            if isinstance(kwargs.get("device"), torch.device):
                kwargs["device"] = torch.device("meta")
        elif getattr(kwargs.get("device"), "type", None) == "meta":
            return _with_data(func, tensors, args, kwargs)
        return func(*args, **kwargs)


def _with_data(func: Any, tensors: list[torch.Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Make a tensor that was asked for without data: on the CPU where it is small, and is no float that has data."""
    planned = func(*args, **kwargs)
    if not isinstance(planned, torch.Tensor) or planned.numel() > _MAX_REAL:
        return planned
    if any(tensor.is_floating_point() or tensor.is_complex() for tensor in tensors):
        return planned
    return func(*args, **{**kwargs, "device": torch.device("cpu")})


@dataclass
class Scan:
    """What passed at each site in a run on meta tensors, and the error that ended it, where one did."""

    values: dict[Event, Any] = field(default_factory=dict)
    operations: dict[tuple[str, int], list[Operation]] = field(default_factory=dict)
    error: Exception | None = None
    passed: list[Event] = field(default_factory=list)
    _order: Order | None = None

    def order(self) -> Order:
        """The moments of modules in the order in which the pass came to them."""
        if self._order is None:
            self._order = Order(self.passed)
        return self._order

    def calls(self) -> list[str]:
        """The paths of the modules that ran, in order."""
        return list(dict.fromkeys(event.path for event in self.values if event.op is None and event.phase == "in"))


def to_meta(value: Any) -> Any:
    """A value with its floating-point tensors as tensors without data; integers keep theirs, on the CPU."""

    def change(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.is_floating_point() or tensor.is_complex():
            return tensor.detach().to("meta")
        return tensor if tensor.is_meta else tensor.detach().cpu().clone()

    return map_tensors(value, change)


def without_data(module: nn.Module) -> nn.Module:
    """A copy of a module whose parameters have no data, and which calls no hooks of the user's."""
    memo: dict[int, Any] = {}
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
    for buffer in module.buffers():
        real = not buffer.is_meta and buffer.numel() <= _MAX_REAL
        memo[id(buffer)] = buffer.detach().cpu().clone() if real else buffer.detach().to("meta")
    for each in module.modules():
        if placements(each):
            memo[id(each.__dict__["_hf_hook"])] = _LEFT_OUT  # it holds weights
    with plainly(module):
        twin = copy.deepcopy(module, memo)
    for each in twin.modules():
        without_taps(each.__dict__)  # a pass of the module may stand still just now
        if "_hf_hook" in each.__dict__:
            del each.__dict__["_hf_hook"]
            each.__dict__["forward"] = each.__dict__.pop("_old_forward")
        for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
            getattr(each, name).clear()
    return twin


class Scanner:
    """Runs a module without data, once for each signature of its inputs, and remembers what passed."""

    def __init__(self, module: Callable[[], nn.Module], prefix: str) -> None:
        self.lock = threading.RLock()  # of the twin: scans and blocks without data run on it one after the other
        self.tree = Tree()  # of the module itself
        self.plans = Plans()
        self.bytes_of_rows: dict[object, int] = {}  # what one row more takes, by the form of the inputs
        self._module = module
        self._prefix = prefix
        self._twin: nn.Module | None = None
        self._cache: dict[Any, Scan] = {}
        self._state: Any = None
        self._asked: set[Any] = set()  # what an order was asked for once
        self._axes: dict[Any, dict[Event, Along]] = {}
        self._at_rest = False
        self._fresh = False
        self._moved = False
        self.kinds: dict[tuple[str, str, str | None], bool] = {}
        self.overwritten: set[tuple[str, Phase]] | None = None  # where tensors pass that the model changes later
        self.apart: bool | None = None  # whether rows of a batch have nothing to do with each other, where it was tried
        self.events: list[Event] = []  # of one pass, in order: what all scans that came to the end have seen

    def twin(self) -> nn.Module:
        """The module without data; made once."""
        if self._twin is None:
            self._twin = without_data(self._module())
        return self._twin

    def refresh(self) -> None:
        """Forget what was learned of a module whose tree or flags are others by now: adapters, training."""
        module = self._module()
        self._at_rest = self.tree.is_at_rest(module)
        self._fresh = False
        if self._at_rest:
            if self._moved:  # something else than a flag, and no more: what a copy does may differ
                self._forget()
            return
        state = _state(module)
        self._moved = state == self._state
        if not self._moved:
            self._state = state
            self._forget()
            self._fresh = True
            self.kinds.clear()

    def _forget(self) -> None:
        self._moved, self._twin = False, None
        self._cache.clear()
        self._axes.clear()
        self.overwritten = self.apart = None

    def axes(self, batch: Batch, key: str) -> dict[Event, Along]:
        """What scans have told of the axes of sites for such inputs; what is found out is put there."""
        if len(self._axes) > _MOST:
            self._axes.clear()
        return self._axes.setdefault((_signature((batch.args, batch.kwargs)), batch.rows, key), {})

    def order(
        self, batch: Batch, settings: Callable[[nn.Module], AbstractContextManager[None]], key: str
    ) -> Order | None:
        """The order of a pass with such inputs; None where it is not certain, or not worth a scan yet.

        A scan ends with an error where data decides how a model goes on. What a model keeps in its attributes may
        decide too: so they have to be what they were before the run before this one.
        """
        signature = (_signature((batch.args, batch.kwargs)), key)
        if not self._at_rest or signature not in self._asked:
            if len(self._asked) > _MOST:
                self._asked.clear()
            self._asked.add(signature)
            return None
        scan = self.scan(batch, settings, key, ())
        return scan.order() if scan.error is None else None

    def course(
        self, batch: Batch, settings: Callable[[nn.Module], AbstractContextManager[None]], key: str
    ) -> Order | None:
        """Like `order`; what a scan has told already of the model as it is now is worth nothing less."""
        certain = self._fresh or self._at_rest
        known = self._cache.get((_signature((batch.args, batch.kwargs)), key, ())) if certain else None
        if known is not None:
            return known.order() if known.error is None else None
        return self.order(batch, settings, key)

    def distrust(self) -> None:
        """A pass did not go as a scan said."""
        self._asked.clear()

    def twin_module(self, path: str) -> nn.Module:
        """A submodule of the twin, by its path in the whole model."""
        inner = path.removeprefix(self._prefix).lstrip(".") if self._prefix else path
        return submodule(self.twin(), inner)

    def scan(
        self,
        batch: Batch,
        settings: Callable[[nn.Module], AbstractContextManager[None]],
        key: str,
        watch: tuple[str, ...],
    ) -> Scan:
        """What passes at every module, and at the operations of the modules in `watch`."""
        signature = (_signature((batch.args, batch.kwargs)), key, watch)
        found = self._cache.get(signature)
        if found is None:
            if len(self._cache) > _MOST:
                self._cache.clear()
            found = self._cache[signature] = self._run(batch, settings, watch)
        return found

    def _run(
        self, batch: Batch, settings: Callable[[nn.Module], AbstractContextManager[None]], watch: tuple[str, ...]
    ) -> Scan:
        scan = Scan()
        versions: list[tuple[Event, torch.Tensor, int]] = []

        def visit(event: Event, value: Any) -> OpenSite | None:
            scan.values[event] = map_tensors(value, lambda tensor: tensor)
            versions.extend((event, tensor, version_of(tensor)) for tensor in tensors_in(value))
            return None

        try:
            twin = self.twin()
        except Exception as error:  # a module that cannot be copied can still be run
            scan.error = error
            return scan
        taps = Taps(self.twin_module, visit)
        taps.attach_everywhere(twin, self._prefix)
        undo = [self._watch(path, scan) for path in watch]
        for context in undo:
            context.__enter__()
        try:
            with torch.no_grad(), settings(twin), plainly(twin), MetaMode():
                twin(*to_meta(batch.args), **to_meta(batch.kwargs))
        except Exception as error:  # data decides how this model goes on: what passed so far is known
            scan.error = error
        finally:
            for context in reversed(undo):
                context.__exit__(None, None, None)
            taps.detach()
        if scan.error is None:
            scan.passed = [event for event in scan.values if event.op is None]
            _merge(self.events, scan.values)
            if not torch.is_inference_mode_enabled():
                changed = {(event.path, event.phase) for event, tensor, was in versions if version_of(tensor) != was}
                self.overwritten = changed | (self.overwritten or set())
        return scan

    def _watch(self, path: str, scan: Scan) -> AbstractContextManager[None]:
        calls = [0]

        def begin() -> Any:
            call, calls[0] = calls[0], calls[0] + 1
            found = scan.operations.setdefault((path, call), [])

            def act(name: str, index: int, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
                line = calling_line()
                scan.values[Event(path, "in", call, name, index)] = (args, kwargs)
                output = function(*args, **kwargs)
                scan.values[Event(path, "out", call, name, index)] = output
                found.append(Operation(name, index, output, line))
                return output

            return act

        return watching(module_named(self.twin_module, path), begin, [])


def _merge(known: list[Event], seen: Iterable[Event]) -> None:
    """Put events that are not known yet behind those after which they were seen."""
    places = {event: place for place, event in enumerate(known)}
    new: dict[int, list[Event]] = {}
    last = -1
    for event in seen:
        if event in places:
            last = places[event]
        else:
            new.setdefault(last, []).append(event)
    for last, events in sorted(new.items(), reverse=True):
        known[last + 1 : last + 1] = events


def _state(module: nn.Module) -> Any:
    """The tree of a module and the flags that may decide how it goes on."""
    with plainly(module):
        return [(name, type(each), *_flags(each.__dict__)) for name, each in named_parts(module)]


def _flags(own: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in own.items() if type(value) in (bool, str)] + [
        (name, list(value))
        for name, value in own.items()
        if type(value) in (list, tuple) and all(type(item) in (bool, str) for item in value)
    ]


def _signature(value: Any) -> Any:
    """What of the inputs decides how a model goes on without data: the shapes of tensors, and everything else."""
    kind = type(value)
    if isinstance(value, torch.Tensor):
        return tuple(value.shape), value.dtype
    if kind is tuple or kind is list:
        return kind, tuple([_signature(item) for item in value])
    if kind is dict:
        return tuple([(name, _signature(item)) for name, item in value.items()])
    leaves, spec = tree_flatten(value)
    if len(leaves) == 1 and leaves[0] is value:
        return repr(value)
    return str(spec), tuple([_signature(leaf) for leaf in leaves])
