"""Write what passes at modules of a model to a folder of tensors, for all prompts of a file."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from loupe.cli.output import print_row, print_text


class Dtype(StrEnum):
    """What values can be stored as."""

    float16 = "float16"
    bfloat16 = "bfloat16"
    float32 = "float32"


class Tokens(StrEnum):
    """Which tokens of a prompt are kept."""

    all = "all"
    last = "last"


Id = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A Hub id, a local path, or the bundled `loupe/landmarks`.", show_default=False
    ),
]
Layers = Annotated[
    list[str],
    typer.Option(
        "--layers",
        "-l",
        metavar="PATTERN",
        help="A module, or a pattern of modules like `transformer.h.*.mlp`; may be given several times.",
        show_default=False,
    ),
]
Data = Annotated[
    Path,
    typer.Option(
        "--data",
        "-d",
        metavar="FILE",
        help="A text file, a prompt a line; a .jsonl file with `text` or `input_ids`; or a .safetensors file with "
        "`input_ids`.",
        show_default=False,
    ),
]
Out = Annotated[
    Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where the shards are written.", show_default=False)
]
AsDtype = Annotated[
    Dtype | None,
    typer.Option("--dtype", help="What values are stored as; without it, as they are.", show_default=False),
]
BatchSize = Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Prompts that run together.")]
MaxTokens = Annotated[
    int | None,
    typer.Option(
        "--max-tokens", min=1, help="Tokens that are taken of each prompt, from its start.", show_default=False
    ),
]
Kept = Annotated[Tokens, typer.Option("--tokens", help="Which tokens of a prompt are kept.")]


def harvest(
    model: Id,
    layers: Layers,
    data: Data,
    out: Out,
    dtype: AsDtype = None,
    batch_size: BatchSize = 8,
    max_tokens: MaxTokens = None,
    tokens: Kept = Tokens.all,
) -> None:
    """Write the outputs of modules, for each token of the prompts of a file, to a folder of safetensors files.

    The same command goes on where an earlier one ended. A file in the folder, `index.json`, says what was asked for and
    which shards are complete.

    Examples:

    - `loupe harvest loupe/landmarks --layers "transformer.h.*" --data prompts.txt --out states`

    - `loupe harvest gpt2 -l "transformer.h.*.mlp" -d texts.jsonl -o mlps --dtype float16 --max-tokens 128`

    - `loupe harvest gpt2 -l transformer.h.5 -d texts.jsonl -o last --tokens last --batch-size 32`
    """
    import torch

    from loupe.harvesting.harvest import harvest as write
    from loupe.harvesting.prompts import read_prompts
    from loupe.models.language import LanguageModel

    prompts = read_prompts(data)
    found = write(
        LanguageModel(model),
        prompts,
        layers=list(layers),
        out=out,
        dtype=None if dtype is None else getattr(torch, dtype.value),
        batch_size=batch_size,
        tokens=tokens.value,
        max_tokens=max_tokens,
    )
    print_text(f"{found.tokens} tokens of {len(prompts)} prompts in {out}", "bold")
    for path, stored in found.request.modules.items():
        print_row(path, f"{stored.dtype} {list(stored.shape)}")
