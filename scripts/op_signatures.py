"""Read from torch's stubs, sources and schemas what each of its functions takes, as the parameters of the opset.

A parameter is written `name=kinds`; one position that is called differently in several forms of a function is written
`dim/other=number,tensor`. What may be given any number of times ends in dots: `size...=number,list`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from op_facts import BEHIND, CHANGING, FORMS

ROOT = Path(torch.__file__).parent
KINDS = {
    "tensor": "Tensor",
    "number": r"_?int|_?float|_?complex|Number|number|Scalar|SymInt|_?size|Any|DeviceLikeType|_?[Dd]evice"
    r"|BroadcastingList\d|_size_\w+|_ratio_\w+",
    "bool": r"_?bool",
    "string": r"str|DeviceLikeType|_?[Dd]evice",
    "none": r"None|Optional|_size_\w+_opt_t|_ratio_\w+_opt_t",
    "dtype": r"_?dtype|DType|ScalarType",
    "device": r"DeviceLikeType|_?[Dd]evice",
    "layout": r"_?layout|Layout",
    "memory_format": r"memory_format|MemoryFormat",
    "list": r"[Ll]ist|[Tt]uple|Sequence|_?size|Size|BroadcastingList\d|_size_\w+|_ratio_\w+",
}
# Not data, or about memory that is not the function's: no graph may give these.
LEFT_OUT = {"out", "generator", "names", "pin_memory", "options", "distance_function", "_random_samples"}
NOTHING = frozenset(("none",))
_WORD = re.compile(r"[A-Za-z_]\w*")
SPELLED = {"from_": "from"}  # what a stub cannot spell


class Parameter(NamedTuple):
    """One parameter of one form of a function."""

    name: str
    kinds: frozenset[str]
    keyword_only: bool = False
    variadic: bool = False


Form = tuple[Parameter, ...]


def kinds_of(annotation: str) -> frozenset[str]:
    """The kinds of arguments that a type's text allows."""
    for value in re.findall(r"Literal\[(.*?)\]", annotation):
        annotation += " str" if "'" in value or '"' in value else " bool"
    words = set(_WORD.findall(annotation.replace("torch.", "")))
    return frozenset(kind for kind, pattern in KINDS.items() if any(re.fullmatch(pattern, word) for word in words))


def form_of(definition: ast.FunctionDef, loose: bool) -> Form | None:
    """The parameters of a definition in a stub or a source; None for a form that takes names of dimensions."""
    arguments = definition.args
    positional = [*arguments.posonlyargs, *arguments.args]
    found = list(_parameters(positional, arguments.defaults, loose, keyword_only=False))
    if arguments.vararg is not None:
        kinds = _annotated(arguments.vararg, None, loose)
        found.append(Parameter(arguments.vararg.arg, kinds, variadic=True))
    found += _parameters(arguments.kwonlyargs, arguments.kw_defaults, loose, keyword_only=True)
    texts = [ast.unparse(each.annotation) for each in (*positional, *arguments.kwonlyargs) if each.annotation]
    return None if any("EllipsisType" in text or "Dimname" in text for text in texts) else tuple(found)


def _parameters(arguments: list, defaults: list, loose: bool, keyword_only: bool) -> Iterator[Parameter]:
    defaults = [None] * (len(arguments) - len(defaults)) + defaults
    for argument, default in zip(arguments, defaults, strict=True):
        if argument.arg == "self" and not argument.annotation:
            yield Parameter("self", frozenset(("tensor",)))
        elif not (keyword_only and argument.arg in LEFT_OUT):
            yield Parameter(SPELLED.get(argument.arg, argument.arg), _annotated(argument, default, loose), keyword_only)


def _annotated(argument: ast.arg, default: ast.expr | None, loose: bool) -> frozenset[str]:
    if argument.arg in LEFT_OUT:
        return NOTHING
    text = ast.unparse(argument.annotation) if argument.annotation is not None else ""
    if not text and isinstance(default, ast.Constant):
        text = "None" if default.value is None else type(default.value).__name__
    kinds = kinds_of(text)
    if isinstance(default, ast.Constant) and default.value is None:
        kinds |= {"none"}
    if loose and "bool" in kinds:  # what is written in Python takes any number for a truth value
        kinds |= {"number"}
    return kinds


@cache
def definitions(path: str, within: str = "") -> dict[str, list[ast.FunctionDef]]:
    """The functions that a file of torch defines, or a class in it, by name."""
    body = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
    if within:
        body = next(each for each in body if isinstance(each, ast.ClassDef) and each.name == within).body
    found: dict[str, list[ast.FunctionDef]] = {}
    for each in _flat(body):
        found.setdefault(each.name, []).append(each)
    return found


