"""Name the modules that random programs are about, and make the models and inputs that they run on."""

import torch

from loupe import LanguageModel, Model
from tests import tiny

FAMILIES = ["gpt2", "llama", "mamba", "stack"]


def places_of(family):
    """Names of four modules whose outputs are tensors of one shape, in the order in which they run."""
    if family == "stack":
        return ["layers.0", "layers.1", "layers.2", ""]
    blocks = tiny.BLOCKS[family]
    middle = {"gpt2": "mlp", "llama": "mlp", "mamba": "mixer"}[family]
    return [f"{blocks}.0", f"{blocks}.1.{middle}", f"{blocks}.1", f"{blocks}.2"]


def module_of(family):
    return tiny.stack() if family == "stack" else tiny.hf_model(family)


def envoy_of(family):
    return Model(tiny.stack()) if family == "stack" else LanguageModel(tiny.hf_model(family))


def inputs_of(family, seed=0, rows=1):
    generator = torch.Generator().manual_seed(seed)
    if family == "stack":
        return torch.randn(rows, 8, generator=generator)
    return torch.randint(1, 64, (rows, 5), generator=generator)
