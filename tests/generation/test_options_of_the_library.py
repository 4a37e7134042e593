"""Every option of the library's generation does in a block what it does without one."""

import pytest
import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, TextStreamer
from transformers.generation import BaseStreamer, StoppingCriteriaList

from loupe import LanguageModel
from tests import tiny
from tests.generation.by_hand import BLOCK, FAMILY, IDS, OPTIONS, end_of_text, generated, same, wrapped


def read_at_each_step(*args, path=BLOCK, **options):
    """The result of a generation in a block, and what a module returns at each of its steps."""
    model = wrapped()
    with model.generate(*args, **{**OPTIONS, **options}) as tracer:
        states = list().save()
        with tracer.all():
            states.append(model.get(path).output)
        result = tracer.result.save()
    return result, states


def seed(number: int) -> None:
    tiny.hf_model(FAMILY)  # is made with a seed of its own
    torch.manual_seed(number)


class StopAt(StoppingCriteria):
    def __call__(self, ids, scores, **kwargs):
        return torch.full((ids.shape[0],), ids.shape[1] >= 7, dtype=torch.bool)


class Forbid(LogitsProcessor):
    def __call__(self, ids, scores):
        return scores.index_fill(-1, torch.tensor([40, 15]), float("-inf"))


CASES = {
    "sampling": {"do_sample": True, "temperature": 1.5, "top_k": 20},
    "several samples": {"do_sample": True, "num_return_sequences": 3},
    "beams": {"num_beams": 3},
    "several beams": {"num_beams": 3, "num_return_sequences": 2},
    "sampled beams": {"num_beams": 2, "do_sample": True},
    "stopping criteria": {"stopping_criteria": StoppingCriteriaList([StopAt()])},
    "a logits processor": {"logits_processor": LogitsProcessorList([Forbid()])},
    "no cache": {"use_cache": False},
    "a static cache": {"cache_implementation": "static"},
    "a repetition penalty": {"repetition_penalty": 1.8},
    "max_length": {"max_new_tokens": None, "max_length": 7},
    "min_new_tokens": {"min_new_tokens": 4},
}


@pytest.mark.parametrize("case", CASES)
def test_an_option_does_what_it_does_without_a_block(case):
    seed(11)
    want, seen = generated(**CASES[case])
    seed(11)
    result, states = read_at_each_step(IDS, **CASES[case])
    assert torch.equal(result, want)
    same(states, seen)


def test_sampling_with_a_change_equals_sampling_with_hooks():
    options = {"do_sample": True, "temperature": 2.0}
    seed(3)
    want, _ = generated(change=lambda step, hidden: hidden * (-1 if step in (1, 3) else 1), **options)
    seed(3)
    plain, _ = generated(**options)
    model = wrapped()
    seed(3)
    with model.generate(IDS, **{**OPTIONS, **options}) as tracer:
        with tracer.iter[1:4:2]:
            model.get(BLOCK).output[:] *= -1
        ids = tracer.result.save()
    assert torch.equal(ids, want)
    assert not torch.equal(want, plain)


def test_a_replay_samples_the_same_tokens():
    options = {**OPTIONS, "do_sample": True, "temperature": 2.0}
    seed(5)
    want, seen = generated(path="lm_head", **options)
    model = wrapped()
    seed(5)
    with model.generate(IDS, **options) as tracer:
        late = [float(model.lm_head.output.sum()) for _ in tracer.iter[2:4]]
        early = [float(model.lm_head.output.sum()) for _ in tracer.iter[:2]]  # has passed: a second pass
        ids = tracer.result.save()
    assert torch.equal(ids, want)
    assert early + late == pytest.approx([float(logits.sum()) for logits in seen[:4]], abs=1e-4)


def test_an_early_end_of_text_ends_the_list():
    for steps in (1, 3):
        want, seen = generated(**end_of_text(steps))
        result, states = read_at_each_step(IDS, **end_of_text(steps))
        assert torch.equal(result, want)
        assert len(states) == steps
        same(states, seen)


def test_a_generation_that_is_not_told_how_long_it_is_has_the_steps_of_the_library():
    hf = tiny.hf_model(FAMILY)
    options = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with pytest.warns(UserWarning, match="default"):
        want = hf.generate(IDS, **options)
    model = wrapped()
    counted = []
    with pytest.warns(UserWarning, match="default"), model.generate(IDS, **options) as tracer:
        states = list().save()
        for step in tracer.iter[:]:
            counted.append(step)
        with tracer.all():
            states.append(model.lm_head.output)
        ids = tracer.result.save()
    assert torch.equal(ids, want)
    assert len(states) == len(counted) == want.shape[1] - IDS.shape[1]


