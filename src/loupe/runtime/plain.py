"""Let a model run plainly for a while: not as compiled code, and without computing activations a second time."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

from torch import nn

_WRAPPED = "_orig_mod"  # where the wrapper that torch.compile(module) makes keeps the module
_ABSENT = object()
# What a module has, of its own, where it does not run as its class says.
OWN_WAYS = ("_compiled_call_impl", "forward", "gradient_checkpointing")


def uncompiled(module: nn.Module) -> nn.Module:
    """The module inside what `torch.compile(module)` made; any other module as it is."""
    while _is_wrapper(module):
        _notice_compiled()
        module = _inside(module)
    return module


def submodule(root: nn.Module, path: str) -> nn.Module:
    """The module at a path; compiled wrappers on the way have no name of their own. Raises KeyError."""
    module = root
    for name in path.split(".") if path else ():
        parts = module._modules
        if name == _WRAPPED and name not in parts:
            continue  # named_modules() names it; the wrapper was passed already
        found = parts[name]
        if found is None:
            raise KeyError(path)
        module = found
        while _WRAPPED in module._modules:
            module = _inside(module)
    return module


def on_the_way(root: nn.Module, paths: Iterable[str]) -> tuple[dict[str, nn.Module], Collection[nn.Module]]:
    """The modules at some paths, and with them all that hold them from `root` down, compiled wrappers too, each once.

    A path that names nothing is left out.
    """
    named: dict[str, nn.Module] = {}
    found = {id(root): root}
    for path in paths:
        module: nn.Module | None = root
        for name in path.split(".") if path else ():
            parts: Any = module.__dict__["_modules"]
            module = parts.get(name)
            if module is None:
                break
            found[id(module)] = module
            while _WRAPPED in module.__dict__["_modules"]:
                module = _inside(module)
                found[id(module)] = module
        if module is not None:
            named[path] = module
    return named, found.values()


def named_parts(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module with its path, without compiled wrappers; each once, in the order of `named_modules`."""
    stack: list[tuple[str, nn.Module | None]] = [("", root)]
    seen: set[int] = set()
    while stack:
        path, module = stack.pop()
        if module is None or id(module) in seen:
            continue
        seen.add(id(module))
        parts = module._modules
        if _WRAPPED not in parts:
            yield path, module
        prefix = f"{path}." if path else ""
        stack.extend([(path if name == _WRAPPED else prefix + name, parts[name]) for name in reversed(parts)])


@contextmanager
def plainly(root: nn.Module) -> Generator[None]:
    """Set compiled calls and gradient checkpointing of a model aside, and put them back.

    Hooks do not reach into compiled code. A block that is checkpointed runs a second time in the backward pass, where
    what the user's block has written would be missing.
    """
    undo = set_plain(modules_of(root))
    try:
        yield
    finally:
        undo()


def set_plain(modules: Iterable[nn.Module]) -> Callable[[], None]:
    """Let modules run plainly; the returned function puts back what was set aside."""
    undo: list[tuple[dict[str, Any], str, Any]] = []

    def put(own: dict[str, Any], name: str, value: Any) -> None:
        undo.append((own, name, own.get(name, _ABSENT)))
        own[name] = value

    for module in modules:
        own = module.__dict__
        forward, asks_for_compiled_call = _of_class(type(module))
        if own.get("_compiled_call_impl") is not None:
            put(own, "_compiled_call_impl", None)
        if _WRAPPED in own["_modules"]:
            put(own, "forward", _inside(module).__call__)
        elif "forward" in own:
            original = _compiled_from(own["forward"])
            if original is not None:
                put(own, "forward", original)
        elif forward is not None:
            put(own, "forward", MethodType(forward, module))
        if own.get("gradient_checkpointing") is True and module.training:
            put(own, "gradient_checkpointing", False)
        if asks_for_compiled_call:
            put(own, "get_compiled_call", functools.partial(_plain_call, module))
    names = {name for _, name, _ in undo}
    if "gradient_checkpointing" in names:
        _notice_checkpointing()
    if "forward" in names or "_compiled_call_impl" in names:
        _notice_compiled()

    def put_back() -> None:
        for own, name, value in reversed(undo):
            if value is _ABSENT:
                del own[name]
            else:
                own[name] = value

    return put_back


def _is_wrapper(module: nn.Module) -> bool:
    return _WRAPPED in module._modules


def _inside(module: nn.Module) -> nn.Module:
    found = module._modules[_WRAPPED]
    assert found is not None
    return found


def modules_of(root: nn.Module) -> Iterator[nn.Module]:
    """Every module, in no order: each run of a block goes through them, and `modules()` takes twice as long."""
    stack: list[nn.Module | None] = [root]
    seen: set[int] = set()
    while stack:
        module = stack.pop()
        if module is not None and id(module) not in seen:
            seen.add(id(module))
            stack.extend(module.__dict__["_modules"].values())
            yield module


@functools.cache
def _of_class(kind: type[nn.Module]) -> tuple[Any, bool]:
    """What the class's forward was compiled from, if it was; whether a generation asks it for a compiled call."""
    return _compiled_from(getattr(kind, "forward", None)), hasattr(kind, "get_compiled_call")


def _compiled_from(function: Any) -> Any:
    """The function that a compiled one was made from; None for any other, and for one marked as not to be compiled."""
    if getattr(function, "_torchdynamo_disable", False):
        return None
    return getattr(function, "_torchdynamo_orig_callable", None)


def unusual_among(modules: Iterable[nn.Module], *, generates: bool = True) -> list[nn.Module]:
    """The modules that may be compiled or gradient-checkpointed, or that have a forward of their own.

    `generates` says that they may be asked for a compiled call, as a generation does.
    """
    return [each for each in modules if _has_own_ways(each.__dict__) or is_special(each, generates=generates)]


def _has_own_ways(own: dict[str, Any]) -> bool:
    return any(map(own.get, OWN_WAYS))


def is_special(module: nn.Module, *, generates: bool = True) -> bool:
    """Whether a module has to be looked at in each run: by its class it is compiled, or generates with such code."""
    compiled_from, asks_for_compiled_call = _of_class(type(module))
    return compiled_from is not None or (asks_for_compiled_call and generates) or _is_wrapper(module)


def _plain_call(module: nn.Module, _config: Any) -> Any:
    _notice_compiled()
    return module.__call__


@functools.cache
def _notice_compiled() -> None:
    """Say once in a process that compiled code is not what runs."""
    logging.getLogger("loupe").warning(
        "this model is compiled; blocks run it uncompiled, for there are no sites inside compiled code"
    )


@functools.cache
def _notice_checkpointing() -> None:
    """Say once in a process that a run takes the memory that checkpointing saves."""
    logging.getLogger("loupe").warning(
        "this model has gradient checkpointing on; blocks run it without, and so with more memory in a backward pass, "
        "for a site is there once in a pass"
    )
