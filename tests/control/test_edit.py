"""Hold edited models against plain hooks: what an edit may do, and which models it is about."""

import gc
import weakref

import pytest
import torch
from torch import nn

import loupe
from loupe import LanguageModel, Model
from loupe.errors import NotReachedError
from tests import tiny
from tests.tiny import hooked

IDS = torch.tensor([[5, 9, 2, 7]])
OTHER = torch.tensor([[3, 3, 8, 1]])
GENERATE = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}


@pytest.fixture
def hf():
    return tiny.hf_model("gpt2")


@pytest.fixture
def model(hf):
    return LanguageModel(hf, tokenizer=tiny.tokenizer())


def logits(model, ids=IDS):
    with model.trace(ids):
        found = model.output.save()
    return found


def by_hooks(hf, outputs, ids=IDS, inputs=()):
    with hooked(hf, outputs, inputs):
        return hf(ids).logits


def times(value):
    return lambda output: output * value


def test_an_edit_writes_in_every_trace_of_the_copy_and_in_none_of_the_original(hf, model):
    before = by_hooks(hf, {})
    with model.edit() as edited:
        edited.transformer.h[1].output[0][:, -1] *= 3
        edited.transformer.h[2].mlp.output = edited.transformer.h[0].mlp.output - 1
        edited.transformer.ln_f.input[:, 0] = 0

    seen = {}

    def keep(output):
        seen["mlp"] = output

    def scaled(output):
        return torch.cat([output[:, :-1], output[:, -1:] * 3], 1)

    def zeroed(args, kwargs):
        hidden = args[0].clone()
        hidden[:, 0] = 0
        return (hidden,), kwargs

    changes = {
        "transformer.h.0.mlp": keep,
        "transformer.h.1": scaled,
        "transformer.h.2.mlp": lambda _output: seen["mlp"] - 1,
    }
    for ids in (IDS, OTHER):
        want = by_hooks(hf, changes, ids, {"transformer.ln_f": zeroed})
        assert torch.allclose(logits(edited, ids), want, atol=1e-5)
    assert torch.equal(logits(model), before)
    assert model.edits == []


def test_the_copy_shares_modules_and_weights_with_the_original(hf, model):
    with model.edit() as edited:
        edited.transformer.h[0].output[0][:] = 0
    assert edited is not model
    assert edited._model is hf
    assert edited.lm_head.weight is hf.lm_head.weight
    assert edited.transformer.h[0].path == "transformer.h.0"
    assert edited.transformer.h[0].parent.parent.parent is edited
    assert edited.tokenizer is model.tokenizer


def test_edits_are_put_on_top_of_each_other_and_copies_of_copies_are_apart(hf, model):
    with model.edit() as first:
        first.transformer.h[0].output[0][:, :, 0] += 1
    with first.edit() as second:
        second.transformer.h[0].output[0][:] *= 2
    with second.edit() as third:
        third.transformer.h[0].output[0][:, :, 1] += 5
    one = torch.eye(32)[0]
    change = {
        id(model): lambda o: o,
        id(first): lambda o: o + one,
        id(second): lambda o: (o + one) * 2,
        id(third): lambda o: (o + one) * 2 + one.roll(1) * 5,
    }
    for each in (model, first, second, third):
        assert torch.allclose(logits(each), by_hooks(hf, {"transformer.h.0": change[id(each)]}), atol=1e-5)
    second.clear_edits()
    assert torch.equal(logits(second), logits(model))
    assert torch.allclose(logits(third), by_hooks(hf, {"transformer.h.0": change[id(third)]}), atol=1e-5)


def test_an_edit_in_place_holds_until_it_is_cleared(hf, model):
    before = by_hooks(hf, {})
    with model.edit(inplace=True) as same:
        same.transformer.h[1].mlp.output[:] = 0
    assert same is model
    changed = by_hooks(hf, {"transformer.h.1.mlp": times(0)})
    assert torch.allclose(logits(model), changed, atol=1e-6)
    with model.edit() as copy:
        copy.transformer.h[2].mlp.output[:] = 0
    model.clear_edits()
    assert torch.equal(logits(model), before)
    both = by_hooks(hf, {"transformer.h.1.mlp": times(0), "transformer.h.2.mlp": times(0)})
    assert torch.allclose(logits(copy), both, atol=1e-6)


