"""A generation of an encoder-decoder runs its encoder once and its decoder at each step; held against hooks."""

import pytest
import torch

from loupe import LanguageModel
from loupe.errors import InputError, UnsavedError
from tests import tiny
from tests.models import kinds
from tests.models.kinds import changed, close, ids_of, states

PROMPTS = ["w5 w9 w12 w3", "w7", "w11 w22 w33 w44 w55 w6 w7 w8 w9", "w40 w50"]
CLASSES = {"t5": "T5ForConditionalGeneration", "bart": "BartForConditionalGeneration"}
ENCODER = {"t5": "encoder.block.1", "bart": "model.encoder.layers.1"}
DECODER = {"t5": "decoder.block.0", "bart": "model.decoder.layers.0"}
START = {"t5": 0, "bart": 2}
FAMILIES = list(CLASSES)
PLAIN = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
OPTIONS = {**PLAIN, "no_repeat_ngram_size": 1}  # small random models say one word again and again


def both(family):
    module = kinds.model(CLASSES[family], family)
    return module, LanguageModel(module, tokenizer=tiny.tokenizer())


def by_hand(module, path, text, change=lambda _step, hidden: hidden, **options):
    """Generate with a hook on one block; gives the ids and what the block went on with at each step."""
    seen = []

    def on_output(output):
        new = changed(lambda hidden: change(len(seen), hidden))(output)
        seen.append(states(new).clone())
        return new

    with tiny.hooked(module, {path: on_output}):
        return module.generate(ids_of(text), **{**OPTIONS, **options}), seen


@pytest.mark.parametrize("family", FAMILIES)
def test_a_block_that_only_looks_generates_what_the_library_does(family):
    module, model = both(family)
    want, decoded = by_hand(module, DECODER[family], PROMPTS[0])
    _, encoded = by_hand(module, ENCODER[family], PROMPTS[0])
    with model.generate(PROMPTS[0], **OPTIONS) as tracer:
        steps, once = list().save(), list().save()
        with tracer.all():
            steps.append(model.get(DECODER[family]).output[0])
            once.append(model.get(ENCODER[family]).output[0])
        ids, same = tracer.result.save(), model.generator.output.save()
    assert torch.equal(ids.value, want)
    assert torch.equal(same.value, want)
    assert torch.equal(model.generate(PROMPTS[0], **OPTIONS).value, want)
    assert (len(steps), len(once)) == (5, 1) == (len(decoded), len(encoded))
    for found, expected in zip([*steps, *once], [*decoded, *encoded], strict=True):
        close(found, expected)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("loop", [False, True])
def test_a_change_of_the_decoder_at_some_steps_equals_a_hook_at_those_steps(family, loop):
    module, model = both(family)
    want, _ = by_hand(module, DECODER[family], PROMPTS[0], lambda s, hidden: hidden * -2 if s in (1, 2) else hidden)
    plain, _ = by_hand(module, DECODER[family], PROMPTS[0])
    assert not torch.equal(want, plain)
    block = model.get(DECODER[family])
    with model.generate(PROMPTS[0], **OPTIONS) as tracer:
        if loop:
            for _step in tracer.iter[1:3]:
                block.output[0] = block.output[0] * -2
        else:
            with tracer.iter[1:3]:
                block.output[0][:] = block.output[0] * -2
        ids = tracer.result.save()
    assert torch.equal(ids.value, want)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_change_of_the_encoder_is_seen_at_every_step(family):
    module, model = both(family)
    want, _ = by_hand(module, ENCODER[family], PROMPTS[0], lambda _, hidden: hidden * -2)
    with model.generate(PROMPTS[0], **OPTIONS) as tracer:
        with tracer.all():
            model.get(ENCODER[family]).output[0] = model.get(ENCODER[family]).output[0] * -2
        ids = tracer.result.save()
    assert torch.equal(ids.value, want)


