"""Know what a model's tables allow: which token ids there are, how many positions, and where positions start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from loupe.errors import InputError, Line


@dataclass(frozen=True, slots=True)
class Positions:
    """How a model counts positions: the id of a row's first token, and how many tokens a row may have.

    `most` is None where no learned table ends: rotary and other computed positions do not end here.
    """

    first: int
    most: int | None

    def ids(self, mask: torch.Tensor) -> torch.Tensor:
        """Position ids `[rows, seq]` for rows that are padded on the left."""
        return (mask.long().cumsum(-1) - 1).clamp(min=0) + self.first

    def check(self, length: int, line: Line | None) -> None:
        """Raise InputError for more tokens than there are positions."""
        if self.most is not None and length > self.most:
            raise InputError(
                f"the prompt has {length} tokens, and the model has positions for {self.most}",
                remedy="shorten the prompt, or split it over several invokes",
                line=line,
            )


def positions_of(module: nn.Module) -> Positions:
    """The positions of a model. Some tables have one for padding, and count the tokens from the one after it."""
    tables = [
        each
        for name, each in module.named_modules()
        if isinstance(each, nn.Embedding) and ("pos" in name or "wpe" in name)
    ]
    first = next((table.padding_idx + 1 for table in tables if table.padding_idx is not None), 0)
    most = getattr(getattr(module, "config", None), "max_position_embeddings", None)
    ends = isinstance(most, int) and any(most <= table.num_embeddings <= most + 2 for table in tables)
    return Positions(first, most - first if ends else None)


def input_device(module: nn.Module, table: nn.Module | None) -> torch.device:
    """Where token ids are to be put: the device of the table of embeddings, or else of the model."""
    found = getattr(table, "weight", None)
    if not isinstance(found, torch.Tensor):
        found = next((module if table is None else table).parameters(), None)
    return torch.device("cpu") if found is None or found.is_meta else found.device


def padding_id(module: nn.Module, table: nn.Module | None, tokenizer: Any) -> int:
    """The token id that short rows are filled with: the model's own, else the tokenizer's, else the end of text."""
    size = getattr(table, "num_embeddings", None)
    for owner, name in (
        (getattr(module, "config", None), "pad_token_id"),
        (tokenizer, "pad_token_id"),
        (tokenizer, "eos_token_id"),
    ):
        found = getattr(owner, name, None)
        if isinstance(found, int) and found >= 0 and (size is None or found < size):
            return found
    return 0


def check_vocabulary(table: nn.Module | None, ids: torch.Tensor, line: Line | None) -> None:
    """Raise InputError for a token id that the table of embeddings does not have."""
    size = getattr(table, "num_embeddings", None)
    lowest, highest = [int(bound) for bound in ids.aminmax()]
    if isinstance(size, int) and not 0 <= lowest <= highest < size:
        raise InputError(
            f"the token id {lowest if lowest < 0 else highest} is not in the model's vocabulary of {size}",
            remedy="pass ids from the model's own tokenizer",
            line=line,
        )


def embeddings_of(module: nn.Module) -> nn.Module | None:
    """The table of embeddings of a model, where it has one."""
    get = getattr(module, "get_input_embeddings", None)
    return get() if get is not None else None
