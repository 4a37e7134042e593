"""Say whether the graph of a file can run on a model, without a run."""

from __future__ import annotations

import typer

from loupe.cli.options import File, ModelId, Prompts, Settings, as_inputs, read_settings, settable
from loupe.cli.output import print_text


def validate(file: File, model: ModelId, prompt: Prompts, settings: Settings) -> None:
    """Look for what keeps the graph of a file from running on a model; exit status 1 where something does.

    Unknown modules, errors of shape and dtype, values that a look has baked in, and the memory that a run takes. The
    model's weights are not loaded. Without prompts, shapes are tried with one token.

    Examples:

    - `loupe validate steer.loupe --model loupe/landmarks`

    - `loupe validate steer.loupe -m gpt2 -p "Big Ben is in" --set strength=2.0`
    """
    from loupe.files.intervention import InterventionSession
    from loupe.files.loading import load
    from loupe.models.language import LanguageModel

    graph = load(file)
    session = isinstance(graph, InterventionSession)
    named = read_settings(settings, settable(graph if session else [graph], ()))
    inputs = list(prompt) if session else as_inputs(prompt, graph.invokes)
    report = graph.validate(LanguageModel(model), *inputs, **named)
    print_text(str(report), "" if report else "red")
    if not report:
        raise typer.Exit(1)
