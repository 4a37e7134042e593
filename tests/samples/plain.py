"""Run the plain model of a program with plain hooks, for what the program should find."""

from collections.abc import Callable
from functools import cache

import torch
from transformers import AutoModelForCausalLM

from loupe.hosts.bundled import bundled_path
from tests import tiny

Change = Callable[[torch.Tensor], torch.Tensor]


def tokens(model, prompt) -> dict[str, torch.Tensor]:
    """A prompt as the plain model takes it."""
    return dict(model.tokenizer(prompt, return_tensors="pt"))


def states(output) -> torch.Tensor:
    """The hidden states of a block's output, which is a tuple in some versions of the library."""
    return output[0] if isinstance(output, tuple) else output


def changed(output, new: torch.Tensor):
    """A block's output with other hidden states."""
    return (new, *output[1:]) if isinstance(output, tuple) else new


def plain_run(model, prompt, read=(), change: dict[str, Change] | None = None):
    """The hidden states at `read`, by path, and the logits, of a plain call in which hooks do what `change` says.

    A change gets a copy of what passes at its path, and returns what the model goes on with.
    """
    seen: dict[str, torch.Tensor] = {}

    def at(path: str):
        def visit(output):
            passing = states(output).clone()
            if change and path in change:
                passing = change[path](passing)
            seen[path] = passing.clone()
            return changed(output, passing)

        return visit

    with tiny.hooked(model._model, {path: at(path) for path in [*read, *(change or ())]}):
        logits = model._model(**tokens(model, prompt)).logits
    return seen, logits


def filled(value: float) -> Change:
    """A change that leaves nothing but one number."""
    return lambda passing: torch.full_like(passing, value)


@cache
def with_patterns():
    """The bundled model with the attention that can give its weights back."""
    return AutoModelForCausalLM.from_pretrained(bundled_path("loupe/landmarks"), attn_implementation="eager")


def patterns(model, prompt) -> tuple[torch.Tensor, ...]:
    """The attention pattern [batch, head, query, key] of each layer, as the library itself gives it."""
    with torch.no_grad():
        return with_patterns()(**tokens(model, prompt), output_attentions=True).attentions


def close(one, other) -> bool:
    """Whether two tensors of float32 activations are equal up to rounding."""
    return torch.allclose(one, other, atol=1e-4, rtol=1e-4)
