"""Say which of its arguments an operation changes in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from loupe.graph.arguments import first_argument, parameters_of
from loupe.graph.opset import effect_of, operation_of


class Demand(NamedTuple):
    """An argument that demands a change in place: where it stands, and the arguments that are changed then."""

    place: int
    name: str
    changes: tuple[tuple[int, str], ...]
    unless_given: bool = False  # whether the change is made where the argument is left out


def _demands() -> dict[str, Demand]:
    found: dict[str, Demand] = {}
    for name, place in {"torch.norm": 4, "torch.tensordot": 3, "nn.functional.normalize": 4}.items():
        found[name] = Demand(place, "out", ((place, "out"),))
    found["nn.functional.embedding"] = Demand(3, "max_norm", ((1, "weight"),))
    found["nn.functional.embedding_bag"] = Demand(3, "max_norm", ((0, "input"), (1, "weight")))  # in either order
    running = ((1, "running_mean"), (2, "running_var"))
    found["nn.functional.instance_norm"] = Demand(5, "use_input_stats", running, unless_given=True)
    found["torch.instance_norm"] = Demand(5, "use_input_stats", ((3, "running_mean"), (4, "running_var")))
    return found


DEMANDS = _demands()  # other than by `inplace`, of operations that change nothing otherwise


def changed_by(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """Those of an operation's arguments that it changes in place.

    >>> changed_by("nn.functional.relu", (Ref(0), True), {})
    [Ref(node=0)]

    A function outside the table says so by `out` or `inplace`, or does not say so.
    """
    if kwargs and kwargs.get("out") is not None:
        return [kwargs["out"]]
    if effect_of(name) == "inplace":
        return [args[0]] if args else list(kwargs.values())
    switch = switch_of(name)
    if (kwargs and kwargs.get("inplace")) or (switch is not None and len(args) > switch and _is_on(args[switch])):
        return [first_argument(name, args, kwargs)]
    demand = DEMANDS.get(name)
    if demand is None:
        return []
    if not _is_on(args[demand.place] if len(args) > demand.place else kwargs.get(demand.name, demand.unless_given)):
        return []
    return [args[place] if len(args) > place else kwargs.get(called) for place, called in demand.changes]


@lru_cache(4096)
def switch_of(name: str) -> int | None:
    """The place at which an operation may be told to work in place."""
    operation = operation_of(name)
    parameters = () if operation is None else parameters_of(operation.takes)
    return next((place for place, each in enumerate(parameters) if "inplace" in each.names), None)


def _is_on(demanded: Any) -> bool:
    """Whether an argument demands something; one that is not known yet may do so."""
    return demanded is not None and not (type(demanded) in (bool, int, float) and not demanded)