def test_the_encoder_at_a_later_step_raises_only_when_it_is_read():
    _, model = both("t5")
    with model.generate(PROMPTS[0], **OPTIONS) as tracer:
        late = None
        for _step in tracer.iter[1:2]:
            late = model.get(ENCODER["t5"]).output[0].save()
        ids = tracer.result.save()
    assert ids.shape == (1, 6)
    with pytest.raises(UnsavedError):
        late.sum()


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_of_several_lengths_generate_what_each_does_alone(family):
    module, model = both(family)
    with model.generate(**OPTIONS) as tracer:
        found = []
        for text in PROMPTS:
            with tracer.invoke(text):
                steps = list().save()
                with tracer.all():
                    steps.append(model.get(DECODER[family]).output[0])
                found.append((tracer.result.save(), steps))
    for text, (ids, steps) in zip(PROMPTS, found, strict=True):
        want, seen = by_hand(module, DECODER[family], text)
        assert torch.equal(ids.value, want)
        for one, expected in zip(steps, seen, strict=True):
            close(one, expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_change_in_one_prompts_generation_leaves_the_others(family):
    module, model = both(family)
    with model.generate(**OPTIONS) as tracer:
        with tracer.invoke(PROMPTS[2]):
            first = tracer.result.save()
        with tracer.invoke(PROMPTS[0]):
            with tracer.iter[1:3]:
                model.get(DECODER[family]).output[0][:] = model.get(DECODER[family]).output[0] * -2
            model.get(ENCODER[family]).output[0][:, 0] = 0.5
            second = tracer.result.save()

    def first_token(hidden):
        hidden[:, 0] = 0.5
        return hidden

    with tiny.hooked(module, {ENCODER[family]: changed(first_token)}):
        want, _ = by_hand(module, DECODER[family], PROMPTS[0], lambda s, hidden: hidden * -2 if s in (1, 2) else hidden)
    assert torch.equal(second.value, want)
    assert torch.equal(first.value, module.generate(ids_of(PROMPTS[2]), **OPTIONS))


@pytest.mark.parametrize("family", FAMILIES)
def test_beams_keep_each_prompts_rows(family):
    module, model = both(family)
    options = {**OPTIONS, "num_beams": 3}
    with model.generate(**options) as tracer:
        with tracer.invoke(PROMPTS[2]):
            first = tracer.result.save()
        with tracer.invoke(PROMPTS[0]):
            encoded, decoded = (model.get(path[family]).output[0].save() for path in (ENCODER, DECODER))
            second = tracer.result.save()
    assert (encoded.shape[0], decoded.shape[0]) == (1, 3)
    assert torch.equal(first.value, module.generate(ids_of(PROMPTS[2]), **options))
    assert torch.equal(second.value, module.generate(ids_of(PROMPTS[0]), **options))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_generation_goes_on_from_the_decoder_inputs_that_it_is_given(family):
    module, model = both(family)
    given = [[START[family], 8, 15], [START[family], 3, 4]]
    with model.generate(PROMPTS[0], decoder_input_ids=given[0], **OPTIONS) as tracer:
        alone = tracer.result.save()
    with model.generate(**OPTIONS) as tracer:
        with tracer.invoke(PROMPTS[2], decoder_input_ids=given[1]):
            first = tracer.result.save()
        with tracer.invoke(PROMPTS[0], decoder_input_ids=given[0]):
            second = tracer.result.save()
    want = [
        module.generate(ids_of(text), decoder_input_ids=torch.tensor([ids]), **OPTIONS)
        for text, ids in zip((PROMPTS[0], PROMPTS[2]), given, strict=True)
    ]
    assert torch.equal(alone.value, want[0])
    assert torch.equal(second.value, want[0])
    assert torch.equal(first.value, want[1])


@pytest.mark.parametrize("one_input", [False, True])
def test_a_generation_from_decoder_inputs_of_several_lengths_is_refused(one_input):
    _, model = both("bart")
    with pytest.raises(InputError, match="decoder inputs of several lengths"):
        with model.generate(**OPTIONS) as tracer:
            if one_input:
                with tracer.invoke(PROMPTS[:2], decoder_input_ids=[[2, 3, 4], [2, 3]]):
                    tracer.result.save()
            else:
                for ids in ([2, 3, 4], [2, 3]):
                    with tracer.invoke(PROMPTS[0], decoder_input_ids=ids):
                        tracer.result.save()


def test_the_length_of_a_generation_counts_the_decoders_ids():
    module, model = both("t5")
    options = {"max_length": 6, "do_sample": False, "eos_token_id": None}
    with model.generate(PROMPTS[2], **options) as tracer:
        taken = list(tracer.iter[:])
        ids = tracer.result.save()
    assert ids.shape == module.generate(ids_of(PROMPTS[2]), **options).shape == (1, 6)
    assert taken == [0, 1, 2, 3, 4]


def test_a_peek_in_a_loop_sees_the_real_token_of_its_step():
    module, model = both("t5")
    want = module.generate(ids_of(PROMPTS[0]), **PLAIN)
    tokens = []
    with model.generate(PROMPTS[0], **PLAIN) as tracer:
        for _step in tracer.iter[:5]:
            tokens.append(int(model.lm_head.output[0, -1].argmax()))
    assert tokens == want[0, 1:].tolist()


def test_sampling_and_an_early_end_are_the_librarys():
    module, model = both("t5")
    options = {"max_new_tokens": 6, "do_sample": True, "temperature": 2.0}
    torch.manual_seed(3)
    want = module.generate(ids_of(PROMPTS[0]), **options)
    torch.manual_seed(3)
    with model.generate(PROMPTS[0], **options) as tracer:
        ids = tracer.result.save()
    assert torch.equal(ids.value, want)
    greedy = module.generate(ids_of(PROMPTS[0]), **OPTIONS)
    ending = {**OPTIONS, "eos_token_id": int(greedy[0, 3])}
    with model.generate(PROMPTS[0], **ending) as tracer:
        steps = list().save()
        with tracer.all():
            steps.append(model.lm_head.output[:, -1])
        ids = tracer.result.save()
    assert torch.equal(ids.value, module.generate(ids_of(PROMPTS[0]), **ending))
    assert len(steps) == ids.shape[1] - 1 < 5
