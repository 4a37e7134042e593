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
    from loupe.errors import InputError
    from loupe.files.intervention import InterventionSession
    from loupe.files.loading import load
    from loupe.models.language import LanguageModel

    graph = load(file)
    if isinstance(graph, InterventionSession):
        raise InputError(
            f"{file.name} holds a session, and one graph is validated at a time",
            remedy="validate the blocks that stand alone: loupe.load(path)[0].validate(model)",
        )
    named = read_settings(settings, settable([graph], ()))
    report = graph.validate(LanguageModel(model), *as_inputs(prompt, graph.invokes), **named)
    print_text(str(report), "" if report else "red")
    if not report:
        raise typer.Exit(1)
