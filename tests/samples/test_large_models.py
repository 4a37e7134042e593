"""Programs written for a large model of another family, on a small random model with as many layers."""

from functools import cache

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from loupe import LanguageModel
from tests import tiny
from tests.samples.conftest import landmarks
from tests.samples.plain import changed, close, plain_run, states, tokens

LAYERS = 42
PROMPT = "The Eiffel Tower is in"


@cache
def deep() -> torch.nn.Module:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(landmarks().tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
    )
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture
def model():
    yield LanguageModel(deep(), tokenizer=landmarks().tokenizer)
    assert tiny.hooks_on(deep()) == 0


@pytest.mark.parametrize(("prompt", "layer"), [("Hello world", 40), (PROMPT, 20), ("Hello", -1)])
def test_a_layer_is_read_by_the_models_own_names(model, prompt, layer):
    with model.trace(prompt):
        hidden = model.model.layers[layer].output[0].save()

    path = f"model.layers.{layer % LAYERS}"
    seen, _ = plain_run(model, prompt, [path])
    assert close(hidden, seen[path])


def test_a_layer_and_the_logits_are_read(model, capsys):
    with model.trace("The meaning of life is"):
        layer_40_out = model.model.layers[40].output[0].save()
        logits = model.output.save()
    print(f"{layer_40_out.shape}")

    seen, want = plain_run(model, "The meaning of life is", ["model.layers.40"])
    assert close(layer_40_out, seen["model.layers.40"])
    assert close(logits, want)
    assert capsys.readouterr().out == f"{want.new_zeros(1, want.shape[1], 16).shape}\n"


def test_a_generation_in_an_open_block_runs_to_its_end_also_where_nothing_is_saved(model):
    entered, want = [], []
    handle = deep().model.layers[21].register_forward_pre_hook(lambda module, args: entered.append(args[0].clone()))
    with model.trace() as tracer:
        with tracer.invoke("What is 2+2?"):
            model.model.layers[20].output[0][:, -1, :] *= 1.5
        output = model.generate(max_new_tokens=50)
    handle.remove()

    def scale_once(result):
        passing = states(result).clone()
        if not want:
            passing[:, -1, :] *= 1.5
        want.append(passing)
        return changed(result, passing)

    with tiny.hooked(deep(), {"model.layers.20": scale_once}):
        deep().generate(**tokens(model, "What is 2+2?"), max_new_tokens=50, do_sample=False)
    assert len(entered) == len(want)
    assert len(want) > 1
    assert all(close(found, step) for found, step in zip(entered, want, strict=True))
    assert "result" in repr(output)
