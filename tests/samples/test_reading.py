"""Programs that read activations: one layer, all layers, attention patterns, the three ports, plain modules."""

import pytest
import torch
from torch import nn

from loupe import LanguageModel, NNsight
from loupe.errors import UnsavedError
from tests.samples.plain import close, filled, patterns, plain_run, tokens

PROMPT = "The Eiffel Tower is in"


def test_a_layer_is_read_in_two_lines():
    model = LanguageModel("loupe/landmarks")
    with model.trace("Hello world"):
        hidden = model.transformer.h[5].output[0].save()

    seen, _ = plain_run(model, "Hello world", ["transformer.h.5"])
    assert close(hidden, seen["transformer.h.5"])


def test_states_and_a_pattern_are_read_in_one_block():
    model = LanguageModel("loupe/landmarks")
    with model.trace(PROMPT):
        hidden = model.transformer.h[5].output[0].save()
        attn = model.transformer.h[8].attn.attn_dropout.input[0][0].save()

    seen, _ = plain_run(model, PROMPT, ["transformer.h.5"])
    assert hidden.shape == (1, 5, 96)
    assert close(hidden, seen["transformer.h.5"])
    assert close(attn, patterns(model, PROMPT)[8][0, 0])


def test_a_block_reads_states_and_a_pattern_zeroes_a_layer_and_keeps_the_logits():
    model = LanguageModel("loupe/landmarks", device_map="auto")
    with model.trace(PROMPT):
        hidden_states = model.transformer.h[5].output[0].save()
        attn = model.transformer.h[5].attn.attn_dropout.input[0][0].save()
        model.transformer.h[8].output[0][:] = 0
        logits = model.output.save()

    seen, want = plain_run(model, PROMPT, ["transformer.h.5"], {"transformer.h.8": filled(0.0)})
    assert hidden_states.shape == (1, 5, 96)
    assert close(hidden_states, seen["transformer.h.5"])
    assert close(attn, patterns(model, PROMPT)[5][0, 0])
    assert close(logits, want)


def test_a_value_computed_from_a_value_is_saved(model):
    with model.trace("Hello"):
        h5_out = model.transformer.h[5].output[0]
        h5_mean = h5_out.mean(dim=-1)
        h5_saved = h5_mean.save()

    seen, _ = plain_run(model, "Hello", ["transformer.h.5"])
    assert close(h5_saved, seen["transformer.h.5"].mean(dim=-1))


def test_every_layer_and_every_pattern_are_collected_in_lists(capsys):
    model = LanguageModel("loupe/landmarks", device_map="auto")
    prompt = "The capital of France is"
    with model.trace(prompt):
        layer_outputs = []
        for i in range(12):
            layer_out = model.transformer.h[i].output[0].save()
            layer_outputs.append(layer_out)
        attn_patterns = []
        for i in range(12):
            attn = model.transformer.h[i].attn.attn_dropout.input[0][0].save()
            attn_patterns.append(attn)
        logits = model.output.save()

    for i, layer_out in enumerate(layer_outputs):
        print(f"{i}: {layer_out.shape}")
        print(f"{i}: {layer_out.norm().item():.3f}")
    probs = torch.softmax(logits[0, -1], dim=-1)
    top_tokens = probs.topk(5)
    for token, prob in zip(top_tokens.indices, top_tokens.values, strict=True):
        print(f"{model.tokenizer.decode(token)}: {prob.item():.3f}")

    paths = [f"transformer.h.{i}" for i in range(12)]
    seen, want = plain_run(model, prompt, paths)
    attention = patterns(model, prompt)
    printed = capsys.readouterr().out.splitlines()
    for i, path in enumerate(paths):
        assert close(layer_outputs[i], seen[path])
        assert close(attn_patterns[i], attention[i][0, 0])
        assert printed[2 * i : 2 * i + 2] == [f"{i}: torch.Size([1, 5, 96])", f"{i}: {seen[path].norm().item():.3f}"]
    assert close(logits, want)
    assert printed[24] == f" Paris: {torch.softmax(want[0, -1], dim=-1).max().item():.3f}"


def test_weights_loaded_at_once_and_the_bare_value():
    model = LanguageModel("loupe/landmarks", device_map="auto", dispatch=True)
    with model.trace(PROMPT):
        hidden_states = model.transformer.h[5].output[0].save()
        logits = model.lm_head.output.save()
    print(hidden_states.value.shape)

    seen, want = plain_run(model, PROMPT, ["transformer.h.5"])
    assert type(hidden_states.value) is torch.Tensor
    assert close(hidden_states.value, seen["transformer.h.5"])
    assert close(logits.value, want)


def test_output_and_input_of_a_layer_and_the_output_of_its_attention(model):
    prompt = PROMPT
    with model.trace(prompt):
        layer_output = model.transformer.h[0].output[0].save()
        layer_input = model.transformer.h[0].input[0].save()
        attn_output = model.transformer.h[0].attn.output[0].save()

    hf, seen = model._model, {}
    handles = [
        hf.transformer.h[0].register_forward_pre_hook(lambda module, args: seen.update(input=args[0].clone())),
        hf.transformer.h[0].attn.register_forward_hook(lambda module, args, out: seen.update(attn=out[0].clone())),
    ]
    found, _ = plain_run(model, prompt, ["transformer.h.0"])
    for handle in handles:
        handle.remove()
    assert close(layer_output, found["transformer.h.0"])
    assert close(layer_input, seen["input"][0])
    assert close(attn_output, seen["attn"])


def test_any_module_is_wrapped_under_the_other_name_too():
    torch.manual_seed(0)
    your_pytorch_model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    model = NNsight(your_pytorch_model)

    x = torch.randn(3, 4)
    with model.trace(x):
        hidden = model[0].output.save()
        out = model.output.save()
    assert torch.equal(hidden, your_pytorch_model[0](x))
    assert torch.equal(out, your_pytorch_model(x))


def test_the_wrapped_model_prints_its_tree(model, capsys):
    print(model._model)
    assert capsys.readouterr().out.strip() == repr(model._model)
    assert type(model._model).__name__ == "GPT2LMHeadModel"


def test_a_value_that_was_not_saved_is_an_error_and_a_saved_one_prints(model, capsys):
    with model.trace("Hello"):
        hidden = model.transformer.h[5].output[0]
    with pytest.raises(UnsavedError, match=r"hidden = model\.transformer\.h\[5\]\.output\[0\]"):
        print(hidden)

    with model.trace("Hello"):
        hidden = model.transformer.h[5].output[0].save()
    print(hidden)
    seen, _ = plain_run(model, "Hello", ["transformer.h.5"])
    assert close(hidden, seen["transformer.h.5"])
    assert capsys.readouterr().out.startswith("tensor([[[")


def test_a_few_layers_are_saved_where_all_would_be_too_many(model):
    kept = {}
    with model.trace("The Colosseum is in"):
        for i in range(12):
            model.transformer.h[i].output[0].save()
        key_layers = [0, 5, 11]
        for i in key_layers:
            kept[i] = model.transformer.h[i].output[0].save()

    seen, _ = plain_run(model, "The Colosseum is in", [f"transformer.h.{i}" for i in key_layers])
    assert tokens(model, "The Colosseum is in")["input_ids"].shape == (1, 5)
    for i in key_layers:
        assert close(kept[i], seen[f"transformer.h.{i}"])
