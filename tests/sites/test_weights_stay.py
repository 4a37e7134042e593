"""A block never changes the model's own weights and buffers for good, in whatever roundabout way it comes to them."""

import copy
import operator
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import loupe
from loupe import LanguageModel, Model
from loupe.errors import LoupeError, OperationError, WriteError
from tests import tiny
from tests.sites.weights import Clears, Held, check_unchanged, state_of

X = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def held():
    torch.manual_seed(0)
    return Held().eval()


def weight(model):
    return model.lin.weight


def as_operand(model):
    return model.lin.ops.linear[0].inputs[0][1]


def as_argument(model):
    return model.tied.inputs[0][1]


def in_a_list(model):
    return model.tied.inputs[1]["more"][1]


def as_output(model):
    return model.table.output


def as_buffer_operand(model):
    return model.norm.ops.batch_norm[0].inputs[0][1]


PLACES = {
    "parameter": (weight, "lin.weight"),
    "operand": (as_operand, "lin.weight"),
    "argument": (as_argument, "lin.weight"),
    "in a list": (in_a_list, "many.1"),
    "output": (as_output, "table.weight"),
    "of a list of parameters": (lambda model: getattr(model.many, "1"), "many.1"),
    "buffer": (lambda model: model.scale, "scale"),
    "statistics": (lambda model: model.norm.running_mean, "norm.running_mean"),
    "operand that is a buffer": (as_buffer_operand, "norm.running_mean"),
}

# A view of a tensor, or the tensor itself, by which it may be changed.
WAYS = {
    "itself": lambda w: w,
    "transposed": lambda w: w.T,
    "row": lambda w: w[0],
    "slice": lambda w: w[1:3],
    "flat": lambda w: w.view(-1),
    "reshaped": lambda w: w.reshape(-1),
    "detached": lambda w: w.detach(),
    "data": lambda w: w.data,
    "plus": lambda w: +w,
    "contiguous": lambda w: w.contiguous(),
    "same dtype": lambda w: w.to(torch.float32),
    "same type": lambda w: w.float(),
    "type as": lambda w: w.type_as(w),
    "expanded": lambda w: w.expand(1, *w.shape)[0],
    "conjugate": lambda w: w.conj(),
    "physical conjugate": lambda w: torch.conj_physical(w),
    "real": lambda w: torch.real(w),
    "einsum": lambda w: torch.einsum("...->...", w),
    "dropout of torch": lambda w: torch.dropout(w, 0.5, False),
    "dropout that trains not": lambda w: F.dropout(w, 0.5, False),
    "chunk": lambda w: w.chunk(2)[0],
    "unbound": lambda w: w.unbind()[1],
    "split": lambda w: torch.split(w, 1)[0],
    "at least 2d": lambda w: torch.atleast_2d(w),
    "diagonal": lambda w: torch.diagonal(torch.atleast_2d(w)),
    "permuted": lambda w: torch.moveaxis(torch.atleast_2d(w), 0, 1),
    "of a list": lambda w: operator.getitem([w, 1], 0),
}


def set_item(value, key, item):
    value[key] = item
    return value


CHANGES = {
    "zero_": lambda w: w.zero_(),
    "item": lambda w: set_item(w, 0, 0.0),
    "all items": lambda w: set_item(w, ..., 0.0),
    "iadd": lambda w: operator.iadd(w, 1),
    "imul": lambda w: operator.imul(w, 2),
    "copy_": lambda w: w.copy_(torch.zeros(())),
    "out": lambda w: torch.mul(w, 2, out=w),
    "norm out": lambda w: F.normalize(w, 2.0, 0, 1e-12, w),
    "inplace": lambda w: F.relu(w, inplace=True),
    "inplace by place": lambda w: F.dropout(w, 0.5, True, True),
    "leaky": lambda w: F.leaky_relu(w, 0.5, True),
    "relu_": lambda w: torch.relu_(w),
    "dropout_": lambda w: torch.dropout_(w, 0.5, True),
    "masked": lambda w: w.masked_fill_(w == w, 3.0),
    "scatter_": lambda w: w.view(-1).scatter_(0, torch.tensor([0]), 5.0),
    "index_put_": lambda w: w.index_put_((torch.tensor([0]),), torch.tensor(7.0)),
    "foreach": lambda w: torch._foreach_zero_([w]),
    "aten": lambda w: torch.ops.aten.zero_(w),
    "overload": lambda w: torch.ops.aten.mul_.Tensor(w, w),
    "init": lambda w: loupe.fn(nn.init.zeros_)(w),
    "function": lambda w: loupe.fn(lambda value: value.zero_())(w),
    "function of a list": lambda w: loupe.fn(lambda values: values["w"][0].zero_())({"w": [w]}),
    "function by numpy": lambda w: loupe.fn(lambda value: value.detach().numpy().fill(3))(w),
    "function by its data": lambda w: loupe.fn(lambda value: value.data.fill_(3))(w),
}

