"""Tell, before anything has run, whether a node's value is a tensor."""

from __future__ import annotations

import functools
from typing import Any

from loupe.graph.node import Ref

_SEVERAL = frozenset(
    "split chunk unbind topk sort kthvalue split_with_sizes tensor_split hsplit vsplit dsplit svd qr eigh eig slogdet "
    "aminmax var_mean std_mean cummax cummin lstsq lu_factor lu inv_ex cholesky_ex meshgrid broadcast_tensors "
    "with_hidden_states with_logits with_item unsafe_chunk unsafe_split geqrf frexp histogram".split()
)
_BY_DIMENSION = frozenset(("max", "min", "median", "nanmedian", "mode"))


def may_be_tensor(kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> bool:
    """Whether the value of a node that is no read is, or may be, a tensor."""
    if kind != "apply":
        return True
    known = _gives_tensor(target)
    return (
        known if known is not None else ((len(args) < 2 and not (kwargs and "dim" in kwargs)) or type(args[-1]) is Ref)
    )


@functools.cache
def _gives_tensor(operation: str) -> bool | None:
    """Whether an operation gives a tensor; None where its arguments decide."""
    name = operation.rpartition(".")[2]
    return None if name in _BY_DIMENSION else name not in _SEVERAL
