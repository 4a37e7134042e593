"""Read the options of a generation as the transformers library does: from arguments, configs and defaults."""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import nn

_UNASKED = 20  # new tokens, where a generation is not told how many


def option(module: nn.Module, arguments: dict[str, Any], name: str) -> Any:
    """An option of a generation: an argument, or set in the given config or the model's own; None where nobody sets it.

    >>> option(model, {"max_new_tokens": 5}, "max_new_tokens")
    5
    """
    configs = (arguments.get("generation_config"), getattr(module, "generation_config", None))
    found = (arguments.get(name), *(getattr(config, name, None) for config in configs))
    return next((value for value in found if value is not None), None)


def most_new_tokens(module: nn.Module, arguments: dict[str, Any], there: int) -> int:
    """The most new tokens that a generation can have from a prompt of `there` tokens."""
    new = option(module, arguments, "max_new_tokens")
    if new is not None:
        return int(new)
    longest = option(module, arguments, "max_length")
    if longest is None or (arguments.get("max_length") is None and longest == _length_of_an_empty_config()):
        longest = there + _UNASKED
        places = getattr(getattr(module, "config", None), "max_position_embeddings", None)
        longest = longest if places is None else min(longest, places)
    return max(int(longest) - there, 1)


@cache
def _length_of_an_empty_config() -> int | None:
    """Some versions of the library have a `max_length` in every config, although nobody set it."""
    from transformers import GenerationConfig

    return GenerationConfig().max_length
