"""Print `loupe/graph/opset_table.py` anew, or with `--docs` the page `docs/operations.md`.

The names are those of torch's own listing of overridable functions, less those that `loupe/graph/refusals.py` refuses.
"""

import textwrap
import warnings
from dataclasses import fields, is_dataclass

import torch
from op_facts import (
    ADDED,
    COPYING,
    CUBIC,
    DRAWING,
    FREE,
    PRODUCT,
    RANDOM,
    UNBOUNDED,
    VIEWS,
    VIEWS_OF_ALL,
)
from op_signatures import takes_of
from torch.overrides import get_overridable_functions

from loupe.graph.refusals import why_refused

SPACES = {
    "torch": (torch, torch.functional),
    "nn.functional": (torch.nn.functional,),
    "linalg": (torch.linalg,),
    "fft": (torch.fft,),
    "special": (torch.special,),
    "Tensor": (torch.Tensor,),
}
HEAD = '''"""The allowed torch functions: what they do, cost and take; written by `scripts/list_ops.py`, not by hand.

Each key is a namespace, an effect, a cost and marks; each entry has the parameters of the functions that follow them.
"""

TABLE: dict[str, str] = {'''


def names_of(space: str) -> list[str]:
    """The names of one namespace that a graph may have."""
    listing = get_overridable_functions()
    home = SPACES[space][0]
    found = set(ADDED[space].split())
    for listed in SPACES[space]:
        for function in listing[listed]:
            leaf = getattr(function, "__name__", "_").removeprefix(f"{space}_")
            if not leaf.startswith("_") and callable(getattr(home, leaf, None)):
                found.add(leaf)
    return sorted(leaf for leaf in found if why_refused(f"{space}.{leaf}") is None)


def key_of(space: str, leaf: str) -> str:
    """The namespace, effect, cost and marks of a function."""
    words = {leaf, f"{space}.{leaf}"}
    view, random = not words.isdisjoint(VIEWS), not words.isdisjoint(RANDOM)
    effect = "inplace" if leaf.endswith("_") else "random" if random else "view" if view else "pure"
    marks = {
        "draws": not words.isdisjoint(DRAWING),
        "shares": view and random,
        "all": not words.isdisjoint(VIEWS_OF_ALL),
        "unbounded": not words.isdisjoint(UNBOUNDED),
    }
    cost = cost_of({each.removesuffix("_") for each in words}, space, effect)
    return " ".join((space, effect, cost, *(mark for mark, holds in marks.items() if holds)))


def cost_of(words: set[str], space: str, effect: str) -> str:
    """The class of what a function costs, at worst."""
    if not words.isdisjoint(CUBIC):
        return "cubic"
    if not words.isdisjoint(PRODUCT) or (space == "fft" and words.isdisjoint(("fftshift", "ifftshift"))):
        return "product"
    free = effect == "view" and words.isdisjoint(COPYING)
    return "free" if free or not words.isdisjoint(FREE) else "linear"


def table() -> dict[str, dict[str, list[str]]]:
    """For each key the parameters, and for these the names of the functions that take them."""
    found: dict[str, dict[str, list[str]]] = {}
    for space in SPACES:
        rows = {leaf: (key_of(space, leaf), takes_of(space, leaf)) for leaf in names_of(space)}
        for key in sorted({key for key, _ in rows.values()}):
            entry = found.setdefault(key, {})
            for leaf, (own, takes) in rows.items():
                if own == key:
                    entry.setdefault(takes, []).append(leaf)
    return found


def wrapped(text: str, indent: int) -> str:
    """Text as lines of the table."""
    space = " " * indent
    return "\n".join(textwrap.wrap(text, 118, initial_indent=space, subsequent_indent=space, break_on_hyphens=False))


def fields_of_results() -> set[str]:
    """The fields of the named tuples that torch's functions give."""
    results = vars(torch.return_types).items()
    kinds = [kind for name, kind in results if hasattr(kind, "n_fields") and not name.startswith("_")]
    return {name for kind in kinds for name, each in vars(kind).items() if is_field(each)}


def is_field(member: object) -> bool:
    """Whether a member of a named tuple's class is one of its fields."""
    return type(member).__name__ == "member_descriptor"


def fields_of_outputs() -> set[str]:
    """The fields of the outputs of Hugging Face's models."""
    from transformers import modeling_outputs
    from transformers.generation import utils

    listed = (*vars(modeling_outputs).values(), *vars(utils).values())
    classes = [kind for kind in listed if isinstance(kind, type) and issubclass(kind, modeling_outputs.ModelOutput)]
    return {each.name for kind in classes if is_dataclass(kind) for each in fields(kind)}


def print_table() -> None:
    """Write the table to standard output."""
    print(HEAD)
    for key, entry in table().items():
        print(f'    "{key}": """')
        for takes, leaves in entry.items():
            print(wrapped(f"({takes})", 8))
            print(wrapped(" ".join(leaves), 12))
        print('    """,')
    print("}")
    for name, found in {"RESULT_FIELDS": fields_of_results(), "OUTPUT_FIELDS": fields_of_outputs()}.items():
        print(f'\n{name} = """\n{wrapped(" ".join(sorted(found)), 4)}\n"""')


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print_table()
