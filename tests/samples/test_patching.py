"""Programs that change activations: zeroed, steered, noisy, replaced, patched from another prompt, swept over."""

import torch

from loupe import LanguageModel
from tests.samples.plain import close, filled, plain_run

CLEAN, CORRUPTED = "The Eiffel Tower is in", "The Colosseum is in"


def last(new: torch.Tensor):
    """A change of the last position alone."""

    def change(passing):
        passing[:, -1, :] = new
        return passing

    return change


def test_one_layers_clean_states_give_the_corrupted_prompt_the_clean_answer():
    model = LanguageModel("loupe/landmarks", device_map="auto")
    with model.trace(CLEAN):
        clean_hidden = model.transformer.h[8].output[0].save()
    with model.trace(CORRUPTED):
        model.transformer.h[8].output[0][:] = clean_hidden
        patched_logits = model.output.save()

    paris_token = model.tokenizer.encode(" Paris")[0]
    rome_token = model.tokenizer.encode(" Rome")[0]
    patched_probs = torch.softmax(patched_logits[0, -1], dim=-1)
    assert f"{patched_probs[paris_token].item():.3f}" > "0.8" > "0.2" > f"{patched_probs[rome_token].item():.3f}"

    seen, _ = plain_run(model, CLEAN, ["transformer.h.8"])
    _, want = plain_run(model, CORRUPTED, change={"transformer.h.8": lambda passing: seen["transformer.h.8"]})
    assert close(patched_logits, want)


def test_a_sweep_opens_its_block_in_a_function_for_every_layer_and_position(model):
    with model.trace(CLEAN):
        clean_hidden = [model.transformer.h[i].output[0].save() for i in range(12)]
    seq_len = clean_hidden[0].shape[1]
    paris, rome = (model.tokenizer.encode(city)[0] for city in (" Paris", " Rome"))

    def compute_metric(logits):
        return logits[0, -1, paris] - logits[0, -1, rome]

    def patch_layer_position(layer, position, clean_cache, corrupted_prompt):
        with model.trace(corrupted_prompt):
            current = model.transformer.h[layer].output[0]
            current[:, position, :] = clean_cache[layer][:, position, :]
            logits = model.output.save()
        return logits

    results = torch.zeros(12, seq_len)
    for layer in range(12):
        for pos in range(seq_len):
            logits = patch_layer_position(layer, pos, clean_hidden, CORRUPTED)
            results[layer, pos] = compute_metric(logits)

    paths = [f"transformer.h.{i}" for i in range(12)]
    clean, _ = plain_run(model, CLEAN, paths)
    want = torch.zeros(12, seq_len)
    for layer, path in enumerate(paths):
        for pos in range(seq_len):

            def patch(passing, pos=pos, path=path):
                passing[:, pos] = clean[path][:, pos]
                return passing

            want[layer, pos] = compute_metric(plain_run(model, CORRUPTED, change={path: patch})[1])
    assert close(results, want)
    assert results[0].argmax() != seq_len - 1
    assert results[-1].argmax() == seq_len - 1


def test_a_zeroed_layer_is_steered_at_its_last_token(model):
    steering_vector = torch.linspace(-1, 1, 96)
    with model.trace(CLEAN):
        model.transformer.h[5].output[0][:] = 0
        model.transformer.h[5].output[0][:, -1, :] += steering_vector
        logits = model.output.save()

    _, want = plain_run(
        model, CLEAN, change={"transformer.h.5": lambda passing: last(steering_vector)(torch.zeros_like(passing))}
    )
    assert close(logits, want)


def test_all_of_a_layers_states_are_zeroed_by_a_full_index(model):
    prompt = CLEAN
    with model.trace(prompt):
        model.transformer.h[5].output[0][:, :, :] = 0
        output = model.lm_head.output.save()

    _, want = plain_run(model, prompt, change={"transformer.h.5": filled(0.0)})
    assert close(output, want)


def test_noise_like_the_states_is_added_to_them(model):
    prompt = CLEAN
    torch.manual_seed(3)
    with model.trace(prompt):
        noise = 0.1 * torch.randn_like(model.transformer.h[5].output[0])
        model.transformer.h[5].output[0] = model.transformer.h[5].output[0] + noise
        output = model.lm_head.output.save()

    torch.manual_seed(3)
    _, want = plain_run(
        model, prompt, change={"transformer.h.5": lambda passing: passing + 0.1 * torch.randn_like(passing)}
    )
    _, without = plain_run(model, prompt)
    assert close(output, want)
    assert not close(output, without)


def test_the_last_tokens_state_is_replaced_by_a_vector_of_the_users(model):
    prompt, my_custom_vector = CLEAN, torch.linspace(-2, 2, 96)
    with model.trace(prompt):
        model.transformer.h[5].output[0][:, -1, :] = my_custom_vector
        output = model.lm_head.output.save()

    _, want = plain_run(model, prompt, change={"transformer.h.5": last(my_custom_vector)})
    assert close(output, want)
