"""Build small models of many families beside the same with eager attention for good, and watch functions of torch."""

import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional as F

from loupe import LanguageModel, Model

IDS = torch.tensor([[3, 9, 27, 17, 51]])
TOKENS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
SMALL = {
    **{"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"intermediate_size": 48, "max_position_embeddings": 64},
}
OLD = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 48}
GROUPED = {**SMALL, **TOKENS, "num_key_value_heads": 2}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
PAIRED = {"vocab_size": 64, "d_model": 32, "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
SEEING = {
    **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48},
    **{"image_size": 16, "patch_size": 8},
}


@dataclass(frozen=True)
class Family:
    """A config, the path of the attention in layer 1, and where in the attention's output the pattern is."""

    config: str
    options: dict
    path: str
    kind: str = "AutoModelForCausalLM"
    place: int | None = 1
    found_in: str = "attentions"


MASKED = "AutoModelForMaskedLM"
FAMILIES = {
    "gpt2": Family("GPT2Config", OLD | TOKENS, "transformer.h.1.attn"),
    "gpt_bigcode": Family("GPTBigCodeConfig", OLD | TOKENS, "transformer.h.1.attn"),
    "gptj": Family("GPTJConfig", OLD | TOKENS | {"rotary_dim": 4}, "transformer.h.1.attn"),
    "gpt_neo": Family(
        "GPTNeoConfig",
        {"vocab_size": 64, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "window_size": 3, **TOKENS}
        | {"attention_types": [[["global", "local"], 1]], "max_position_embeddings": 48},
        "transformer.h.1.attn.attention",
    ),
    "gpt_neox": Family("GPTNeoXConfig", SMALL | TOKENS, "gpt_neox.layers.1.attention"),
    "llama": Family("LlamaConfig", GROUPED | {"tie_word_embeddings": False}, "model.layers.1.self_attn"),
    "mistral": Family("MistralConfig", GROUPED | {"sliding_window": 3}, "model.layers.1.self_attn"),
    "mixtral": Family("MixtralConfig", GROUPED | {"num_local_experts": 4}, "model.layers.1.self_attn"),
    "qwen2": Family("Qwen2Config", GROUPED, "model.layers.1.self_attn"),
    "qwen3": Family("Qwen3Config", GROUPED | {"head_dim": 8}, "model.layers.1.self_attn"),
    "qwen3_moe": Family("Qwen3MoeConfig", GROUPED | EXPERTS | {"head_dim": 8}, "model.layers.1.self_attn"),
    "gemma": Family("GemmaConfig", GROUPED | {"head_dim": 8}, "model.layers.1.self_attn"),
    "gemma2": Family("Gemma2Config", GROUPED | {"head_dim": 8, "query_pre_attn_scalar": 8}, "model.layers.1.self_attn"),
    "gemma3": Family(
        "Gemma3TextConfig", GROUPED | {"head_dim": 8, "query_pre_attn_scalar": 8}, "model.layers.1.self_attn"
    ),
    "phi": Family("PhiConfig", SMALL | TOKENS, "model.layers.1.self_attn"),
    "phi3": Family("Phi3Config", GROUPED, "model.layers.1.self_attn"),
    "olmo2": Family("Olmo2Config", GROUPED, "model.layers.1.self_attn"),
    "stablelm": Family("StableLmConfig", GROUPED, "model.layers.1.self_attn"),
    "deepseek_v3": Family(
        "DeepseekV3Config",
        SMALL
        | TOKENS
        | {"num_key_value_heads": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}
        | {"moe_intermediate_size": 16, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4}
        | {"v_head_dim": 8, "qk_nope_head_dim": 4, "first_k_dense_replace": 1},
        "model.layers.1.self_attn",
    ),
    "opt": Family(
        "OPTConfig",
        {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, **TOKENS}
        | {"ffn_dim": 48, "max_position_embeddings": 48, "word_embed_proj_dim": 32},
        "model.decoder.layers.1.self_attn",
    ),
    "falcon": Family("FalconConfig", SMALL | TOKENS, "transformer.h.1.self_attention"),
    "bloom": Family(
        "BloomConfig",
        {"vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 4, **TOKENS},
        "transformer.h.1.self_attention",
    ),
    "mpt": Family(
        "MptConfig",
        {"vocab_size": 64, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 48},
        "transformer.blocks.1.attn",
    ),
    "bamba": Family(
        "BambaConfig",
        GROUPED
        | {"attn_layer_indices": [1], "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1}
        | {"mamba_d_state": 8, "mamba_chunk_size": 8},
        "model.layers.1.self_attn",
    ),
    "bert": Family("BertConfig", SMALL, "bert.encoder.layer.1.attention.self", MASKED),
    "modernbert": Family("ModernBertConfig", SMALL | TOKENS, "model.layers.1.attn", MASKED),
    "deberta": Family("DebertaV2Config", SMALL, "deberta.encoder.layer.1.attention.self", MASKED, place=None),
    "t5": Family(
        "T5Config",
        PAIRED | {"d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4},
        "decoder.block.1.layer.0.SelfAttention",
        "AutoModelForSeq2SeqLM",
        place=2,
        found_in="decoder_attentions",
    ),
    "bart": Family(
        "BartConfig",
        PAIRED
        | {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
        | {"encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 48},
        "model.encoder.layers.1.self_attn",
        "AutoModelForSeq2SeqLM",
        found_in="encoder_attentions",
    ),
    "vit": Family("ViTConfig", SEEING, "layers.1.attention", "AutoModel"),
    "clip": Family("CLIPVisionConfig", SEEING, "encoder.layers.1.self_attn", "AutoModel"),
    "dinov2": Family("Dinov2Config", SEEING, "encoder.layer.1.attention", "AutoModel"),
}
CAUSAL = [name for name, family in FAMILIES.items() if family.kind == "AutoModelForCausalLM"]


@cache
def pair(name: str) -> tuple[nn.Module, nn.Module]:
    """A model as it comes, and one with the same weights and eager attention for good; the same objects each time."""
    family = FAMILIES[name]
    auto = getattr(transformers, family.kind)

    def build(**options):
        config = getattr(transformers, family.config)(**family.options)
        return auto.from_config(config, **options).eval()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        plain, eager = build(), build(attn_implementation="eager")
    eager.load_state_dict(plain.state_dict())
    return plain, eager


def wrapped(name: str):
    """The wrapper that a family is for: of a language model, or of any module."""
    return Model(pair(name)[0]) if FAMILIES[name].kind == "AutoModel" else LanguageModel(pair(name)[0])


def inputs(name: str) -> dict[str, torch.Tensor]:
    """What a family is called with."""
    if FAMILIES[name].kind == "AutoModel":
        return {"pixel_values": torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))}
    if FAMILIES[name].kind == "AutoModelForSeq2SeqLM":
        return {"input_ids": IDS, "decoder_input_ids": IDS[:, :3]}
    return {"input_ids": IDS}


def implementations(module: nn.Module) -> set[str]:
    """How the configs of a model say that attention is computed."""
    return {each.config._attn_implementation for each in module.modules() if hasattr(each, "config")}


def same(found, want, atol=1e-5):
    torch.testing.assert_close(found.value if hasattr(found, "value") else found, want, atol=atol, rtol=1e-4)


@contextmanager
def watched(name, dimensions=None, change=None):
    """What a function of torch.nn.functional gives from here on, in order; `change` maps a number to a change of it."""
    plain, seen = getattr(F, name), []

    def function(*args, **kwargs):
        found = plain(*args, **kwargs)
        if dimensions in (None, found.dim()):
            found = (change or {}).get(len(seen), lambda same: same)(found)
            seen.append(found if found.requires_grad else found.clone())
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, name, function)
        yield seen
