"""Say what keeps a node in the process in which it was recorded."""

from __future__ import annotations

from loupe.errors import nearest
from loupe.graph.node import Node
from loupe.graph.opset import OBJECT_METHODS, OPSET, TENSOR_ATTRIBUTES

Refusal = tuple[str, str]  # the fact, and the way out


def why_not_portable(node: Node) -> Refusal | None:
    """Why an operation may not be stored or sent, and what to write instead; None where it may."""
    name = node.target
    if name.startswith("local."):
        return (
            f"{name.removeprefix('local.')} is a Python function, which runs in this process only",
            "write it with torch functions, or look at its value and pass that on",
        )
    if name not in OPSET:
        return f"{name} is no operation of the opset", nearest(name, sorted(OPSET))
    if name in ("python.getattr", "python.call_method"):
        return _named_by_text(node)
    return None


def _named_by_text(node: Node) -> Refusal | None:
    called = node.target == "python.call_method"
    what, allowed = ("method", OBJECT_METHODS) if called else ("attribute", TENSOR_ATTRIBUTES)
    named = node.args[1] if len(node.args) > 1 else None
    if type(named) is not str or (not called and (len(node.args) > 2 or node.kwargs)):
        return f"{node.target} names no {what}", f"give it the name of the {what} as its second argument"
    if named in allowed:
        return None
    return (
        f"the {what} {named!r:.60} of a value is none that a graph may name",
        f'{nearest(named, sorted(allowed))}; fields of an output are its items too: output["{named:.60}"], output[0]',
    )
