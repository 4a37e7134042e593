"""Do the scenarios with nnsight, as its documentation writes them: imported only where nnsight is installed.

Blocks that ask for no gradient stand under `torch.no_grad()`, as the hooks do. With the release 5 of transformers the
output of a block of GPT-2 or Llama is a tensor. `with loss.backward():` gives all weights their gradients, beside the
one that is asked for.
"""

# ruff: noqa: D102 (what each method does stands in `benchmarks.suite.TITLES`)

from __future__ import annotations

from typing import Any

import nnsight
import torch
from nnsight import NNsight, TransformersModel
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn
from transformers import PreTrainedTokenizerFast

from benchmarks.linear_stack import LinearStack
from benchmarks.peers import Peer, Ways
from benchmarks.suite import Suite
from benchmarks.sweeps import Sweep, SweepTinyLlama
from benchmarks.tiny_gpt2 import TinyGPT2


class LinearStackWays(Ways):
    """Blocks on a plain module."""

    def __init__(self, suite: Suite) -> None:
        super().__init__(suite)
        self.model = NNsight(self.module)

    def nnsight_idle(self) -> Any:
        with torch.no_grad():
            return self.model(self.suite.x)

    def nnsight_empty(self) -> None:
        with torch.no_grad():
            with self.model.trace(self.suite.x):
                pass

    def nnsight_one_save(self) -> Any:
        with torch.no_grad():
            with self.model.trace(self.suite.x):
                saved = self.model[11].output.save()
        return saved

    def nnsight_twelve_saves(self) -> Any:
        with torch.no_grad():
            with self.model.trace(self.suite.x):
                saved = nnsight.save([layer.output for layer in self.model])
        return saved

    def nnsight_zero(self) -> Any:
        with torch.no_grad():
            with self.model.trace(self.suite.x):
                self.model[5].output[:] = 0
                out = self.model.output.save()
        return out

    def nnsight_patch(self) -> Any:
        with torch.no_grad():
            with self.model.trace(self.suite.x):
                self.model[5].output = self.suite.stored
                out = self.model.output.save()
        return out

    def nnsight_early_stop(self) -> Any:
        with torch.no_grad():
            with self.model.trace(self.suite.x) as tracer:
                saved = self.model[3].output.save()
                tracer.stop()
        return saved

    def nnsight_peek(self) -> Any:
        with torch.no_grad():
            with self.model.trace(self.suite.x):
                size = float(self.model[5].output.norm())
                self.model[8].output = self.model[8].output / size
                out = self.model.output.save()
        return out

    def nnsight_peek_each(self) -> list[float]:
        with torch.no_grad():
            with self.model.trace(self.suite.x):
                sizes = nnsight.save([float(layer.output.norm()) for layer in self.model])
        return sizes

    def nnsight_cross_prompt(self) -> Any:
        """Both inputs are one, as for the hooks: nnsight makes a batch of several for models of transformers only."""
        with torch.no_grad():
            with self.model.trace(torch.cat([self.suite.x, self.suite.other])):
                hidden = self.model[5].output
                hidden[8:] = hidden[:8]
                out = self.model.output[8:].save()
        return out

    def nnsight_cache_all(self) -> Any:
        with torch.no_grad():
            with self.model.trace(self.suite.x) as tracer:
                cache = tracer.cache()
        return [cache[f"model.{place}"].output for place in range(12)]

    def nnsight_gradient(self) -> Any:
        with self.model.trace(self.suite.x):
            hidden = self.model[5].output
            loss = self.model.output.sum()
            with loss.backward():
                gradient = hidden.grad.save()
        return gradient

    def nnsight_loss(self) -> Any:
        self.module.zero_grad(set_to_none=True)
        with self.model.trace(self.suite.x):
            ((self.model.output - self.suite.stored) ** 2).mean().backward()
        return [weight.grad for weight in self.module.parameters()]


def wrapped(module: nn.Module) -> TransformersModel:
    """A model of the transformers library; nnsight asks for a tokenizer, which token ids do without."""
    words = {str(number): number for number in range(module.config.vocab_size)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="0"))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="0", eos_token="0", unk_token="0")
    return TransformersModel(module, tokenizer=fast)


