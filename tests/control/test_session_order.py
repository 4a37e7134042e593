"""Hold that a block of a session computes what it would compute at its place, whatever the lines around it do."""

import copy
import gc
import threading
import weakref

import numpy as np
import pytest
import torch
from torch import nn

import loupe
from loupe import LanguageModel, Model
from tests import tiny
from tests.tiny import outputs_of

X = torch.randn(2, 8, generator=torch.Generator().manual_seed(1))
Y = torch.randn(2, 8, generator=torch.Generator().manual_seed(2))
IDS = torch.tensor([[5, 9, 2, 7]])


@pytest.fixture
def net():
    return tiny.stack()


@pytest.fixture
def model(net):
    return Model(net)


def layer(net, place, x):
    return outputs_of(net, [f"layers.{place}"], x)[0][f"layers.{place}"]


CHANGES = {
    "an item": lambda t, step: t.__setitem__(0, step),
    "fill_": lambda t, step: t.fill_(step),
    "in place": lambda t, step: t.__iadd__(step),
    "a view": lambda t, step: t[1:].mul_(step),
    "out": lambda t, step: torch.add(t, step, out=t),
    "data": lambda t, step: t.data.add_(step),
    "relu in place": lambda t, step: torch.nn.functional.relu(t.sub_(0.5), inplace=True),
    "copy_": lambda t, step: t.copy_(torch.full_like(t, step)),
    "foreach": lambda t, step: torch._foreach_add_([t], step),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_tensor_that_a_block_uses_may_be_changed_below_the_block(net, model, change):
    steer, prompt = torch.ones(8), X.clone()
    found, want = [], []
    with model.session():
        for step in range(1, 4):
            with model.trace(prompt):
                model.layers[0].output[:] += steer
                found.append(model.layers[0].output.save())
            want.append(layer(net, 0, prompt.clone()) + steer.clone())
            CHANGES[change](steer, step)
            CHANGES[change](prompt, step)
    for one, other in zip(found, want, strict=True):
        assert torch.allclose(one, other)
    assert not torch.equal(want[0], want[2])


def test_a_tensor_may_be_changed_in_the_body_of_a_later_block(net, model):
    steer = torch.zeros(8)
    with model.session():
        with model.trace(X):
            first = (model.layers[0].output + steer).save()
        with model.trace(X):
            steer += 1
            second = (model.layers[0].output + steer).save()
    assert torch.allclose(first, layer(net, 0, X))
    assert torch.allclose(second, layer(net, 0, X) + 1)


def test_weights_may_be_changed_between_blocks(net):
    net = copy.deepcopy(net)
    model, found, want = Model(net), [], []
    with model.session():
        for _ in range(3):
            with model.trace(X):
                found.append(model.output.save())
            want.append(copy.deepcopy(net)(X))
            with torch.no_grad():
                net.layers[0].weight.mul_(0.5)
    for one, other in zip(found, want, strict=True):
        assert torch.allclose(one, other)


def test_what_a_block_changes_is_changed_when_it_is_looked_at(net, model):
    total, seen = torch.zeros(8), []
    with model.session():
        for x in (X, Y):
            with model.trace(x):
                total[:] = model.layers[0].output.sum(0)
            seen.append(total.clone())
            assert not torch.equal(total, torch.zeros(8))
    assert torch.allclose(seen[0], layer(net, 0, X).sum(0))
    assert torch.allclose(seen[1], layer(net, 0, Y).sum(0))


def test_a_later_block_uses_what_an_earlier_one_has_written_to_a_tensor_of_the_users(net, model):
    mine, passes = torch.zeros(2, 8), []
    handle = net.register_forward_pre_hook(lambda _m, _i: passes.append(1))
    with model.session():
        with model.trace(X):
            mine[:] = model.layers[0].output
        with model.trace(Y):
            model.layers[1].output[:] = model.layers[0].output + mine
            found = model.layers[1].output.save()
        assert passes == []
    handle.remove()
    assert torch.allclose(found, layer(net, 0, X) + layer(net, 0, Y))


def test_a_waiting_block_takes_a_value_as_it_was_before_a_line_below_changes_it(net, model):
    with model.session():
        with model.trace(X):
            hidden = model.layers[0].output
        with model.trace(Y):
            first = (hidden + 0).save()
        float(hidden.sum())
        with model.trace(Y):
            second = (hidden + 0).save()
        hidden[:] = 0
        with model.trace(Y):
            third = (hidden + 0).save()
    assert torch.equal(first, layer(net, 0, X))
    assert torch.equal(second, layer(net, 0, X))
    assert third.abs().sum() == 0


def test_tensors_of_a_function_of_the_users_may_be_changed_below(net, model):
    inside = torch.zeros(8)

    @loupe.fn
    def steer(v):
        return v + inside

    with model.session():
        with model.trace(X):
            first = steer(model.layers[0].output).save()
        inside += 3
        with model.trace(X):
            second = steer(model.layers[0].output).save()
    assert torch.allclose(first, layer(net, 0, X))
    assert torch.allclose(second, layer(net, 0, X) + 3)


def test_training_in_a_session_takes_the_steps_of_separate_traces(net, model):
    def train(session):
        torch.manual_seed(0)
        probe = nn.Linear(8, 1)
        optimizer, losses = torch.optim.Adam(probe.parameters(), lr=0.1), []
        with session:
            for _ in range(4):
                with model.trace(X):
                    loss = probe(model.layers[1].output).pow(2).mean().save()
                    loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                losses.append(loss)
        return [loss.item() for loss in losses]

    with model.trace(X):
        hidden = model.layers[1].output.save()
    torch.manual_seed(0)
    probe = nn.Linear(8, 1)
    optimizer, want = torch.optim.Adam(probe.parameters(), lr=0.1), []
    for _ in range(4):
        loss = probe(hidden.value).pow(2).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        want.append(loss.item())
    assert train(model.session()) == pytest.approx(want, rel=1e-5)
    assert want[-1] < want[0]


def test_a_block_runs_in_the_torch_modes_in_which_it_was_opened(net, model):
    steer = torch.zeros(8, requires_grad=True)
    with model.session():
        with torch.no_grad(), model.trace(X):
            first = (model.layers[0].output + steer).save()
        with model.trace(X):
            second = (model.layers[0].output + steer).save()
        with torch.autocast("cpu", dtype=torch.bfloat16), model.trace(X):
            third = model.layers[0].output.save()
        with model.trace(X):
            fourth = (model.layers[0].output + steer).save()
        with torch.no_grad():
            float(fourth.sum())
    assert (first.requires_grad, second.requires_grad, fourth.requires_grad) == (False, True, True)
    assert third.dtype == torch.bfloat16
    assert second.dtype == fourth.dtype == torch.float32


class Noisy(nn.Module):
    """Dropout that is always on, between two layers."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        return self.second(torch.dropout(self.first(x), 0.5, True))


def by_turns(model, *, group, between):
    torch.manual_seed(3)
    found = []
    session = model.session() if group else None
    if session is not None:
        session.__enter__()
    try:
        for step in range(4):
            with model.trace(X):
                noise = torch.randn_like(model.first.output)
                found.append((model.output + noise).save())
            between(step, found)
    finally:
        if session is not None:
            session.__exit__(None, None, None)
    return [each.clone() for each in found], torch.rand(1)


BETWEEN = {
    "nothing": lambda step, found: None,
    "a seed": lambda step, found: torch.manual_seed(0) if step in (0, 1) else None,
    "one seed": lambda step, found: torch.manual_seed(5) if step == 2 else None,
    "draws": lambda step, found: torch.rand(step + 1),
    "a draw in place": lambda step, found: torch.empty(3).normal_(),
    "dropout": lambda step, found: torch.nn.functional.dropout(torch.ones(4)),
    "looks": lambda step, found: float(found[step // 2].sum()),
    "looks and a seed": lambda step, found: (float(found[0].sum()), torch.manual_seed(1)) if step == 2 else None,
    "a seed and a look": lambda step, found: (torch.manual_seed(1), float(found[0].sum())) if step == 2 else None,
}


@pytest.mark.parametrize("what", BETWEEN)
def test_random_numbers_are_those_of_separate_traces(what):
    torch.manual_seed(0)
    model = Model(Noisy())
    want, last = by_turns(model, group=False, between=BETWEEN[what])
    found, after = by_turns(model, group=True, between=BETWEEN[what])
    for one, other in zip(found, want, strict=True):
        assert torch.equal(one, other)
    assert torch.equal(after, last)


def test_sampled_generations_are_those_of_separate_runs():
    model = LanguageModel(tiny.hf_model("gpt2"), tokenizer=tiny.tokenizer())
    options = {"max_new_tokens": 6, "do_sample": True, "eos_token_id": None, "pad_token_id": 0}
    torch.manual_seed(0)
    want = [model._model.generate(IDS, **options) for _ in range(3)]
    torch.manual_seed(0)
    with model.session():
        with model.generate(IDS, **options) as tracer:
            first = tracer.result.save()
        with model.generate(IDS, **options) as tracer:
            second = tracer.result.save()
        third = model.generate(IDS, **options).value
    assert torch.equal(first, want[0])
    assert torch.equal(second, want[1])
    assert torch.equal(third, want[2])


def test_blocks_wait_until_something_needs_them(net, model):
    passes = []
    handle = net.register_forward_pre_hook(lambda _m, _i: passes.append(1))
    other, unrelated = torch.ones(3), np.ones(3)
    with model.session():
        for _ in range(3):
            with model.trace(X):
                hidden = model.layers[0].output
                assert hidden.shape == (2, 8)
                kept = (hidden * torch.ones(8)).save()
            other += 1
            other[0] = unrelated[0]
            torch.relu(X)
            print(repr(kept), hidden.__class__)
        assert passes == []
    handle.remove()
    assert len(passes) == 3


def test_unsaved_values_are_freed_when_the_session_is_over(net, model):
    kept = []

    class Watch(nn.Module):
        def forward(self, x):
            out = x * 2
            if not out.is_meta:
                kept.append(weakref.ref(out))
            return out

    module = nn.Sequential(nn.Linear(8, 8), Watch(), nn.Linear(8, 8))
    model = Model(module)
    with model.session() as session:
        with model.trace(X) as tracer:
            hidden = model[1].output
            pair = torch.max(model[2].output, 0).save()
        with model.trace(Y) as later:
            model[2].output[:] = hidden
            model.output.save()
        float(hidden.sum())
        with model.trace(Y) as last:
            both = torch.max(hidden + 0, 0).save()
    gc.collect()
    assert [each() for each in kept] == [None, None]
    assert both[0].shape == (8,)
    assert (session, tracer, later, last, pair) is not None


def test_a_value_is_freed_after_the_last_block_that_takes_it(net, model):
    alive = []

    class Watch(nn.Module):
        def __init__(self):
            super().__init__()
            self.seen = []

        def forward(self, x):
            alive.append(sum(each() is not None for each in self.seen))
            out = x + 1
            self.seen.append(weakref.ref(out))
            return out

    model = Model(nn.Sequential(nn.Linear(8, 8), Watch(), nn.Linear(8, 8)))
    with model.session():
        value = torch.zeros(2, 8)
        for _ in range(6):
            with model.trace(X):
                model[0].output[:] += value
                value = model[1].output
                model.output.sum().save()
    assert max(alive) <= 2

    alive.clear()
    with model.session():
        for _ in range(6):
            with model.trace(X):
                value = model[1].output
            float(value.sum())
    assert max(alive) <= 2


def test_two_threads_have_sessions_of_their_own(net, model):
    wrong, start = [], threading.Barrier(2)

    def work(x, y):
        start.wait()
        for turn in range(4):
            with model.session():
                with model.trace(x):
                    hidden = model.layers[0].output
                if turn % 2:
                    float(hidden.sum())
                with model.trace(y):
                    model.layers[1].output = hidden
                    found = model.layers[1].output.save()
            if not torch.allclose(found, net.layers[0](x)):
                wrong.append(turn)

    threads = [threading.Thread(target=work, args=pair) for pair in ((X, Y), (Y, X))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
