"""Programs of several prompts in one pass: read side by side, and one's states put into another."""

import torch

from loupe import LanguageModel
from tests.samples.plain import close, plain_run, tokens


def test_two_prompts_in_one_pass_each_give_their_own_logits(model):
    with model.trace() as tracer:
        with tracer.invoke("First prompt"):
            first_output = model.lm_head.output.save()
        with tracer.invoke("Second prompt"):
            second_output = model.lm_head.output.save()
    assert first_output.value.shape[0] == second_output.value.shape[0] == 1

    for prompt, found in (("First prompt", first_output), ("Second prompt", second_output)):
        _, want = plain_run(model, prompt)
        assert close(found.value[:, -want.shape[1] :], want)


def test_one_prompts_states_are_put_into_another_without_a_barrier():
    model = LanguageModel("loupe/landmarks", device_map="auto")
    with model.trace() as tracer:
        with tracer.invoke("The cat sat on the"):
            cat_hidden = model.transformer.h[6].output[0].save()
        with tracer.invoke("The dog ran through the"):
            model.transformer.h[6].output[0][:] = cat_hidden
            dog_with_cat = model.output.save()

    alone, _ = plain_run(model, "The cat sat on the", ["transformer.h.6"])
    cat = alone["transformer.h.6"]
    assert close(cat_hidden[:, -cat.shape[1] :], cat)
    given = cat_hidden.value.clone()  # the shorter prompt's row starts with padding, which the other one is given too
    _, want = plain_run(model, "The dog ran through the", change={"transformer.h.6": lambda passing: given})
    assert close(dog_with_cat, want)


def test_embeddings_cross_from_one_prompt_to_another_over_a_barrier(model):
    with model.trace() as tracer:
        barrier = tracer.barrier(2)
        with tracer.invoke("The Eiffel Tower is in"):
            embeddings = model.transformer.wte.output
            barrier()
        with tracer.invoke("_ _ _ _ _ _ _"):
            barrier()
            model.transformer.wte.output = embeddings
            output = model.lm_head.output.save()

    eiffel = tokens(model, "The Eiffel Tower is in")["input_ids"]
    length = tokens(model, "_ _ _ _ _ _ _")["input_ids"].shape[1]
    padding = torch.full((1, length - eiffel.shape[1]), model.tokenizer.pad_token_id)
    with torch.no_grad():
        want = model._model(input_ids=torch.cat([padding, eiffel], dim=1)).logits
    assert close(output, want)
    assert model.tokenizer.decode(output[0, -1].argmax()) == " Paris"