class GPT2Ways(Ways):
    """Blocks on a GPT-2 that take token ids."""

    def __init__(self, suite: Suite) -> None:
        super().__init__(suite)
        self.model = wrapped(self.module)

    def nnsight_idle(self) -> Any:
        with torch.no_grad():
            return self.model(self.suite.ids)

    def nnsight_empty(self) -> None:
        with torch.no_grad():
            with self.model.trace(self.suite.ids):
                pass

    def nnsight_one_save(self) -> Any:
        with torch.no_grad():
            with self.model.trace(self.suite.ids):
                saved = self.model.lm_head.output.save()
        return saved

    def nnsight_twelve_saves(self) -> Any:
        with torch.no_grad():
            with self.model.trace(self.suite.ids):
                saved = nnsight.save([self.model.transformer.h[place].output for place in range(11)])
                saved.append(self.model.lm_head.output)
        return saved

    def nnsight_zero(self) -> Any:
        with torch.no_grad():
            with self.model.trace(self.suite.ids):
                self.model.transformer.h[5].output[:] = 0
                logits = self.model.output.logits.save()
        return logits

    def nnsight_patch(self) -> Any:
        with torch.no_grad():
            with self.model.trace(self.suite.ids):
                self.model.transformer.h[5].output[:, -1] = self.suite.stored
                logits = self.model.output.logits.save()
        return logits

    def nnsight_early_stop(self) -> Any:
        with torch.no_grad():
            with self.model.trace(self.suite.ids) as tracer:
                saved = self.model.transformer.h[3].output.save()
                tracer.stop()
        return saved

    def nnsight_peek(self) -> Any:
        with torch.no_grad():
            with self.model.trace(self.suite.ids):
                size = float(self.model.transformer.h[5].output.norm())
                self.model.transformer.h[8].output[:] /= size
                logits = self.model.output.logits.save()
        return logits

    def nnsight_peek_each(self) -> list[float]:
        with torch.no_grad():
            with self.model.trace(self.suite.ids):
                sizes = nnsight.save([float(block.output.norm()) for block in self.model.transformer.h])
        return sizes

    def nnsight_cross_prompt(self) -> Any:
        with torch.no_grad():
            with self.model.trace() as tracer:
                barrier = tracer.barrier(2)
                with tracer.invoke(self.suite.ids):
                    hidden = self.model.transformer.h[5].output
                    barrier()
                with tracer.invoke(self.suite.other):
                    barrier()
                    self.model.transformer.h[5].output[:] = hidden
                    logits = self.model.output.logits.save()
        return logits

    def nnsight_cache_all(self) -> Any:
        with torch.no_grad():
            with self.model.trace(self.suite.ids) as tracer:
                cache = tracer.cache()
        return [cache[f"model.transformer.h.{place}"].output for place in range(12)]

    def nnsight_gradient(self) -> Any:
        with self.model.trace(self.suite.ids):
            hidden = self.model.transformer.h[5].output
            loss = self.model.output.logits[0, -1, 7]
            with loss.backward():
                gradient = hidden.grad.save()
        return gradient

    def nnsight_loss(self) -> Any:
        self.module.zero_grad(set_to_none=True)
        with self.model.trace(self.suite.ids, labels=self.suite.ids):
            self.model.output.loss.backward()
        return [weight.grad for weight in self.module.parameters()]

    def nnsight_generate(self) -> Any:
        with self.model.generate(self.suite.ids, max_new_tokens=5, min_new_tokens=5, do_sample=False) as tracer:
            for _step in tracer.iter[:5]:
                self.model.transformer.h[5].output[:, -1] += self.suite.stored
            ids = tracer.result.save()
        return ids


class SweepWays(Ways):
    """A pass for each block of the session: nnsight does not batch them."""

    def __init__(self, suite: Suite) -> None:
        super().__init__(suite)
        self.model = wrapped(self.module)
        self.blocks: Any = self.find_blocks()

    def find_blocks(self) -> Any:
        return self.model.transformer.h

    def nnsight_sweep(self) -> Any:
        with torch.no_grad():
            with self.model.session():
                found = nnsight.save([])
                with self.model.trace(self.suite.clean):
                    stored = [block.output for block in self.blocks]
                for layer, block in enumerate(self.blocks):
                    for position in range(10):
                        with self.model.trace(self.suite.corrupted):
                            block.output[:, position] = stored[layer][:, position]
                            found.append(self.model.output.logits[0, -1])
        return found

    def nnsight_sweep_gradients(self) -> Any:
        with self.model.session():
            found = nnsight.save([])
            for block in self.blocks:
                with self.model.trace(self.suite.corrupted):
                    hidden = block.output
                    loss = self.model.output.logits[0, -1, 0]
                    with loss.backward():
                        found.append(hidden.grad)
        return found


class LlamaSweepWays(SweepWays):
    """The same on a Llama."""

    def find_blocks(self) -> Any:
        return self.model.model.layers


PEER = Peer(
    "nnsight",
    nnsight.__version__,
    {LinearStack: LinearStackWays, TinyGPT2: GPT2Ways, Sweep: SweepWays, SweepTinyLlama: LlamaSweepWays},
)
