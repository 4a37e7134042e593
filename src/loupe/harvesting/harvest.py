"""Harvest: run many prompts through a model, and stream what passes at its modules to shards on disk."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from loupe.errors import InputError, Line
from loupe.harvesting.asked import Request, request_of
from loupe.harvesting.folder import Folder, ShardEntry, open_folder
from loupe.harvesting.layout import OF_TOKENS, FileLayout, ShardPlan, cut, file_layout
from loupe.harvesting.passes import Kept, batch_of, check_prompts, look_at, run_batch
from loupe.harvesting.progress import Progress, shown
from loupe.harvesting.prompts import digest_of, token_ids_of
from loupe.harvesting.reading import Harvested, harvested
from loupe.harvesting.writer import Writer
from loupe.models.language import LanguageModel
from loupe.trace.source import user_line
from loupe.wire.canonical import write_json

Which = Literal["all", "last"]


def harvest(
    model: LanguageModel,
    prompts: Iterable[Any],
    *,
    layers: Any,
    out: str | os.PathLike[str],
    dtype: torch.dtype | None = None,
    batch_size: int = 8,
    tokens: Which = "all",
    max_tokens: int | None = None,
    shard_size: int = 1 << 27,
    resume: bool = True,
    progress: bool = True,
) -> Harvested:
    """Write the outputs of modules, for each token of many prompts, to a folder of safetensors files.

    >>> found = loupe.harvest(model, ["The Eiffel Tower is in"], layers="transformer.h.*", out="states")
    >>> found.read("transformer.h.5").shape                      # [tokens, hidden]
    torch.Size([5, 96])

    `prompts` are strings, lists of token ids, or integer tensors `[tokens]`; of each the first `max_tokens` tokens are
    taken. `layers` names modules as `tracer.cache` does: paths, patterns, classes, lists of these; of a module that
    returns several things the first is kept, of one that runs several times the first call. `tokens="last"` keeps the
    last token of each prompt. Floating-point values are stored as `dtype`, or as they are. Prompts run sorted by
    length, the longest first, `batch_size` together; a pass stops behind the last of the modules. Padding is left out.

    Shards have about `shard_size` bytes, and a thread writes one batch while the next one runs. `index.json` says what
    was asked for and which shards are complete. The same call goes on where an earlier one ended, however it did: only
    the shard that it was at is done again. With `resume=False` a folder that holds a harvest is refused. The progress
    bar shows on terminals. `loupe.harvested(out)` reads what was written.

    Raises InputError for prompts that cannot be used and for a folder with another harvest, UnknownModuleError and
    NotReachedError for a module that is not there or does not run, all before anything is written; LoadError where
    the folder cannot be written to.
    """
    line = user_line(sys._getframe(1))
    _check_options(model, batch_size, tokens, max_tokens, shard_size, line)
    paths = model.paths_of(layers)
    ids = token_ids_of(prompts, model.tokenizer, max_tokens, line)
    check_prompts(model, ids, batch_size, line)
    model.dispatch()
    modules = look_at(model, _of_tokens(paths, line), dtype, line)
    stored = {path: kept.stored for path, kept in modules.items()}
    last = tokens == "last"
    request = request_of(model, stored, tokens=tokens, prompts=len(ids), data=digest_of(ids), shard_size=shard_size)
    bytes_of_token = sum(each.size for each in stored.values()) + 4 * len(OF_TOKENS)
    plans = cut(list(map(len, ids)), bytes_of_token, shard_size, last=last)
    layouts = [file_layout(stored, plan.tokens, _note(request)) for plan in plans]
    entries = [
        ShardEntry(f"shard-{place:05d}.safetensors", plan.tokens, layout.size)
        for place, (plan, layout) in enumerate(zip(plans, layouts, strict=True))
    ]
    folder = open_folder(Path(out), request, entries, resume=resume)
    with shown(sum(plan.tokens for plan in plans), visible=progress) as bar:
        _run(model, ids, modules, plans, layouts, folder, batch_size, bar, last=last)
    return harvested(out)


def _run(
    model: LanguageModel,
    ids: Sequence[Sequence[int]],
    modules: dict[str, Kept],
    plans: Sequence[ShardPlan],
    layouts: Sequence[FileLayout],
    folder: Folder,
    batch_size: int,
    bar: Progress,
    *,
    last: bool,
) -> None:
    """Run what is not complete yet."""
    with Writer(folder) as writer:
        for place, plan in enumerate(plans):
            if folder.shards[place].complete:
                bar.skip(plan.tokens)
                continue
            writer.begin(place, layouts[place])
            for numbers in plan.batches(batch_size):
                batch = batch_of(ids, numbers, last=last)
                found = run_batch(model, batch, modules)
                writer.add({**batch.of_tokens, **found})
                bar.advance(len(next(iter(batch.of_tokens.values()))))


def _note(request: Request) -> str:
    return write_json(request.to_json())


def _of_tokens(paths: Sequence[str], line: Line) -> Sequence[str]:
    """Paths under which a shard can hold tensors."""
    for path in paths:
        if not path or path in OF_TOKENS:
            raise InputError(
                f"{path or 'the model itself'} cannot be harvested: a shard has no name for it",
                remedy="name modules in the model, such as its lm_head or its blocks",
                line=line,
            )
    return paths


def _check_options(
    model: Any, batch_size: int, tokens: str, max_tokens: int | None, shard_size: int, line: Line
) -> None:
    if not isinstance(model, LanguageModel):
        raise InputError(
            f"{type(model).__name__} takes no prompts of tokens",
            remedy="harvest from a LanguageModel; of other models, collect with tracer.cache(...)",
            line=line,
        )
    if tokens not in get_args(Which):
        raise InputError(f"tokens={tokens!r} is not known", remedy="give 'all' or 'last'", line=line)
    for name, value in (("batch_size", batch_size), ("max_tokens", max_tokens), ("shard_size", shard_size)):
        if value is not None and value < 1:
            raise InputError(f"{name}={value} leaves nothing to do", remedy="give 1 or more", line=line)
