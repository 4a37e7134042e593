"""Say on which model a graph was written, and whether another one fits it."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from loupe.errors import FitError, Line, OriginWarning, nearest
from loupe.graph.graph import Graph, Origin
from loupe.runtime.plain import named_parts

if TYPE_CHECKING:
    from loupe.envoy.model import Root


@dataclass(frozen=True, slots=True)
class Unfit:
    """A path that a graph names and a model does not have; `line` is the first that names it."""

    path: str
    what: str
    remedy: str
    line: Line | None


def origin_of(model: Root, modules: Collection[str]) -> Origin:
    """What a graph that names these modules says about its model."""
    known = dict(named_parts(model._model))
    tree = "\n".join(f"{path} {type(module).__name__}" for path, module in known.items())
    name, revision = model.identity
    return Origin(
        type(model._model).__name__,
        hashlib.sha256(tree.encode()).hexdigest(),
        name,
        revision,
        {path: type(known[path]).__name__ for path in modules if path in known},
    )


def unfit(model: Root, graph: Graph) -> Iterator[Unfit]:
    """The modules and parameters that a graph names and a model does not have, each once."""
    known = dict(named_parts(model._model))
    places = list(_places(graph))
    missing = dict.fromkeys(path for path, name, _ in places if path not in known)
    shared = _container(missing, known)
    seen: set[str] = set()
    for path, name, line in places:
        full = ".".join(part for part in (path, name) if part)
        if full in seen:
            continue
        seen.add(full)
        if path not in known:
            remedy = nearest(path, [each for each in known if each])
            if shared is not None:
                remedy = f"carry it over with graph.rename_sites({{{shared[0]!r}: {shared[1]!r}, …}}); {remedy}"
            yield Unfit(path, "module", remedy, line)
        elif name and known[path]._parameters.get(name) is None and known[path]._buffers.get(name) is None:
            own = [*known[path]._parameters, *known[path]._buffers]
            yield Unfit(full, "parameter", nearest(name, own), line)


def check_fit(model: Root, graph: Graph) -> None:
    """Raise FitError where a model lacks what a graph names; warn where it is another than that of the graph."""
    found = list(unfit(model, graph))
    origin = graph.origin
    written = "" if origin is None else f"; it was written for {origin.model or 'a model'} ({origin.kind})"
    if found:
        names = ", ".join(repr(each.path) for each in found[:3]) + (", …" if len(found) > 3 else "")
        raise FitError(
            f"the graph names {names}, which {type(model._model).__name__} does not have{written}",
            remedy=found[0].remedy,
            line=found[0].line,
        )
    other = None if origin is None else _difference(origin, origin_of(model, graph.modules))
    if other is not None:
        warnings.warn(OriginWarning(f"the graph was written for {other}"), stacklevel=4)


def _difference(written: Origin, now: Origin) -> str | None:
    """In what a model differs from the one that a graph was written for; None where nothing tells them apart."""
    classes = [
        f"{path or 'the model'} is {now.modules[path]} where it was {kind}"
        for path, kind in written.modules.items()
        if now.modules.get(path, kind) != kind
    ]
    if classes:
        return f"{written.model or written.kind}, and runs on {now.model or now.kind}: {classes[0]}"
    if None not in (written.model, now.model) and written.model != now.model:
        return f"{written.model!r}, and runs on {now.model!r}"
    if None not in (written.revision, now.revision) and written.revision != now.revision:
        return f"revision {written.revision} of {written.model!r}, and runs on {now.revision}"
    return None


def _places(graph: Graph) -> Iterator[tuple[str, str, Line | None]]:
    """The modules that a graph names, the parameters of them, and where."""
    sites = set(graph.sites)
    if graph.root:
        yield graph.root, "", None
    for node in graph:
        if node.kind in ("read", "write"):
            if node.site in sites:
                yield node.site.path, "", node.line
        elif node.kind == "call":
            yield node.target, "", node.line
        elif node.kind in ("parameter", "set_parameter"):
            holder, _, name = node.target.rpartition(".")
            yield holder, name, node.line
        elif node.kind == "cache":
            yield from ((path, "", node.line) for path in node.args[0])


def _container(missing: Collection[str], known: dict[str, nn.Module]) -> tuple[str, str] | None:
    """The list of blocks that missing modules are in, and the one that the model has, where there is no doubt."""
    lists = {path: module for path, module in known.items() if isinstance(module, nn.ModuleList)}
    outermost = [path for path in lists if not any(path.startswith(f"{other}.") for other in lists if other != path)]
    for path in missing:
        parts = path.split(".")
        place = next((place for place, part in enumerate(parts) if part.isdigit()), None)
        if place and len(outermost) == 1 and int(parts[place]) < len(lists[outermost[0]]):  # pyrefly: ignore
            return ".".join(parts[:place]), outermost[0]
    return None
