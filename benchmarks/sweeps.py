"""Patch every layer and position of a prompt: a double loop of traces in a session, and of passes with a hook each."""

# ruff: noqa: D102 (what each pair of methods does stands in `benchmarks.suite.TITLES`)

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.suite import Suite
from benchmarks.tiny_gpt2 import gpt2, hidden_states
from loupe import LanguageModel


class Sweep(Suite):
    """Twelve layers by ten positions, from one prompt into another; what is read is the last token's logits."""

    calls = 1
    rounds = 9
    tolerance = 1e-4  # a batch may be added up in another order than a row
    blocks: nn.ModuleList
    envoys: Any

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.module = self.build().eval()
        self.model = LanguageModel(self.module)
        self.clean, self.corrupted = torch.randint(1, 2000, (2, 1, 10))
        self.find_blocks()

    def build(self) -> nn.Module:
        raise NotImplementedError("a suite says which model it is about")

    def find_blocks(self) -> None:
        self.blocks, self.envoys = self.module.transformer.h, self.model.transformer.h

    def hooks_sweep(self) -> Any:
        stored = self._states()
        found = []
        for layer, block in enumerate(self.blocks):
            for position in range(10):

                def patch(_module: nn.Module, _inputs: Any, output: Any, at: int = position, of: int = layer) -> None:
                    hidden_states(output)[:, at] = stored[of][:, at]

                handle = block.register_forward_hook(patch)
                try:
                    with torch.no_grad():
                        found.append(self.module(self.corrupted).logits[0, -1])
                finally:
                    handle.remove()
        return found

    def _states(self) -> dict[int, torch.Tensor]:
        stored: dict[int, torch.Tensor] = {}

        def keeper(layer: int) -> Any:
            def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
                stored[layer] = hidden_states(output)

            return keep

        handles = [block.register_forward_hook(keeper(layer)) for layer, block in enumerate(self.blocks)]
        try:
            with torch.no_grad():
                self.module(self.clean)
        finally:
            for handle in handles:
                handle.remove()
        return stored

    def loupe_sweep(self) -> Any:
        model, found = self.model, []
        with model.session():
            with model.trace(self.clean):
                stored = [block.output[0] for block in self.envoys]
            for layer, block in enumerate(self.envoys):
                for position in range(10):
                    with model.trace(self.corrupted):
                        block.output[0][:, position] = stored[layer][:, position]
                        found.append(model.output[0, -1].save())
        return found

    def hooks_sweep_gradients(self) -> Any:
        found = []
        for block in self.blocks:
            kept: dict[str, torch.Tensor] = {}
            handle = block.register_forward_hook(
                lambda _module, _inputs, output, kept=kept: kept.update(hidden=hidden_states(output))
            )
            try:
                loss = self.module(self.corrupted).logits[0, -1, 0]
            finally:
                handle.remove()
            found.append(torch.autograd.grad(loss, kept["hidden"])[0])
        return found

    def loupe_sweep_gradients(self) -> Any:
        model, found = self.model, []
        with model.session():
            for block in self.envoys:
                with model.trace(self.corrupted):
                    hidden = block.output[0]
                    model.output[0, -1, 0].backward()
                    found.append(hidden.grad.save())
        return found


class SweepTinyGPT2(Sweep):
    """A GPT-2 of width 96."""

    name = "sweeps on GPT-2: 12 layers, width 96, 10 tokens"

    def build(self) -> nn.Module:
        return gpt2(96, 2048)


class SweepTinyLlama(Sweep):
    """A Llama of that size."""

    name = "sweeps on Llama: 12 layers, width 96, 10 tokens"

    def build(self) -> nn.Module:
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=2048,
                hidden_size=96,
                num_hidden_layers=12,
                num_attention_heads=12,
                intermediate_size=256,
                bos_token_id=0,
                eos_token_id=0,
            )
        )

    def find_blocks(self) -> None:
        self.blocks, self.envoys = self.module.model.layers, self.model.model.layers


class SweepSmallGPT2(Sweep):
    """The shape of GPT-2 small, with random weights."""

    name = "sweeps on GPT-2 small: 12 layers, width 768, 10 tokens"
    rounds = 3

    def build(self) -> nn.Module:
        return gpt2(768, 50257)
