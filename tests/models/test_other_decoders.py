"""Recurrent, expert and hybrid decoders, and decoders with other heads, are read, changed, batched and run in steps."""

import pytest
import torch

from loupe import LanguageModel
from tests import tiny
from tests.models import kinds
from tests.models.kinds import changed, close, ids_of, states

PROMPTS = ["w5 w9 w12 w3", "w7", "w11 w22 w33 w44 w55 w6 w7 w8 w9"]
CLASSES = {
    "mixtral": "MixtralForCausalLM",
    "mamba": "MambaForCausalLM",
    "jamba": "JambaForCausalLM",
    "bamba": "BambaForCausalLM",
    "qwen3_next": "Qwen3NextForCausalLM",
}
BLOCKS = dict.fromkeys(CLASSES, "model.layers") | {"mamba": "backbone.layers"}
MIXERS = {  # what is in a block: attention, a recurrence, experts
    "mixtral": ("self_attn.o_proj", "mlp.gate", "mlp"),
    "mamba": ("mixer.x_proj", "mixer.in_proj", "mixer"),
    "jamba": ("mamba.in_proj", "mamba.out_proj", "mamba"),
    "bamba": ("mamba.in_proj", "mamba.norm", "mamba"),
    "qwen3_next": ("linear_attn.in_proj_qkvz", "linear_attn.norm", "linear_attn"),
}
FAMILIES = list(CLASSES)
OPTIONS = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "no_repeat_ngram_size": 1}
OPTIONS |= {"suppress_tokens": [0]}  # padding, which a batch has and a prompt alone has not


def both(family):
    module = kinds.model(CLASSES[family], family)
    return module, LanguageModel(module, tokenizer=tiny.tokenizer())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_part_of_a_block_is_read_as_a_hook_reads_it(family):
    module, model = both(family)
    paths = [f"{BLOCKS[family]}.0.{name}" for name in MIXERS[family]]
    seen, want = tiny.outputs_of(module, paths, ids_of(PROMPTS[0]))
    with model.trace(PROMPTS[0]):
        found = [model.get(path).output.save() for path in paths]
        logits = model.output.save()
    for path, value in zip(paths, found, strict=True):
        torch.testing.assert_close(value.value, seen[path])
    close(logits, want.logits)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("place", [0, 1])
def test_a_change_of_a_block_equals_a_hook(family, place):
    module, model = both(family)
    path = f"{BLOCKS[family]}.{place}"

    def change(hidden):
        hidden[:, -2:] *= -3
        return hidden

    with tiny.hooked(module, {path: changed(change)}):
        want = module(ids_of(PROMPTS[0])).logits
    with model.trace(PROMPTS[0]):
        model.get(path).output[0][:, -2:] *= -3
        logits = model.output.save()
    close(logits, want)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_prompt_of_a_batch_gives_what_it_gives_alone_also_where_one_is_changed(family):
    module, model = both(family)
    blocks = [f"{BLOCKS[family]}.{place}" for place in (0, 1, -1)]
    blocks[-1] = f"{BLOCKS[family]}.{len(module.get_submodule(BLOCKS[family])) - 1}"
    found = []
    with model.trace() as tracer:
        for place, text in enumerate(PROMPTS):
            with tracer.invoke(text):
                if place == 1:
                    model.get(blocks[0]).output[0] = model.get(blocks[0]).output[0] * -2
                found.append([*(model.get(block).output[0].save() for block in blocks[1:]), model.output.save()])
    for place, (text, values) in enumerate(zip(PROMPTS, found, strict=True)):
        factor = -2 if place == 1 else 1
        with tiny.hooked(module, {blocks[0]: changed(lambda hidden, factor=factor: hidden * factor)}):
            seen, want = tiny.outputs_of(module, blocks[1:], ids_of(text))
        length = len(text.split())
        for block, value in zip(blocks[1:], values[:-1], strict=True):
            close(value[:, -length:], states(seen[block]))
        close(values[-1][:, -length:], want.logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_generation_changed_at_some_steps_equals_hooks_at_those_steps(family):
    module, model = both(family)
    path, seen = f"{BLOCKS[family]}.1", []

    def on_output(output):
        new = changed(lambda hidden: hidden * -3 if len(seen) in (1, 2) else hidden)(output)
        seen.append(states(new).clone())
        return new

    with tiny.hooked(module, {path: on_output}):
        want = module.generate(ids_of(PROMPTS[0]), **OPTIONS)
    with model.generate(PROMPTS[0], **OPTIONS) as tracer:
        found = list().save()
        with tracer.iter[1:3]:
            model.get(path).output[0] = model.get(path).output[0] * -3
        with tracer.all():
            found.append(model.get(path).output[0])
        ids = tracer.result.save()
    assert torch.equal(ids.value, want)
    assert len(found) == len(seen) == 4
    for one, expected in zip(found, seen, strict=True):
        close(one, expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_of_several_lengths_generate_what_each_does_alone(family):
    module, model = both(family)
    with model.generate(**OPTIONS) as tracer:
        found = []
        for text in PROMPTS:
            with tracer.invoke(text):
                found.append(tracer.result.save())
    for text, ids in zip(PROMPTS, found, strict=True):
        want = module.generate(ids_of(text), **OPTIONS)
        assert torch.equal(ids[:, -want.shape[1] :], want)


# -- experts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "gate"), [("mixtral", "model.layers.0.mlp.gate"), ("qwen3_next", "model.layers.0.mlp.gate")]
)
def test_a_router_sends_one_prompts_tokens_elsewhere_and_no_others(family, gate):
    module, model = both(family)
    chosen = torch.tensor([3, 1])

    def route(output):
        scores, weights, _ = output
        return scores, torch.full_like(weights, 0.5), chosen.expand(len(weights), 2)

    with model.trace() as tracer:
        with tracer.invoke(PROMPTS[0]):
            first = model.output.save()
        with tracer.invoke(PROMPTS[2]):
            scores, weights, _ = model.get(gate).output
            model.get(gate).output = (scores, torch.full_like(weights, 0.5), chosen.expand(len(weights), 2))
            second = model.output.save()
    with torch.no_grad():
        close(first[:, -4:], module(ids_of(PROMPTS[0])).logits)
    with tiny.hooked(module, {gate: route}):
        close(second, module(ids_of(PROMPTS[2])).logits)


# -- other heads and other positions -----------------------------------------------------------------------------------


def test_a_decoder_with_a_classifier_reads_each_prompts_last_token():
    module = kinds.build("MixtralForSequenceClassification", "mixtral")
    model = LanguageModel(module, tokenizer=tiny.tokenizer())
    found = []
    with model.trace() as tracer:
        for text in PROMPTS:
            with tracer.invoke(text):
                found.append(model.output.save())
    for text, logits in zip(PROMPTS, found, strict=True):
        with torch.no_grad():
            close(logits, module(ids_of(text)).logits)


@pytest.mark.parametrize(("class_name", "family"), [("BertLMHeadModel", "bert"), ("RobertaForCausalLM", "roberta")])
def test_an_encoders_family_as_a_decoder_is_padded_on_the_left_from_its_own_first_position(class_name, family):
    module = kinds.build(class_name, family, is_decoder=True)
    model = LanguageModel(module, tokenizer=tiny.tokenizer())
    found = []
    with model.trace() as tracer:
        for text in PROMPTS:
            with tracer.invoke(text):
                found.append(model.output.save())
    for text, logits in zip(PROMPTS, found, strict=True):
        with torch.no_grad():
            close(logits[:, -len(text.split()) :], module(ids_of(text)).logits)
