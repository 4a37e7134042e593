"""Attention patterns are read and written by eager attention for the one run, and by no other run."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from loupe import LanguageModel
from tests import tiny

IDS = torch.tensor([[3, 9, 27, 17, 51]])


def same(one, other):
    torch.testing.assert_close(torch.as_tensor(one.value if hasattr(one, "value") else one), other)


def eager(family):
    """The family's model with eager attention for good: the oracle for patterns."""
    model = type(tiny.hf_model(family))._from_config(tiny.CONFIGS[family](), attn_implementation="eager").eval()
    model.load_state_dict(tiny.hf_model(family).state_dict())
    return model


def patterns(family):
    with torch.no_grad():
        return eager(family)(IDS, output_attentions=True).attentions


@pytest.mark.parametrize("port", ["input", "output"])
def test_attn_dropout_of_gpt2_is_the_attention_pattern(port, fast_kernel):
    model, want = LanguageModel(tiny.hf_model("gpt2")), patterns("gpt2")
    with model.trace(IDS):
        found = getattr(model.transformer.h[1].attn.attn_dropout, port)
        assert found.shape == (1, 4, 5, 5)
        found = found.save()
        second = model.transformer.h[1].attn.output[1].save()
    same(found, want[1])
    same(second, want[1])
    assert fast_kernel == []
    assert tiny.hf_model("gpt2").config._attn_implementation == "sdpa"


def test_attn_dropout_of_gpt2_is_the_pattern_where_attention_is_reordered_and_upcast():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=48, reorder_and_upcast_attn=True)
    module = GPT2LMHeadModel(config).eval()
    module.set_attn_implementation("eager")
    with torch.no_grad():
        want = module(IDS, output_attentions=True).attentions[1]
    model = LanguageModel(module)
    with model.trace(IDS):
        found = model.transformer.h[1].attn.attn_dropout.input.save()
    same(found, want)


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_patterns_of_other_families_are_a_softmax_and_the_second_output(family, fast_kernel):
    model, want = LanguageModel(tiny.hf_model(family)), patterns(family)
    with model.trace(IDS):
        by_op = model.model.layers[2].self_attn.ops.softmax[0].output.save()
        by_output = model.model.layers[0].self_attn.output[1].save()
    same(by_op, want[2])
    same(by_output, want[0])
    assert fast_kernel == []


def test_a_block_that_reads_no_pattern_keeps_the_fast_kernel(fast_kernel):
    model = LanguageModel(tiny.hf_model("gpt2"))
    with model.trace(IDS):
        model.transformer.h[1].attn.output[0].save()
        model.output.save()
    assert len(fast_kernel) == 3
    with model.trace(IDS):
        attention = model.transformer.h[0].attn.ops.scaled_dot_product_attention[0].output.save()
        into = model.transformer.h[0].attn.c_proj.input.save()
    assert len(fast_kernel) == 4
    same(into, attention.value.transpose(1, 2).reshape(1, 5, 32))


def test_writing_a_pattern_does_what_a_hook_on_eager_attention_does():
    model, module = LanguageModel(tiny.hf_model("gpt2")), eager("gpt2")
    uniform = torch.tril(torch.ones(5, 5)) / torch.arange(1, 6)[:, None]
    with model.trace(IDS):
        model.transformer.h[1].attn.attn_dropout.output[:, 2] = uniform
        logits = model.output.save()

    def attend(attention, args, kwargs):
        """GPT-2's attention by its own formula, with head 2 made uniform."""
        query, key, value = (
            part.view(1, 5, 4, 8).transpose(1, 2) for part in attention.c_attn(args[0]).split(32, dim=2)
        )
        scores = (query @ key.transpose(-1, -2) / 8**0.5).masked_fill(torch.ones(5, 5).triu(1).bool(), float("-inf"))
        pattern = scores.softmax(-1)
        pattern[:, 2] = uniform
        return attention.c_proj((pattern @ value).transpose(1, 2).reshape(1, 5, 32)), pattern

    handle = module.transformer.h[1].attn.register_forward_hook(
        lambda attention, args, kwargs, output: attend(attention, args or (kwargs["hidden_states"],), kwargs),
        with_kwargs=True,
    )
    with torch.no_grad():
        want = module(IDS).logits
        plain = tiny.hf_model("gpt2")(IDS).logits
    handle.remove()
    same(logits, want)
    assert (want - plain).abs().max() > 1e-4


def test_a_pattern_of_llama_written_by_op_changes_the_logits_as_zeroed_values_do():
    module = tiny.hf_model("llama")
    model = LanguageModel(module)
    with model.trace(IDS):
        model.model.layers[0].self_attn.ops.softmax[0].output[:] = 0
        logits = model.output.save()
    with tiny.hooked(module, {"model.layers.0.self_attn.o_proj": torch.zeros_like}):
        same(logits, module(IDS).logits)


def test_the_attention_setting_is_restored_after_an_exception():
    model = LanguageModel(tiny.hf_model("gpt2"))
    configs = [m.config for m in tiny.hf_model("gpt2").modules() if hasattr(m, "config")]
    with pytest.raises(ZeroDivisionError):
        with model.trace(IDS):
            float(model.transformer.h[0].attn.attn_dropout.input.sum())
            1 / 0
    assert {config._attn_implementation for config in configs} == {"sdpa"}
    with pytest.raises(Exception, match="Error"):
        with model.trace(IDS):
            model.transformer.h[0].attn.attn_dropout.input.save()
            model.transformer.h[1].output = torch.zeros(1, 5, 3)
            model.output.save()
    assert {config._attn_implementation for config in configs} == {"sdpa"}


def test_a_pattern_in_invokes_is_that_of_each_prompt(fast_kernel):
    model, want = LanguageModel(tiny.hf_model("gpt2")), patterns("gpt2")
    with model.trace() as tracer:
        with tracer.invoke([1, 2, 3, 4, 5, 6, 7]):
            model.transformer.h[2].attn.attn_dropout.input[:] = 0
        with tracer.invoke(IDS):
            pattern = model.transformer.h[2].attn.attn_dropout.input.save()
    same(pattern[:, :, 2:, 2:], want[2])
    assert pattern.shape == (1, 4, 7, 7)