def test_a_block_reads_what_an_edit_has_written_and_writes_on_top(hf, model):
    with model.edit() as edited:
        edited.transformer.h[0].output[0][:] *= -1
    with edited.trace(IDS):
        seen = edited.transformer.h[0].output[0].clone().save()
        edited.transformer.h[0].output[0][:] *= 2
        found = edited.output.save()
    plain = tiny.outputs_of(hf, ["transformer.h.0"], IDS)[0]["transformer.h.0"]
    assert torch.allclose(seen, -plain)
    assert torch.allclose(found, by_hooks(hf, {"transformer.h.0": times(-2)}), atol=1e-5)


def test_an_item_of_a_tuple_can_be_assigned_in_an_edit(hf, model):
    with model.edit() as edited:
        edited.transformer.h[1].attn.output[0] = edited.transformer.h[1].attn.output[0] * 0 + 0.5
        edited.transformer.h[2].output[0] = edited.transformer.h[1].output[0]
    last = {}

    def kept(output):
        last["h1"] = output

    want = by_hooks(
        hf,
        {
            "transformer.h.1.attn": lambda o: (torch.full_like(o[0], 0.5), *o[1:]),
            "transformer.h.1": kept,
            "transformer.h.2": lambda _o: last["h1"],
        },
    )
    assert torch.allclose(logits(edited), want, atol=1e-5)


class Pairs(nn.Module):
    """A part that returns a tuple, one that returns a dict, and one that returns a tensor."""

    def __init__(self):
        super().__init__()
        self.pair, self.named, self.plain = _Returns(tuple), _Returns(dict), nn.Identity()

    def forward(self, x):
        x = sum(self.pair(x))
        x = sum(self.named(x).values())
        return self.plain(x)


class _Returns(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, x):
        return (x, x * 10) if self.kind is tuple else {"a": x, "b": x * 10}


def test_items_are_assigned_whatever_the_module_turns_out_to_return():
    model = Model(Pairs())
    with model.edit() as edited:
        edited.pair.output[1] = edited.pair.output[0] * 2
        edited.named.output["b"] = edited.named.output["a"] * 3
        edited.plain.output[0] = 7
    x = torch.tensor([[1.0], [2.0]])
    for _ in range(2):
        with edited.trace(x):
            found = edited.output.save()
        assert found.tolist() == [[7.0], [24.0]]
    assert edited(x).tolist() == [[7.0], [24.0]]
    assert model(x).tolist() == [[121.0], [242.0]]


def test_calls_of_modules_and_functions_of_the_user_work_in_an_edit(hf, model):
    def squash(v):
        return torch.tanh(v) * 0.1

    @loupe.fn
    def twice(v):
        return v.detach() * 2

    with model.edit() as edited:
        edited.transformer.h[1].mlp.output = edited.transformer.h[0].mlp(edited.transformer.h[0].output[0])
        edited.transformer.h[2].mlp.output = squash(twice(edited.transformer.h[2].mlp.output))
    first = {}

    def keep(output):
        first["hidden"] = output

    want = by_hooks(
        hf,
        {
            "transformer.h.0": keep,
            "transformer.h.1.mlp": lambda _o: hf.transformer.h[0].mlp(first["hidden"]),
            "transformer.h.2.mlp": lambda o: squash(o * 2),
        },
    )
    assert torch.allclose(logits(edited), want, atol=1e-5)


def test_functions_of_one_name_in_two_edits_stay_two(hf, model):
    def scaling(number):
        @loupe.fn
        def change(v):
            return v * number

        return change

    with model.edit() as edited:
        edited.transformer.h[0].mlp.output = scaling(2.0)(edited.transformer.h[0].mlp.output)
    with edited.edit() as edited:
        edited.transformer.h[1].mlp.output = scaling(-3.0)(edited.transformer.h[1].mlp.output)
    with edited.trace(IDS):
        third = scaling(100.0)(edited.transformer.h[2].mlp.output).save()
        found = edited.output.save()
    changes = {"transformer.h.0.mlp": times(2), "transformer.h.1.mlp": times(-3)}
    with hooked(hf, changes):
        outputs, _ = tiny.outputs_of(hf, ["transformer.h.2.mlp"], IDS)
    assert torch.allclose(third, outputs["transformer.h.2.mlp"] * 100, atol=1e-4)
    assert torch.allclose(found, by_hooks(hf, changes), atol=1e-5)


