"""Run batches of prompts through a model, and keep of each module what passes at the tokens that are wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from loupe.errors import InputError, Line
from loupe.harvesting.layout import IDS, POSITIONS, PROMPTS, Stored
from loupe.models.language import LanguageModel
from loupe.runtime.host import Input
from loupe.wire.constants import STORED

_TRIED = ((2, 3), (3, 5))  # rows and tokens of two inputs: what grows with both has them as its first axes


@dataclass(frozen=True, slots=True)
class Batch:
    """Prompts as rows `[prompts, tokens]`, short ones filled up on the right.

    `rows` are the places of the tokens that are kept, in the batch as one row; None where all are. `of_tokens` says
    which tokens these are.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    rows: torch.Tensor | None
    of_tokens: Mapping[str, torch.Tensor]


def batch_of(prompts: Sequence[Sequence[int]], numbers: Sequence[int], *, last: bool) -> Batch:
    """Prompts with these numbers as one batch.

    >>> batch_of([[5, 6, 7], [8]], (0, 1), last=False).rows
    tensor([0, 1, 2, 3])
    """
    chosen = [torch.tensor(prompts[number]) for number in numbers]
    lengths = torch.tensor(list(map(len, chosen)))
    ids = pad_sequence(chosen, batch_first=True)
    longest = ids.shape[1]
    places = torch.arange(longest).expand(len(chosen), longest)
    mask = places < lengths[:, None]
    kept = places == lengths[:, None] - 1 if last else mask
    rows = None if kept.all() else kept.flatten().nonzero()[:, 0]
    of_prompts = torch.tensor(numbers)[:, None].expand(len(chosen), longest)

    def of_kept(values: torch.Tensor) -> torch.Tensor:
        flat = values.reshape(-1)
        return (flat if rows is None else flat[rows]).to(torch.int32)

    of_tokens = {IDS: of_kept(ids), PROMPTS: of_kept(of_prompts), POSITIONS: of_kept(places)}
    return Batch(ids, mask.long(), rows, of_tokens)


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of a module: its output, or the first of several things that it returns, in a form to be stored."""

    stored: Stored
    first: bool


def run_batch(model: LanguageModel, batch: Batch, modules: Mapping[str, Kept]) -> dict[str, torch.Tensor]:
    """What passes at modules, `[kept tokens, …]` each, in one pass that ends with the last of them."""
    saved: dict[str, Any] = {}
    with model.trace(batch.ids, attention_mask=batch.mask):
        for path, kept in modules.items():
            output = model.envoy_at(path).output
            value = output[0] if kept.first else output
            dtype = getattr(torch, kept.stored.dtype)
            if batch.rows is None:
                value = value.to(dtype, copy=True)  # the model may overwrite its own
            else:
                value = value.flatten(0, 1).index_select(0, batch.rows).to(dtype)
            saved[path] = value.save()
    return {path: value.value for path, value in saved.items()}


def look_at(model: LanguageModel, paths: Sequence[str], dtype: torch.dtype | None, line: Line) -> dict[str, Kept]:
    """What each module has for a token, by two small passes; raises InputError where its values are not of tokens."""
    first, second = (_outputs(model, paths, rows, tokens) for rows, tokens in _TRIED)
    found: dict[str, Kept] = {}
    for path in paths:
        several = isinstance(first[path], (tuple, list))
        value, other = (each[path][0] if several else each[path] for each in (first, second))
        if not isinstance(value, torch.Tensor) or not _is_of_tokens(value, other):
            what = list(value.shape) if isinstance(value, torch.Tensor) else f"of type {type(value).__name__}"
            raise InputError(
                f"{path}.output has no axes [prompts, tokens]: it is {what} for {_TRIED[0][0]} prompts of "
                f"{_TRIED[0][1]} tokens",
                remedy="name modules whose output has an entry for each token, like decoder blocks or their parts",
                line=line,
            )
        name = str(dtype if dtype is not None and value.is_floating_point() else value.dtype).removeprefix("torch.")
        if name not in STORED:
            raise InputError(f"{name} cannot be stored", remedy="give dtype=torch.float16 or another", line=line)
        found[path] = Kept(Stored(tuple(value.shape[2:]), name), several)
    return found


def _is_of_tokens(value: torch.Tensor, other: torch.Tensor) -> bool:
    return (tuple(value.shape[:2]), tuple(other.shape[:2])) == _TRIED and value.shape[2:] == other.shape[2:]


def _outputs(model: LanguageModel, paths: Sequence[str], rows: int, tokens: int) -> dict[str, Any]:
    """What modules return for an input of this size."""
    with model.trace([[0] * tokens] * rows):
        saved = {path: model.envoy_at(path).output.save() for path in paths}
    return {path: value.value for path, value in saved.items()}


def check_prompts(model: LanguageModel, prompts: Sequence[Sequence[int]], batch_size: int, line: Line) -> None:
    """Raise InputError, before anything runs, for a prompt that the model cannot take."""
    places = range(len(prompts))
    longest = max(places, key=lambda place: len(prompts[place]))
    shortest = min(places, key=lambda place: len(prompts[place]))
    highest = max(places, key=lambda place: max(prompts[place]))
    lowest = min(places, key=lambda place: min(prompts[place]))
    for place in dict.fromkeys((longest, highest, lowest)):
        try:
            _check(model, [prompts[place]], line)
        except InputError as error:
            remedy = "give max_tokens=…, or leave it out" if place == longest else error.remedy
            raise InputError(f"prompt {place}: {error.fact}", remedy=remedy, line=line) from None
    if batch_size > 1:
        try:
            _check(model, [prompts[longest], prompts[shortest]], line)
        except InputError as error:
            raise InputError(error.fact, remedy="give batch_size=1", line=line) from None


def _check(model: LanguageModel, prompts: Sequence[Sequence[int]], line: Line) -> None:
    model._language_host.merge([Input(([list(ids) for ids in prompts],), {}, line)])
