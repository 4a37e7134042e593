"""The rows of an invoke are known from sizes of batch, never guessed from a length; what cannot be narrowed says so."""

import copy

import pytest
import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

from loupe import LanguageModel, Model
from loupe.errors import RowsError
from tests import tiny


class Mixes(nn.Module):
    """Has outputs whose rows are those of single prompts, pairs of prompts, and a choice of elements."""

    def __init__(self):
        super().__init__()
        self.pairs, self.chosen, self.flat, self.last = Pairs(), Chosen(), Flat(), nn.Linear(4, 4)

    def forward(self, x):
        pairs = self.pairs(x)
        chosen = self.chosen(x)
        return self.last(x) + pairs.mean() + chosen.sum() + self.flat(x).sum()


class Pairs(nn.Module):
    def forward(self, x):
        return x @ x.T


class Chosen(nn.Module):
    def forward(self, x):
        return x[x > 0]


class Flat(nn.Module):
    def forward(self, x):
        return x.repeat_interleave(3, 0).view(-1, 2, 2)


class Turned(nn.Module):
    """Keeps the batch in its second dimension, as recurrent layers and CLIP do."""

    def __init__(self):
        super().__init__()
        self.inner, self.state = nn.Linear(4, 4), nn.GRU(4, 6)

    def forward(self, x):
        return self.state(self.inner(x.transpose(0, 1)))[0].transpose(0, 1)


class Decides(nn.Module):
    """Goes on by the value of its input."""

    def __init__(self):
        super().__init__()
        self.up, self.down, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        x = self.up(x) if x.sum() > 0 else self.down(x)
        return self.last(x)


class Normed(nn.Module):
    """Keeps statistics of the batch, drops at random, may decide by data, so that a probe has to run it for real."""

    def __init__(self, decides):
        super().__init__()
        self.inner, self.norm, self.drop, self.last = (
            nn.Linear(4, 4),
            nn.BatchNorm1d(4),
            nn.Dropout(0.5),
            nn.Linear(4, 4),
        )
        self.decides = decides

    def forward(self, x):
        if self.decides and x.sum() > 1e9:
            x = x * 0
        x = self.drop(self.inner(x))
        self.norm(x)
        return self.last(x)


def rows(count, seed=0):
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))


def seeded(module_class, *args):
    torch.manual_seed(0)
    return module_class(*args)


def close(one, other, atol=1e-5):
    torch.testing.assert_close(
        torch.as_tensor(one.value if hasattr(one, "value") else one), other, atol=atol, rtol=1e-4
    )


@pytest.mark.parametrize("sizes", [(1, 1), (2, 2), (1, 3), (1, 1, 1, 1)])
def test_a_table_that_has_the_batchs_length_is_never_sliced(sizes):
    torch.manual_seed(0)
    module = tiny.Stack(table=sum(sizes))
    model = Model(module)
    found = []
    with model.trace() as tracer:
        for number, size in enumerate(sizes):
            with tracer.invoke(torch.randn(size, 8, generator=torch.Generator().manual_seed(number))):
                found.append((model.table.output.save(), model.table.input.save(), model.layers[0].output.save()))
    for (table, places, hidden), size in zip(found, sizes, strict=True):
        assert torch.equal(table.value, module.table.weight)
        assert places.tolist() == list(range(sum(sizes)))
        assert hidden.shape == (size, 8)


@pytest.mark.parametrize("in_place", [False, True])
def test_a_shared_value_is_not_written_by_one_prompt(in_place):
    model = Model(tiny.stack())
    with pytest.raises(RowsError, match=r"table\.output") as caught:
        with model.trace() as tracer:
            with tracer.invoke(torch.ones(1, 8)):
                model.output.save()
            with tracer.invoke(torch.ones(1, 8)):
                if in_place:
                    model.table.output[:] = 0
                else:
                    model.table.output = torch.zeros(2, 8)
                model.output.save()
    assert "tracer.invoke()" in caught.value.remedy
    assert caught.value.line.filename == __file__


def test_a_shared_value_is_written_for_the_whole_batch():
    module, model = tiny.stack(), Model(tiny.stack())
    one, two = torch.ones(1, 8), torch.zeros(1, 8)
    with model.trace() as tracer:
        with tracer.invoke(one):
            first = model.output.save()
        with tracer.invoke(two):
            second = model.output.save()
        with tracer.invoke():
            model.table.output = model.table.output * 3
    with tiny.hooked(module, {"table": lambda output: output * 3}):
        close(first, module(one))
        close(second, module(two))


