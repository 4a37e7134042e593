"""Build small random models of several families from their configs."""

import logging
import warnings
from contextlib import contextmanager
from functools import cache

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from torch.utils._pytree import tree_map_only
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MixtralConfig,
    PreTrainedTokenizerFast,
)

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
    return Stack().eval()


def hooks_on(module: nn.Module) -> int:
    """How many hooks and replaced forwards there are on a module and all below it."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + ("forward" in m.__dict__) for m in module.modules())


@contextmanager
def hooked(module: nn.Module, outputs=(), inputs=()):
    """Plain PyTorch hooks for a while: `outputs` and `inputs` map a path to a function of what passes there.

    A function of an output gets the output, a function of an input gets `(args, kwargs)`; what it returns, unless
    that is None, goes on in place of what it got.
    """
    handles = []
    for path, change in dict(outputs).items():
        hook = lambda _module, _args, output, change=change: change(output)  # noqa: E731
        handles.append(module.get_submodule(path).register_forward_hook(hook))
    for path, change in dict(inputs).items():
        hook = lambda _module, args, kwargs, change=change: change(args, kwargs)  # noqa: E731
        handles.append(module.get_submodule(path).register_forward_pre_hook(hook, with_kwargs=True))
    try:
        with torch.no_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()


def outputs_of(module: nn.Module, paths, *args, **kwargs):
    """What the modules at `paths` return in one plain call, as copies of their tensors, and what the call returns."""
    seen = {}

    def keep(path):
        def change(output):
            seen.setdefault(path, []).append(tree_map_only(torch.Tensor, torch.Tensor.clone, output))

        return change

    with hooked(module, {path: keep(path) for path in paths}):
        result = module(*args, **kwargs)
    return {path: found[0] if len(found) == 1 else found for path, found in seen.items()}, result


def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of 64 words, w1 to w63 and the end of text, that splits at spaces."""
    words = {"<eos>": 0, **{f"w{number}": number for number in range(1, 64)}}
    plain = Tokenizer(models.WordLevel(words, unk_token="<eos>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<eos>", bos_token="<eos>", unk_token="<eos>")


def saved_model(folder, family: str = "gpt2") -> str:
    """A folder with a model of a family and the tokenizer, to be loaded by its path."""
    hf_model(family).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)