def test_an_attached_module_is_called_in_an_edit_and_has_sites():
    net = tiny.Stack(depth=2)
    model = Model(net)
    model.added = nn.Linear(8, 8, bias=False)
    with torch.no_grad():
        net.added.weight.copy_(torch.eye(8) * 2)
    x = torch.ones(2, 8)
    with model.edit() as edited:
        edited.layers[0].output = edited.added(edited.layers[0].output)
        edited.added.output[:, 0] = 0
    with edited.trace(x):
        inner = edited.added.output.save()
        found = edited.output.save()
    doubled = net.layers[0](x) * 2
    doubled[:, 0] = 0
    assert torch.allclose(inner, doubled)
    with hooked(net, {"layers.0": lambda o: torch.cat([o[:, :1] * 0, o[:, 1:] * 2], 1)}):
        assert torch.allclose(found, net(x))
    with edited.layers[0].trace(x):
        alone = edited.layers[0].output.save()
    assert torch.allclose(alone, doubled)
    with edited.layers[1].trace(x):
        other = edited.layers[1].output.save()
    assert torch.allclose(other, net.layers[1](x))
    with edited.layers[1].trace(x):
        pass  # the edit calls the attached module elsewhere only, and misses nothing here


def test_an_operation_inside_a_module_can_be_edited(hf, model):
    with model.edit() as edited:
        edited.transformer.h[1].attn.ops.softmax[0].output[:] = 0
    with edited.trace(IDS):
        pattern = edited.transformer.h[1].attn.ops.softmax[0].output.save()
        found = edited.output.save()
    assert pattern.abs().sum() == 0
    bias = hf.transformer.h[1].attn.c_proj.bias  # without a pattern nothing but the bias comes out
    want = by_hooks(hf, {"transformer.h.1.attn": lambda o: (bias.expand_as(o[0]), *o[1:])})
    assert torch.allclose(found, want, atol=1e-5)


def test_a_skip_in_an_edit_holds_and_what_lies_inside_does_not_run(hf, model):
    with model.edit() as edited:
        edited.transformer.h[1].skip(edited.transformer.h[0].output[0] * 2)
    first = {}

    def keep(output):
        first["hidden"] = output

    want = by_hooks(hf, {"transformer.h.0": keep, "transformer.h.1": lambda _o: first["hidden"] * 2})
    assert torch.allclose(logits(edited), want, atol=1e-5)
    with pytest.raises(NotReachedError, match=r"skips transformer\.h\.1"):
        with edited.trace(IDS):
            edited.transformer.h[1].mlp.output.save()


def test_an_edit_uses_what_an_earlier_trace_has_saved(hf, model):
    with model.trace(OTHER):
        clean = model.transformer.h[1].output[0].save()
    with model.edit() as edited:
        with model.trace(OTHER):
            mlp = model.transformer.h[2].mlp.output.save()
        edited.transformer.h[1].output[0][:, -1] = clean[:, -1]
        edited.transformer.h[2].mlp.output[:] = mlp
    want = by_hooks(
        hf,
        {
            "transformer.h.1": lambda o: torch.cat([o[:, :-1], clean[:, -1:]], 1),
            "transformer.h.2.mlp": lambda _o: mlp.value,
        },
    )
    assert torch.allclose(logits(edited), want, atol=1e-5)


def test_an_edit_of_a_model_that_is_not_loaded_loads_no_weights():
    fresh = LanguageModel("loupe/landmarks")
    with fresh.edit() as edited:
        edited.transformer.h[5].attn.output[0] = edited.transformer.h[5].attn.output[0] * 2
        edited.lm_head.weight[0] = 0
    assert not fresh.dispatched
    assert not edited.dispatched
    assert all(parameter.is_meta for parameter in fresh._model.parameters())
    with edited.trace("The Eiffel Tower is in"):
        found = edited.lm_head.output.save()
        tied = edited.transformer.wte.weight[0].save()
    assert edited.dispatched
    assert found[..., 0].abs().sum() == 0
    assert tied.abs().sum() == 0
    assert fresh.transformer.wte.weight[0].abs().sum() > 0


def test_what_an_edit_holds_is_freed_with_the_edited_model():
    model, steer = Model(tiny.Stack()), torch.ones(8)
    with model.edit() as edited:
        edited.layers[0].output[:] += steer
    held = weakref.ref(steer)
    edited(torch.ones(1, 8))
    del edited, steer
    gc.collect()
    assert held() is None