def _flat(body: Iterable[ast.stmt]) -> Iterator[ast.FunctionDef]:
    for each in body:
        if isinstance(each, ast.FunctionDef):
            yield each
        elif isinstance(each, ast.If):
            yield from _flat((*each.body, *each.orelse))


def forms_of_schemas(name: str) -> list[Form]:
    """The forms of a function as the dispatcher knows them, without those that only TorchScript has."""
    found: list[Form] = []
    for schema in torch._C._jit_get_schemas_for_operator(f"aten::{name}"):
        if any(argument.name == "out" or argument.is_out for argument in schema.arguments):
            continue
        form = [
            Parameter(
                "input" if argument.name == "self" else argument.name,
                kinds_of(str(argument.real_type)),
                argument.kwarg_only,
            )
            for argument in schema.arguments
            if argument.name not in LEFT_OUT
        ]
        if any("tensor" in each.kinds for each in form):
            found.append(tuple(form))
    return found


def forms_of(space: str, leaf: str) -> list[Form]:
    """All forms of a function, from wherever torch tells them."""
    name = f"{space}.{leaf}"
    if name in FORMS:
        return [tuple(_written(FORMS[name]))]
    behind = [leaf, *BEHIND.get(name, ())]
    if space in ("linalg", "fft", "special"):
        return forms_of_schemas(f"{space}_{leaf}")
    if space == "Tensor":
        return _defined(behind, ("_C/__init__.pyi", "TensorBase"), ("_tensor.py", "Tensor"))
    if space == "torch":
        return _defined(behind, ("_C/_VariableFunctions.pyi", ""), ("functional.py", ""), ("_lowrank.py", ""))
    behind += [f"{leaf}_with_indices"]
    written = _defined(behind, ("nn/functional.py", ""), ("nn/functional.pyi", ""))
    stubs = (("_C/_nn.pyi", ""), ("_C/_VariableFunctions.pyi", ""))
    return written or next(filter(None, (_defined([leaf], stub) for stub in stubs)), [])


def _defined(names: list[str], *places: tuple[str, str]) -> list[Form]:
    found: list[Form] = []
    for path, within in places:
        for name in names:
            for definition in definitions(path, within).get(name, ()):
                form = form_of(definition, loose=path.endswith(".py"))
                if form is not None and all(each.name != "out" or each.kinds for each in form):
                    found.append(form)
    return found


def _written(text: str) -> Iterator[Parameter]:
    keyword_only = False
    for word in text.split():
        if word == "*":
            keyword_only = True
        else:
            name, _, kinds = word.partition("=")
            yield Parameter(name.removesuffix("..."), frozenset(kinds.split(",")), keyword_only, name.endswith("..."))


def takes_of(space: str, leaf: str) -> str:
    """What a function takes, in the words of the table."""
    forms = forms_of(space, leaf)
    if not forms:
        raise LookupError(f"nothing tells what {space}.{leaf} takes: write it into FORMS of scripts/op_facts.py")
    if space != "Tensor":  # some stubs call the first parameter as the dispatcher does
        forms = [(form[0]._replace(name="input"), *form[1:]) if form[0].name == "self" else form for form in forms]
    numbers = torch._C._should_allow_numbers_as_tensors(leaf)
    changing = CHANGING.get(f"{space}.{leaf}", ())
    words: list[str] = []
    for parameters in _positions(forms):
        names = list(dict.fromkeys(each.name + "..." * each.variadic for each in parameters))
        kinds = frozenset().union(*(each.kinds for each in parameters))
        if numbers and "tensor" in kinds and names != ["self"]:
            kinds |= {"number"}
        if names[0] in changing:
            kinds = NOTHING
        elif not kinds or (kinds == NOTHING and names[0] not in LEFT_OUT):
            raise LookupError(f"nothing tells what {space}.{leaf} takes as {names[0]}: write it into FORMS")
        if parameters[0].keyword_only and "*" not in words:
            words.append("*")
        words.append(f"{'/'.join(names)}={','.join(kind for kind in (*KINDS, 'ellipsis') if kind in kinds)}")
    return " ".join(words)


def _positions(forms: list[Form]) -> Iterator[list[Parameter]]:
    positional = [[each for each in form if not each.keyword_only] for form in forms]
    for place in range(max(map(len, positional))):
        yield [form[place] for form in positional if place < len(form)]
    by_name: dict[str, list[Parameter]] = {}
    known = {each.name for form in positional for each in form}
    for each in (each for form in forms for each in form if each.keyword_only and each.name not in known):
        by_name.setdefault(each.name, []).append(each)
    yield from by_name.values()
