"""Do each scenario on a model of the shape of GPT-2 small, with random weights, for a short and for a longer prompt."""

from __future__ import annotations

from benchmarks.tiny_gpt2 import TinyGPT2


class SmallGPT2(TinyGPT2):
    """Twelve blocks of width 768, ten tokens."""

    name = "GPT-2 small: 12 layers, width 768, 10 tokens"
    rounds = 15
    width = 768
    vocabulary = 50257


class SmallGPT2Long(SmallGPT2):
    """The same with 128 tokens."""

    name = "GPT-2 small: 12 layers, width 768, 128 tokens"
    rounds = 9
    tokens = 128