SHAPES = {
    "t_": lambda w: w.t_(),
    "transpose_": lambda w: w.transpose_(0, -1),
    "swapdims_": lambda w: w.swapdims_(0, -1),
    "unsqueeze_": lambda w: w.unsqueeze_(0),
    "squeeze_": lambda w: w.squeeze_(),
    "detach_": lambda w: w.detach_(),
    "resize_": lambda w: w.resize_(1),
    "set_": lambda w: w.set_(),
    "as_strided_": lambda w: w.as_strided_((1,), (1,)),
}


def refused(module, line, *, x=X, expected=WriteError, name="", **options):
    """A line of a block is refused, with its own place in the file, and leaves everything as it was."""
    before = state_of(module)
    model = Model(module)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(expected, match=name.replace(".", r"\.")) as caught:
            with model.trace(x, **options):
                line(model)
                model.output.save()
    check_unchanged(module, before)
    assert caught.value.line.filename == __file__
    assert caught.value.remedy
    return caught.value


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("change", CHANGES)
def test_a_weight_is_not_changed_wherever_it_comes_from(held, place, change):
    find, name = PLACES[place]
    error = refused(held, lambda model: CHANGES[change](find(model)).save(), name=f"the model's own {name} ")
    assert ".clone()" in error.remedy
    assert "model.edit()" in error.remedy


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("place", ["parameter", "operand", "argument", "output", "buffer"])
def test_a_weight_is_not_changed_through_a_view(held, place, way):
    find, name = PLACES[place]
    refused(held, lambda model: WAYS[way](find(model)).zero_().save(), name=f"the model's own {name} ")


@pytest.mark.parametrize("change", SHAPES)
@pytest.mark.parametrize("place", ["parameter", "operand", "output", "statistics"])
def test_a_weight_keeps_its_shape(held, place, change):
    find, name = PLACES[place]
    refused(held, lambda model: SHAPES[change](find(model)).save(), name=f"the model's own {name} ")


def test_statistics_are_not_changed_by_a_function_that_updates_them(held):
    lines = {
        "batch": lambda m: F.batch_norm(m.lin.output, m.norm.running_mean, m.norm.running_var, training=True),
        "batch of torch": lambda m: torch.batch_norm(
            m.lin.output, None, None, m.norm.running_mean, m.norm.running_var, True, 0.1, 1e-5, False
        ),
        "instance": lambda m: F.instance_norm(m.lin.output[None], m.scale[:3], m.norm.running_var[:3]),
        "renormed": lambda m: F.embedding(m.places, m.embed.weight, None, 0.1),
        "renormed bag": lambda m: F.embedding_bag(m.places, m.embed.weight, torch.tensor([0]), 0.1),
    }
    for line in lines.values():
        refused(held, lambda model, line=line: line(model).save())


def test_a_function_that_reads_weights_gets_them_and_changes_nothing(held):
    before, model = state_of(held), Model(held)
    with model.trace(X):
        normed = F.batch_norm(model.lin.output, model.norm.running_mean, model.norm.running_var).save()
        read = F.embedding(model.places, model.embed.weight, None).save()
        total = loupe.fn(lambda values: values[0].sum() + values[1].sum())([model.lin.weight, model.scale]).save()
        tied = model.same(model.lin.weight).save()
    with torch.no_grad():
        torch.testing.assert_close(
            normed.value, F.batch_norm(held.lin(X), held.norm.running_mean, held.norm.running_var)
        )
        torch.testing.assert_close(read.value, held.embed.weight)
        torch.testing.assert_close(total.value, held.lin.weight.sum() + held.scale.sum())
        torch.testing.assert_close(tied.value, held.lin.weight)
    check_unchanged(held, before)


@pytest.mark.parametrize("name", ["act", "clears"])
@pytest.mark.parametrize("place", ["parameter", "operand", "in a list", "output"])
def test_a_module_that_works_in_place_does_not_change_a_weight(held, name, place):
    find, path = PLACES[place]
    refused(held, lambda model: getattr(model, name)(find(model)).save(), name=path)


