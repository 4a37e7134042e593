"""Record backward passes and gradients: `loss.backward()`, `.grad`, and torch's own functions for them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from loupe.errors import BlockError, Line
from loupe.graph.node import Site
from loupe.trace.handles import isinstance_proxy
from loupe.trace.source import user_line

if TYPE_CHECKING:
    from loupe.trace.proxy import Proxy
    from loupe.trace.recorder import Recorder

_NAMES = ("gradient", "retain_graph", "create_graph", "inputs")


def run_backward(
    recorder: Recorder, proxy: Proxy, args: tuple[Any, ...], kwargs: dict[str, Any], *, only_inputs: bool = False
) -> int:
    """Record a backward pass from a value; returns its number. With `only_inputs` nothing collects `.grad`."""
    if recorder.generates:
        raise without_autograd(user_line(sys._getframe(1)))
    number = len(recorder.graph.backwards)
    options = _options(args, kwargs)
    if only_inputs:
        options["only_inputs"] = True
    elif recorder.parameter_gradients:
        options["parameter_gradients"] = True
    start = recorder.encode(proxy)
    recorder.append("backward", None, (start,), {key: recorder.encode(value) for key, value in options.items()})
    return number


def gradient(recorder: Recorder, proxy: Proxy) -> Proxy:
    """Record the reading of a value's gradient: in the open backward block, or the last one, or the next."""
    return recorder.read(_gradient_site(recorder, proxy))


def write_gradient(recorder: Recorder, proxy: Proxy, value: Any) -> None:
    """Record that a backward pass goes on with another gradient of a value."""
    recorder.write(_gradient_site(recorder, proxy), value)


def _gradient_site(recorder: Recorder, proxy: Proxy) -> Site:
    call = recorder.scope.backward
    if call is None:
        call = max(len(recorder.graph.backwards) - 1, 0)
    return Site(f"%{recorder.encode(proxy).node}", "grad", call)


def without_autograd(line: Line) -> BlockError:
    """The error of gradients in the block of a generation."""
    return BlockError(
        "a generation runs without autograd, so that there are no gradients in its block",
        remedy="trace the ids that it gives: `with model.trace(ids):`",
        line=line,
    )


def _options(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The options of `loss.backward(...)` by name; raises BlockError for what a block has other means for."""
    unknown = [repr(name) for name in kwargs if name not in _NAMES]
    if unknown or len(args) > len(_NAMES):
        raise _refused(
            f"backward has no option {', '.join(unknown) or f'number {len(args)}'}",
            "it takes gradient, retain_graph and create_graph",
        )
    options = dict(zip(_NAMES, args, strict=False)) | kwargs
    if options.pop("inputs", None) is not None:
        raise _refused(
            "backward(inputs=...) says what collects gradients, which a block says by reading them",
            "leave inputs= out, and read x.grad of the values that you want; or use torch.autograd.grad(loss, inputs)",
        )
    return options


def _grad(
    recorder: Recorder,
    outputs: Any,
    inputs: Any,
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    only_inputs: bool = True,
    allow_unused: bool | None = None,
    is_grads_batched: bool = False,
    materialize_grads: bool = False,
) -> tuple[Proxy, ...]:
    """`torch.autograd.grad`: a backward pass in which nothing collects `.grad`, and the gradients that it gives."""
    if allow_unused or is_grads_batched or materialize_grads:
        raise _refused(
            "torch.autograd.grad in a block gives gradients of values on which the loss depends, of one pass at a time",
            "leave out allow_unused, is_grads_batched and materialize_grads",
        )
    found = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
    if not all(isinstance_proxy(each) for each in found):
        raise _refused(
            "torch.autograd.grad in a block is asked for the gradient of a tensor that is no value of the block",
            "call loss.backward(), and read the .grad of your own tensor after the block",
        )
    number = run_backward(
        recorder,
        _only(outputs),
        (_only(grad_outputs), retain_graph, create_graph),
        {},
        only_inputs=True,
    )
    scope = recorder.scope
    outer, scope.backward = scope.backward, number
    try:
        return tuple([gradient(recorder, each) for each in found])
    finally:
        scope.backward = outer


def _backward(
    recorder: Recorder,
    tensors: Any,
    grad_tensors: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    grad_variables: Any = None,
    inputs: Any = None,
) -> None:
    """`torch.autograd.backward`: a backward pass from one value."""
    given = _only(grad_variables if grad_tensors is None else grad_tensors)
    run_backward(recorder, _only(tensors), (given, retain_graph, create_graph, inputs), {})


def _only(values: Any) -> Any:
    """The one value from which a backward pass starts."""
    if not isinstance(values, Sequence):
        return values
    if len(values) != 1:
        raise _refused(
            f"a backward pass of a block starts from one value, and {len(values)} are given",
            "add the losses up: torch.autograd.grad(first + second, inputs)",
        )
    return values[0]


def _refused(fact: str, remedy: str) -> BlockError:
    return BlockError(fact, remedy=remedy, line=user_line(sys._getframe(2)))


AUTOGRAD: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.autograd.grad: _grad,
    torch.autograd.backward: _backward,
}
