"""Say in a few words what a run has saved, and find the tensors in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from loupe.errors import LoupeError
from loupe.graph.graph import Graph, constant_text
from loupe.graph.node import RESULT
from loupe.models.language import LanguageModel
from loupe.trace.cache import Cache

_FEW = 8  # numbers, rows and entries that are shown one by one
_NEXT = 5  # next tokens


def describe(model: LanguageModel, graph: Graph, name: str, value: Any) -> list[str]:
    """What was saved under a name: a line, and further ones for next tokens, generated text and entries of a list."""
    if isinstance(value, list):
        rows = [one_line(each) for each in value[:_FEW]]
        return [f"{len(value)} entries", *rows, *(["…"] if len(value) > _FEW else [])]
    rows = [one_line(value)]
    if isinstance(value, torch.Tensor) and model.tokenizer is not None:
        if _is_logits(model, value):
            rows += [_next_tokens(model, row) for row in value[:_FEW, -1]]
        elif _is_result(graph, name) and value.dim() == 2 and not value.is_floating_point():
            rows += [repr(model.tokenizer.decode(row)) for row in value[:_FEW]]
    return rows


def one_line(value: Any) -> str:
    """A value in a few words: shape, dtype and statistics of a tensor, the short repr of anything else."""
    if isinstance(value, torch.Tensor):
        return f"{constant_text(value)}  {_numbers(value.detach())}".rstrip()
    if isinstance(value, Cache):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return f"({', '.join(one_line(each) for each in value[:_FEW])}{', …' if len(value) > _FEW else ''})"
    return constant_text(value)


def tensors_of(name: str, value: Any, found: dict[str, torch.Tensor], left_out: list[str]) -> None:
    """Put the tensors of a saved value into `found`, and the names of what is none into `left_out`.

    Entries of lists, tuples and mappings are `name.0`, `name.key`; those of a cache `name.transformer.h.3.mlp.output`,
    or `name.transformer.h.3.mlp.0.output`, … where a module ran several times.
    """
    if isinstance(value, torch.Tensor):
        found[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    elif isinstance(value, Cache):
        for path, module in value.items():
            for place, call in enumerate(module):
                where = ".".join(part for part in (name, path, str(place) if len(module) > 1 else "") if part)
                for port in ("output", "inputs"):
                    try:
                        passed = getattr(call, port)
                    except LoupeError:  # not collected
                        continue
                    tensors_of(f"{where}.{port}", passed, found, left_out)
    elif isinstance(value, Mapping):
        for key, each in value.items():
            tensors_of(f"{name}.{key}", each, found, left_out)
    elif isinstance(value, (list, tuple)):
        for place, each in enumerate(value):
            tensors_of(f"{name}.{place}", each, found, left_out)
    elif value is not None:
        left_out.append(name)


def _numbers(value: torch.Tensor) -> str:
    if not value.numel():
        return ""
    if value.numel() == 1 and not value.is_complex():
        return f"{value.item():.6g}"
    if value.numel() <= _FEW or not (value.is_floating_point() or value.is_complex()):
        flat = value.flatten()[:_FEW].tolist()
        return ", ".join(map(str, flat)) + (", …" if value.numel() > _FEW else "")
    real = (value.abs() if value.is_complex() else value).double()
    of = "magnitudes: " if value.is_complex() else ""
    return f"{of}mean {real.mean():.4g}, std {real.std(correction=0):.4g}, min {real.min():.4g}, max {real.max():.4g}"


def _is_logits(model: LanguageModel, value: torch.Tensor) -> bool:
    """Whether the last position says which token comes next: `[batch, seq, vocab]` of a model that reads onwards."""
    vocabulary = getattr(model.config.get_text_config(), "vocab_size", None)
    onwards = model.tokenizer.padding_side == "left"
    return (
        onwards
        and value.dim() == 3
        and value.is_floating_point()
        and value.shape[1] > 0
        and vocabulary == value.shape[2]
    )


def _is_result(graph: Graph, name: str) -> bool:
    """Whether the token ids of a generation were saved under a name."""
    node = graph[graph.saves[name]] if graph.generation is not None and name in graph.saves else None
    return node is not None and node.kind == "read" and node.site.path == RESULT


def _next_tokens(model: LanguageModel, row: torch.Tensor) -> str:
    best = row.detach().float().topk(min(_NEXT, len(row)))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return "next: " + ", ".join(f"{model.tokenizer.decode([token])!r} {value:.4g}" for token, value in pairs)
