"""Find what is kept away from a model while it does not run: weights that accelerate offloads, and where they run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from loupe.errors import LoadError
from loupe.runtime.lookup import tensor_named


def placements(module: nn.Module) -> list[Any]:
    """The hooks with which accelerate brings a module's weights and inputs to a device; they are no torch hooks."""
    hook = module.__dict__.get("_hf_hook")
    return [] if hook is None else list(getattr(hook, "hooks", (hook,)))


def kept_away(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights, by path, that accelerate keeps while a module does not run; perhaps those of others too."""
    for each in placements(module):
        kept = getattr(each, "weights_map", None)
        kept = getattr(kept, "dataset", kept)  # a part of it, by a prefix
        kept = getattr(kept, "state_dict", kept)  # beside what is on disk
        if isinstance(kept, dict):
            yield from ((name, tensor) for name, tensor in kept.items() if isinstance(tensor, torch.Tensor))


def devices_of(module: nn.Module, inherited: torch.device | None = None) -> Iterator[torch.device]:
    """Where each parameter of a module is while the module runs."""
    device = inherited
    for each in placements(module):
        found = getattr(each, "execution_device", None)
        device = device if found is None else torch.device(found)
    for parameter in module._parameters.values():
        if parameter is not None:
            yield device if parameter.is_meta and device is not None else parameter.device
    for child in module.children():
        yield from devices_of(child, device)


def send_away(modules: Iterable[nn.Module]) -> None:
    """Send away weights that were brought for a module in which the pass was stopped, or failed."""
    for module in modules:
        for each in placements(module) if "_hf_hook" in module.__dict__ else ():
            if getattr(each, "offload", False) and _is_brought(module, each):
                each.post_forward(module, None)


def _is_brought(module: nn.Module, placement: Any) -> bool:
    return any(not parameter.is_meta for parameter in module.parameters(recurse=placement.place_submodules))


def parameter_at(modules: Callable[[str], nn.Module], path: str) -> torch.Tensor:
    """A parameter or buffer with its data, on the device where it is used, also while it is offloaded.

    Raises LoadError where it is offloaded and cannot be found, UnknownModuleError where there is none.
    """
    value = tensor_named(modules, path)
    if not value.is_meta:
        return value
    holder, _, name = path.rpartition(".")
    offloaded = False
    while True:
        for each in placements(modules(holder)):
            if not getattr(each, "offload", False):
                continue
            offloaded = True
            try:
                found = each.weights_map[name]
            except KeyError:
                continue
            dtype = value.dtype if found.is_floating_point() else found.dtype
            return found.to(device=each.execution_device, dtype=dtype)
        if not holder:
            break
        holder, _, last = holder.rpartition(".")
        name = f"{last}.{name}"
    if offloaded:
        raise LoadError(
            f"{path} is offloaded, and its data is not where accelerate keeps it",
            remedy="load the model with a device_map that keeps this module on a device",
        )
    return value
