"""Hold the arguments that several commands have, and read the values given with --set."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from loupe.errors import nearest

File = Annotated[Path, typer.Argument(metavar="FILE", help="What `graph.save(path)` has written.", show_default=False)]
ModelId = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="ID",
        help="The model: a Hub id, a local path, or the bundled `loupe/landmarks`.",
        show_default=False,
    ),
]
Prompts = Annotated[
    list[str],
    typer.Option(
        "--prompt",
        "-p",
        metavar="TEXT",
        help="A prompt; give one for each invoke, in order. For a block without invokes several are one batch.",
        default_factory=list,
        show_default=False,
    ),
]
Settings = Annotated[
    list[str],
    typer.Option(
        "--set",
        "-s",
        metavar="NAME=VALUE",
        help="The value of an open parameter, as JSON or as plain text; for a generation also one of its options.",
        default_factory=list,
        show_default=False,
    ),
]
_WORDS = {"True": True, "False": False, "None": None}  # as Python writes them


def read_settings(texts: Sequence[str], known: Collection[str]) -> dict[str, Any]:
    """The values of `--set NAME=VALUE`, by name; raises BadParameter for a name that is not known.

    >>> read_settings(["strength=2.0", "how=add"], {"strength", "how"})
    {'strength': 2.0, 'how': 'add'}
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"{text!r} has no '='; write NAME=VALUE", param_hint="--set")
        if name not in known:
            raise typer.BadParameter(
                f"the graph leaves no {name!r} open; {nearest(name, sorted(known))}", param_hint="--set"
            )
        if name in found:
            raise typer.BadParameter(f"{name!r} is set twice", param_hint="--set")
        found[name] = _value(value)
    return found


def _value(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    try:
        return json.loads(text)
    except ValueError:
        return text


def settable(graphs: Sequence[Any], options: Collection[str]) -> set[str]:
    """What `--set` may name: open parameters, and where a lone graph generates, the options of a generation."""
    parameters: list[Mapping[str, Any]] = [graph.parameters for graph in graphs]
    found = {name for each in parameters for name in each}
    return found | set(options) if len(graphs) == 1 and graphs[0].generation is not None else found


def check_prompts(prompts: Sequence[str], wanted: int) -> None:
    """Raise BadParameter where a run that needs prompts has none."""
    if not prompts:
        raise typer.BadParameter(
            f"the run takes {wanted} prompt{'' if wanted == 1 else 's'}; give one with --prompt TEXT",
            param_hint="--prompt",
        )


def as_inputs(prompts: Sequence[str], invokes: int) -> list[Any]:
    """Prompts as a run of one graph takes them: one for each invoke, or all in one batch."""
    return [list(prompts)] if not invokes and len(prompts) > 1 else list(prompts)
