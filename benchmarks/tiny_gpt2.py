"""Do each scenario on a small GPT-2 of the transformers library, with token ids as its input."""

# ruff: noqa: D102 (what each pair of methods does stands in `benchmarks.suite.TITLES`)

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.suite import Stop, Suite
from loupe import LanguageModel


def gpt2(width: int, vocabulary: int) -> nn.Module:
    """Twelve blocks of GPT-2 with twelve heads each, with random weights."""
    config = GPT2Config(
        vocab_size=vocabulary,
        n_embd=width,
        n_layer=12,
        n_head=12,
        n_positions=256,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    return GPT2LMHeadModel(config)


class TinyGPT2(Suite):
    """Twelve blocks of width 96 with random weights, ten tokens."""

    name = "GPT-2: 12 layers, width 96, 10 tokens"
    rounds = 100
    calls = 1
    width = 96
    vocabulary = 2048
    tokens = 10

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.module = gpt2(self.width, self.vocabulary).eval()
        self.model = LanguageModel(self.module)
        self.ids, self.other = torch.randint(1, self.vocabulary, (2, 1, self.tokens))
        self.stored = torch.randn(1, self.width)

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

    def hooks_peek_each(self) -> list[float]:
        sizes: list[float] = []

        def look(_module: nn.Module, _inputs: Any, output: Any) -> None:
            sizes.append(float(hidden_states(output).norm()))

        handles = [block.register_forward_hook(look) for block in self.module.transformer.h]
        try:
            with torch.no_grad():
                self.module(self.ids)
        finally:
            for handle in handles:
                handle.remove()
        return sizes

    def loupe_peek_each(self) -> list[float]:
        with self.model.trace(self.ids):
            sizes = [float(block.output[0].norm()) for block in self.model.transformer.h]
        return sizes

    def hooks_cross_prompt(self) -> Any:
        def copy(_module: nn.Module, _inputs: Any, output: Any) -> None:
            hidden_states(output)[1:] = hidden_states(output)[:1]

        handle = self.module.transformer.h[5].register_forward_hook(copy)
        try:
            with torch.no_grad():
                mask = torch.ones(2, self.tokens, dtype=torch.int64)
                return self.module(torch.cat([self.ids, self.other]), attention_mask=mask).logits[1:]
        finally:
            handle.remove()

    def loupe_cross_prompt(self) -> Any:
        with self.model.trace() as tracer:
            with tracer.invoke(self.ids):
                hidden = self.model.transformer.h[5].output[0]
            with tracer.invoke(self.other):
                self.model.transformer.h[5].output[0][:] = hidden
                logits = self.model.output.save()
        return logits

    def hooks_cache_all(self) -> Any:
        saved = {}

        def keeper(name: str) -> Any:
            def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
                saved[name] = output

            return keep

        handles = [module.register_forward_hook(keeper(name)) for name, module in self.module.named_modules()]
        try:
            with torch.no_grad():
                self.module(self.ids)
        finally:
            for handle in handles:
                handle.remove()
        return [hidden_states(saved[f"transformer.h.{place}"]) for place in range(12)]

    def loupe_cache_all(self) -> Any:
        with self.model.trace(self.ids) as tracer:
            cache = tracer.cache()
        return [hidden_states(cache[f"transformer.h.{place}"].output) for place in range(12)]

    def hooks_gradient(self) -> Any:
        saved = {}

        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            saved["hidden"] = hidden_states(output)

        handle = self.module.transformer.h[5].register_forward_hook(keep)
        try:
            logits = self.module(self.ids).logits
        finally:
            handle.remove()
        return torch.autograd.grad(logits[0, -1, 7], saved["hidden"])[0]

    def loupe_gradient(self) -> Any:
        with self.model.trace(self.ids):
            hidden = self.model.transformer.h[5].output[0]
            self.model.output[0, -1, 7].backward()
            gradient = hidden.grad.save()
        return gradient

    def hooks_loss(self) -> Any:
        self.module.zero_grad(set_to_none=True)
        torch.autograd.backward(self.module(self.ids, labels=self.ids).loss)  # a peer may replace Tensor.backward
        return [weight.grad for weight in self.module.parameters()]

    def loupe_loss(self) -> Any:
        self.module.zero_grad(set_to_none=True)
        with self.model.trace(self.ids, labels=self.ids, parameter_gradients=True):
            self.model.output.loss.backward()
        return [weight.grad for weight in self.module.parameters()]

    def hooks_generate(self) -> Any:
        def steer(_module: nn.Module, _inputs: Any, output: Any) -> None:
            hidden_states(output)[:, -1] += self.stored

        handle = self.module.transformer.h[5].register_forward_hook(steer)
        try:
            return self.module.generate(self.ids, max_new_tokens=5, min_new_tokens=5, do_sample=False)
        finally:
            handle.remove()

    def loupe_generate(self) -> Any:
        with self.model.generate(self.ids, max_new_tokens=5, min_new_tokens=5, do_sample=False) as tracer:
            with tracer.all():
                self.model.transformer.h[5].output[0][:, -1] += self.stored
            ids = tracer.result.save()
        return ids


def hidden_states(output: Any) -> torch.Tensor:
    """A block's output is a tensor, or a tuple in older versions of transformers."""
    return output[0] if isinstance(output, tuple) else output
