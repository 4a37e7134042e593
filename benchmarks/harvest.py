"""Harvest twelve layers to disk, beside bare forward passes of the same batches."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.small_gpt2 import SmallGPT2
from benchmarks.suite import Scenario, Unequal
from benchmarks.tiny_gpt2 import TinyGPT2, hidden_states
from loupe import harvest
from loupe.harvesting.layout import cut
from loupe.harvesting.passes import Batch, batch_of

BATCH = 8


class Harvests(TinyGPT2):
    """Prompts of 20 to 60 tokens, eight together, the outputs of all blocks in half precision."""

    name = "harvest 12 layers as float16: GPT-2, 12 layers, width 96"
    rounds = 7
    prompts = 512

    def __init__(self, prompts: int | None = None) -> None:
        super().__init__()
        choose = random.Random(0)
        self.texts = [
            [choose.randrange(1, self.vocabulary) for _ in range(choose.randint(20, 60))]
            for _ in range(prompts or self.prompts)
        ]
        (plan,) = cut(list(map(len, self.texts)), 1, 1 << 60, last=False)
        self.batches: list[Batch] = [batch_of(self.texts, numbers, last=False) for numbers in plan.batches(BATCH)]

    def scenarios(self) -> list[Scenario]:
        """Both ways, once they were checked: what is written is what hooks see in the same batches."""
        self.check()
        return [
            Scenario("beside whole passes", self.whole_passes, self.harvest),
            Scenario("beside passes that end with the last block", self.passes_of_blocks, self.harvest),
        ]

    def whole_passes(self) -> None:
        """Every batch through the model."""
        with torch.no_grad():
            for batch in self.batches:
                self.module(batch.ids, attention_mask=batch.mask)

    def passes_of_blocks(self) -> None:
        """Every batch through all but the head."""
        with torch.no_grad():
            for batch in self.batches:
                self.module.transformer(batch.ids, attention_mask=batch.mask)

    def harvest(self) -> None:
        """Every batch to disk, and away again."""
        with self.harvested():
            pass

    @contextmanager
    def harvested(self) -> Iterator[Any]:
        """What is written to a folder, for as long as this is open."""
        folder = Path(tempfile.mkdtemp(prefix="harvest-"))
        try:
            yield harvest(
                self.model,
                self.texts,
                layers="transformer.h.*",
                out=folder / "out",
                dtype=torch.float16,
                batch_size=BATCH,
                progress=False,
            )
        finally:
            shutil.rmtree(folder)

    def check(self) -> None:
        """Raise Unequal where the tokens of the last block are not, bit by bit, what a hook sees in these batches."""
        seen: list[torch.Tensor] = []
        handle = self.module.transformer.h[11].register_forward_hook(
            lambda _module, _args, output: seen.append(hidden_states(output))
        )
        try:
            self.whole_passes()
        finally:
            handle.remove()
        pairs = zip(seen, self.batches, strict=True)
        want = torch.cat([states[batch.mask.bool()].half() for states, batch in pairs])
        with self.harvested() as found:
            if not torch.equal(found.read("transformer.h.11"), want):
                raise Unequal("what the harvest has written is not what a hook sees")


class HarvestsSmall(Harvests):
    """The same with the shape of GPT-2 small."""

    name = "harvest 12 layers as float16: GPT-2 small, 12 layers, width 768"
    rounds = 3
    width = SmallGPT2.width
    vocabulary = SmallGPT2.vocabulary
    prompts = 48
