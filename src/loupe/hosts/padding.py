"""Join the tokens of several inputs into one batch in which each row gives what it gives alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from loupe.errors import InputError
from loupe.hosts.prompts import IGNORED, Form, Tokens

_OF_DECODER = ("decoder_input_ids", "decoder_attention_mask", "labels")


def join_tokens(parts: Sequence[Tokens], form: Form) -> Tokens:
    """Several inputs as one batch, padded to the longest; other arguments must fit along dimension 0."""
    if len(parts) == 1:
        return parts[0]
    length = max(part.ids.shape[1] for part in parts)
    ids = torch.cat([_extend(part.ids, length, form.pad, form.left) for part in parts])
    mask = torch.cat([_extend(part.mask, length, 0, form.left) for part in parts])
    if any("token_type_ids" in part.extra for part in parts):
        parts = [_with_default(part, "token_type_ids", torch.zeros_like(part.ids)) for part in parts]
    targets = [part.extra.get("decoder_input_ids") for part in parts]
    if form.decodes and len({target.shape[1] for target in targets if target is not None}) > 1:
        parts = [
            part if target is None else _with_default(part, "decoder_attention_mask", torch.ones_like(target))
            for part, target in zip(parts, targets, strict=True)
        ]
    extra: dict[str, Any] = {}
    for name in dict.fromkeys(key for part in parts for key in part.extra):
        extra[name] = _join_extra(name, parts, length, form)
    return Tokens(ids, mask, extra, True)


def _with_default(part: Tokens, name: str, value: torch.Tensor) -> Tokens:
    """An input that says what a model would take it to say, where it says nothing."""
    return part if name in part.extra else part.having(name, value)


def _join_extra(name: str, parts: Sequence[Tokens], length: int, form: Form) -> Any:
    values = [part.extra.get(name) for part in parts]
    first = values[0]
    tensors = [
        value
        for value, part in zip(values, parts, strict=True)
        if isinstance(value, torch.Tensor) and value.dim() > 0 and value.shape[0] == part.ids.shape[0]
    ]
    if len(tensors) == len(parts):
        fill = _fill(name, form)
        if form.decodes and name in _OF_DECODER:
            longest = max(tensor.shape[1] for tensor in tensors)
            return torch.cat([_extend(tensor, longest, fill, left=False) for tensor in tensors])
        along = all(v.dim() > 1 and v.shape[1] == p.ids.shape[1] for v, p in zip(tensors, parts, strict=True))
        if name == "labels" and along and form.left:
            tensors = [_without_first(tensor, length) for tensor in tensors]
        return torch.cat([_extend(v, length, fill, form.left) if along and v.dim() == 2 else v for v in tensors])
    if not any(isinstance(value, torch.Tensor) for value in values) and all(value == first for value in values):
        return first
    raise InputError(
        f"the invokes give values for {name!r} that cannot be joined into one batch",
        remedy=f"give {name!r} in every invoke with one row for each prompt, or the same plain value in each",
    )


def _fill(name: str, form: Form) -> int:
    if name == "labels":
        return IGNORED
    return form.pad if name == "decoder_input_ids" else 0


def _without_first(labels: torch.Tensor, length: int) -> torch.Tensor:
    """Labels that will be padded, without the first one: alone nothing predicts it, and padding is not to either."""
    if labels.shape[1] == length:
        return labels
    return torch.cat([torch.full_like(labels[:, :1], IGNORED), labels[:, 1:]], dim=1)


def _extend(tensor: torch.Tensor, length: int, fill: int, left: bool) -> torch.Tensor:
    missing = length - tensor.shape[1]
    return torch.nn.functional.pad(tensor, (missing, 0) if left else (0, missing), value=fill) if missing else tensor
