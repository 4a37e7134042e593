"""Hold quantized models against plain hooks on the same quantized models."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.ao.quantization import quantize_dynamic
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig

from loupe import LanguageModel
from loupe.errors import NotReachedError, OperationError, RowsError
from tests import tiny

IDS = torch.tensor([[5, 9, 2, 7]])

pytestmark = [
    pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*quantized.*deprecated:UserWarning"),
]


def dynamic():
    """Linear layers in 8 bits, by torch itself; activations are quantized as they come, by the range of the batch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return quantize_dynamic(copy.deepcopy(tiny.hf_model("llama")), {nn.Linear}, dtype=torch.qint8)


def weights_only():
    """Weights in 8 bits, by torchao; activations are as they were."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantization = pytest.importorskip("torchao.quantization")
        hf = copy.deepcopy(tiny.hf_model("llama"))
        quantization.quantize_(hf, quantization.Int8WeightOnlyConfig())
    return hf


def bytes_and_scales():
    """Weights in 8 bits, by optimum-quanto."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quanto = pytest.importorskip("optimum.quanto")
        hf = copy.deepcopy(tiny.hf_model("llama"))
        quanto.quantize(hf, weights=quanto.qint8)
        quanto.freeze(hf)
    return hf


def with_outliers():
    """Weights and activations in 8 bits, by bitsandbytes, as transformers loads them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bitsandbytes = pytest.importorskip("bitsandbytes")
        hf = copy.deepcopy(tiny.hf_model("llama"))
        for path, module in list(hf.model.named_modules()):
            if isinstance(module, nn.Linear):
                layer = bitsandbytes.nn.Linear8bitLt(
                    module.in_features, module.out_features, bias=False, has_fp16_weights=False
                )
                layer.load_state_dict(module.state_dict())
                hf.model.set_submodule(path, layer.to("cpu"))
    return hf


KINDS = [dynamic, weights_only, bytes_and_scales, with_outliers]
DIFFERENTIABLE = [weights_only, bytes_and_scales, with_outliers]


@pytest.mark.parametrize("quantized", KINDS, ids=lambda make: make.__name__)
def test_sites_of_a_quantized_model_are_read_and_written_as_by_hooks(quantized):
    hf = quantized()
    model = LanguageModel(hf)
    with tiny.hooked(hf, {"model.layers.1.mlp": lambda output: output * 0.5}):
        seen, want = tiny.outputs_of(hf, ["model.layers.1.mlp.down_proj", "model.layers.2"], IDS)
    assert not torch.equal(want.logits, tiny.hf_model("llama")(IDS).logits)
    with model.trace(IDS):
        shape = model.model.layers[1].mlp.output.shape
        down = model.model.layers[1].mlp.down_proj.output.save()
        model.model.layers[1].mlp.output = model.model.layers[1].mlp.output * 0.5
        last, logits = model.model.layers[2].output.save(), model.output.save()
    assert shape == (1, 4, 32)
    torch.testing.assert_close(down.value, seen["model.layers.1.mlp.down_proj"])
    torch.testing.assert_close(last.value, seen["model.layers.2"])
    torch.testing.assert_close(logits.logits, want.logits)


@pytest.mark.parametrize("quantized", KINDS, ids=lambda make: make.__name__)
def test_an_operation_of_a_quantized_model_is_tapped_and_a_value_peeked_at(quantized):
    hf = quantized()
    model = LanguageModel(hf)
    seen, _ = tiny.outputs_of(hf, ["model.layers.1.mlp"], IDS)
    with model.trace(IDS):
        looked = float(model.model.layers[1].mlp.output.sum())
        pattern = model.model.layers[1].self_attn.ops.softmax[0].output.save()
    assert looked == pytest.approx(float(seen["model.layers.1.mlp"].sum()), abs=1e-4)
    torch.testing.assert_close(pattern.value.sum(-1), torch.ones(1, 4, 4))


@pytest.mark.parametrize("quantized", [weights_only, bytes_and_scales], ids=lambda make: make.__name__)
def test_invokes_of_a_model_with_quantized_weights_give_what_each_gives_alone(quantized):
    hf = quantized()
    model = LanguageModel(hf, tokenizer=tiny.tokenizer())
    with model.trace() as tracer:
        with tracer.invoke([3, 4]):
            short = model.output[:, -2:].save()
        with tracer.invoke([5, 9, 2, 7]):
            long = model.output.save()
    with torch.no_grad():
        torch.testing.assert_close(short.value, hf(torch.tensor([[3, 4]])).logits, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(long.logits, hf(IDS).logits, atol=1e-5, rtol=1e-4)


def test_a_model_loaded_in_4_bits_is_read_and_written_as_by_hooks(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("bitsandbytes")
        torch.manual_seed(0)
        sizes = {"hidden_size": 64, "intermediate_size": 64}  # it computes in blocks of 64
        whole = AutoModelForCausalLM.from_config(LlamaConfig(**{**tiny.SMALL, **sizes}, **tiny.TOKENS))
        whole.save_pretrained(tmp_path)
        tiny.tokenizer().save_pretrained(tmp_path)
        how = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
        model = LanguageModel(str(tmp_path), quantization_config=how, dtype=torch.float32, device_map="cpu")
        model.dispatch()
    hf = model._model
    assert type(hf.model.layers[1].mlp.down_proj).__name__ == "Linear4bit"
    with tiny.hooked(hf, {"model.layers.0.mlp": lambda output: output * 0.5}):
        seen, want = tiny.outputs_of(hf, ["model.layers.1.mlp.down_proj"], IDS)
    with model.trace(IDS):
        assert model.model.layers[1].mlp.output.shape == (1, 4, 64)
        model.model.layers[0].mlp.output = model.model.layers[0].mlp.output * 0.5
        down, logits = model.model.layers[1].mlp.down_proj.output.save(), model.output.save()
    torch.testing.assert_close(down.value, seen["model.layers.1.mlp.down_proj"])
    torch.testing.assert_close(logits.logits, want.logits)


def test_rows_that_are_quantized_by_a_range_they_share_are_refused():
    hf = dynamic()
    with torch.no_grad():
        together = hf(torch.tensor([[3, 4], [60, 7]])).logits[:1]
        assert not torch.allclose(together, hf(torch.tensor([[3, 4]])).logits, atol=1e-4)
    model = LanguageModel(hf, tokenizer=tiny.tokenizer())
    with pytest.raises(RowsError, match="cannot be told apart"):
        with model.trace() as tracer:
            for prompt in ([3, 4], [60, 7]):
                with tracer.invoke(prompt):
                    model.model.layers[1].output.save()


@pytest.mark.parametrize("quantized", DIFFERENTIABLE, ids=lambda make: make.__name__)
def test_gradients_go_through_quantized_weights(quantized):
    hf, kept = quantized(), []

    def keep(_module, _args, output):
        output.retain_grad()
        kept.append(output)

    handle = hf.model.layers[1].register_forward_hook(keep)
    hf(IDS).logits[:, -1, 0].sum().backward()
    handle.remove()
    hf.zero_grad(set_to_none=True)
    model = LanguageModel(hf)
    with model.trace(IDS):
        hidden = model.model.layers[1].output
        with model.output[:, -1, 0].sum().backward():
            gradient = hidden.grad.save()
    torch.testing.assert_close(gradient.value, kept[0].grad)


@pytest.mark.filterwarnings("ignore:.*autograd kernel was not registered:UserWarning")
def test_a_gradient_that_quantized_layers_do_not_let_through_is_an_error():
    model = LanguageModel(dynamic())
    with pytest.raises((NotReachedError, OperationError)) as caught:
        with model.trace(IDS):
            hidden = model.model.layers[1].output
            with model.output[:, -1, 0].sum().backward():
                hidden.grad.save()
    assert "NoneType" not in str(caught.value)
    assert tiny.hooks_on(model._model) == 0
