"""Build small random encoders, encoder-decoders, recurrent and hybrid models, and run them with plain hooks."""

import warnings
from functools import cache

import torch
import transformers
from torch import nn

from tests import tiny

SMALL = {**tiny.SMALL, "num_hidden_layers": 2, "max_position_embeddings": 24}
TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
PAIRED = {"d_model": 32, "vocab_size": 64, "decoder_start_token_id": 0, "eos_token_id": 2, "pad_token_id": 0}
T5 = PAIRED | {"d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "tie_word_embeddings": False}
BART = PAIRED | {
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 24,
    "bos_token_id": 1,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}
HYBRID = {**tiny.SMALL, **TOKENS, "num_hidden_layers": 4, "num_key_value_heads": 2}
CONFIGS = {
    "bert": ("BertConfig", {**SMALL, "pad_token_id": 0}),
    "roberta": ("RobertaConfig", {**SMALL, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}),
    "modernbert": ("ModernBertConfig", {**SMALL, **TOKENS, "local_attention": 6, "global_attn_every_n_layers": 2}),
    "fnet": ("FNetConfig", {k: v for k, v in SMALL.items() if k != "num_attention_heads"}),
    "t5": ("T5Config", T5),
    "bart": ("BartConfig", BART),
    "mixtral": ("MixtralConfig", {**tiny.SMALL, **TOKENS, "num_key_value_heads": 2, "num_local_experts": 4}),
    "mamba": ("MambaConfig", {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 3, "state_size": 4, **TOKENS}),
    "jamba": (
        "JambaConfig",
        HYBRID
        | {"num_experts": 4, "num_experts_per_tok": 2, "attn_layer_period": 2, "attn_layer_offset": 1}
        | {"expert_layer_period": 2, "expert_layer_offset": 1, "mamba_d_state": 4, "mamba_dt_rank": 4},
    ),
    "bamba": (
        "BambaConfig",
        HYBRID
        | {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 4, "mamba_chunk_size": 4}
        | {"attn_layer_indices": [1, 3]},
    ),
    "qwen3_next": (
        "Qwen3NextConfig",
        HYBRID
        | {"head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8}
        | {"linear_value_head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
        | {"shared_expert_intermediate_size": 16, "layer_types": ["linear_attention", "full_attention"] * 2},
    ),
}

SHARED: list[tuple[nn.Module, str]] = []  # those of `model`, and how each computes attention


def config(family: str, **changes):
    """The config of a family, with some fields changed."""
    name, fields = CONFIGS[family]
    return getattr(transformers, name)(**{**fields, **changes})


def build(class_name: str, family: str, **changes) -> nn.Module:
    """A new model of a class, with random weights that are large enough for every token to matter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = getattr(transformers, class_name)(config(family, **changes)).eval()
        with torch.no_grad():
            for weight in model.parameters():
                if weight.dim() == 2:
                    weight.normal_(std=0.25)
    return model


@cache
def model(class_name: str, family: str) -> nn.Module:
    """The same model each time."""
    made = build(class_name, family)
    SHARED.append((made, made.config._attn_implementation))
    return made


def ids_of(text: str) -> torch.Tensor:
    """The ids `[1, seq]` of a text of the small tokenizer's words."""
    return torch.tensor([[int(word[1:]) for word in text.split()]])


def states(output):
    """A block's hidden states, whether its version of the library returns them alone or first in a tuple."""
    return output[0] if isinstance(output, tuple) else output


def changed(change):
    """A function of a block's output that changes the hidden states in it, for `tiny.hooked`."""

    def on_output(output):
        new = change(states(output).clone())
        return (new, *output[1:]) if isinstance(output, tuple) else new

    return on_output


def close(one, other, atol=1e-4):
    """Assert that a saved value equals a tensor."""
    torch.testing.assert_close(torch.as_tensor(getattr(one, "value", one)), other, atol=atol, rtol=1e-4)
