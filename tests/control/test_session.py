"""Hold sessions against the same blocks one after the other: what flows between blocks, and what is there when."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import loupe
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


def test_index_zero_of_an_earlier_blocks_output_is_its_hidden_states_in_and_between_blocks(language):
    h, ids = language.transformer.h, torch.cat([IDS, OTHER])
    new = torch.randn(2, 4, 32, generator=torch.Generator().manual_seed(3))
    with language.session():
        with language.trace(ids):
            output = h[1].output
        with language.trace(ids):
            output[0] = new
            h[1].output = output
            found = language.output.save()
        assert torch.equal(output[0], new)
        output[0] = new * 2
        assert torch.equal(output[0][1], new[1] * 2)
        with language.trace(ids):
            again = output[0].clone().save()
    with hooked(tiny.hf_model("gpt2"), {"transformer.h.1": lambda _o: new}):
        assert torch.allclose(found, tiny.hf_model("gpt2")(ids).logits, atol=1e-5)
    assert torch.equal(again, new * 2)


def test_values_are_looked_at_between_blocks(net, model, capsys):
    clean = layer(net, 0, X)
    with model.session() as session:
        with model.trace(X):
            hidden = model.layers[0].output
            best, places = hidden.max(1)
            total = hidden.sum().save()
        assert "waits" in str(session)
        assert isinstance(hidden, torch.Tensor)
        assert hidden.shape == (2, 8)
        assert "has run" in str(session)
        assert float(total) == pytest.approx(clean.sum().item())
        assert (hidden.sum() > 0) == (clean.sum() > 0)
        print(f"{hidden.mean():.4f}")
        assert torch.equal(torch.relu(hidden), torch.relu(clean))
        assert torch.equal(hidden @ hidden.T, clean @ clean.T)
        assert torch.equal(best, clean.amax(1))
        assert [int(place) for place in places] == clean.argmax(1).tolist()
        assert len(hidden) == 2
        for row, want in zip(hidden, clean, strict=True):
            assert torch.equal(row, want)
        factor = 3.0 if hidden.norm() > 1 else 2.0
        with model.trace(Y):
            model.layers[0].output = hidden * factor + best[:, None] * model.layers[0].output
            found = model.layers[0].output.save()
    assert capsys.readouterr().out == f"{clean.mean():.4f}\n"
    assert torch.allclose(found, clean * 3 + clean.amax(1)[:, None] * layer(net, 0, Y))


def test_a_value_that_has_been_looked_at_still_flows_without_a_second_pass(net, model):
    passes = []
    handle = net.register_forward_pre_hook(lambda _m, _i: passes.append(1))
    with model.session():
        with model.trace(X):
            hidden = model.layers[0].output
        float(hidden.sum())
        for _ in range(3):
            with model.trace(Y) as tracer:
                model.layers[1].output[:] = hidden * model.layers[0].output
                found = model.output.save()
    handle.remove()
    assert len(passes) == 4
    assert [node.kind for node in tracer.graph].count("given") == 1
    want = patched(net, 1, layer(net, 0, X) * layer(net, 0, Y), Y)
    assert torch.allclose(found, want)


def test_a_look_inside_a_later_block_runs_what_stands_above(net, model):
    mine = torch.zeros(2, 8)
    with model.session():
        with model.trace(X):
            first = model.layers[0].output
            mine[:] = first * 2
        with model.trace(Y):
            second = model.layers[0].output
            assert float(first.sum()) == pytest.approx(layer(net, 0, X).sum().item())
            if second.sum() > first.sum():
                model.layers[1].output[:] = first
            else:
                model.layers[1].output[:] = second + mine
            found = model.output.save()
    a, b = layer(net, 0, X), layer(net, 0, Y)
    assert torch.allclose(found, patched(net, 1, a if b.sum() > a.sum() else b + a * 2, Y))


def test_a_line_of_a_later_block_is_no_line_of_a_run_that_it_begins(net, model):
    mine = torch.zeros(2, 8)
    with model.session():
        with model.trace(X):
            first = model.layers[0].output + mine
        with model.trace(Y):
            mine[:] = model.layers[0].output
            assert float(first.sum()) == pytest.approx(layer(net, 0, X).sum().item(), rel=1e-5)
            found = (mine + 1).save()
    assert torch.allclose(found, layer(net, 0, Y) + 1)


def test_a_value_may_be_saved_in_a_later_block_or_between_blocks(net, model):
    with model.session():
        with model.trace(X):
            one, two, three = (model.layers[place].output for place in range(3))
        one.save()
        with model.trace(Y):
            two.save()
        float(three.sum())
        three.save()
    assert torch.equal(one, layer(net, 0, X))
    assert torch.equal(two, layer(net, 1, X))
    assert torch.equal(three, layer(net, 2, X))


def test_containers_of_a_session_hold_values_of_all_its_blocks(net, model):
    with model.session():
        results = [].save()
        table = {}.save()
        for place in range(3):
            row = []
            for x in (X, Y):
                with model.trace(x):
                    row.append(model.layers[place].output.sum())
                    states = loupe.save([model.layers[place].output])
                    table[place] = model.layers[place].output * 2
            results.append(row)
        with model.trace(X):
            states.append(model.layers[0].output)
        float(results[0][0])
    assert not hasattr(list, "save")
    for place in range(3):
        assert results[place] == [layer(net, place, x).sum() for x in (X, Y)]
        assert torch.equal(table[place], layer(net, place, Y) * 2)
        assert type(results[place][0]) is torch.Tensor
    assert torch.equal(states[0], layer(net, 2, Y))
    assert torch.equal(states[1], layer(net, 0, X))


def test_a_cache_of_a_session_is_filled_when_it_is_asked(net, model):
    with model.session():
        with model.trace(X) as tracer:
            cache = tracer.cache()
        with model.trace(Y) as tracer:
            later = tracer.cache(modules="layers.1")
        assert torch.equal(cache["layers.1"].output, layer(net, 1, X))
    assert torch.equal(later["layers.1"].output, layer(net, 1, Y))


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


def test_a_session_prints_its_blocks(model):
    with model.session() as session:
        assert str(session) == "(empty session)"
        with model.trace(X):
            hidden = model.layers[0].output
        with model.trace(Y):
            model.layers[1].output = hidden
        text = str(session)
        float(hidden.sum())
        after = str(session)
    assert [line.split(":")[0] for line in text.splitlines()] == ["block 0, waits", "block 1, waits"]
    assert [line.split(":")[0] for line in after.splitlines()] == ["block 0, has run", "block 1, waits"]
    assert "with model.trace(X):" in text
