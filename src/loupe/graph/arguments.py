"""Say whether an operation takes the arguments that a node gives it, from the opset alone.

What an operation takes is written as parameters: `input=tensor dim/other=number,tensor * dtype=none,dtype`. Each has
its names (several, where forms of a function call one place differently) and the kinds of values that it may get. Names
after `*` are given by keyword only; what ends in dots may be given any number of times; `**` stands for all keywords.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from loupe.graph.node import Const, Named, Ref
from loupe.graph.opset import OBJECT_METHODS, is_portable_attribute, operation_of
from loupe.graph.refusals import why_refused_attribute

# The kinds of a leaf in an argument, and of containers. The value of an earlier node may be anything, so it may stand
# wherever something may; a list may be a tuple, and what it holds is of the other kinds of its parameter.
KINDS = "tensor number bool string none dtype device layout memory_format slice ellipsis list dict".split()
_ANY = frozenset(KINDS)
_NOTHING = frozenset(("none",))
_TYPES: dict[type, str] = {
    Const: "tensor",
    bool: "bool",
    int: "number",
    float: "number",
    complex: "number",
    str: "string",
    type(None): "none",
    type(Ellipsis): "ellipsis",
    slice: "slice",
    tuple: "list",
    list: "list",
    dict: "dict",
}
_NUMPY = {"axis": "dim", "keepdims": "keepdim", "x": "input", "a": "input", "x1": "input", "x2": "other"}
_NUMPY_INPUT = tuple(own for own, name in _NUMPY.items() if name == "input")


class Parameter(NamedTuple):
    """One place at which an operation takes a value, by its names, with the kinds of what may stand there."""

    names: tuple[str, ...]
    kinds: frozenset[str]
    keyword_only: bool = False
    variadic: bool = False


@cache
def parameters_of(takes: str) -> tuple[Parameter, ...]:
    """The parameters that a text of the opset stands for.

    >>> parameters_of("input=tensor")[0].names
    ('input',)
    """
    found: list[Parameter] = []
    keyword_only = False
    for word in takes.split():
        if word == "*":
            keyword_only = True
            continue
        text, _, words = word.rpartition("=")
        names = tuple(dict.fromkeys(name.removesuffix("...") for name in text.split("/")))
        kinds = _ANY if words == "any" else frozenset(words.split(","))
        found.append(Parameter(names, kinds, keyword_only or text == "**", text.endswith("...")))
    return tuple(found)


def wrong_arguments(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
    """What is wrong with the arguments of an operation, as a short text; None where nothing is.

    >>> wrong_arguments("torch.softmax", (Ref(0), "last"), {})
    'torch.softmax takes no string as dim'
    """
    operation = operation_of(name)
    if operation is None:
        return f"there is no operation {name!r}"
    positional = [each for each in parameters_of(operation.takes) if not each.keyword_only]
    endless = bool(positional) and positional[-1].variadic
    if len(args) > len(positional) and not endless:
        return f"{name} takes no more than {len(positional)} in order, not {len(args)}"
    for place, value in enumerate(args):
        parameter = positional[min(place, len(positional) - 1)]
        problem = _problem(parameter.kinds, value)
        if problem:
            return f"{name} takes no {problem} as {parameter.names[0]}"
    for keyword, value in kwargs.items():
        kinds = _kinds_of_keyword(operation.takes, keyword)
        if kinds is None:
            return f"{name} takes no keyword {keyword!r}"
        problem = _problem(kinds, value)
        if problem:
            return f"{name} takes no {problem} as {keyword}"
    return _wrong_name(name, args) if name.startswith("python.") else None


def _wrong_name(name: str, args: Sequence[Any]) -> str | None:
    """What is wrong with the name of an attribute or a method."""
    named = args[1] if len(args) > 1 else None
    if type(named) is not str:
        return f"{name} takes a name as its second argument"
    if name == "python.call_method":
        return None if named in OBJECT_METHODS else f"{name} calls no method {named!r}"
    return None if is_portable_attribute(named) else f"{name} reads no {named!r}: {why_refused_attribute(named).fact}"


def _kinds_of_keyword(takes: str, keyword: str) -> frozenset[str] | None:
    parameters = parameters_of(takes)
    for name in (keyword, _NUMPY.get(keyword), "**"):
        found = [each.kinds for each in parameters if name in each.names and name != "self"]
        if found:
            return frozenset().union(*found)
    return None


def _problem(kinds: frozenset[str], value: Any) -> str | None:
    """The kind of the first thing in a value that may not be there; None where all may."""
    for kind in _kinds_in(value):
        if kind == "value" and kinds != _NOTHING:
            continue
        if kind not in kinds and not (kind in ("bool", "truth") and not kinds.isdisjoint(("bool", "number"))):
            return "number" if kind == "truth" else kind
    return None


def _kinds_in(value: Any) -> Iterator[str]:
    own = type(value)
    if own is Ref:
        yield "value"
    elif own is Named:
        yield value.kind
    elif own is int and value in (0, 1):
        yield "truth"  # a number that may stand for a truth value
    else:
        yield _TYPES.get(own, f"value of type {own.__name__}")
    if own is tuple or own is list:
        for item in value:
            yield from _kinds_in(item)
    elif own is dict:
        for item in value.values():
            yield from _kinds_in(item)
    elif own is slice:
        for part in (value.start, value.stop, value.step):
            yield from _kinds_in(part)


def given(name: str, parameter: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What a node gives for a parameter of an operation, by keyword or in order; None where it gives nothing.

    >>> given("nn.functional.relu", "inplace", (Ref(0), True), {})
    True
    """
    operation = operation_of(name)
    if parameter in kwargs or operation is None:
        return kwargs.get(parameter)
    for place, each in enumerate(parameters_of(operation.takes)[: len(args)]):
        if each.names == (parameter,) and not each.keyword_only:
            return args[place]
    return None


def first_argument(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What a node gives first, in order or by name: a view shares its memory, an operation in place changes it.

    >>> first_argument("linalg.diagonal", (), {"A": Ref(0)})
    Ref(node=0)
    """
    if args:
        return args[0]
    operation = operation_of(name)
    names = () if operation is None else parameters_of(operation.takes)[0].names
    return next((kwargs[each] for each in (*names, "input", *_NUMPY_INPUT) if each in kwargs), None)


def is_bounded(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether the size of a result follows from shapes and numbers alone, for these arguments.

    >>> is_bounded("torch.where", (Ref(0),), {}), is_bounded("torch.where", (Ref(0), Ref(1), 0.0), {})
    (False, True)

    An index that is a mask is not told from one that is not.
    """
    operation = operation_of(name)
    if operation is None:
        return False
    if name == "torch.where":
        return len(args) + len(kwargs) > 1
    leaf = name.rpartition(".")[2]
    if leaf == "repeat_interleave":
        return isinstance(given(name, "repeats", args, kwargs), int) or kwargs.get("output_size") is not None
    if leaf == "tensor_split":
        return not any(isinstance(each, (Ref, Const)) for each in (*args[1:], *kwargs.values()))
    if leaf == "one_hot":
        classes = given(name, "num_classes", args, kwargs)
        return isinstance(classes, int) and classes >= 0
    return operation.bounded
