"""Take down what importing a library could change outside itself, so that two moments can be compared."""

import builtins
import os
import sys
import threading
import types
import warnings

import torch
from torch import nn

CLASSES = (
    object,
    type,
    list,
    dict,
    tuple,
    set,
    str,
    int,
    float,
    torch.Tensor,
    nn.Module,
    nn.Parameter,
    types.ModuleType,
)
MODULES = (builtins, torch, nn, nn.functional, torch.autograd, torch.overrides, nn.modules.module)
HOOKS = ("excepthook", "displayhook", "unraisablehook", "breakpointhook")


def surroundings() -> dict[str, object]:
    """What is there now, by a name that a failure can show; values are compared by `==`, or are identities."""
    seen: dict[str, object] = {}
    for cls in CLASSES:
        for name, value in vars(cls).items():
            seen[f"{cls.__module__}.{cls.__qualname__}.{name}"] = id(value)
    for module in MODULES:
        for name, value in vars(module).items():
            if callable(value):
                seen[f"{module.__name__}.{name}"] = id(value)
    for name, value in vars(nn.modules.module).items():
        if name.startswith("_global"):
            seen[f"hooks of every module: {name}"] = list(value) if isinstance(value, dict) else value
    for name in HOOKS:
        seen[f"sys.{name}"] = id(getattr(sys, name))
    seen["sys.settrace, sys.setprofile"] = (sys.gettrace(), sys.getprofile())
    seen["threading.settrace, threading.setprofile"] = (threading.gettrace(), threading.getprofile())
    seen["threading.excepthook"] = id(threading.excepthook)
    seen["sys.meta_path, sys.path_hooks"] = (list(sys.meta_path), list(sys.path_hooks))
    seen["warnings filters"] = list(warnings.filters)
    seen["warnings.showwarning"] = id(warnings.showwarning)
    seen["environment"] = dict(os.environ)
    seen["threads"] = threading.active_count()
    seen["grad mode"] = torch.is_grad_enabled()
    seen["default dtype and device"] = (torch.get_default_dtype(), torch.get_default_device())
    seen["random state"] = torch.get_rng_state().tolist()
    return seen


def changes(before: dict[str, object], after: dict[str, object]) -> list[str]:
    """The names whose values differ, with those that are new or gone."""
    missing = object()
    return sorted(name for name in before | after if before.get(name, missing) != after.get(name, missing))