def test_position_embeddings_without_padding_are_shared_or_rowed_but_right():
    module = tiny.hf_model("gpt2")
    model = LanguageModel(module)
    prompts = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    with model.trace() as tracer:
        found = []
        for prompt in prompts:
            with tracer.invoke(prompt):
                found.append(model.transformer.wpe.output.save())
    for each in found:
        assert each.shape == (1, 3, 32)
        close(each[0], module.transformer.wpe.weight[:3].detach())


def test_expert_layers_that_flatten_batch_and_tokens_give_each_prompt_its_own():
    module = tiny.hf_model("mixtral")
    model = LanguageModel(module)
    prompts = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    names = ["model.layers.1.mlp.gate", "model.layers.1.mlp.experts", "model.layers.1.mlp"]
    with model.trace() as tracer:
        found = []
        for prompt in prompts:
            with tracer.invoke(prompt):
                gate, experts, block = (model.get(name) for name in names)
                found.append((gate.output.save(), experts.output.save(), block.output.save(), experts.inputs.save()))
    for prompt, (gate, experts, block, inputs) in zip(prompts, found, strict=True):
        seen, _ = tiny.outputs_of(module, names, torch.tensor([prompt]))
        for one, other in zip(gate.value, seen[names[0]], strict=True):
            assert one.shape[0] == 3
            close(one, other, atol=1e-4)
        close(experts, seen[names[1]], atol=1e-4)
        close(block, seen[names[2]], atol=1e-4)
        assert torch.equal(inputs[0][1], seen[names[0]][2])


def test_an_edit_of_an_expert_layer_changes_one_prompt_alone():
    module = tiny.hf_model("mixtral")
    model = LanguageModel(module)
    with model.trace() as tracer:
        with tracer.invoke([1, 2, 3]):
            first = model.output.save()
        with tracer.invoke([4, 5, 6]):
            model.model.layers[1].mlp.experts.output[-1] = 2
            second = model.output.save()

    def change(output):
        output[-1] = 2

    with torch.no_grad():
        close(first, module(torch.tensor([[1, 2, 3]])).logits, atol=1e-4)
    with tiny.hooked(module, {"model.layers.1.mlp.experts": change}):
        close(second, module(torch.tensor([[4, 5, 6]])).logits, atol=1e-4)


def test_rows_are_found_in_any_dimension_and_in_multiples():
    module = seeded(Turned)
    model = Model(module)
    inputs = [torch.randn(n, 5, 4, generator=torch.Generator().manual_seed(n)) for n in (1, 5, 2)]
    with model.trace() as tracer:
        found = []
        for each in inputs:
            with tracer.invoke(each):
                model.inner.output[:, :, 0] += each.shape[0]
                found.append((model.inner.output.save(), model.state.output.save(), model.output.save()))
    for each, (inner, state, out) in zip(inputs, found, strict=True):

        def change(output, count=each.shape[0]):
            output[:, :, 0] += count

        with tiny.hooked(module, {"inner": change}):
            want = module(each)
            want_state = module.state(module.inner(each.transpose(0, 1)))
        assert inner.shape == (5, each.shape[0], 4)
        close(out, want)
        close(state[1], want_state[1])
    mixes = Model(seeded(Mixes))
    with mixes.trace() as tracer:
        with tracer.invoke(rows(2)):
            pass
        with tracer.invoke(rows(1, 1)):
            flat = mixes.flat.output.save()
    close(flat, Flat()(rows(1, 1)))


@pytest.mark.parametrize("name", ["pairs", "chosen"])
@pytest.mark.parametrize("write", [False, True])
def test_a_site_that_cannot_be_narrowed_is_refused_by_its_name(name, write):
    model = Model(seeded(Mixes))
    with pytest.raises(RowsError, match=rf"{name}\.output") as caught:
        with model.trace() as tracer:
            with tracer.invoke(rows(2)):
                kept = model.last.output.save()
            with tracer.invoke(rows(2, 1)):
                if write:
                    model.get(name).output = torch.zeros(2)
                    model.output.save()
                else:
                    model.get(name).output.save()
    assert "whole batch" in caught.value.remedy
    assert caught.value.line.filename == __file__
    assert tiny.hooks_on(model._model) == 0
    del kept


@pytest.mark.parametrize("name", ["pairs", "chosen"])
def test_such_a_site_is_there_for_the_whole_batch_and_for_a_prompt_alone(name):
    model = Model(seeded(Mixes))
    together = torch.cat([rows(2), rows(2, 1)])
    with model.trace() as tracer:
        with tracer.invoke(rows(2)):
            pass
        with tracer.invoke(rows(2, 1)):
            pass
        with tracer.invoke():
            whole = model.get(name).output.save()
    with model.trace(rows(2)):
        single = model.get(name).output.save()
    plain = {"pairs": Pairs(), "chosen": Chosen()}[name]
    close(whole, plain(together))
    close(single, plain(rows(2)))


