"""Build small random models of several families from their configs."""

import logging
import warnings
from functools import cache

import torch
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MambaConfig, MixtralConfig

logging.getLogger("transformers").setLevel(logging.ERROR)

SMALL = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
TOKENS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
CONFIGS = {
    "gpt2": lambda: GPT2Config(vocab_size=64, n_embd=32, n_layer=3, n_head=4, n_positions=48, **TOKENS),
    "llama": lambda: LlamaConfig(**SMALL, **TOKENS),
    "mamba": lambda: MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=3, state_size=4, **TOKENS),
    "mixtral": lambda: MixtralConfig(**SMALL, **TOKENS, num_key_value_heads=2, num_local_experts=4),
}
BLOCKS = {"gpt2": "transformer.h", "llama": "model.layers", "mamba": "backbone.layers", "mixtral": "model.layers"}


@cache
def hf_model(family: str) -> nn.Module:
    """A model of a family with random weights; the same object each time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(CONFIGS[family]()).eval()


class Net(nn.Module):
    """A plain module with a layer that runs three times, a tuple, a dict and a keyword argument."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.shared, self.never = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(8, 8), nn.Linear(2, 2)

    def forward(self, x, scale=1.0):
        x = torch.relu(self.a(x)) * scale
        for _ in range(3):
            x = self.shared(x)
        return {"logits": self.b(x), "pair": (x, x.sum())}


class Stack(nn.Module):
    """A plain stack of blocks around a table that has nothing to do with the batch."""

    def __init__(self, depth: int = 3, width: int = 8, table: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.table = nn.Embedding(table, width)
        self.register_buffer("places", torch.arange(table))

    def forward(self, x):
        table = self.table(self.places)
        for layer in self.layers:
            x = torch.tanh(layer(x)) + table.sum(0)
        return x


@cache
def net() -> Net:
    torch.manual_seed(0)
    return Net()


@cache
def stack() -> Stack:
    torch.manual_seed(0)
    return Stack()


def hooks_on(module: nn.Module) -> int:
    """How many hooks and replaced forwards there are on a module and all below it."""
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) + ("forward" in m.__dict__) for m in module.modules()
    )
