"""Bring prompts into the form that a harvest takes, lists of token ids, from Python values or from a file."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from loupe.errors import InputError, Line, LoadError

_FORMS = "a prompt is a string, a list of token ids, or an integer tensor [tokens]"


def token_ids_of(prompts: Iterable[Any], tokenizer: Any, most: int | None, line: Line | None) -> list[list[int]]:
    """The token ids of each prompt, the first `most` of them; raises InputError for one that has none."""
    if isinstance(prompts, str):
        raise InputError("one prompt is given, and not a list", remedy="write [prompt]", line=line)
    given: list[Any] = list(prompts)
    found: list[Any] = [None] * len(given)
    texts = [place for place, each in enumerate(given) if isinstance(each, str)]
    if texts:
        for place, ids in zip(texts, _encoded([given[place] for place in texts], tokenizer, line), strict=True):
            found[place] = ids
    for place, each in enumerate(given):
        ids = found[place] if isinstance(each, str) else _ids(each, place, line)
        if not ids:
            raise InputError(f"prompt {place} is empty: it has no tokens", remedy="leave it out", line=line)
        found[place] = ids[:most]
    if not found:
        raise InputError("there are no prompts", remedy="give at least one", line=line)
    return found


def _encoded(texts: list[str], tokenizer: Any, line: Line | None) -> list[list[int]]:
    if tokenizer is None:
        raise InputError(
            "the model has no tokenizer, so a text cannot be its prompt",
            remedy="pass tokenizer=… to LanguageModel, or token ids as prompts",
            line=line,
        )
    found: list[list[int]] = tokenizer(texts)["input_ids"]
    return found


def _ids(value: Any, place: int, line: Line | None) -> list[int]:
    ids: Any = value
    if isinstance(value, torch.Tensor) or hasattr(value, "__array__"):
        tensor = torch.as_tensor(value)
        ids = tensor.tolist() if tensor.dim() == 1 else None
    if not isinstance(ids, Sequence) or not all(type(each) is int for each in ids):
        raise InputError(f"prompt {place} is of a form that is not understood", remedy=_FORMS, line=line)
    return list(ids)


def digest_of(prompts: Sequence[Sequence[int]]) -> str:
    """The SHA-256 of the token ids of all prompts, in order."""
    digest = hashlib.sha256()
    for ids in prompts:
        digest.update(array("q", [len(ids), *ids]).tobytes())
    return digest.hexdigest()


def read_prompts(path: Path) -> list[Any]:
    """The prompts of a file: a text a line, JSON lines with `text` or `input_ids`, or a safetensors file.

    The last has `input_ids` `[prompts, tokens]`, and `attention_mask` of the same shape where tokens are padding.
    Raises LoadError for a file that cannot be read, and InputError for a line without a prompt.
    """
    try:
        if path.suffix == ".safetensors":
            return _of_tensors(path)
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LoadError(
            f"no prompts can be read from {str(path)!r}: {getattr(error, 'strerror', None) or error}",
            remedy="name a text file in UTF-8, a prompt a line; a .jsonl file; or a .safetensors file",
        ) from error
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    read = _of_object if path.suffix in (".jsonl", ".json") else _of_line
    return [read(line.rstrip("\r"), f"line {place} of {str(path)!r}") for place, line in enumerate(lines, 1)]


def _of_line(line: str, where: str) -> str:
    if not line.strip():
        raise InputError(f"{where} is empty", remedy="leave it out: each line is a prompt")
    return line


def _of_object(line: str, where: str) -> Any:
    remedy = 'write {"text": "…"} or {"input_ids": [1, 2, …]} on each line'
    try:
        value = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where} is not JSON: {error}", remedy=remedy) from None
    found = value.get("input_ids", value.get("text")) if isinstance(value, dict) else None
    if not isinstance(found, (str, list)):
        raise InputError(f"{where} has neither a text nor input_ids", remedy=remedy)
    if not found:
        raise InputError(f"{where} has an empty prompt", remedy="leave it out")
    return found


def _of_tensors(path: Path) -> list[Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise LoadError(
            f"{str(path)!r} is no safetensors file: {error}", remedy="write one with an entry input_ids"
        ) from error
    ids, mask = tensors.get("input_ids"), tensors.get("attention_mask")
    if ids is None or ids.dim() != 2 or ids.is_floating_point() or (mask is not None and mask.shape != ids.shape):
        raise InputError(
            f"{str(path)!r} has no input_ids [prompts, tokens]",
            remedy="store whole numbers under input_ids, and the attention_mask of the same shape where there is one",
        )
    if mask is None:
        return list(ids.unbind())
    return [row[kept.bool()] for row, kept in zip(ids, mask, strict=True)]
