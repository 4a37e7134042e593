"""Do each scenario on a small GPT-2 of the transformers library, with token ids as its input."""

# ruff: noqa: D102 (what each pair of methods does stands in `benchmarks.suite.TITLES`)

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.suite import Stop, Suite
from loupe import LanguageModel


class TinyGPT2(Suite):
    """Twelve blocks of width 96 with random weights, ten tokens."""

    name = "GPT-2: 12 layers, width 96, 10 tokens"
    rounds = 100
    calls = 1

    def __init__(self) -> None:
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=2048, n_embd=96, n_layer=12, n_head=12, n_positions=64, bos_token_id=0, eos_token_id=0
        )
        self.module = GPT2LMHeadModel(config).eval()
        self.model = LanguageModel(self.module)
        self.ids = torch.randint(1, 2048, (1, 10))
        self.stored = torch.randn(1, 96)

    def hooks_idle(self) -> Any:
        with torch.no_grad():
            return self.module(self.ids)

    def loupe_idle(self) -> Any:
        with torch.no_grad():
            return self.model(self.ids)

    def hooks_empty(self) -> None:
        with torch.no_grad():
            self.module(self.ids)

    def loupe_empty(self) -> None:
        with self.model.trace(self.ids):
            pass

    def hooks_one_save(self) -> Any:
        saved = {}

        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            saved["lm_head"] = output

        handle = self.module.lm_head.register_forward_hook(keep)
        try:
            with torch.no_grad():
                self.module(self.ids)
        finally:
            handle.remove()
        return saved["lm_head"]

    def loupe_one_save(self) -> Any:
        with self.model.trace(self.ids):
            saved = self.model.lm_head.output.save()
        return saved

    def hooks_twelve_saves(self) -> Any:
        saved = {}

        def keeper(layer: int) -> Any:
            def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
                saved[layer] = hidden_states(output)

            return keep

        layers = [*self.module.transformer.h[:11], self.module.lm_head]
        handles = [layer.register_forward_hook(keeper(place)) for place, layer in enumerate(layers)]
        try:
            with torch.no_grad():
                self.module(self.ids)
        finally:
            for handle in handles:
                handle.remove()
        return [saved[place] for place in range(12)]

    def loupe_twelve_saves(self) -> Any:
        with self.model.trace(self.ids):
            saved = [block.output[0].save() for block in self.model.transformer.h[:11]]
            saved.append(self.model.lm_head.output.save())
        return saved

    def hooks_zero(self) -> Any:
        def zero(_module: nn.Module, _inputs: Any, output: Any) -> None:
            hidden_states(output)[:] = 0

        handle = self.module.transformer.h[5].register_forward_hook(zero)
        try:
            with torch.no_grad():
                return self.module(self.ids).logits
        finally:
            handle.remove()

    def loupe_zero(self) -> Any:
        with self.model.trace(self.ids):
            self.model.transformer.h[5].output[0][:] = 0
            logits = self.model.output.save()
        return logits

    def hooks_patch(self) -> Any:
        def patch(_module: nn.Module, _inputs: Any, output: Any) -> None:
            hidden_states(output)[:, -1] = self.stored

        handle = self.module.transformer.h[5].register_forward_hook(patch)
        try:
            with torch.no_grad():
                return self.module(self.ids).logits
        finally:
            handle.remove()

    def loupe_patch(self) -> Any:
        with self.model.trace(self.ids):
            self.model.transformer.h[5].output[0][:, -1] = self.stored
            logits = self.model.output.save()
        return logits

    def hooks_early_stop(self) -> Any:
        saved = {}

        def keep_and_stop(_module: nn.Module, _inputs: Any, output: Any) -> None:
            saved[3] = hidden_states(output)
            raise Stop

        handle = self.module.transformer.h[3].register_forward_hook(keep_and_stop)
        try:
            with torch.no_grad():
                self.module(self.ids)
        except Stop:
            pass
        finally:
            handle.remove()
        return saved[3]

    def loupe_early_stop(self) -> Any:
        with self.model.trace(self.ids):
            saved = self.model.transformer.h[3].output[0].save()
        return saved

    def hooks_peek(self) -> Any:
        size = 1.0

        def look(_module: nn.Module, _inputs: Any, output: Any) -> None:
            nonlocal size
            size = float(hidden_states(output).norm())

        def shrink(_module: nn.Module, _inputs: Any, output: Any) -> None:
            hidden_states(output)[:] /= size

        blocks = self.module.transformer.h
        handles = [blocks[5].register_forward_hook(look), blocks[8].register_forward_hook(shrink)]
        try:
            with torch.no_grad():
                return self.module(self.ids).logits
        finally:
            for handle in handles:
                handle.remove()

    def loupe_peek(self) -> Any:
        with self.model.trace(self.ids):
            size = float(self.model.transformer.h[5].output[0].norm())
            self.model.transformer.h[8].output[0][:] /= size
            logits = self.model.output.save()
        return logits


def hidden_states(output: Any) -> torch.Tensor:
    """A block's output is a tensor, or a tuple in older versions of transformers."""
    return output[0] if isinstance(output, tuple) else output
