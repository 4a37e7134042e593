"""List the operations that a graph may name, with the effect of each; data, with no torch behind it.

A name is `space.function`: `torch.softmax`, `Tensor.mean`, `nn.functional.relu`, `operator.getitem`, `loupe.logits`.
Names that begin with `local.` stand for a user's own Python function: they run here and cannot leave the process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, cast

from loupe.graph.opset_table import TABLE

Effect = Literal["pure", "view", "inplace", "random", "unknown"]

# "view" says that the result may share memory with the first argument, "inplace" that the first argument is changed
# and returned.
OPERATORS: dict[str, dict[str, str]] = {
    "operator": {
        "pure": """
            add sub mul truediv floordiv mod pow matmul neg abs invert and_ or_ xor lshift rshift
            eq ne lt le gt ge divmod
        """,
        "view": "getitem pos",
        "inplace": "setitem iadd isub imul itruediv ifloordiv imod ipow imatmul iand ior ixor ilshift irshift delitem",
    },
    "python": {"view": "getattr call_method"},
    "loupe": {
        "view": "hidden_states logits first_input last_step",
        "pure": "with_hidden_states with_logits with_item",
        "inplace": "require_grad retain_grad set_item",
    },
}


def _effects() -> dict[str, Effect]:
    found: dict[str, Effect] = {}
    for spaces in (TABLE, OPERATORS):
        for space, kinds in spaces.items():
            for effect, text in kinds.items():
                for name in text.split():
                    found[f"{space}.{name}"] = cast(Effect, effect)
    return found


OPSET: dict[str, Effect] = _effects()
TRACKING = frozenset(("loupe.require_grad", "loupe.retain_grad"))  # these ask for the gradient of their argument

TENSOR_METHODS = frozenset(name.removeprefix("Tensor.") for name in OPSET if name.startswith("Tensor."))
TENSOR_ATTRIBUTES = frozenset("T H mT mH real imag data grad requires_grad is_leaf layout itemsize nbytes".split())
OBJECT_METHODS = frozenset("keys values items get to_tuple index count get_seq_length".split())


class Demand(NamedTuple):
    """An argument that demands a change in place: where it stands, and the arguments that are changed then."""

    place: int
    name: str
    changes: tuple[tuple[int, str], ...]
    unless_given: bool = False  # whether the change is made where the argument is left out


def _demands() -> dict[str, Demand]:
    inplace = """
        alpha_dropout 3 celu 2 dropout 3 dropout1d 3 dropout2d 3 dropout3d 3 elu 2 feature_alpha_dropout 3 hardsigmoid 1
        hardswish 1 hardtanh 3 leaky_relu 2 mish 1 relu 1 relu6 1 rrelu 4 selu 1 silu 1 threshold 3
    """.split()
    places = zip(inplace[::2], map(int, inplace[1::2]), strict=True)
    found = {f"nn.functional.{name}": Demand(place, "inplace", ((0, "input"),)) for name, place in places}
    for name, place in {"torch.norm": 4, "torch.tensordot": 3, "nn.functional.normalize": 4}.items():
        found[name] = Demand(place, "out", ((place, "out"),))
    found["nn.functional.embedding"] = Demand(3, "max_norm", ((1, "weight"),))
    found["nn.functional.embedding_bag"] = Demand(3, "max_norm", ((0, "input"), (1, "weight")))  # in either order
    running = ((1, "running_mean"), (2, "running_var"))
    found["nn.functional.instance_norm"] = Demand(5, "use_input_stats", running, unless_given=True)
    found["torch.instance_norm"] = Demand(5, "use_input_stats", ((3, "running_mean"), (4, "running_var")))
    return found


DEMANDS = _demands()  # of operations that change nothing otherwise


def effect_of(name: str) -> Effect:
    """What an operation does to memory; a function outside the table may do anything."""
    return OPSET.get(name, "unknown")


def is_portable(name: str) -> bool:
    """Whether an operation may be written to a file or sent to a server."""
    return name in OPSET


def changed_by(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """Those of an operation's arguments that it changes in place.

    A function outside the table says so by `out` or `inplace`, or does not say so.
    """
    if kwargs.get("out") is not None:
        return [kwargs["out"]]
    if effect_of(name) == "inplace":
        return [args[0]] if args else list(kwargs.values())
    demand = DEMANDS.get(name)
    if demand is None:
        return [args[0] if args else kwargs.get("input")] if kwargs.get("inplace") else []
    if not _is_on(args[demand.place] if len(args) > demand.place else kwargs.get(demand.name, demand.unless_given)):
        return []
    return [args[place] if len(args) > place else kwargs.get(called) for place, called in demand.changes]


def _is_on(demanded: Any) -> bool:
    """Whether an argument demands something; one that is not known yet may do so."""
    return demanded is not None and not (type(demanded) in (bool, int, float) and not demanded)
