"""Run the graphs of a file on a model, print what they save, and write it to a file of tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from loupe.cli.options import File, ModelId, Prompts, Settings, as_inputs, check_prompts, read_settings, settable
from loupe.cli.output import LABEL, print_row, print_text, writing
from loupe.graph.generation import GENERATION_OPTIONS

Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="OUT.safetensors",
        help="Write the saved tensors to a safetensors file, under the names of the saves.",
        show_default=False,
    ),
]


def run(file: File, model: ModelId, prompt: Prompts, settings: Settings, out: Out = None) -> None:
    """Run the graph of a file on a model, and print what it saves.

    Of logits, the likeliest next tokens are printed too. A session takes the prompts of its blocks one after the other.

    Examples:

    - `loupe run steer.loupe --model loupe/landmarks --prompt "Big Ben is in"`

    - `loupe run steer.loupe -m gpt2 -p "Big Ben is in" --set strength=2.0`

    - `loupe run steer.loupe -m gpt2 -p "Big Ben is in" --out saved.safetensors`
    """
    from loupe.cli.values import describe, tensors_of
    from loupe.files.intervention import InterventionSession
    from loupe.files.loading import load
    from loupe.models.language import LanguageModel

    loaded = load(file)
    session = isinstance(loaded, InterventionSession)
    graphs: list[Any] = list(loaded) if session else [loaded]
    named = read_settings(settings, settable(graphs, GENERATION_OPTIONS))
    check_prompts(prompt, loaded.inputs)
    wrapped = LanguageModel(model)
    inputs = list(prompt) if session else as_inputs(prompt, loaded.invokes)
    ran = wrapped.run(loaded, *inputs, **named)
    results: list[dict[str, Any]] = ran if session else [ran]
    tensors: dict[str, Any] = {}
    left_out: list[str] = []
    for place, (graph, saved) in enumerate(zip(graphs, results, strict=True)):
        if session:
            print_text(f"block {place}" if saved else f"block {place} saves nothing", "bold")
        for name, value in saved.items():
            first, *more = describe(wrapped, graph, name, value)
            print_row(name, first)
            for row in more:
                print_text(" " * LABEL + row)
            tensors_of(f"block{place}.{name}" if session else name, value, tensors, left_out)
    if out is not None:
        _write(out, tensors, left_out)


def _write(out: Path, tensors: dict[str, Any], left_out: list[str]) -> None:
    from safetensors.torch import save

    with writing(out):
        out.write_bytes(save(tensors))
    print_text(f"{len(tensors)} tensor{'' if len(tensors) == 1 else 's'} written to {out}")
    if left_out:
        print_text(f"not written, for they are no tensors: {', '.join(left_out)}")
