"""Do with loupe what a graph makes cheaper, beside the whole of the work: reads that end a pass early, no autograd."""

# ruff: noqa: D102 (what each pair does stands in its scenario's title)

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.small_gpt2 import SmallGPT2Long
from benchmarks.suite import Scenario, Unequal, same
from benchmarks.tiny_gpt2 import TinyGPT2, hidden_states
from loupe.runtime.estimate import measured

LAYERS = 12


class SavedWork(TinyGPT2):
    """Whole passes of a small GPT-2, and what loupe does of them."""

    name = "what a graph saves: GPT-2, 12 layers, width 96, 128 tokens"
    rounds = 30
    tokens = 128

    def scenarios(self) -> list[Scenario]:
        reads = [
            Scenario(
                f"read layer {layer}, beside a whole pass: {layer + 1} of {LAYERS} is {(layer + 1) / LAYERS:.2f}",
                self.whole_pass(layer),
                self.read(layer),
            )
            for layer in (0, 2, 5, 8, 11)
        ]
        return [
            *reads,
            Scenario(f"cache layers 0 to 2, beside a whole pass: {3 / LAYERS:.2f}", self.whole_pass(2), self.cached(2)),
            Scenario("save the logits, beside a call that nobody has told no_grad", self.with_autograd, self.logits),
        ]

    def whole_pass(self, layer: int) -> Callable[[], Any]:
        def run() -> Any:
            saved: list[Any] = []
            block = self.module.transformer.h[layer]
            handle = block.register_forward_hook(lambda _module, _args, output: saved.append(hidden_states(output)))
            try:
                with torch.no_grad():
                    self.module(self.ids)
            finally:
                handle.remove()
            return saved[0]

        return run

    def read(self, layer: int) -> Callable[[], Any]:
        def run() -> Any:
            with self.model.trace(self.ids):
                hidden = self.model.transformer.h[layer].output[0].save()
            return hidden

        return run

    def cached(self, last: int) -> Callable[[], Any]:
        def run() -> Any:
            with self.model.trace(self.ids) as tracer:
                cache = tracer.cache([f"transformer.h.{layer}" for layer in range(last + 1)])
            return hidden_states(cache[f"transformer.h.{last}"].output).as_subclass(torch.Tensor)

        return run

    def with_autograd(self) -> Any:
        return self.module(self.ids).logits.detach()

    def logits(self) -> Any:
        with self.model.trace(self.ids):
            logits = self.model.output.save()
        return logits


class SavedWorkSmall(SavedWork):
    """The same with the shape of GPT-2 small."""

    name = "what a graph saves: GPT-2 small, 12 layers, width 768, 128 tokens"
    rounds = 5
    width = SmallGPT2Long.width
    vocabulary = SmallGPT2Long.vocabulary


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of tensors that are there at once at most, beside those that are kept of them."""

    name: str
    peak: int
    kept: int


def memory_of(model: SavedWork) -> list[Memory]:
    """The memory of a bare pass, and of passes in which something is kept of each of twelve layers.

    Raises Unequal where what is kept is not what hooks keep.
    """

    def bare() -> Any:
        with torch.no_grad():
            model.module(model.ids)
        return []

    def all_of_it() -> Any:
        with model.model.trace(model.ids):
            saved = [block.output[0].save() for block in model.model.transformer.h]
            model.model.output[0, -1].save()
        return [each.value for each in saved]

    def reduced() -> Any:
        with model.model.trace(model.ids):
            saved = [block.output[0].mean(1).save() for block in model.model.transformer.h]
            model.model.output[0, -1].save()
        return [each.value for each in saved]

    found, results = [], []
    for name, run in (("a bare pass", bare), ("save 12 layers", all_of_it), ("save the means of 12 layers", reduced)):
        run()  # what is done once is done
        with measured() as memory:
            kept = run()
        found.append(Memory(name, memory.peak, sum(each.numel() * each.element_size() for each in kept)))
        results.append(kept)
    if not same([each.mean(1) for each in results[1]], results[2]):
        raise Unequal("means that the block saves are not those of what it saves")
    if not all(same(model.whole_pass(layer)(), results[1][layer]) for layer in range(LAYERS)):
        raise Unequal("what the block saves is not what hooks keep")
    return found
