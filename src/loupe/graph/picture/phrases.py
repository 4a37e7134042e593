"""Say a node in a few words of Python, for a picture in which lines show where its values come from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from loupe.graph.node import Node

if TYPE_CHECKING:
    from loupe.graph.graph import Graph

DOT = "·"  # stands for the one value that comes into a line
_ARITHMETIC = {
    "add": "+", "sub": "-", "mul": "*", "truediv": "/", "floordiv": "//", "mod": "%", "pow": "**", "matmul": "@",
    "and_": "&", "or_": "|", "xor": "^", "lshift": "<<", "rshift": ">>",
}  # fmt: skip
_BINARY = _ARITHMETIC | {f"i{name.rstrip('_')}": f"{sign}=" for name, sign in _ARITHMETIC.items()}
_BINARY |= {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_UNARY = {"neg": "-", "pos": "+", "invert": "~"}
VIEWS = {
    "loupe.hidden_states": "hidden states",
    "loupe.logits": "logits",
    "loupe.first_input": "first argument",
}
_AUTOMATIC = re.compile(r"(value|cache)\d+(@\d+)?")
_ASSIGNED = re.compile(r"(\w+)\s*=[^=].*\.(save|cache)\([^()]*\)$")


def phrase(graph: Graph, node: Node, names: Mapping[int, str]) -> str:
    """What a node does, as a reader of Python would write it; `names` say how its arguments are called.

    >>> phrase(graph, graph[2], {1: "·"})
    '·[:, -1] = f32[1, 96]'
    """
    args = [graph.argument_text(arg, names) for arg in node.args]
    named = [f"{key}={graph.argument_text(value, names)}" for key, value in node.kwargs.items()]
    first, rest = (args[0] if args else ""), ", ".join([*args[1:], *named])
    match node.kind:
        case "read":
            return "read"
        case "write" if node.site.port == "skip":
            return f"skip({first})"
        case "write":
            return f"{'gradient' if node.site.port == 'grad' else node.site.port} = {first}"
        case "set_parameter":
            return f"{node.target} = {first}"
        case "parameter" | "given":
            return str(node.target)
        case "call":
            return f"{node.target or 'model'}({', '.join([*args, *named])})"
        case "backward":
            return f"{first}.backward({rest})"
        case "apply":
            return _operation(node, args, named)
        case "stop":
            return "stop"
        case "cache" | "save":
            return kept_as(node)


def _operation(node: Node, args: list[str], named: list[str]) -> str:
    space, _, name = node.target.partition(".")
    name = name.rpartition(".")[2].partition("#")[0]
    first, rest = (args[0] if args else ""), ", ".join([*args[1:], *named])
    if space == "operator":
        if name in _BINARY and len(args) == 2:
            return f"{first} {_BINARY[name]} {args[1]}"
        if name in _UNARY and args:
            return f"{_UNARY[name]}{first}"
        if name in ("getitem", "setitem", "delitem") and len(args) > 1:
            value = f" = {args[2]}" if len(args) > 2 else ""
            return f"{'del ' if name == 'delitem' else ''}{first}[{_key(args[1], node.args[1])}]{value}"
    if node.target in VIEWS:
        return VIEWS[node.target]
    if node.target == "loupe.require_grad":
        return f"{first}.requires_grad = {rest}"
    if node.target == "loupe.retain_grad":
        return f"{first}.retain_grad()"
    if node.target == "loupe.with_item" and len(args) == 3:
        return f"{first} with [{args[1]}] = {args[2]}"
    if space == "python" and len(args) > 1:
        method = str(node.args[1])
        return f"{first}.{method}" + (f"({', '.join([*args[2:], *named])})" if name == "call_method" else "")
    if space == "Tensor" and args:
        return f"{first}.{name}({rest})"
    return f"{name}({', '.join([*args, *named])})"


def _key(text: str, key: Any) -> str:
    """A key as it stands between brackets: `:, -1` for the tuple `(:, -1)`."""
    return text[1:-1].rstrip(",") if type(key) is tuple and len(key) else text


def kept_as(node: Node) -> str:
    """How a value is kept: under the given name, or for the variable that the user's line assigns it to.

    >>> kept_as(graph[5])  # logits = model.output.save()
    'saved as logits'
    """
    name = str(node.target)
    if _AUTOMATIC.fullmatch(name):
        source = node.line.text.partition("#")[0].strip() if node.line is not None else ""
        found = _ASSIGNED.fullmatch(source) if source.count(".save(") + source.count(".cache(") == 1 else None
        name = "" if found is None else found[1]
    what = "saved"
    if node.kind == "cache":
        what = (
            f"{len(node.args[0])} modules cached" if len(node.args[0]) > 1 else f"{node.args[0][0] or 'model'} cached"
        )
    return f"{what} as {name}" if name else what
