"""List the operations that a graph may name, with the effect of each; data, with no torch behind it.

A name is `space.function`: `torch.softmax`, `Tensor.mean`, `nn.functional.relu`, `operator.getitem`, `loupe.logits`.
Names that begin with `local.` stand for a user's own Python function: they run here and cannot leave the process.
"""

from __future__ import annotations

from typing import Literal, cast

from loupe.graph.opset_table import TABLE

Effect = Literal["pure", "view", "inplace", "random", "unknown"]

# "view" says that the result may share memory with the first argument, "inplace" that the first argument is changed
# and returned.
OPERATORS: dict[str, dict[str, str]] = {
    "operator": {
        "pure": """
            add sub mul truediv floordiv mod pow matmul neg pos abs invert and_ or_ xor lshift rshift
            eq ne lt le gt ge divmod
        """,
        "view": "getitem",
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


def effect_of(name: str) -> Effect:
    """What an operation does to memory; a function outside the table may do anything."""
    return OPSET.get(name, "unknown")


def is_portable(name: str) -> bool:
    """Whether an operation may be written to a file or sent to a server."""
    return name in OPSET