@pytest.mark.parametrize("name", ["drop", "same"])
def test_what_a_module_gives_back_as_it_is_still_is_the_weight(held, name):
    refused(held, lambda model: getattr(model, name)(model.lin.weight).zero_().save(), name="lin.weight")
    refused(held, lambda model: getattr(model, name)(model.lin.weight)[0].t_().save(), name="lin.weight")
    refused(held, lambda model: loupe.fn(lambda value: value)(model.scale).add_(1).save(), name="scale")


def test_a_module_attached_by_the_user_may_change_its_own_weight_and_not_the_models(held):
    before, model = state_of(held), Model(held)
    model.probe = nn.Linear(8, 8)
    model.clearing = Clears()
    with pytest.raises(WriteError, match=r"lin\.weight"), model.trace(X):
        model.clearing(model.lin.weight).save()
    with model.trace(X):
        with torch.no_grad():
            model.probe.weight.fill_(2)
            model.clearing(model.probe.bias).save()
        out = model.probe(model.lin.output).save()
    torch.testing.assert_close(out.value, 2 * held.lin(X).sum(-1, keepdim=True).expand(3, 8).detach())
    assert (held.probe.weight == 2).all()
    del held.probe, held.clearing
    check_unchanged(held, before)


def test_an_attached_module_that_is_tied_to_the_model_keeps_the_weight(held):
    model = Model(held)
    probe = nn.Linear(8, 8)
    probe.weight = held.lin.weight
    model.probe = probe
    refused(held, lambda model: model.probe.weight.zero_().save(), name="lin.weight")


def test_a_weight_of_an_earlier_block_is_the_models_in_a_later_one(held):
    before, model = state_of(held), Model(held)
    with model.trace(X):
        kept, shown = model.lin.weight.save(), model.lin.ops.linear[0].inputs.save()
    with pytest.raises(WriteError, match=r"lin\.weight"), model.trace(X):
        operator.setitem(kept.value, 0, model.lin.output[0])
        model.output.save()
    with pytest.raises(WriteError, match=r"lin\.weight"), model.trace(X):
        torch.mul(model.lin.output[0], 2, out=shown.value[0][1][0])
        model.output.save()
    with pytest.raises(WriteError, match=r"lin\.weight"), model.trace(X):
        torch.mul(model.lin.output[0], 2, out=held.lin.weight.data[0])
        model.output.save()
    with pytest.raises(WriteError, match=r"many\.1"), model.session():
        with model.trace(X):
            handed = model.tied.inputs[1]["more"][1]
        with model.trace(X):
            handed.T.mul_(2)
            model.output.save()
    check_unchanged(held, before)


def test_a_weight_is_not_changed_when_the_pass_is_looked_at(held):
    before, model = state_of(held), Model(held)
    with pytest.raises(WriteError, match=r"lin\.weight"), model.trace(X):
        given = model.tied.inputs[0][1]
        assert float(given.sum()) == pytest.approx(float(before["lin.weight"][0].detach().sum()), abs=1e-4)
        given[0] = 0
        float(given.sum())
    check_unchanged(held, before)


def test_the_model_does_not_change_a_weight_that_a_block_writes_to_a_site(held):
    before, model = state_of(held), Model(held)
    lines = (
        lambda m: setattr(m.act, "input", m.lin.weight[:3]),
        lambda m: setattr(m.act, "inputs", ((m.table.output[:3],), {})),
        lambda m: m.norm.skip(m.lin.weight[:3]),
    )
    for line in lines:
        with model.trace(X):
            line(model)
            seen = model.act.output.save()
        assert (seen.value >= 0).all()
        check_unchanged(held, before)
    with model.trace(X):
        model.act.input = model.lin.weight[:3]
        seen = model.act.output.save()
    assert torch.equal(seen.value, held.lin.weight[:3].relu())


