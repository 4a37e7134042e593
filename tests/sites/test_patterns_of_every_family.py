"""The attention pattern of every family is the softmax of its attention, whichever kernel the model runs with."""

import pytest
import torch
from torch.nn import functional as F

from loupe import LanguageModel, Model
from tests import tiny
from tests.sites.attention import CAUSAL, FAMILIES, IDS, implementations, inputs, pair, same, wrapped

SOME = "gpt2 llama mistral qwen3 gemma3 phi gpt_neox opt falcon bloom bamba bert t5 vit".split()


def pattern_by_the_library(name):
    """What the model with eager attention says that its attention in layer 1 looks at."""
    with torch.no_grad():
        return pair(name)[1](**inputs(name), output_attentions=True)[FAMILIES[name].found_in][-1]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_softmax_of_an_attention_is_its_pattern(name, fast_kernel):
    family, model, before = FAMILIES[name], wrapped(name), implementations(pair(name)[0])
    with model.trace(**inputs(name)):
        by_op = model.get(family.path).ops.softmax[0].output
        assert by_op.ndim == 4
        by_op = by_op.save()
        by_output = None if family.place is None else model.get(family.path).output[family.place].save()
    want = pattern_by_the_library(name)
    same(by_op, want)
    torch.testing.assert_close(by_op.sum(-1), torch.ones(want.shape[:-1]))
    if name in CAUSAL:
        assert float(torch.triu(by_op.value, diagonal=1).abs().max()) == 0.0
    if by_output is not None:
        same(by_output, want)
    assert fast_kernel == []
    assert implementations(pair(name)[0]) == before
    assert tiny.hooks_on(pair(name)[0]) == 0


@pytest.mark.parametrize("name", SOME)
def test_every_other_block_keeps_the_kernel_of_the_model(name, fast_kernel):
    module, model, before = pair(name)[0], wrapped(name), implementations(pair(name)[0])
    with torch.no_grad():
        want = module(**inputs(name))
    plain = len(fast_kernel)
    assert bool(plain) == ("sdpa" in before)
    with model.trace(**inputs(name)) as tracer:
        attention = model.get(FAMILIES[name].path).output[0].save()
        result = tracer.result.save()
    assert len(fast_kernel) == 2 * plain
    same(result[0], want[0])
    assert implementations(module) == before
    assert attention.shape[-1] == 32


@pytest.mark.parametrize("name", [name for name in SOME if name in CAUSAL])
def test_a_pattern_that_is_written_is_what_the_model_goes_on_with(name, monkeypatch):
    family, model, (_, eager) = FAMILIES[name], wrapped(name), pair(name)
    with model.trace(**inputs(name)):
        pattern = model.get(family.path).ops.softmax[0].output
        pattern[:, 1] = pattern[:, 1].flip(-1)
        logits = model.output.logits.save()
    softmax, calls, layers = F.softmax, [], 1 if name == "bamba" else 2  # it has attention in one of its layers

    def changed(scores, *args, **kwargs):
        found = softmax(scores, *args, **kwargs)
        calls.extend([1] if found.dim() == 4 else [])
        if len(calls) == layers and found.dim() == 4:  # the attention of the last layer
            found[:, 1] = found[:, 1].flip(-1)
        return found

    with torch.no_grad():
        plain = eager(**inputs(name)).logits
        monkeypatch.setattr(F, "softmax", changed)
        monkeypatch.setattr(torch, "softmax", changed)
        want = eager(**inputs(name)).logits
    assert len(calls) == layers
    same(logits, want)
    assert float((want - plain).abs().max()) > 1e-6


def test_an_attention_with_a_sink_has_its_share_in_the_softmax():
    from transformers import GptOssConfig, GptOssForCausalLM

    torch.manual_seed(0)
    small = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "head_dim": 8}
    experts = {"num_key_value_heads": 2, "intermediate_size": 16, "num_local_experts": 4, "num_experts_per_tok": 2}
    module = GptOssForCausalLM(GptOssConfig(**small, **experts, pad_token_id=0)).eval()
    with torch.no_grad():
        for parameter in module.parameters():  # some of the library's are not initialized
            parameter.normal_(0, 0.05)
        want = module(IDS, output_attentions=True).attentions[0]
    model = LanguageModel(module)
    with model.trace(IDS):
        whole = model.model.layers[0].self_attn.ops.softmax[0].output.save()
        pattern = model.model.layers[0].self_attn.output[1].save()
    same(pattern, want)
    same(whole[..., :-1], want)
    same(whole.sum(-1), torch.ones(1, 4, 5))


def test_a_shared_attention_has_a_pattern_at_each_of_its_calls(fast_kernel):
    from transformers import AlbertConfig, AlbertModel

    torch.manual_seed(0)
    small = {"vocab_size": 64, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}
    config = AlbertConfig(**small, num_hidden_layers=3, embedding_size=16)
    module, eager = AlbertModel(config).eval(), AlbertModel._from_config(config, attn_implementation="eager").eval()
    eager.load_state_dict(module.state_dict())
    with torch.no_grad():
        want = eager(IDS, output_attentions=True).attentions
    config._attn_implementation = "sdpa"
    for model in (LanguageModel(module), Model(module)):
        attention = model.get("encoder.albert_layer_groups.0.albert_layers.0.attention")
        with model.trace(input_ids=IDS):
            found = [attention.calls[call].ops.softmax[0].output.save() for call in range(3)]
            second = attention.calls[1].output[1].save()
        for one, other in zip([*found, second], [*want, want[1]], strict=True):
            same(one, other)
    assert fast_kernel == []


@pytest.mark.parametrize("wrapper", [LanguageModel, Model])
def test_a_model_of_the_library_keeps_its_pattern_in_any_wrapper(wrapper, fast_kernel):
    module, eager = pair("gpt2")
    model = wrapper(module)
    with torch.no_grad():
        want = eager(IDS, output_attentions=True).attentions
    with model.trace(input_ids=IDS):
        dropout = model.transformer.h[0].attn.attn_dropout.input.save()
        softmax = model.transformer.h[1].attn.ops.softmax[0].output.save()
    same(dropout, want[0])
    same(softmax, want[1])
    with model.transformer.h[1].attn.trace(torch.ones(1, 3, 32)):
        alone = model.transformer.h[1].attn.ops.softmax[0].output.save()
    same(alone.sum(-1), torch.ones(1, 4, 3))
    assert fast_kernel == []
    assert implementations(module) == {"sdpa"}


def test_an_attention_of_the_users_own_is_left_as_it_is():
    class Attention(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.attn_dropout = torch.nn.Dropout(0.0)

        def forward(self, x):
            seen = self.attn_dropout(torch.softmax(x @ x.transpose(-1, -2), -1))
            return F.dropout(seen @ x, 0.0), seen

    model = Model(torch.nn.Sequential(Attention()))
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    with model.trace(x):
        pattern = model[0].attn_dropout.input.clone().save()
        model[0].attn_dropout.output[:] = 0
        out = model[0].output.save()
    want = torch.softmax(x @ x.transpose(-1, -2), -1)
    same(pattern, want)
    same(out[0], torch.zeros(2, 3, 4))
