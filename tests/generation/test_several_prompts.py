"""Generate from prompts of several lengths at once: each gives what it gives alone, with its beams and its steps."""

import pytest
import torch

from loupe import LanguageModel
from tests import tiny
from tests.generation.by_hand import BLOCK, IDS, OPTIONS, generated, same, wrapped

PROMPTS = [[5, 9, 2, 7], [3, 8], [1, 2, 3, 4, 5, 6]]


def new_tokens(ids):
    return ids[:, -OPTIONS["max_new_tokens"] :]


def alone(prompt, path=BLOCK, change=None, **options):
    return generated(path, torch.tensor([prompt]), change, **options)


def last(states):
    """The last position of every state: earlier ones are padded in a batch."""
    return [state[:, -1] for state in states]


def test_a_list_of_prompts_gives_what_each_gives_alone():
    model = wrapped()
    with model.generate(PROMPTS, **OPTIONS) as tracer:
        states = list().save()
        with tracer.all():
            states.append(model.get(BLOCK).output)
        ids = tracer.result.save()
    for row, prompt in enumerate(PROMPTS):
        want, seen = alone(prompt)
        assert torch.equal(new_tokens(ids)[row], new_tokens(want)[0])
        same([state[row : row + 1] for state in last(states)], last(seen))


def test_invokes_of_several_lengths_give_what_each_gives_alone():
    model = wrapped()
    found = []
    with model.generate(**OPTIONS) as tracer:
        for prompt in PROMPTS:
            with tracer.invoke(prompt):
                states = list().save()
                with tracer.all():
                    states.append(model.get(BLOCK).output)
                found.append((tracer.result.save(), states))
    for (ids, states), prompt in zip(found, PROMPTS, strict=True):
        want, seen = alone(prompt)
        assert torch.equal(new_tokens(ids), new_tokens(want))
        same(last(states), last(seen))


def test_texts_of_several_lengths_give_what_each_gives_alone():
    model = LanguageModel("loupe/landmarks")
    texts = ["The Eiffel Tower is in", "I think that the Colosseum is in"]
    options = {"max_new_tokens": 4, "do_sample": False}
    with model.generate(texts, **options) as tracer:
        ids = tracer.result.save()
    for row, text in enumerate(texts):
        tokens = model.tokenizer(text, return_tensors="pt")
        want = model._language_host.module.generate(**tokens, **options)
        assert torch.equal(ids[row, -4:], want[0, -4:])


def test_a_change_at_some_steps_of_one_prompt_leaves_the_others_alone():
    model = wrapped()
    with model.generate(**OPTIONS) as tracer:
        with tracer.invoke(PROMPTS[0]):
            first = tracer.result.save()
        with tracer.invoke(PROMPTS[1]):
            with tracer.iter[1:3]:
                model.get(BLOCK).output[:] *= -2
            second = tracer.result.save()
        with tracer.invoke(PROMPTS[2]):
            for step in tracer.iter[:3]:
                model.get(BLOCK).output = model.get(BLOCK).output * (0.0 if step == 2 else 1.0)
            third = tracer.result.save()
    for ids, prompt, change in (
        (first, PROMPTS[0], None),
        (second, PROMPTS[1], lambda step, hidden: hidden * (-2 if step in (1, 2) else 1)),
        (third, PROMPTS[2], lambda step, hidden: hidden * (0 if step == 2 else 1)),
    ):
        assert torch.equal(new_tokens(ids), new_tokens(alone(prompt, change=change)[0]))
    assert not torch.equal(new_tokens(second), new_tokens(alone(PROMPTS[1])[0]))


def test_invokes_inside_a_step_wise_block_are_about_their_own_rows():
    model = wrapped()
    with model.generate(**OPTIONS) as tracer:
        with tracer.invoke(PROMPTS[0]):
            first = list().save()
        with tracer.invoke(PROMPTS[1]):
            second = list().save()
        with tracer.all():
            with tracer.invoke():
                whole = model.get(BLOCK).output
            first.append(whole[:1, -1])
            second.append(whole[1:, -1])
    same(first, last(alone(PROMPTS[0])[1]))
    same(second, last(alone(PROMPTS[1])[1]))


