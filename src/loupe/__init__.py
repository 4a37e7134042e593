"""Read and change what happens inside any PyTorch model, with ordinary Python.

>>> from loupe import LanguageModel
>>> model = LanguageModel("loupe/landmarks")
>>> with model.trace("The Eiffel Tower is in"):
...     logits = model.output.save()

The names below are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from loupe import errors
from loupe.config import CONFIG
from loupe.errors import LoupeError, LoupeWarning

if TYPE_CHECKING:
    from loupe.files.loading import load
    from loupe.graph.graph import Graph
    from loupe.harvesting.harvest import harvest
    from loupe.harvesting.reading import harvested
    from loupe.models.language import LanguageModel
    from loupe.models.model import Model, NNsight
    from loupe.trace.opened import param
    from loupe.trace.saving import fn, save

__version__ = "0.1.0"

_LAZY = {
    "Graph": "loupe.graph.graph",
    "LanguageModel": "loupe.models.language",
    "Model": "loupe.models.model",
    "NNsight": "loupe.models.model",
    "fn": "loupe.trace.saving",
    "harvest": "loupe.harvesting.harvest",
    "harvested": "loupe.harvesting.reading",
    "load": "loupe.files.loading",
    "param": "loupe.trace.opened",
    "save": "loupe.trace.saving",
}

__all__ = [
    "CONFIG",
    "Graph",
    "LanguageModel",
    "LoupeError",
    "LoupeWarning",
    "Model",
    "NNsight",
    "errors",
    "fn",
    "harvest",
    "harvested",
    "load",
    "param",
    "save",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = globals()[name] = getattr(import_module(_LAZY[name]), name)
        return value
    raise AttributeError(f"module 'loupe' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
