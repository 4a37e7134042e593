"""Print `docs/operations.md` anew: the operations that a graph may name, and those that it may not."""

import textwrap
from collections.abc import Iterator

from loupe.graph.opset import OBJECT_METHODS, PORTABLE_ATTRIBUTES, Operation, operations
from loupe.graph.refusals import REASONS, refused

OPENING = """\
# Operations

A graph names its operations, and a graph in a file or in a request may name these and no others. `operation_of` in
`loupe.graph.opset` tells what is known of one before it runs; `wrong_arguments` in `loupe.graph.arguments` whether it
takes what a node gives it. (This page is written by `scripts/describe_ops.py`.)

effect
: *pure*: the result is new. *view*: it may share the memory of the first argument. *in place*: the first argument is
  changed and returned. *random*: it takes random numbers.

cost
: The class of the work at worst. *free*: views and what is known from the shape. *linear*: in the elements of arguments
  and result. *product*: products, convolutions, orders, Fourier transforms. *cubic*: decompositions.

marks
: *by data*: the size of the result depends on the data, so that a run on meta tensors cannot tell it (of `torch.where`
  that is so with a condition alone, of `repeat_interleave` with repeats in a tensor, of `one_hot` without a number of
  classes, of `tensor_split` with indices in a tensor, and of an index that is a mask). *of all*: a view of any of the
  arguments. *drawn*: it takes random numbers, in place. *may share*: the result may share the memory of the first
  argument.

What no operation takes is an `out=`, a generator, a Python function, names of dimensions, a storage or a pointer. Norms
take no running statistics, and embeddings no `max_norm`: they would change these in place.

## What a graph may name
"""
OWN = {
    "operator": "Python's operators",
    "python": "Attributes and methods",
    "loupe": "loupe's own: what the sites of Hugging Face models mean",
}
ATTRIBUTES = """
## Attributes and methods

`python.getattr` reads these of a tensor, of a named result (`values` of `torch.max`), or of a model's output. Other
fields of a model's output are its items: `output["field"]`, `output[0]`.
"""
METHODS = """
`python.call_method` calls these methods of dicts, tuples and caches:
"""
REFUSED = """
## What a graph may not name

Each function and attribute in torch's listing of what can be overridden is above, or here with the reason. In a block
that runs here they can be used all the same. A name that begins with an underscore is refused as a whole, but for the
operators.
"""


def fence(names: list[str]) -> str:
    """Names as a block of code, wrapped."""
    return f"```\n{filled(' '.join(sorted(names)))}\n```"


def filled(text: str) -> str:
    """Text in lines of the page."""
    return textwrap.fill(text, 118, break_on_hyphens=False, break_long_words=False)


def title_of(operation: Operation) -> str:
    """The effect, the cost and the marks of an operation."""
    marks = {
        "by data": not operation.bounded,
        "of all": operation.shares == "all",
        "drawn": operation.draws and operation.effect == "inplace",
        "may share": operation.effect == "random" and operation.shares == "first",
    }
    effect = operation.effect.replace("inplace", "in place")
    return ", ".join((effect, operation.cost, *(mark for mark, holds in marks.items() if holds)))


def allowed() -> Iterator[str]:
    """The operations by namespace and kind, as paragraphs."""
    spaces: dict[str, dict[str, list[str]]] = {}
    for name, operation in operations().items():
        space, _, leaf = name.rpartition(".")
        spaces.setdefault(space, {}).setdefault(title_of(operation), []).append(leaf)
    for space, titles in spaces.items():
        yield f"### {space}"
        if space in OWN:
            yield f"{OWN[space]}."
        for title in sorted(titles):
            yield f"*{title}*"
            yield fence(titles[title])


def not_allowed() -> Iterator[str]:
    """What is refused, by reason, as paragraphs."""
    for reason, (fact, remedy) in REASONS.items():
        yield f"### {reason}"
        yield filled(f"{fact[0].upper()}{fact[1:]}. Instead: {remedy}.")
        names = [name for name, key in refused().items() if key == reason]
        if names:
            yield fence(names)


if __name__ == "__main__":
    attributes, methods = fence(list(PORTABLE_ATTRIBUTES)), fence(list(OBJECT_METHODS))
    parts = (OPENING, *allowed(), ATTRIBUTES, attributes, METHODS, methods, REFUSED, *not_allowed())
    print("\n\n".join(part.strip() for part in parts))