@pytest.mark.parametrize("returned", [1, 2])
def test_beams_of_several_prompts_keep_to_their_prompt(returned):
    options = {"num_beams": 3, "num_return_sequences": returned}
    model = wrapped()
    found = []
    with model.generate(**OPTIONS, **options) as tracer:
        for prompt in PROMPTS[:2]:
            with tracer.invoke(prompt):
                states = list().save()
                with tracer.all():
                    states.append(model.get(BLOCK).output)
                found.append((tracer.result.save(), states))
    for (ids, states), prompt in zip(found, PROMPTS, strict=False):
        want, seen = alone(prompt, **options)
        assert torch.equal(new_tokens(ids), new_tokens(want))
        assert ids.shape[0] == returned
        assert [state.shape[0] for state in states] == [3] * 5
        same(last(states), last(seen))


def test_each_prompt_has_its_part_of_a_model_output():
    options = {"num_beams": 2, "num_return_sequences": 2, "return_dict_in_generate": True, "output_scores": True}
    model = wrapped()
    with model.generate(**OPTIONS, **options) as tracer:
        with tracer.invoke(PROMPTS[0]):
            first = tracer.result.save()
        with tracer.invoke(PROMPTS[1]):
            sequences, scores = tracer.result.sequences.save(), tracer.result.sequences_scores.save()
    want, other = alone(PROMPTS[0], **options)[0], alone(PROMPTS[1], **options)[0]
    assert isinstance(first, type(want))
    assert torch.equal(new_tokens(first.sequences), new_tokens(want.sequences))
    same(first.scores, want.scores)
    assert torch.equal(new_tokens(sequences), new_tokens(other.sequences))
    torch.testing.assert_close(scores.value, other.sequences_scores)


def test_a_prompt_that_ends_early_is_padded_and_keeps_its_steps():
    end = int(alone(PROMPTS[0])[0][0, len(PROMPTS[0]) + 1])  # the second new token of the first prompt
    model = wrapped()
    with model.generate(**{**OPTIONS, "eos_token_id": end}) as tracer:
        with tracer.invoke(PROMPTS[0]):
            states, first = list().save(), tracer.result.save()
            with tracer.all():
                states.append(model.get(BLOCK).output)
        with tracer.invoke(PROMPTS[1]):
            second = tracer.result.save()
    both = tiny.hf_model("llama").generate(
        torch.tensor([PROMPTS[0], [0, 0, *PROMPTS[1]]]),
        attention_mask=torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]]),
        **{**OPTIONS, "eos_token_id": end},
    )
    assert torch.equal(torch.cat([first, second]), both)
    assert first[0, -1] == OPTIONS["pad_token_id"]
    assert len(states) == both.shape[1] - 4


def test_a_value_of_one_prompt_is_used_in_another_at_each_step():
    model = wrapped()
    with model.generate(**OPTIONS) as tracer:
        with tracer.invoke(PROMPTS[0]):
            pass
        with tracer.invoke(PROMPTS[1]):
            pass
        with tracer.invoke():
            with tracer.all():
                both = model.get(BLOCK).output
                both[1, -1] = both[0, -1]
            ids = tracer.result.save()
    hf, ids_now = tiny.hf_model("llama"), torch.tensor([PROMPTS[0], [0, 0, *PROMPTS[1]]])

    def copied(output):
        return torch.stack([output[0], torch.cat([output[1, :-1], output[0, -1:]])])

    with tiny.hooked(hf, {BLOCK: copied}):
        want = hf.generate(ids_now, attention_mask=torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]]), **OPTIONS)
    assert torch.equal(ids, want)
    assert IDS.tolist() == [PROMPTS[0]]
