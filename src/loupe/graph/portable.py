"""Say what keeps a node in the process in which it was recorded."""

from __future__ import annotations

from loupe.errors import nearest
from loupe.graph.arguments import wrong_arguments
from loupe.graph.node import Node
from loupe.graph.opset import OBJECT_METHODS, OPSET, is_portable_attribute
from loupe.graph.refusals import why_refused, why_refused_attribute

Refusal = tuple[str, str]  # the fact, and the way out


def why_not_portable(node: Node) -> Refusal | None:
    """Why an operation may not be stored or sent, and what to write instead; None where it may.

    Whether its arguments are of the right kinds, `wrong_arguments` tells, of a graph without torch's objects.
    """
    name = node.target
    if name in OPSET:
        return _named_by_text(node) if name in ("python.getattr", "python.call_method") else None
    refusal = why_refused(name.removeprefix("local."))
    if refusal is not None:
        return f"{name.removeprefix('local.')} is refused: {refusal.fact}", refusal.remedy
    if name.startswith("local."):
        return (
            f"{name.removeprefix('local.')} is a Python function, which runs in this process only",
            "write it with torch functions, or look at its value and pass that on",
        )
    return f"it names the unknown operation {name!r:.80}", nearest(name, sorted(OPSET))


def _named_by_text(node: Node) -> Refusal | None:
    named = node.args[1] if len(node.args) > 1 else None
    called = node.target == "python.call_method"
    if type(named) is not str or (not called and (len(node.args) > 2 or node.kwargs)):
        what = "method" if called else "attribute"
        return f"{node.target} names no {what}", f"give it the name of the {what} as its second argument"
    if called:
        if named in OBJECT_METHODS:
            return None
        return f"the method {named!r:.60} of a value is none that a graph may call", nearest(
            named, sorted(OBJECT_METHODS)
        )
    if is_portable_attribute(named):
        return None
    refusal = why_refused_attribute(named)
    return f"the attribute {named!r:.60} of a value is none that a graph may read: {refusal.fact}", refusal.remedy


def why_wrong(node: Node) -> Refusal | None:
    """What is wrong with the arguments of an operation of a graph without torch's objects; None where nothing is."""
    wrong = wrong_arguments(node.target, node.args, node.kwargs)
    return None if wrong is None else (wrong, "give it what torch takes there, as data")
