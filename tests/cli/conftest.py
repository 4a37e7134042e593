"""Write the files that the commands are tried on, once."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import loupe
from loupe import LanguageModel
from loupe.cli.app import app

PROMPT, OTHER = "The Eiffel Tower is in", "The Colosseum is in"
DIRECTION = torch.linspace(-1, 1, 96)


@cache
def landmarks() -> LanguageModel:
    return LanguageModel("loupe/landmarks")


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> Path:
    """A folder with a graph that steers, one of two prompts, one of a generation, a cache, and a session."""
    model, folder = landmarks(), tmp_path_factory.mktemp("graphs")
    strength = loupe.param("strength", 1.0)
    with model.trace(PROMPT) as tracer:
        model.transformer.h[5].output[0][:, -1] += strength * DIRECTION
        model.output.save("logits")
    tracer.graph.save(folder / "steer.loupe")

    with model.trace() as tracer:
        with tracer.invoke(PROMPT):
            paris = model.transformer.h[8].output[0]
        with tracer.invoke(OTHER):
            model.transformer.h[8].output[0][:, -1] = paris[:, -1]
            model.output.save("logits")
    tracer.graph.save(folder / "two.loupe")

    with model.generate(PROMPT, max_new_tokens=3) as tracer:
        states = list().save()
        with tracer.all():
            states.append(model.transformer.h[5].output[0][:, -1])
        tracer.result.save("ids")
    tracer.graph.save(folder / "generation.loupe")

    with model.trace(PROMPT) as tracer:
        tracer.cache("transformer.h.*.mlp", name="mlps")
        model.transformer.h[5].output[0].norm().save("norm")
    tracer.graph.save(folder / "cache.loupe")

    with model.session() as session:
        with model.trace(PROMPT):
            hidden = model.transformer.h[8].output[0]
        with model.trace(OTHER):
            model.transformer.h[8].output[0][:, -1] = hidden[:, -1]
            model.output.save("logits")
    session.graphs.save(folder / "session.loupe")
    return folder


@pytest.fixture
def loupe_command(files) -> Callable:
    """Runs a command in this process; the first argument after its name is a file of the folder."""

    def call(name: str, file: str, *rest: str):
        return CliRunner().invoke(app, [name, str(files / file), *rest])

    return call
