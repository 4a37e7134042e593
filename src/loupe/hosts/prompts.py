"""Turn what users pass as prompts into token ids, as one model takes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from loupe.errors import InputError, Line
from loupe.runtime.host import Input

IGNORED = -100  # a label that no loss counts


@dataclass(frozen=True, slots=True)
class Form:
    """How a model takes prompts.

    Short rows are filled with what `padding` gives, on the left or else on the right. `types` says that texts go with
    their token types, `decodes` that a second stack reads ids of its own, `decoder_input_ids` or `labels`.
    """

    tokenizer: Any
    padding: Callable[[], int]
    left: bool
    types: bool = False
    decodes: bool = False

    @property
    def pad(self) -> int:
        """The token id that short rows are filled with."""
        return self.padding()


@dataclass(frozen=True, slots=True)
class Tokens:
    """The rows of one input: ids and mask `[rows, seq]`, padded, and what else the model is to get.

    `has_mask` says that the mask is to be given to the model, `full` that it is known to leave no token out.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    extra: dict[str, Any]
    has_mask: bool
    full: bool = False

    @property
    def padded_left(self) -> bool:
        """Whether a row begins with padding."""
        return not self.full and self.mask.dim() == 2 and not bool(self.mask[:, 0].all())

    @property
    def longest(self) -> int:
        """How many tokens the longest row has."""
        return self.ids.shape[1] if self.full else min(self.ids.shape[1], int(self.mask.sum(-1).max()))

    def having(self, name: str, value: Any) -> Tokens:
        """These tokens with one more thing for the model."""
        return replace(self, extra={**self.extra, name: value})


@dataclass(frozen=True, slots=True)
class _Row:
    """One prompt's ids, and their token types where its tokenizer tells them."""

    ids: list[int]
    types: list[int] | None = None


def tokens_of(value: Input, form: Form) -> Tokens:
    """Token ids of a string, a list of strings, ids, lists of ids, a tensor, or a mapping with `input_ids`.

    Raises InputError for an empty prompt or a value of another kind.
    """
    prompt, extra = _prompt_of(value)
    mask = None
    if not isinstance(prompt, torch.Tensor) and isinstance(prompt, Mapping):
        fields = dict(prompt)
        prompt, mask = fields.pop("input_ids", None), fields.pop("attention_mask", None)
        extra = {**fields, **extra}
        if prompt is None:
            raise _unusable("the mapping has no 'input_ids'", value.line)
    if "attention_mask" in extra:
        mask = extra.pop("attention_mask")
    rows = _rows(prompt, form.tokenizer, value.line)
    if isinstance(rows, torch.Tensor):
        ids = rows
        given = torch.as_tensor(mask) if mask is not None else None
        full = given is None
        if given is not None and given.dim() == 1:
            given = given[None]
    else:
        full = len({len(row.ids) for row in rows}) == 1
        ids = stack_rows([row.ids for row in rows], form.pad, form.left)
        given = stack_rows([[1] * len(row.ids) for row in rows], 0, form.left)
        if form.types and any(row.types is not None for row in rows):
            types = [row.types or [0] * len(row.ids) for row in rows]
            extra.setdefault("token_type_ids", stack_rows(types, 0, form.left))
    if ids.shape[0] == 0 or ids.shape[-1] == 0:
        raise InputError("the prompt is empty: it has no tokens", remedy="pass at least one token", line=value.line)
    if given is None:
        given = torch.ones_like(ids)
    longer = "past_key_values" in extra  # the mask is also about the tokens in the cache
    if given.shape[0] != ids.shape[0] or (given.dim() == 2 and given.shape[1] != ids.shape[1] and not longer):
        raise _unusable(f"the attention mask has shape {list(given.shape)} for ids {list(ids.shape)}", value.line)
    if form.decodes:
        for name, fill in (("decoder_input_ids", form.pad), ("labels", IGNORED)):
            if extra.get(name) is not None:
                extra = {**extra, **_target(name, extra[name], fill, ids.shape[0], value.line)}
    return Tokens(ids, given, extra, mask is not None or not isinstance(prompt, torch.Tensor), full)


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


def _rows(prompt: Any, tokenizer: Any, line: Line | None) -> torch.Tensor | list[_Row]:
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
        return [_Row(list(prompt))]
    rows = []
    for item in prompt:
        if isinstance(item, str):
            rows.append(_encode(item, tokenizer, line))
        elif isinstance(item, torch.Tensor) and item.dim() == 1:
            rows.append(_Row(item.tolist()))
        elif isinstance(item, Sequence) and all(isinstance(token, int) for token in item):
            rows.append(_Row(list(item)))
        else:
            raise _unusable(f"a list with {type(item).__name__} ({item!r:.40}) in it is no prompt", line)
    for row in rows:
        if not row.ids:
            raise InputError("a prompt of the list is empty", remedy="pass at least one token each", line=line)
    return rows


def _encode(text: str, tokenizer: Any, line: Line | None) -> _Row:
    if tokenizer is None:
        raise InputError(
            "the model has no tokenizer, so a text cannot be its prompt",
            remedy="pass tokenizer=… to LanguageModel, or token ids as the prompt",
            line=line,
        )
    encoded = tokenizer(text)
    if not encoded["input_ids"]:
        raise InputError("the prompt is empty: it has no tokens", remedy="pass at least one token", line=line)
    return _Row(list(encoded["input_ids"]), encoded.get("token_type_ids"))


def stack_rows(rows: Sequence[Sequence[int]], fill: int, left: bool) -> torch.Tensor:
    """Lists of numbers as one tensor `[rows, longest]`, filled up on one side."""
    length = max(len(row) for row in rows)
    filled = []
    for row in rows:
        missing = [fill] * (length - len(row))
        filled.append([*missing, *row] if left else [*row, *missing])
    return torch.tensor(filled, dtype=torch.long)


def _target(name: str, value: Any, fill: int, rows: int, line: Line | None) -> dict[str, torch.Tensor]:
    """Ids for the second stack `[rows, target]`, of a tensor, a list of ids, or a list of such lists; with a mask for
    decoder inputs of several lengths.
    """
    if isinstance(value, str) or (isinstance(value, (list, tuple)) and any(isinstance(each, str) for each in value)):
        raise InputError(
            f"{name} is given as text", remedy=f"pass ids: {name}=model.tokenizer(text)['input_ids']", line=line
        )
    found = _rows(value, None, line)
    masks = {}
    if isinstance(found, torch.Tensor):
        ids = found
    else:
        ids = stack_rows([row.ids for row in found], fill, left=False)
        if name == "decoder_input_ids" and len({len(row.ids) for row in found}) > 1:
            masks["decoder_attention_mask"] = stack_rows([[1] * len(row.ids) for row in found], 0, left=False)
    if ids.shape[0] != rows or ids.shape[1] == 0:
        raise InputError(
            f"{name} has shape {list(ids.shape)} for {rows} prompt{'s' if rows > 1 else ''}",
            remedy=f"give {name} one row of ids for each prompt",
            line=line,
        )
    return {name: ids, **masks}


def _unusable(fact: str, line: Line | None) -> InputError:
    return InputError(
        fact,
        remedy="a prompt is a string, a list of strings, token ids (a list, a list of lists, an integer tensor), "
        "or a mapping with 'input_ids'",
        line=line,
    )