def test_data_dependent_flow_is_probed_and_its_rows_are_right():
    module = seeded(Decides)
    model = Model(module)
    one, two = rows(2) + 5, rows(1, 1) + 5
    with model.trace() as tracer:
        with tracer.invoke(one):
            first = model.last.output.save()
        with tracer.invoke(two):
            model.up.output[:, 0] = 3
            second = model.last.output.save()

    def change(output):
        output[:, 0] = 3

    with tiny.hooked(module, {"up": change}):
        close(second, module(two))
    with torch.no_grad():
        close(first, module(one))
    assert tiny.hooks_on(module) == 0


@pytest.mark.parametrize("sizes", [(1, 1), (3, 3), (1, 2, 1)])
def test_a_probed_table_of_the_batchs_length_is_not_sliced(sizes):
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.stack = tiny.Stack(table=sum(sizes))

        def forward(self, x):
            return self.stack(x) if x.sum() > -1e9 else x

    module = seeded(Branch)
    model = Model(module)
    found = []
    with model.trace() as tracer:
        for number, size in enumerate(sizes):
            with tracer.invoke(torch.randn(size, 8, generator=torch.Generator().manual_seed(number))):
                found.append((model.stack.table.output.save(), model.stack.layers[1].output.save()))
    for (table, hidden), size in zip(found, sizes, strict=True):
        assert torch.equal(table.value, module.stack.table.weight)
        assert hidden.shape == (size, 8)


@pytest.mark.parametrize("decides", [False, True])
def test_scans_and_probes_disturb_neither_running_statistics_nor_random_numbers(decides):
    module = seeded(Normed, decides).train()
    twin = copy.deepcopy(module)
    model = Model(module)
    one, two = rows(3), rows(2, 1)
    torch.manual_seed(11)
    with torch.no_grad():
        want = twin(torch.cat([one, two]))
    state = torch.get_rng_state()
    torch.manual_seed(11)
    with model.trace() as tracer:
        with tracer.invoke(one):
            first = model.output.save()
        with tracer.invoke(two):
            second = model.output.save()
    close(first, want[:3])
    close(second, want[3:])
    assert torch.equal(torch.get_rng_state(), state)
    assert module.training
    for name, buffer in twin.named_buffers():
        assert torch.equal(module.get_buffer(name), buffer), name


def test_a_replay_leaves_running_statistics_as_one_pass_does():
    module = seeded(Normed, False).train()
    twin = copy.deepcopy(module)
    model = Model(module)
    torch.manual_seed(11)
    with model.trace(rows(5)):
        float(model.last.output.sum())
        float(model.inner.output.sum())
        model.output.save()
    torch.manual_seed(11)
    twin(rows(5))
    for name, buffer in twin.named_buffers():
        close(module.get_buffer(name), buffer)


def test_asking_for_a_shape_draws_no_random_numbers():
    module = seeded(Normed, False).train()
    model = Model(module)
    state, buffers = torch.get_rng_state(), copy.deepcopy(dict(module.named_buffers()))
    with pytest.raises(ZeroDivisionError):
        with model.trace(rows(5)):
            assert (model.drop(model.norm.output) * 2).shape == (5, 4)
            assert torch.rand_like(model.drop.output).shape == (5, 4)
            assert model.last.output.dtype == torch.float32
            1 / 0
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(module.get_buffer(name), buffer) for name, buffer in buffers.items())


@pytest.mark.parametrize("shape", [(1, 7, 32), (1, 3, 32), (2, 4, 32)])
def test_a_value_of_another_shape_is_refused_with_both_shapes(shape):
    model = LanguageModel(tiny.hf_model("gpt2"))
    with pytest.raises(RowsError, match=r"transformer\.h\.0\.output") as caught:
        with model.trace() as tracer:
            with tracer.invoke([1, 2, 3, 4]):
                model.output.save()
            with tracer.invoke([5, 6]):
                model.transformer.h[0].output = torch.zeros(shape)
                model.output.save()
    assert str(list(shape)) in str(caught.value)
    assert "[1, 4, 32]" in str(caught.value)


