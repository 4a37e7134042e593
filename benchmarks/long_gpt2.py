"""Do what is long on GPT-2s with random weights: a context of 4,096 tokens, and generations of 100 tokens."""

# ruff: noqa: D102 (what each pair of methods does stands in its scenario's title)

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.small_gpt2 import SmallGPT2
from benchmarks.suite import Scenario, Suite
from benchmarks.tiny_gpt2 import TinyGPT2, hidden_states
from loupe import LanguageModel


class LongContext(Suite):
    """Four blocks of width 96, one prompt of many tokens."""

    rounds = 9
    calls = 1

    def __init__(self, tokens: int = 4096) -> None:
        torch.manual_seed(0)
        self.name = f"GPT-2: 4 layers, width 96, {tokens} tokens"
        config = GPT2Config(
            vocab_size=512, n_embd=96, n_layer=4, n_head=12, n_positions=tokens, bos_token_id=0, eos_token_id=0
        )
        self.module = GPT2LMHeadModel(config).eval()
        self.model = LanguageModel(self.module)
        self.ids = torch.randint(1, 512, (1, tokens))

    def scenarios(self) -> list[Scenario]:
        return [Scenario("one read and the logits, beside the bare pass", self.bare, self.read)]

    def bare(self) -> Any:
        with torch.no_grad():
            return self.module(self.ids).logits

    def read(self) -> Any:
        with self.model.trace(self.ids):
            self.model.transformer.h[2].output.save()
            logits = self.model.output.save()
        return logits


class LongGeneration(TinyGPT2):
    """A generation in which each step is steered at block 5."""

    name = "generation, width 96"
    rounds = 15
    new_tokens = 100

    def scenarios(self) -> list[Scenario]:
        return [
            Scenario(f"generate {self.new_tokens} tokens, no line about a step", self.bare, self.only_generated),
            Scenario(
                f"generate {self.new_tokens} tokens, steer each: beside hooks", self.steered_by_hand, self.steered
            ),
        ]

    def against_bare(self) -> Scenario:
        """Steering beside a generation without it; their results differ."""
        return Scenario(f"generate {self.new_tokens} tokens, steer each: beside bare generate", self.bare, self.steered)

    @property
    def options(self) -> dict[str, Any]:
        return {"max_new_tokens": self.new_tokens, "min_new_tokens": self.new_tokens, "do_sample": False}

    def bare(self) -> Any:
        return self.module.generate(self.ids, **self.options)

    def only_generated(self) -> Any:
        with self.model.generate(self.ids, **self.options) as tracer:
            ids = tracer.result.save()
        return ids

    def steered_by_hand(self) -> Any:
        def steer(_module: nn.Module, _inputs: Any, output: Any) -> None:
            hidden_states(output)[:, -1] += self.stored

        handle = self.module.transformer.h[5].register_forward_hook(steer)
        try:
            return self.bare()
        finally:
            handle.remove()

    def steered(self) -> Any:
        with self.model.generate(self.ids, **self.options) as tracer:
            with tracer.all():
                self.model.transformer.h[5].output[0][:, -1] += self.stored
            ids = tracer.result.save()
        return ids


class LongGenerationSmall(LongGeneration):
    """The same with the shape of GPT-2 small."""

    name = "generation, width 768"
    rounds = 3
    width = SmallGPT2.width
    vocabulary = SmallGPT2.vocabulary