@pytest.mark.parametrize("where", ["argument", "model"])
def test_a_configuration_says_how_long_a_generation_is(where):
    config = GenerationConfig(max_new_tokens=3, do_sample=False, eos_token_id=None, pad_token_id=0)
    model, hf = wrapped(), tiny.hf_model(FAMILY)
    before = hf.generation_config
    try:
        if where == "model":
            hf.generation_config = config
        options = {"generation_config": config} if where == "argument" else {}
        with model.generate(IDS, **options) as tracer:
            states = list().save()
            with tracer.all():
                states.append(model.get(BLOCK).output)
            ids = tracer.result.save()
    finally:
        hf.generation_config = before
    want, seen = generated(max_new_tokens=3)
    assert torch.equal(ids, want)
    same(states, seen)


def test_strings_that_end_the_text_need_no_tokenizer_of_the_users():
    model = LanguageModel("loupe/landmarks", dispatch=True)
    prompt, options = "The Eiffel Tower is in", {"max_new_tokens": 8, "do_sample": False}
    tokens = model.tokenizer(prompt, return_tensors="pt")
    hf = model._language_host.module
    want = hf.generate(**tokens, **options, stop_strings=[" of", "never"], tokenizer=model.tokenizer)
    assert want.shape[1] < hf.generate(**tokens, **options).shape[1]
    for given in ({}, {"tokenizer": model.tokenizer}):
        with model.generate(prompt, **options, stop_strings=[" of", "never"], **given) as tracer:
            states = list().save()
            with tracer.all():
                states.append(model.lm_head.output)
            ids = tracer.result.save()
        assert torch.equal(ids, want)
        assert len(states) == want.shape[1] - tokens["input_ids"].shape[1]
    assert torch.equal(model.generate(prompt, **options, stop_strings=[" of", "never"]), want)


class Listens(BaseStreamer):
    """Keeps what it is given, and computes with it."""

    def __init__(self):
        self.given, self.sums, self.ended = [], [], 0

    def put(self, value):
        self.given.append(value.clone())
        self.sums.append(float(torch.relu(value.float() + torch.ones(1)).sum()))

    def end(self):
        self.ended += 1


@pytest.mark.parametrize("peeks", [False, True])
def test_a_streamer_is_given_each_token_once(peeks):
    plain, inside = Listens(), Listens()
    generated(streamer=plain)
    model = wrapped()
    with model.generate(IDS, **OPTIONS, streamer=inside) as tracer:
        for _step in tracer.iter[:]:
            model.get(BLOCK).output[:] *= 1.0
            if peeks:
                float(model.lm_head.output.sum())
        tracer.result.save()
    same(inside.given, plain.given)
    assert (inside.sums, inside.ended) == (plain.sums, 1)


def test_text_is_streamed_while_a_block_reads(capsys):
    model = LanguageModel("loupe/landmarks")
    with model.generate("The Eiffel Tower is in", max_new_tokens=2, streamer=TextStreamer(model.tokenizer)) as tracer:
        with tracer.all():
            model.lm_head.output.save()
        ids = tracer.result.save()
    assert capsys.readouterr().out.strip() == model.tokenizer.decode(ids[0])


def test_a_model_output_is_the_result_where_one_is_asked_for():
    options = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    want, _ = generated(**options)
    model = wrapped()
    with model.generate(IDS, **OPTIONS, **options) as tracer:
        whole = tracer.result.save()
        sequences, third = tracer.result.sequences.save(), tracer.result.scores[2].save()
        margin = (tracer.result.scores[0].max() - tracer.result.scores[0].min()).save()
        stacked = torch.stack(tuple(tracer.result.scores)).save()
    assert isinstance(whole, type(want))
    assert torch.equal(whole.sequences, want.sequences)
    assert torch.equal(whole["sequences"], want.sequences)
    same(whole.logits, want.logits)
    assert torch.equal(sequences, want.sequences)
    same([*whole.scores, third, stacked], [*want.scores, want.scores[2], torch.stack(want.scores)])
    assert float(margin) == pytest.approx(float(want.scores[0].max() - want.scores[0].min()))