def test_an_output_that_is_a_tuple_is_narrowed_and_widened_leaf_by_leaf():
    model, module = Model(seeded(Turned)), seeded(Turned)
    inputs = [torch.randn(n, 5, 4, generator=torch.Generator().manual_seed(n)) for n in (2, 1)]
    with model.trace() as tracer:
        with tracer.invoke(inputs[0]):
            first = model.output.save()
        with tracer.invoke(inputs[1]):
            states, last = model.state.output[0], model.state.output[1]
            model.state.output = (states * 2, last * 0)
            again = model.state.output[1].save()
            second = model.output.save()
    with torch.no_grad():
        close(first, module(inputs[0]))
        close(second, module(inputs[1]) * 2)
    close(again, torch.zeros(1, 1, 6))


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_op_taps_have_the_rows_of_their_prompt(family):
    module = tiny.hf_model(family)
    model = LanguageModel(module)
    attention, mlp = model.model.layers[1].self_attn, model.model.layers[1].mlp
    prompts, found = [[1, 2, 3], [4, 5, 6]], []
    with model.trace() as tracer:
        for prompt in prompts:
            with tracer.invoke(prompt):
                found.append((attention.ops.softmax[0].output.save(), attention.ops.softmax[0].input.save()))
                mlp.output[:, 0] = prompt[0]
    for prompt, (pattern, scores) in zip(prompts, found, strict=True):
        with model.trace([prompt]):
            alone, alone_in = attention.ops.softmax[0].output.save(), attention.output[1].save()
        close(pattern, alone_in.value)
        close(pattern, alone.value)
        close(torch.softmax(scores.value, -1), alone_in.value)


class Entries(nn.Module):
    """Returns two values in a list, a dict or a model output."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, x):
        made = {"list": [x, x + 1], "dict": {0: x, 1: x + 1}}
        return made.get(self.kind) or BaseModelOutput(last_hidden_state=x, hidden_states=x + 1)


class Sums(nn.Module):
    def forward(self, found):
        one, two = found.values() if isinstance(found, dict) else found
        return one + two


@pytest.mark.parametrize(("kind", "key"), [("list", 1), ("dict", 1), ("model", "hidden_states")])
def test_an_entry_that_one_prompt_assigns_goes_on_for_that_prompt(kind, key):
    model = Model(nn.Sequential(Entries(kind), Sums()))
    with model.trace() as tracer:
        with tracer.invoke(torch.zeros(1, 2)):
            model[0].output[key] = torch.full((1, 2), 5.0)
            changed = model.output.save()
        with tracer.invoke(torch.zeros(2, 2)):
            other = model.output.save()
    close(changed, torch.full((1, 2), 5.0))
    close(other, torch.ones(2, 2))


def test_a_cache_is_that_of_the_prompt_or_is_refused():
    model = LanguageModel(tiny.hf_model("gpt2"))
    try:
        with model.trace() as tracer:
            with tracer.invoke([1, 2, 3]):
                cache = model.output.past_key_values.save()
            with tracer.invoke([4, 5, 6]):
                model.output.save()
    except RowsError:
        return
    assert cache.layers[0].keys.shape[0] == 1


def test_a_loss_is_that_of_the_prompt_or_is_refused():
    model = LanguageModel(tiny.hf_model("gpt2"))
    try:
        with model.trace() as tracer:
            with tracer.invoke([1, 2, 3], labels=torch.tensor([[1, 2, 3]])):
                loss = model.output.loss.save()
            with tracer.invoke([4, 5, 6], labels=torch.tensor([[4, 5, 6]])):
                model.output.save()
    except RowsError:
        return
    with torch.no_grad():
        close(loss, tiny.hf_model("gpt2")(torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]])).loss)


class Residual(nn.Module):
    """What goes into `b` also goes around it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        y = self.a(x)
        return self.b(y) + y


@pytest.mark.parametrize("first", ["replaces", "changes in place"])
def test_a_prompt_that_is_replaced_leaves_the_others_the_models_own_tensor(first):
    net = Residual()
    model, x, found = Model(net), torch.randn(2, 4), {}

    def replaces():
        model.b.input = model.b.input * 2

    def changes_in_place():
        model.b.input[:] += 1

    lines = {"replaces": replaces, "changes in place": changes_in_place}
    with model.trace() as tracer:
        for name in (first, *lines.keys() - {first}):
            with tracer.invoke(x):
                lines[name]()
                found[name] = model.output.save()
    with torch.no_grad():
        y = net.a(x)
        torch.testing.assert_close(found["replaces"].value, net.b(y * 2) + y)
        torch.testing.assert_close(found["changes in place"].value, net.b(y + 1) + y + 1)


def test_a_prompt_beside_one_that_is_replaced_has_the_gradient_that_it_has_alone():
    net = Residual()
    model, x = Model(net), torch.randn(2, 4)
    with model.trace() as tracer:
        with tracer.invoke(x):
            model.b.input = model.b.input * 2
            model.output.save()
        with tracer.invoke(x):
            gradient = model.b.input.grad.save()
            model.output.sum().backward()
    y = net.a(x).detach().requires_grad_()
    (want,) = torch.autograd.grad((net.b(y) + y).sum(), y)
    torch.testing.assert_close(gradient.value, want)