class Counts(nn.Module):
    """Adds to a buffer of its own, and to what it is given, in place."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(8))

    def forward(self, x):
        x = x * 1
        self.seen.add_(1)
        x.add_(1)
        return x + self.seen


def test_what_a_block_makes_of_an_operation_in_place_does_not_get_into_a_buffer():
    lines = (
        lambda m: setattr(m.ops.add[0], "output", torch.full((8,), 5.0)),
        lambda m: m.ops.add[0].output.fill_(5),
        lambda m: setattr(m.ops.add[0], "input", torch.full((8,), 5.0)),
        lambda m: m.ops.add[0].input.fill_(5),
    )
    for line in lines:
        module = Counts()
        model = Model(module)
        with pytest.raises(WriteError, match="the model's own seen"), model.trace(X):
            line(model)
            model.output.save()
        assert module.seen.max() <= 1
    module = Counts()
    with Model(module).trace(X) as tracer:
        model = tracer._recorder.owner
        model.ops.add[1].output = torch.full((3, 8), 5.0)
        before, seen = model.ops.add[0].input.save(), model.ops.add[0].output.save()
        out = model.output.save()
    assert torch.equal(out.value, torch.full((3, 8), 6.0))
    assert torch.equal(before.value + 1, seen.value)
    assert torch.equal(module.seen, torch.ones(8))


def test_a_call_in_a_block_of_a_module_that_trains_leaves_its_statistics_to_the_model(held):
    held.norm.train()
    twin = copy.deepcopy(held)
    with torch.no_grad():
        twin(X)
    model = Model(held)
    with model.trace(X):
        own = model.norm(model.lin.output * 3).save()
        model.output.save()
    torch.testing.assert_close(own.value, F.batch_norm(held.lin(X) * 3, None, None, training=True))
    for name, buffer in twin.named_buffers():
        assert torch.equal(held.get_buffer(name), buffer), name
    with model.trace(X):
        loss = model.norm(model.lin.output).pow(3).sum()
        gradient = model.lin.output.grad.save()
        loss.backward()
    leaf = held.lin(X).detach().requires_grad_()
    F.batch_norm(leaf, None, None, training=True).pow(3).sum().backward()
    torch.testing.assert_close(gradient.value, leaf.grad)


def test_a_call_in_a_block_of_a_table_with_a_norm_leaves_its_rows(held):
    held.embed.max_norm = 0.1
    before = state_of(held)
    held.forward = lambda x: held.lin(x)
    model = Model(held)
    with model.trace(X):
        rows = model.embed(torch.tensor([1, 2]) + (model.lin.output[0, 0] * 0).long()).save()
    del held.forward
    torch.testing.assert_close(rows.value.norm(dim=-1), torch.full((2,), 0.1), atol=1e-4, rtol=1e-4)
    check_unchanged(held, before)


def test_a_weight_that_the_model_is_called_with_is_not_changed_as_its_input(held):
    for line in (lambda m: m.input.zero_(), lambda m: m.lin.input.__setitem__(0, 0.0), lambda m: m.lin.input.T.mul_(2)):
        refused(held, line, x=held.many[0], name="many.0")
        refused(held, line, x=held.many[0].detach(), name="many.0")


def test_weights_stay_under_inference_mode(held):
    for change in ("zero_", "item", "function", "function by numpy", "foreach", "aten", "inplace by place"):
        for place in ("parameter", "operand", "output", "buffer"):
            with torch.inference_mode():
                refused(held, lambda model, c=change, p=place: CHANGES[c](PLACES[p][0](model)).save())


# -- gradients ---------------------------------------------------------------------------------------------------------


def with_backward(line):
    def lines(model):
        line(model)
        model.output.sum().backward()
        model.lin.output.grad.save()

    return lines


TRACKED = {
    "no gradient": (lambda m: m.lin.weight.requires_grad_(False), WriteError),
    "no gradient by attribute": (lambda m: setattr(m.lin.weight, "requires_grad", False), WriteError),
    "an operand without": (lambda m: as_operand(m).requires_grad_(False), WriteError),
    "detached in place": (lambda m: m.lin.weight.detach_(), WriteError),
    "a view detached in place": (lambda m: m.lin.weight.T.detach_(), WriteError),
    "a view that is to have none": (lambda m: m.lin.weight.T.requires_grad_(False), WriteError),
}


@pytest.mark.parametrize("how", TRACKED)
def test_a_weight_keeps_its_history_and_flags(held, how):
    line, expected = TRACKED[how]
    refused(held, lambda model: line(model), expected=expected)
    refused(held, with_backward(line), expected=expected)
    refused(held, line, expected=expected, parameter_gradients=True)


@pytest.mark.parametrize("backward", [True, False])
def test_asking_for_the_gradient_of_a_frozen_weight_leaves_it_frozen(held, backward):
    held.requires_grad_(False)
    lines = [
        lambda m: m.lin.weight.retain_grad(),
        lambda m: m.lin.weight.requires_grad_(),
        lambda m: m.lin.weight.T.retain_grad(),
        lambda m: as_operand(m).retain_grad(),
        lambda m: m.table.output.retain_grad(),
        lambda m: m.norm.running_mean.retain_grad(),
    ]
    for line in lines:
        refused(held, with_backward(line) if backward else line, expected=OperationError)
    reads = [lambda m: m.lin.weight.T.grad.save(), lambda m: as_operand(m).grad.save()]
    for read in reads:
        refused(held, lambda m, read=read: (read(m), m.output.sum().backward()), expected=OperationError)


def test_a_view_of_a_weight_that_is_asked_about_leaves_the_weight_as_it_was(held):
    before, model = state_of(held), Model(held)
    with model.trace(X):
        view = model.lin.weight.T
        out = (X @ view).sum()
        out.backward()
        gradient = view.grad.save()
    torch.testing.assert_close(gradient.value, X.sum(0)[:, None].expand(8, 8))
    check_unchanged(held, before)
    for line in (lambda m: m.lin.weight.T.retain_grad(), lambda m: as_operand(m).retain_grad()):
        with pytest.raises(OperationError, match="requires none in this block"), model.trace(X):
            line(model)
            model.output.save()
        check_unchanged(held, before)


def test_a_detached_weight_is_a_leaf_of_its_own(held):
    before, model = state_of(held), Model(held)
    with model.trace(X):
        own = model.lin.weight.detach().requires_grad_()
        (X @ own.T).sum().backward()
        gradient = own.grad.save()
    torch.testing.assert_close(gradient.value, X.sum(0).expand(8, 8))
    check_unchanged(held, before)
    with model.trace(X):
        own = model.lin.weight.detach().requires_grad_().save()
        loss = (X @ own.T).sum().save()
    loss.value.backward()
    torch.testing.assert_close(own.value.grad, X.sum(0).expand(8, 8))
    check_unchanged(held, before)


# -- models of a library, scans, edits ---------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_weights_and_buffers_of_a_language_model_stay(family):
    module, ids = copy.deepcopy(tiny.hf_model(family)), torch.tensor([[5, 6, 7, 8]])
    model, before = LanguageModel(module, tokenizer=tiny.tokenizer()), state_of(module)
    lines = {
        "gpt2": [
            lambda m: m.transformer.h[1].mlp.c_fc.ops.addmm[0].inputs[0][2].zero_(),
            lambda m: m.lm_head.ops.linear[0].inputs[0][1].T[0].fill_(1),
            lambda m: m.transformer.wte.weight.t_(),
            lambda m: m.transformer.h[0].mlp.dropout(m.transformer.wpe.weight).zero_().save(),
        ],
        "llama": [
            lambda m: m.model.layers[1].self_attn.q_proj.ops.linear[0].inputs[0][1].zero_(),
            lambda m: m.model.rotary_emb.inv_freq.mul_(2),
            lambda m: F.embedding(torch.tensor([1]), m.model.embed_tokens.weight, None, 1e-3).save(),
        ],
    }[family]
    for line in lines:
        with pytest.raises(WriteError, match="the model's own"), model.trace(ids):
            line(model)
            model.output.save()
        check_unchanged(module, before)
    with pytest.raises(WriteError), model.generate(ids, max_new_tokens=2) as tracer, tracer.all():
        lines[0](model)
    check_unchanged(module, before)


def test_a_weight_is_not_changed_in_a_scan_nor_by_looking_at_shapes(held):
    before, model = state_of(held), Model(held)
    for line in (lambda m: m.lin.weight.t_(), lambda m: as_operand(m).unsqueeze_(0), lambda m: m.places.add_(1)):
        with pytest.raises(WriteError), model.scan(X):
            line(model)
    with pytest.raises(LoupeError), model.trace(X):
        assert model.embed.weight[:3].t_().shape == (8, 3)
        assert model.embed.weight.unsqueeze_(0).shape == (1, 8, 8)
        model.output.save()
    with model.trace(X):
        assert model.lin.output.unsqueeze_(0).shape == (1, 3, 8)
        assert model.lin.output.squeeze_(0).shape == (3, 8)
    with model.scan(X):
        shapes = (model.lin.weight.shape, model.embed.weight.shape, model.lin.output.shape, model.places.clone().save())
    assert shapes[:3] == ((8, 8), (8, 8), (3, 8))
    check_unchanged(held, before)


def test_an_edit_changes_copies_and_a_block_on_it_changes_nothing(held):
    before, model = state_of(held), Model(held)
    with model.edit() as edited:
        edited.lin.weight[0] = 0
        edited.scale *= 2
        edited.norm.running_mean = edited.norm.running_var
    with edited.trace(X):
        out = edited.lin.output.save()
    assert torch.equal(out.value[:, 0], held.lin.bias[0].expand(3).detach())
    for line in (lambda m: m.lin.weight.zero_(), lambda m: m.lin.weight.T.mul_(2), lambda m: in_a_list(m).zero_()):
        with pytest.raises(WriteError), edited.trace(X):
            line(edited)
            edited.output.save()
    for line in (lambda m: as_argument(m).zero_(), lambda m: loupe.fn(lambda w: w.zero_())(as_argument(m))):
        with edited.trace(X):  # it is a copy, for this one run
            line(edited)
            edited.output.save()
        with edited.trace(X):
            again = edited.lin.output.save()
        assert torch.equal(again.value, out.value)
        check_unchanged(held, before)


def test_a_model_that_trains_does_not_write_into_a_buffer_that_an_edit_has_set_from_another(held):
    held.norm.train()
    variance, model = held.norm.running_var.clone(), Model(held)
    with model.edit() as edited:
        edited.norm.running_mean = edited.scale
    with edited.trace(X):
        edited.output.save()
    assert torch.equal(held.scale, torch.ones(8))
    assert not torch.equal(held.norm.running_var, variance)  # that is what the model does itself


# -- what may be changed -----------------------------------------------------------------------------------------------


def test_what_shares_no_memory_with_a_weight_may_be_changed(held):
    before, model, mine = state_of(held), Model(held), torch.zeros(8)
    with model.trace(X):
        own = model.lin.weight.clone()
        own.zero_()
        other = (as_argument(model) * 1).t_().fill_(2).save()
        model.lin.output[:] = own[0]
        model.same.input.mul_(0)
        F.relu(model.norm.output, True)
        model.clears(model.tied.output).save()
        pair = [model.lin.weight, 1]
        held_list = loupe.fn(lambda value: value)(pair)
        held_list[0] = 3
        torch.add(model.lin.weight[0], 1, out=mine)
        first = held_list[0].save()
        out = model.output.save()
    assert torch.equal(out.value, torch.ones(3, 8))
    assert first.value == 3
    assert torch.equal(other.value, torch.full((8, 8), 2.0))
    torch.testing.assert_close(mine, held.lin.weight[0].detach() + 1)
    check_unchanged(held, before)


# -- what is remembered from block to block ----------------------------------------------------------------------------


class Returning(nn.Module):
    """Gives a tensor of its own as it is, beside what it computes."""

    def __init__(self):
        super().__init__()
        self.linear, self.inner = nn.Linear(4, 4), nn.Linear(4, 4)
        self.own = nn.Identity()

    def forward(self, x):
        self.own(self.kept)
        return self.inner(self.linear(x))


def zeroes_what_is_kept(model):
    with model.trace(torch.ones(2, 4)):
        model.own.output[:] = 0
        model.output.save()


@pytest.mark.parametrize("how", ["a buffer", "a parameter", "other data", "another module", "another dtype", "loaded"])
def test_a_weight_that_has_come_since_the_last_block_is_one_too(how):
    module = Returning()
    module.kept = torch.ones(4)
    model = Model(module)
    zeroes_what_is_kept(model)  # no weight yet
    assert not module.kept.any()
    fresh = torch.ones(4)
    if how == "a buffer":
        del module.kept
        module.register_buffer("kept", fresh)
    elif how == "a parameter":
        del module.kept
        module.kept = nn.Parameter(fresh)
    elif how == "other data":
        module.linear.bias.data = fresh
        module.kept = fresh
    elif how == "another dtype":
        module.kept = module.bfloat16().float().linear.bias.detach()
    elif how == "loaded":
        module.load_state_dict({name: value.clone() for name, value in module.state_dict().items()}, assign=True)
        module.kept = module.linear.bias.detach()
    else:
        module.inner = nn.Linear(4, 4)
        module.kept = module.inner.bias.detach()
        fresh = module.kept.clone()
    before = module.kept.detach().clone()
    with pytest.raises(WriteError, match="changed in place"):
        zeroes_what_is_kept(model)
    assert torch.equal(module.kept.detach(), before)


def test_what_was_a_weight_once_may_be_changed():
    module = Returning()
    module.register_buffer("kept", torch.ones(4))
    model = Model(module)
    with pytest.raises(WriteError):
        zeroes_what_is_kept(model)
    kept = module.kept
    del module.kept
    module.kept = kept
    zeroes_what_is_kept(model)
    assert not kept.any()
