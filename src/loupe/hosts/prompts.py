"""Turn what users pass as prompts into token ids, and join several into one batch that is padded on the left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from loupe.errors import InputError, Line
from loupe.runtime.host import Input


@dataclass(frozen=True, slots=True)
class Tokens:
    """The rows of one input: ids and mask `[rows, seq]`, padded on the left, and what else the model is to get."""

    ids: torch.Tensor
    mask: torch.Tensor
    extra: dict[str, Any]
    has_mask: bool

    @property
    def padded(self) -> bool:
        """Whether a row is shorter than the longest."""
        return not bool(self.mask.all())


def tokens_of(value: Input, tokenizer: Any) -> Tokens:
    """Token ids of a string, a list of strings, ids, lists of ids, a tensor, or a mapping with `input_ids`.

    Raises InputError for an empty prompt or a value of another kind.
    """
    prompt, extra = _prompt_of(value)
    mask = None
    if isinstance(prompt, Mapping):
        fields = dict(prompt)
        prompt, mask = fields.pop("input_ids", None), fields.pop("attention_mask", None)
        extra = {**fields, **extra}
        if prompt is None:
            raise _unusable("the mapping has no 'input_ids'", value.line)
    if "attention_mask" in extra:
        mask = extra.pop("attention_mask")
    rows = _rows(prompt, tokenizer, value.line)
    if isinstance(rows, torch.Tensor):
        ids = rows
        given = torch.as_tensor(mask) if mask is not None else None
        if given is not None and given.dim() == 1:
            given = given[None]
    else:
        ids, given = _pad(rows, _pad_id(tokenizer))
    if ids.shape[0] == 0 or ids.shape[-1] == 0:
        raise InputError("the prompt is empty: it has no tokens", remedy="pass at least one token", line=value.line)
    if given is None:
        given = torch.ones_like(ids)
    longer = "past_key_values" in extra  # the mask is also about the tokens in the cache
    if given.shape[0] != ids.shape[0] or (given.dim() == 2 and given.shape[1] != ids.shape[1] and not longer):
        raise _unusable(f"the attention mask has shape {list(given.shape)} for ids {list(ids.shape)}", value.line)
    return Tokens(ids, given, extra, mask is not None or not isinstance(prompt, torch.Tensor))


def _prompt_of(value: Input) -> tuple[Any, dict[str, Any]]:
    args, extra = value.args, dict(value.kwargs)
    if len(args) > 1:
        raise InputError(
            f"{len(args)} positional inputs are given",
            remedy="pass one prompt, or a list of prompts; several invokes take one each",
            line=value.line,
        )
    if args:
        if "input_ids" in extra:
            raise _unusable("a prompt is given twice, by position and as input_ids", value.line)
        return args[0], extra
    for name in ("input_ids", "prompt", "inputs"):
        if name in extra:
            return extra.pop(name), extra
    raise _unusable("there is no prompt", value.line)


def _rows(prompt: Any, tokenizer: Any, line: Line | None) -> torch.Tensor | list[list[int]]:
    """Rows of ids: a tensor as it is, anything else as lists."""
    if isinstance(prompt, torch.Tensor):
        if prompt.is_floating_point() or prompt.dim() not in (1, 2):
            raise _unusable(f"a tensor of {prompt.dtype} with shape {list(prompt.shape)} is no token ids", line)
        return prompt[None] if prompt.dim() == 1 else prompt
    if hasattr(prompt, "__array__") and not isinstance(prompt, (str, list, tuple)):
        return _rows(torch.as_tensor(prompt), tokenizer, line)
    if isinstance(prompt, str):
        return [_encode(prompt, tokenizer, line)]
    if not isinstance(prompt, Sequence) or isinstance(prompt, bytes):
        raise _unusable(f"a prompt of type {type(prompt).__name__} is not understood", line)
    if not prompt:
        raise InputError("the prompt is empty: it has no tokens", remedy="pass at least one token", line=line)
    if all(isinstance(item, int) for item in prompt):
        return [list(prompt)]
    rows = []
    for item in prompt:
        if isinstance(item, str):
            rows.append(_encode(item, tokenizer, line))
        elif isinstance(item, torch.Tensor) and item.dim() == 1:
            rows.append(item.tolist())
        elif isinstance(item, Sequence) and all(isinstance(token, int) for token in item):
            rows.append(list(item))
        else:
            raise _unusable(f"a list with {type(item).__name__} ({item!r:.40}) in it is no prompt", line)
    for row in rows:
        if not row:
            raise InputError("a prompt of the list is empty", remedy="pass at least one token each", line=line)
    return rows


def _encode(text: str, tokenizer: Any, line: Line | None) -> list[int]:
    if tokenizer is None:
        raise InputError(
            "the model has no tokenizer, so a text cannot be its prompt",
            remedy="pass tokenizer=… to LanguageModel, or token ids as the prompt",
            line=line,
        )
    ids = tokenizer(text)["input_ids"]
    if not ids:
        raise InputError("the prompt is empty: it has no tokens", remedy="pass at least one token", line=line)
    return list(ids)


def _pad(rows: list[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    length = max(len(row) for row in rows)
    ids = torch.tensor([[pad] * (length - len(row)) + row for row in rows], dtype=torch.long)
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows], dtype=torch.long)
    return ids, mask


def _pad_id(tokenizer: Any) -> int:
    for name in ("pad_token_id", "eos_token_id"):
        found = getattr(tokenizer, name, None)
        if isinstance(found, int):
            return found
    return 0


def join_tokens(parts: Sequence[Tokens], tokenizer: Any) -> Tokens:
    """Several inputs as one batch, padded on the left to the longest; other arguments must fit along dimension 0."""
    if len(parts) == 1:
        return parts[0]
    length = max(part.ids.shape[1] for part in parts)
    pad = _pad_id(tokenizer)
    ids = torch.cat([_extend(part.ids, length, pad) for part in parts])
    mask = torch.cat([_extend(part.mask, length, 0) for part in parts])
    extra: dict[str, Any] = {}
    for name in dict.fromkeys(key for part in parts for key in part.extra):
        extra[name] = _join_extra(name, parts, length)
    return Tokens(ids, mask, extra, True)


def _join_extra(name: str, parts: Sequence[Tokens], length: int) -> Any:
    values = [part.extra.get(name) for part in parts]
    first = values[0]
    rowed = [
        isinstance(v, torch.Tensor) and v.dim() > 0 and v.shape[0] == p.ids.shape[0]
        for v, p in zip(values, parts, strict=True)
    ]
    if all(rowed):
        tensors = [v for v in values if isinstance(v, torch.Tensor)]
        along = all(v.dim() > 1 and v.shape[1] == p.ids.shape[1] for v, p in zip(tensors, parts, strict=True))
        fill = -100 if name == "labels" else 0
        if name == "labels" and along:
            tensors = [_without_first(v, length) for v in tensors]
        return torch.cat([_extend(v, length, fill) if along and v.dim() == 2 else v for v in tensors])
    if not any(isinstance(value, torch.Tensor) for value in values) and all(value == first for value in values):
        return first
    raise InputError(
        f"the invokes give values for {name!r} that cannot be joined into one batch",
        remedy=f"give {name!r} in every invoke with one row for each prompt, or the same plain value in each",
    )


def _without_first(labels: torch.Tensor, length: int) -> torch.Tensor:
    """Labels that will be padded, without the first one: alone nothing predicts it, and padding is not to either."""
    if labels.shape[1] == length:
        return labels
    return torch.cat([torch.full_like(labels[:, :1], -100), labels[:, 1:]], dim=1)


def _extend(tensor: torch.Tensor, length: int, fill: int) -> torch.Tensor:
    missing = length - tensor.shape[1]
    return torch.nn.functional.pad(tensor, (missing, 0), value=fill) if missing else tensor


def _unusable(fact: str, line: Line | None) -> InputError:
    return InputError(
        fact,
        remedy="a prompt is a string, a list of strings, token ids (a list, a list of lists, an integer tensor), "
        "or a mapping with 'input_ids'",
        line=line,
    )
