"""Hold sessions against the same blocks one after the other: what flows from block to block."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loupe import LanguageModel, Model
from tests import tiny
from tests.tiny import hooked, outputs_of

X = torch.randn(2, 8, generator=torch.Generator().manual_seed(1))
Y = torch.randn(2, 8, generator=torch.Generator().manual_seed(2))
IDS = torch.tensor([[5, 9, 2, 7]])
OTHER = torch.tensor([[3, 3, 8, 1]])


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


def test_values_flow_into_later_blocks_without_being_saved(net, model):
    with model.session():
        with model.trace(X):
            hidden = model.layers[0].output
            doubled = hidden * 2
            number = hidden.sum()
            row = hidden[0]
        with model.trace(Y):
            model.layers[1].output = hidden
            first = model.output.save()
        with model.trace(Y):
            model.layers[1].output[:] = doubled / number + torch.cos(row)
            second = model.output.save()
    clean = layer(net, 0, X)
    assert torch.allclose(first, patched(net, 1, clean, Y))
    assert torch.allclose(second, patched(net, 1, clean * 2 / clean.sum() + torch.cos(clean[0]), Y), atol=1e-6)


def test_tuples_and_dicts_flow_whole_and_by_item():
    net = tiny.net()
    model = Model(net)
    x, y = torch.ones(2, 4), torch.full((2, 4), 2.0)
    with model.session():
        with model.trace(x):
            whole = model.output
            pair = whole["pair"]
        with model.trace(y):
            model.output["pair"] = pair
            model.output["logits"] = pair[0][:, :2] * 10
            result = model.output.save()
        with model.trace(y):
            again = (whole["logits"] + pair[1]).save()
    want = net(x)
    assert torch.allclose(result["logits"], want["pair"][0][:, :2] * 10)
    assert torch.allclose(result["pair"][0], want["pair"][0])
    assert torch.allclose(again, want["logits"] + want["pair"][1])


def test_a_chain_of_blocks_is_followed_through_every_block(net, model):
    want = [layer(net, 0, X)]
    for place in range(1, 5):
        want.append(patched(net, 0, want[-1], X) + place)
    with model.session():
        with model.trace(X):
            value = model.layers[0].output
        for place in range(1, 5):
            with model.trace(X):
                model.layers[0].output = value
                value = model.output + place
        with model.trace(X):
            last = (value * 1).save()
    assert torch.allclose(last, want[-1])


def test_a_double_loop_equals_separate_traces(language):
    h = language.transformer.h
    with language.trace(OTHER):
        clean = [h[place].output[0].save() for place in range(3)]
    separate = []
    for place in range(3):
        for position in range(4):
            with language.trace(IDS):
                h[place].output[0][:, position] = clean[place][:, position]
                separate.append(language.lm_head.output[0, -1].save())
    grouped = []
    with language.session():
        with language.trace(OTHER):
            states = [h[place].output[0] for place in range(3)]
        for place in range(3):
            for position in range(4):
                with language.trace(IDS):
                    h[place].output[0][:, position] = states[place][:, position]
                    grouped.append(language.lm_head.output[0, -1].save())
    assert len(grouped) == 12
    assert torch.allclose(torch.stack(grouped), torch.stack(separate), atol=1e-6)
    assert len({tuple(each.tolist()) for each in grouped}) == 10  # in the last layer only the last position counts


programs = st.lists(
    st.tuples(st.sampled_from(["read", "patch", "scale", "look", "between"]), st.integers(0, 2), st.integers(0, 1)),
    min_size=1,
    max_size=6,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(program=programs)
def test_random_blocks_in_a_session_equal_the_same_blocks_alone(net, model, program):
    """The oracle runs each block with plain hooks; a value that is carried on is a plain tensor there."""
    carried, want = torch.ones(2, 8), []
    for step, place, row in program:
        x = X if row else Y
        clean = layer(net, place, x)
        if step == "read":
            carried = carried + clean
        elif step == "patch":
            new = torch.cat([carried[:1], clean[1:]])
            want.append(patched(net, place, new, x))
            carried = layer(net, place, x) * 0 + new
        elif step == "scale":
            want.append(patched(net, place, clean * carried[row].tanh(), x))
        elif step == "look":
            carried = carried * (2 if clean.sum() > carried.sum() else 0.5)
        else:
            carried = carried.clamp(-2, 2)

    found, value = [], torch.ones(2, 8)
    with model.session():
        for step, place, row in program:
            if step == "between":
                value = value.clamp(-2, 2) if isinstance(value, torch.Tensor) else value
                continue
            with model.trace(X if row else Y):
                output = model.layers[place].output
                if step == "read":
                    value = value + output
                elif step == "patch":
                    output[:1] = value[:1]
                    found.append(model.output.save())
                    value = output.clone()
                elif step == "scale":
                    model.layers[place].output = output * value[row].tanh()
                    found.append(model.output.save())
                else:
                    value = value * (2 if output.sum() > value.sum() else 0.5)
        if program:
            with model.trace(X):
                last = (value + model.layers[0].output * 0).save()
    assert len(found) == len(want)
    for one, other in zip(found, want, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    assert torch.allclose(last, carried, atol=1e-4)


def test_a_value_of_an_earlier_block_can_be_changed_in_place_in_a_later_one(net, model):
    with model.session():
        with model.trace(X):
            hidden = model.layers[0].output
            kept = hidden.clone().save()
        with model.trace(Y):
            hidden[:, 0] = 7
            hidden *= 2
            model.layers[1].output = hidden
            first = model.output.save()
        with model.trace(Y):
            seen = (hidden + 0).save()
        assert float(hidden[0, 0]) == 14
        with model.trace(Y):
            hidden[0, 1] = 5
        assert float(hidden[0, 1]) == 5
    clean = layer(net, 0, X)
    changed = clean.clone()
    changed[:, 0] = 7
    changed *= 2
    assert torch.equal(kept, clean)
    assert torch.allclose(seen, changed)
    assert torch.allclose(first, patched(net, 1, changed, Y))


def test_hidden_states_of_a_block_output_flow_as_index_zero(language):
    h = language.transformer.h
    with language.session():
        with language.trace(OTHER):
            output = h[1].output
            attention = h[1].attn.output
        with language.trace(IDS):
            h[1].output[0][:] = output[0]
            h[2].attn.output[0][:] = attention[0]
            found = language.output.save()
    hf = tiny.hf_model("gpt2")
    clean, _ = outputs_of(hf, ["transformer.h.1", "transformer.h.1.attn"], OTHER)
    changes = {
        "transformer.h.1": lambda _o: clean["transformer.h.1"],
        "transformer.h.2.attn": lambda o: (clean["transformer.h.1.attn"][0], *o[1:]),
    }
    with hooked(hf, changes):
        assert torch.allclose(found, hf(IDS).logits, atol=1e-5)
