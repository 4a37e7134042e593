"""List the operations that a graph may name, with what each does, costs and takes; data, with no torch behind it.

A name is `space.function`: `torch.softmax`, `Tensor.mean`, `nn.functional.relu`, `operator.getitem`, `loupe.logits`.
Names that begin with `local.` stand for a user's own Python function: they run here and cannot leave the process.

The names are loupe's own, those of torch 2.13: a file keeps its meaning where a later torch calls a function otherwise.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Literal, NamedTuple, cast

from loupe.graph.opset_table import OUTPUT_FIELDS, RESULT_FIELDS, TABLE

Effect = Literal["pure", "view", "inplace", "random", "unknown"]
Cost = Literal["free", "linear", "product", "cubic"]
Shares = Literal["nothing", "first", "all"]

# The operations that are no functions of torch, written as the generated table is: under a namespace, an effect, a cost
# and marks stand the parameters, and the names of what takes them.
OWN: dict[str, str] = {
    "operator pure linear": """
        (a=tensor,number,bool,list b=tensor,number,bool,list)
            add
        (a=tensor,number,bool b=tensor,number,bool)
            sub mul truediv floordiv mod pow and_ or_ xor lshift rshift divmod
        (a=tensor,number,bool) neg abs invert
        (a=any b=any) eq ne lt le gt ge
    """,
    "operator pure product": "(a=tensor b=tensor) matmul",
    "operator view free": """
        (a=any b=any) getitem
        (a=tensor,number,bool) pos
    """,
    "operator inplace linear": """
        (a=any b=any c=any) setitem
        (a=any b=any) delitem
        (a=tensor,number,bool,list b=tensor,number,bool,list) iadd
        (a=tensor,number,bool b=tensor,number,bool)
            isub imul itruediv ifloordiv imod ipow iand ior ixor ilshift irshift
    """,
    "operator inplace product": "(a=tensor b=tensor) imatmul",
    "python view free": """
        (value=any name=string) getattr
        (value=any name=string arguments...=any **=any) call_method
    """,
    "loupe view free": """
        (output=any) hidden_states logits
        (inputs=any) first_input
        (steps=any step=number) last_step
    """,
    "loupe pure free": """
        (output=any value=any) with_hidden_states with_logits
        (value=any key=any item=any) with_item
    """,
    "loupe inplace free": """
        (value=any tracked=bool) require_grad
        (value=any) retain_grad
    """,
    "loupe inplace linear": "(value=any key=any item=any) set_item",
}
_ENTRY = re.compile(r"\(([^()]*)\)([^()]*)")


class Operation(NamedTuple):
    """What is known of an operation before it runs.

    `effect` says what it does to memory: "view", that the result may share the memory of the first argument, "inplace",
    that the first argument is changed and returned. `draws`: it takes random numbers, also in place. `shares` says with
    which tensors the result may have memory in common. `cost` is the class of its work at worst: "free" for views and
    attributes, "linear" in the elements of arguments and result, "product" for products, orders and transforms, "cubic"
    for decompositions. `bounded`: the size of its result follows from the shapes and the numbers that it is given, so a
    run on meta tensors can tell it. `takes` are its parameters, in the words of `loupe.graph.arguments`.
    """

    name: str
    effect: Effect
    cost: Cost
    bounded: bool
    draws: bool
    shares: Shares
    takes: str


@cache
def operations() -> dict[str, Operation]:
    """All operations of the opset by name.

    >>> operations()["linalg.svd"].cost
    'cubic'
    """
    found: dict[str, Operation] = {}
    for table in (TABLE, OWN):
        for key, text in table.items():
            space, effect, cost, *marks = key.split()
            shares = "all" if "all" in marks else "first" if effect in ("view", "inplace") or "shares" in marks else ""
            facts = (
                cast(Effect, effect),
                cast(Cost, cost),
                "unbounded" not in marks,
                effect == "random" or "draws" in marks,
                cast(Shares, shares or "nothing"),
            )
            for takes, names in _ENTRY.findall(text):
                for leaf in names.split():
                    name = f"{space}.{leaf}"
                    found[name] = Operation(name, *facts, " ".join(takes.split()))
    return found


OPSET: dict[str, Effect] = {name: operation.effect for name, operation in operations().items()}
TRACKING = frozenset(("loupe.require_grad", "loupe.retain_grad"))  # these ask for the gradient of their argument

TENSOR_METHODS = frozenset(name.removeprefix("Tensor.") for name in OPSET if name.startswith("Tensor."))
TENSOR_ATTRIBUTES = frozenset("T H mT mH real imag data grad requires_grad is_leaf layout itemsize nbytes".split())
OBJECT_METHODS = frozenset("keys values items get to_tuple index count get_seq_length".split())
# What a graph in a file may read of a tensor: no other memory than its own, and nothing of autograd's.
_TENSOR_FIELDS = (TENSOR_ATTRIBUTES - {"data", "grad"}) | frozenset(
    "shape ndim dtype device is_cpu is_cuda is_meta is_nested is_quantized is_sparse".split()
)
PORTABLE_ATTRIBUTES = _TENSOR_FIELDS | frozenset(RESULT_FIELDS.split()) | frozenset(OUTPUT_FIELDS.split())


def operation_of(name: str) -> Operation | None:
    """What is known of an operation; None for a name that is not in the opset.

    >>> operation_of("torch.nonzero").bounded
    False
    """
    return operations().get(name)


def effect_of(name: str) -> Effect:
    """What an operation does to memory; a function outside the table may do anything."""
    return OPSET.get(name, "unknown")


def is_portable(name: str) -> bool:
    """Whether an operation may be written to a file or sent to a server."""
    return name in OPSET


def is_portable_attribute(name: str) -> bool:
    """Whether a graph in a file may read this attribute: of a tensor, of torch's named results, or of a model's output.

    >>> is_portable_attribute("logits"), is_portable_attribute("__class__")
    (True, False)
    """
    return name in PORTABLE_ATTRIBUTES
