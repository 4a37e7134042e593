"""Collect activations with plain hooks, one prompt at a time, as what a harvest is held against."""

import random
from functools import cache

import torch

from loupe import LanguageModel
from tests import tiny

random.seed(0)
PROMPTS = [[random.randrange(1, 64) for _ in range(length)] for length in (5, 9, 2, 9, 7, 1, 4)]


@cache
def wrapped(family: str = "gpt2") -> LanguageModel:
    return LanguageModel(tiny.hf_model(family))


def alone(module: torch.nn.Module, paths: list[str], prompts=PROMPTS) -> dict[str, list[torch.Tensor]]:
    """What plain hooks see at modules for each prompt alone, `[tokens, …]`."""
    found: dict[str, list[torch.Tensor]] = {path: [] for path in paths}

    def keeper(path):
        def keep(_module, _args, output):
            found[path].append((output if torch.is_tensor(output) else output[0])[0].detach().clone())

        return keep

    hooks = [module.get_submodule(path).register_forward_hook(keeper(path)) for path in paths]
    try:
        with torch.no_grad():
            for ids in prompts:
                module(torch.tensor([ids]))
    finally:
        for hook in hooks:
            hook.remove()
    return found
