"""Choose how a model computes attention and experts for the length of a run, by what the run's graph reads."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property

from torch import nn

from loupe.graph.graph import Graph
from loupe.graph.node import RESULT, Event, Ref, Site
from loupe.runtime.plain import submodule

_DROPOUTS = ("attn_dropout", "attention_dropout")
_CHOICE = "_attn_implementation_internal"  # the attribute of a config that says how attention is computed
_FUSED = ("scaled_dot_product_attention",)


class Attention:
    """The modules of a model that compute attention or experts, known by the library's own class names.

    A module that is none of the library's, and holds none of them, is left alone.
    """

    def __init__(self, module: Callable[[], nn.Module]) -> None:
        self._module = module
        self._known: dict[str, bool] = {}

    @cached_property
    def _has_choice(self) -> bool:
        """Whether a config of the library says how this model computes attention."""
        return any(hasattr(getattr(each, "config", None), _CHOICE) for each in self._module().modules())

    def settings(self, graph: Graph, module: nn.Module) -> AbstractContextManager[None]:
        """Eager attention for the length of a run whose graph reads a pattern; the fast kernel for every other.

        A copy, which has no data, runs its experts in the way that does not depend on data.
        """
        if not self._has_choice:
            return nullcontext()
        changes = {_CHOICE: "eager"} if self.reads_pattern(graph) else {}
        if all(module is not each for each in self._module().modules()):
            changes["_experts_implementation_internal"] = "batched_mm"
        return configured(module, changes) if changes else nullcontext()

    def settings_key(self, graph: Graph) -> str:
        """Names what a run of a graph has set."""
        return "eager" if self.reads_pattern(graph) else ""

    def stand_in(self, site: Site) -> Site | None:
        """The dropout function that current attention code calls in place of its dropout module."""
        parent, _, name = site.path.rpartition(".")
        if name not in _DROPOUTS or site.op is not None or not self._has_choice:
            return None
        return Site(parent, site.port, site.call, "dropout", 0)

    def reads_pattern(self, graph: Graph) -> bool:
        """Whether a graph names something that only eager attention computes."""
        if not self._has_choice:
            return False
        attentions: set[int] = set()
        for node in graph:
            if node.kind in ("read", "write"):
                if node.gradient_of is not None or node.site.path == RESULT:
                    continue
                site = node.site
                if site.path.rpartition(".")[2] in _DROPOUTS:
                    return True
                if self.is_attention(site.path):
                    if site.op is not None and site.op not in _FUSED:
                        return True
                    attentions.add(node.id)
            elif node.target == "operator.getitem" and type(node.args[1]) is int and node.args[1] != 0:
                whole = node.args[0]
                if type(whole) is Ref and whole.node in attentions:
                    return True
        return False

    def is_attention(self, path: str) -> bool:
        """Whether a module computes attention."""
        found = self._known.get(path)
        if found is None:
            name = type(submodule(self._module(), path)).__name__.lower()
            found = self._known[path] = bool(path) and "attention" in name and not name.endswith("layer")
        return found

    def reorders(self, event: Event) -> bool:
        """What passes inside experts is sorted by expert, in an order that depends on the data."""
        if not self._has_choice:
            return False
        path = event.path if event.op is not None else event.path.rpartition(".")[0]
        while path:
            if "experts" in type(submodule(self._module(), path)).__name__.lower():
                return True
            path = path.rpartition(".")[0]
        return False


@contextmanager
def configured(module: nn.Module, changes: dict[str, str]) -> Generator[None]:
    """Let a model compute attention or experts in another way for a while."""
    configs = {id(m.config): m.config for m in module.modules() if hasattr(m, "config")}
    before = [(c, name, getattr(c, name)) for c in configs.values() for name in changes if hasattr(c, name)]
    try:
        for config, name, _ in before:
            setattr(config, name, changes[name])
        yield
    finally:
        for config, name, value in before:
            setattr(config, name, value)
