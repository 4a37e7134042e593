"""Hold that values of a session are looked at, saved, collected and printed between its blocks and in later ones."""

import pytest
import torch

import loupe
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
