"""Programs that generate: all ids, every step, some steps, and a generation inside an open block."""

import torch

from tests import tiny
from tests.samples.plain import changed, close, states, tokens


def plain_generation(model, prompt, change=lambda step, passing: passing, **options):
    """The ids of a plain generation in which `change(step, states)` acts on layer 5, and the states of each step.

    The states are those of layer 5, after the change, and of the last layer.
    """
    fifth: list[torch.Tensor] = []
    last: list[torch.Tensor] = []

    def visit(output):
        fifth.append(change(len(fifth), states(output).clone()))
        return changed(output, fifth[-1])

    with tiny.hooked(
        model._model, {"transformer.h.5": visit, "transformer.h.11": lambda output: last.append(states(output).clone())}
    ):
        ids = model._model.generate(**tokens(model, prompt), do_sample=False, **options)
    return ids, fifth, last


def test_a_generation_gives_all_ids(model):
    with model.generate("Hello", max_new_tokens=5):
        output = model.generator.output.save()
    text = model.tokenizer.decode(output[0])

    ids, _, _ = plain_generation(model, "Hello", max_new_tokens=5)
    assert torch.equal(output, ids)
    assert text == model.tokenizer.decode(ids[0])


def test_what_stands_under_all_is_done_at_every_step(model):
    with model.generate("Hello", max_new_tokens=5) as tracer:
        hidden_states = list().save()
        with tracer.all():
            model.transformer.h[5].output[0][:, -1, :] *= 0.9
            hidden_states.append(model.transformer.h[-1].output)

    def damp(step, passing):
        passing[:, -1, :] *= 0.9
        return passing

    _, _, want = plain_generation(model, "Hello", damp, max_new_tokens=5)
    assert len(hidden_states) == len(want) == 5
    assert all(close(states(found), step) for found, step in zip(hidden_states, want, strict=True))


def test_what_stands_under_a_slice_is_done_at_its_steps_also_where_nothing_is_saved(model):
    entered = []
    handle = model._model.transformer.h[6].register_forward_pre_hook(lambda module, args: entered.append(args[0]))
    with model.generate("Hello", max_new_tokens=10) as tracer:
        with tracer.iter[2:5]:
            model.transformer.h[5].output[0][:] = 0
    handle.remove()

    def zero(step, passing):
        return torch.zeros_like(passing) if 2 <= step < 5 else passing

    _, want, _ = plain_generation(model, "Hello", zero, max_new_tokens=10)
    assert len(entered) == len(want)
    assert [step for step, found in enumerate(entered) if not found.any()] == [2, 3, 4]
    assert all(close(found, step) for found, step in zip(entered, want, strict=True))


def test_generate_inside_an_open_block_gives_ids_that_can_be_saved(model):
    with model.trace() as tracer:
        with tracer.invoke("What is 2+2?"):
            model.transformer.h[5].output[0][:, -1, :] *= 1.5
        output = model.generate(max_new_tokens=50).save()

    def scale(step, passing):
        if step == 0:
            passing[:, -1, :] *= 1.5
        return passing

    ids, _, _ = plain_generation(model, "What is 2+2?", scale, max_new_tokens=50)
    assert torch.equal(output, ids)
