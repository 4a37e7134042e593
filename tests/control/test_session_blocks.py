"""Hold that every kind of block stands in a session: invokes, generations, scans, edited copies, other models."""

import pytest
import torch

from loupe import LanguageModel, Model
from tests import tiny
from tests.tiny import hooked, outputs_of

X = torch.randn(2, 8, generator=torch.Generator().manual_seed(1))
Y = torch.randn(2, 8, generator=torch.Generator().manual_seed(2))
IDS = torch.tensor([[5, 9, 2, 7]])
OTHER = torch.tensor([[3, 3, 8, 1]])
GENERATE = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}


@pytest.fixture
def net():
    return tiny.stack()


@pytest.fixture
def model(net):
    return Model(net)


@pytest.fixture
def language():
    return LanguageModel(tiny.hf_model("gpt2"), tokenizer=tiny.tokenizer())


def layer(net, place, x):
    return outputs_of(net, [f"layers.{place}"], x)[0][f"layers.{place}"]


def patched(net, place, value, x):
    with hooked(net, {f"layers.{place}": lambda _output: value}):
        return net(x)


def test_invokes_stand_in_the_blocks_of_a_session(net, model):
    with model.session():
        with model.trace() as tracer:
            with tracer.invoke(X):
                first = model.layers[0].output
            with tracer.invoke(Y):
                second = model.layers[0].output
        with model.trace() as tracer:
            with tracer.invoke(Y):
                model.layers[1].output[:] = first
                a = model.output.save()
            with tracer.invoke(X):
                model.layers[1].output[:] = second
                b = model.output.save()
    assert torch.allclose(a, patched(net, 1, layer(net, 0, X), Y), atol=1e-6)
    assert torch.allclose(b, patched(net, 1, layer(net, 0, Y), X), atol=1e-6)


def test_a_value_of_an_earlier_block_is_the_prompt_of_a_later_one(net, model):
    with model.session():
        with model.trace(X):
            hidden = model.layers[0].output
        with model.trace(hidden):
            first = model.output.save()
        with model.trace() as tracer, tracer.invoke(hidden):
            second = model.output.save()
        with model.layers[1].trace(hidden):
            third = model.layers[1].output.save()
    clean = layer(net, 0, X)
    assert torch.allclose(first, net(clean))
    assert torch.allclose(second, net(clean))
    assert torch.allclose(third, net.layers[1](clean))


def test_generations_stand_in_a_session(language):
    h, hf = language.transformer.h, tiny.hf_model("gpt2")
    with language.session():
        with language.trace(OTHER):
            steer = h[1].output[0][:, -1] * 4
        with language.generate(IDS, **GENERATE) as tracer:
            with tracer.all():
                h[1].output[0][:, -1] += steer
                last = h[2].output[0][:, -1]
            ids = tracer.result
        with language.trace(ids):
            after = language.lm_head.output[0, -1].save()
        plain = language.generate(IDS, **GENERATE)
        assert torch.equal(plain, hf.generate(IDS, **GENERATE))
        with language.trace(IDS):
            final = (last * 1).save()
        ids.save()
    vector = outputs_of(hf, ["transformer.h.1"], OTHER)[0]["transformer.h.1"][:, -1:] * 4
    seen = []
    changes = {
        "transformer.h.1": lambda o: torch.cat([o[:, :-1], o[:, -1:] + vector], 1),
        "transformer.h.2": lambda o: seen.append(o[:, -1]),
    }
    with hooked(hf, changes):
        want = hf.generate(IDS, **GENERATE)
    assert torch.equal(ids, want)
    assert torch.allclose(after, hf(want).logits[0, -1], atol=1e-5)
    assert torch.allclose(final, seen[-1], atol=1e-5)


def test_scans_and_edits_stand_in_a_session(net, model):
    with model.session():
        with model.trace(X):
            hidden = model.layers[0].output
        with model.scan(Y):
            shape = model.layers[1].output.shape.save()
        with model.edit() as edited:
            edited.layers[1].output[:] = hidden
        with edited.trace(Y):
            mine = edited.output
        with model.trace(Y):
            together = (model.output + mine).save()
    want = patched(net, 1, layer(net, 0, X), Y)
    assert tuple(shape) == (2, 8)
    assert torch.allclose(together, want + net(Y))


def test_a_block_on_another_model_runs_at_once_and_gets_values_of_the_session(net, model):
    other = tiny.Stack()
    second = Model(other)
    with model.session():
        with model.trace(X):
            hidden = model.layers[0].output
        with second.trace(Y):
            second.layers[0].output = hidden
            found = second.output.save()
        assert torch.allclose(found, patched(other, 0, layer(net, 0, X), Y))
        with second.session():
            with second.trace(Y):
                inner = second.layers[0].output
            with model.trace(Y):
                model.layers[1].output = hidden + inner
                both = model.output.save()
    assert torch.allclose(both, patched(net, 1, layer(net, 0, X) + layer(other, 0, Y), Y), atol=1e-6)


def test_a_session_loads_no_weights_before_it_runs():
    fresh, prompts = LanguageModel("loupe/landmarks"), ("The Eiffel Tower is in", "The Colosseum is in")
    with fresh.session():
        with fresh.trace(prompts[0]):
            hidden = fresh.transformer.h[4].output[0]
            assert hidden.shape == (1, 5, 96)
        with fresh.trace(prompts[1]):
            assert hidden.shape == (1, 5, 96)
            fresh.transformer.h[4].output[0][:, -1] = hidden[:, -1]
            found = fresh.output[0, -1].save()
        assert not fresh.dispatched
    hf, ids = fresh._model, [fresh.tokenizer(each, return_tensors="pt").input_ids for each in prompts]
    clean = outputs_of(hf, ["transformer.h.4"], ids[0])[0]["transformer.h.4"]
    with hooked(hf, {"transformer.h.4": lambda o: torch.cat([o[:, :-1], clean[:, -1:]], 1)}):
        assert torch.allclose(found, hf(ids[1]).logits[0, -1], atol=1e-4)
