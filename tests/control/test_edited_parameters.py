"""Hold runs with edited weights and buffers against models whose weights were really changed, and put back."""

import copy

import pytest
import torch
from torch import nn

from loupe import LanguageModel, Model
from loupe.errors import OperationError, OrderError, WriteError
from loupe.runtime.plan import make_plan
from tests import tiny
from tests.tiny import hooked

IDS = torch.tensor([[5, 9, 2, 7]])
GENERATE = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}


@pytest.fixture
def hf():
    hf = tiny.hf_model("gpt2")
    before = {name: value.detach().clone() for name, value in hf.state_dict().items()}
    yield hf
    assert hf.lm_head.weight is hf.transformer.wte.weight
    assert all(isinstance(weight, nn.Parameter) for weight in hf.parameters())
    assert all(weight.requires_grad and weight.grad is None for weight in hf.parameters())
    for name, value in hf.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.fixture
def model(hf):
    return LanguageModel(hf, tokenizer=tiny.tokenizer())


def logits(model, ids=IDS):
    with model.trace(ids):
        found = model.output.save()
    return found


def with_other_weights(hf, change, ids=IDS, run=lambda twin, ids: twin(ids).logits):
    """What a copy of the model gives whose weights are really changed."""
    twin = copy.deepcopy(hf)
    with torch.no_grad():
        change(twin)
        return run(twin, ids)


def zero_row(twin, row=0):
    twin.lm_head.weight[row] = 0


def test_a_weight_changed_in_place_is_changed_for_the_length_of_a_run(hf, model):
    own = hf.transformer.h[2].mlp.c_fc.weight
    with model.edit() as edited:
        edited.transformer.h[2].mlp.c_fc.weight[:, :16] *= -1
    with edited.trace(IDS):
        inside = edited.transformer.h[2].mlp.c_fc.weight.save()
        found = edited.output.save()

    def change(twin):
        twin.transformer.h[2].mlp.c_fc.weight[:, :16] *= -1

    assert torch.allclose(found, with_other_weights(hf, change), atol=1e-5)
    assert torch.equal(inside[:, :16], -own[:, :16])
    assert torch.equal(inside[:, 16:], own[:, 16:])
    assert edited.transformer.h[2].mlp.c_fc.weight is own
    assert torch.equal(logits(model), hf(IDS).logits)


def test_a_weight_is_replaced_by_a_tensor_which_stays_as_it_is(hf, model):
    given = torch.randn(32, 128, generator=torch.Generator().manual_seed(1))
    before = given.clone()
    with model.edit() as edited:
        edited.transformer.h[1].mlp.c_fc.weight = given
        edited.transformer.h[1].mlp.c_fc.weight[0] = 0
        edited.transformer.h[1].mlp.c_fc.weight *= 2
        edited.transformer.h[1].mlp.c_fc.bias = edited.transformer.h[0].mlp.c_fc.bias + 1

    def change(twin):
        twin.transformer.h[1].mlp.c_fc.weight.copy_(before * 2)
        twin.transformer.h[1].mlp.c_fc.weight[0] = 0
        twin.transformer.h[1].mlp.c_fc.bias.copy_(twin.transformer.h[0].mlp.c_fc.bias + 1)

    want = with_other_weights(hf, change)
    for _ in range(3):  # each run starts from the same weights
        assert torch.allclose(logits(edited), want, atol=1e-4)
    assert torch.equal(given, before)


@pytest.mark.parametrize("change", ["mul_", "zero_", "copy_", "fill_", "imul", "iadd", "data", "init", "torch.add out"])
def test_every_way_to_change_a_weight_in_place_works(hf, model, change):
    def apply(layer):
        weight = layer.weight
        match change:
            case "mul_":
                weight.mul_(-1)
            case "zero_":
                weight.zero_()
            case "copy_":
                weight.copy_(torch.ones(32, 32))
            case "fill_":
                weight[:, 3:7].fill_(0.25)
            case "imul":
                layer.weight *= 2
            case "iadd":
                layer.weight += weight.T.clone()
            case "data":
                weight.data[3] = 0
            case "init":
                nn.init.constant_(weight, 0.1)
            case "torch.add out":
                torch.add(weight, weight * 2, out=weight)

    with model.edit() as edited:
        apply(edited.transformer.h[1].attn.c_proj)
    twin = copy.deepcopy(hf)
    with torch.no_grad():  # a plain module refuses to let a weight be set to what was not a parameter
        layer = twin.transformer.h[1].attn.c_proj
        weights = {"imul": lambda w: w * 2, "iadd": lambda w: w + w.T}
        if change in weights:
            layer.weight.copy_(weights[change](layer.weight))
        else:
            apply(layer)
    assert torch.allclose(logits(edited), twin(IDS).logits, atol=1e-4)
    assert not torch.allclose(logits(edited), logits(model), atol=1e-4)


def test_tied_weights_are_changed_together_in_place_and_apart_when_replaced(hf, model):
    with model.edit() as edited:
        edited.lm_head.weight[3] = 0
        edited.transformer.wte.weight[5] = 1

    def both(twin):
        twin.lm_head.weight[3] = 0
        twin.lm_head.weight[5] = 1

    assert torch.allclose(logits(edited), with_other_weights(hf, both), atol=1e-5)
    with edited.trace(IDS):
        assert torch.equal(edited.lm_head.weight, edited.transformer.wte.weight)

    with model.edit() as edited:
        edited.lm_head.weight *= 2
    assert torch.allclose(logits(edited), with_other_weights(hf, lambda twin: twin.lm_head.weight.mul_(2)), atol=1e-4)

    with model.edit() as edited:
        edited.lm_head.weight = edited.lm_head.weight * 2
        edited.lm_head.weight[:, 0] = 0
        edited.transformer.wte.weight[IDS[0, 0]] = 0

    def apart(twin):
        twin.lm_head.weight = nn.Parameter(twin.lm_head.weight * 2)
        twin.lm_head.weight[:, 0] = 0
        twin.transformer.wte.weight[IDS[0, 0]] = 0

    assert torch.allclose(logits(edited), with_other_weights(hf, apart), atol=1e-4)


def test_what_is_only_read_in_an_edit_is_not_changed_and_may_be_computed_with(hf, model):
    with model.edit() as edited:
        edited.transformer.h[1].output[0][:, -1] += edited.lm_head.weight[7] * 3
    row = hf.lm_head.weight[7].detach()
    with hooked(hf, {"transformer.h.1": lambda o: torch.cat([o[:, :-1], o[:, -1:] + row * 3], 1)}):
        want = hf(IDS).logits
    assert torch.allclose(logits(edited), want, atol=1e-4)
    plan = make_plan(edited.edits[0])
    assert not any(
        node.kind == "set_parameter" or node.target == "Tensor.clone" for node in map(plan.graph.__getitem__, plan.live)
    )


def test_a_module_called_in_an_edit_has_the_weights_set_above_the_call(hf, model):
    direction = torch.ones(32)
    with model.edit() as edited:
        edited.lm_head.weight[:8] = 0
        through = edited.lm_head(direction)
        edited.lm_head.weight[8:] = 0
        edited.transformer.ln_f.output[:] = through[:32]
    want = hf.lm_head.weight.detach() @ direction
    want[:8] = 0
    with edited.trace(IDS):
        seen = edited.transformer.ln_f.output.save()
        last = edited.output.save()
    assert torch.allclose(seen[0, 0], want[:32], atol=1e-5)
    assert last.abs().sum() == 0


def test_edited_weights_hold_in_invokes_generations_plain_calls_and_parts_alone(hf, model):
    with model.edit() as edited:
        edited.transformer.h[1].mlp.c_fc.weight[:] *= 3
        edited.lm_head.weight = -edited.lm_head.weight

    def change(twin):
        twin.transformer.h[1].mlp.c_fc.weight.mul_(3)
        twin.lm_head.weight = nn.Parameter(-twin.lm_head.weight)

    want = with_other_weights(hf, change)
    with edited.trace() as tracer:
        with tracer.invoke(IDS):
            first = edited.output.save()
        with tracer.invoke(IDS.flip(1)):
            second = edited.output.save()
    assert torch.allclose(first, want, atol=1e-5)
    assert torch.allclose(second, with_other_weights(hf, change, IDS.flip(1)), atol=1e-5)
    ids = with_other_weights(hf, change, run=lambda twin, ids: twin.generate(ids, **GENERATE))
    assert not torch.equal(ids, hf.generate(IDS, **GENERATE))
    assert torch.equal(edited.generate(IDS, **GENERATE).value, ids)
    with edited.generate(IDS, **GENERATE) as tracer:
        assert torch.equal(tracer.result.value, ids)
    assert torch.allclose(edited(IDS).logits, want, atol=1e-5)
    hidden = torch.ones(1, 2, 32)
    with edited.lm_head.trace(hidden):
        alone = edited.lm_head.output.save()
    turned = -hf.lm_head(hidden)
    assert torch.allclose(alone, turned, atol=1e-5)
    assert torch.allclose(edited.lm_head(hidden), turned, atol=1e-5)
    with edited.session(), edited.trace(IDS):
        grouped = edited.output.save()
    assert torch.allclose(grouped, want, atol=1e-5)
    with edited.scan(IDS):
        assert tuple(edited.lm_head.weight.shape) == (64, 32)
        assert tuple(edited.output.shape) == (1, 4, 64)


def test_several_edits_of_one_weight_are_put_on_top_of_each_other(hf, model):
    with model.edit() as edited:
        edited.lm_head.weight[0] = 1
    with edited.edit() as edited:
        edited.lm_head.weight[:] *= 2
        edited.lm_head.weight[1] = edited.lm_head.weight[0]

    def change(twin):
        twin.lm_head.weight[0] = 1
        twin.lm_head.weight *= 2
        twin.lm_head.weight[1] = twin.lm_head.weight[0]

    twin = copy.deepcopy(hf)
    with torch.no_grad():
        weight = twin.lm_head.weight
        weight[0] = 1
        weight.mul_(2)
        weight[1] = weight[0]
    assert torch.allclose(logits(edited), twin(IDS).logits, atol=1e-4)


def test_buffers_can_be_edited():
    net = tiny.Stack(table=3)
    model, x = Model(net), torch.ones(2, 8)
    with model.edit() as edited:
        edited.places = torch.tensor([2, 2, 2])
    with edited.edit() as twice:
        twice.places[0] = 0
    for each, places in ((edited, [2, 2, 2]), (twice, [0, 2, 2])):
        changed = copy.deepcopy(net)
        changed.places.copy_(torch.tensor(places))
        assert torch.allclose(each(x), changed(x))
    assert net.places.tolist() == [0, 1, 2]
    assert "places" in net._buffers


def test_weights_are_back_after_a_run_that_fails_is_stopped_or_interrupted(hf, model):
    with model.edit() as edited:
        edited.lm_head.weight[:] = 0
        edited.transformer.h[0].mlp.c_fc.weight = torch.ones(32, 128)
    with pytest.raises(OperationError):
        with edited.trace(IDS):
            (edited.transformer.h[1].output[0] @ torch.ones(3, 3)).save()
    assert hf.lm_head.weight.abs().sum() > 0
    with edited.trace(IDS) as tracer:
        edited.transformer.h[1].output[0].save()
        tracer.stop()
    assert hf.lm_head.weight.abs().sum() > 0

    def interrupt(_module, _inputs):
        raise KeyboardInterrupt

    handle = hf.transformer.h[2].register_forward_pre_hook(interrupt)
    for look in (False, True):
        with pytest.raises(KeyboardInterrupt):
            with edited.trace(IDS):
                if look:
                    float(edited.transformer.h[0].output[0].sum())
                edited.output.save()
        assert hf.lm_head.weight.abs().sum() > 0
    handle.remove()
    with pytest.raises(ZeroDivisionError):
        with edited.trace(IDS):
            float(edited.transformer.h[0].output[0].sum())
            raise ZeroDivisionError
    assert hf.lm_head.weight is hf.transformer.wte.weight


def test_while_a_pass_stands_still_the_users_lines_see_the_models_own_weights(hf, model):
    plain = logits(model)
    with model.edit() as edited:
        edited.lm_head.weight[:] = 0
        edited.transformer.h[2].mlp.c_proj.bias = torch.ones(32)
    with edited.trace(IDS):
        if edited.transformer.h[0].output[0].norm() > 0:
            assert hf.lm_head.weight.abs().sum() > 0
            assert torch.equal(model(IDS).logits, hf(IDS).logits)
            assert torch.equal(logits(model), plain)
        assert edited.lm_head.weight.abs().sum() == 0
        found = edited.output.save()
    assert found.abs().sum() == 0


def test_while_a_pass_that_tracks_gradients_stands_still_the_weights_require_theirs(hf, model):
    steer = torch.zeros(32, requires_grad=True)
    with model.trace(IDS):
        model.transformer.h[0].output[0][:] += steer
        if model.transformer.h[1].output[0].norm() > 0:
            assert hf.lm_head.weight.requires_grad
            assert hf(IDS).logits.requires_grad
        found = model.output.save()
    assert torch.allclose(found, hf(IDS).logits, atol=1e-5)
    assert found.requires_grad


def test_lines_below_a_look_at_the_result_still_have_the_edited_weights(hf, model):
    with model.edit() as edited:
        edited.lm_head.weight[:] = 0
    with edited.trace(IDS) as tracer:
        assert float(tracer.result.logits.abs().sum()) == 0
        assert edited.lm_head.weight.abs().sum() == 0
        through = edited.lm_head(torch.ones(32)).save()
    assert through.abs().sum() == 0


def test_gradients_of_edited_weights_are_those_of_the_weights_as_edited(hf, model):
    with model.edit() as edited:
        edited.transformer.h[1].mlp.c_proj.weight[:] *= 2
    with edited.trace(IDS):
        weight = edited.transformer.h[1].mlp.c_proj.weight
        edited.output[0, -1, 3].backward()
        found = weight.grad.save()
    twin = copy.deepcopy(hf)
    with torch.no_grad():
        twin.transformer.h[1].mlp.c_proj.weight.mul_(2)
    twin(IDS).logits[0, -1, 3].backward()
    assert torch.allclose(found, twin.transformer.h[1].mlp.c_proj.weight.grad, atol=1e-5)
    hf.zero_grad()


def test_the_models_own_weights_collect_nothing_in_a_run_with_edited_ones(hf, model):
    given = hf.transformer.h[1].mlp.c_proj.weight.detach().clone().requires_grad_()
    with model.edit() as edited:
        edited.transformer.h[0].mlp.c_proj.weight[:] *= 2
        edited.transformer.h[1].mlp.c_proj.weight = given
    with edited.trace(IDS):
        hidden = edited.transformer.h[1].output[0]
        edited.output[0, -1, 3].backward()
        hidden.grad.save()
    assert all(weight.grad is None for weight in hf.parameters())
    twin = copy.deepcopy(hf)
    with torch.no_grad():
        twin.transformer.h[0].mlp.c_proj.weight.mul_(2)
    twin(IDS).logits[0, -1, 3].backward()
    assert torch.allclose(given.grad, twin.transformer.h[1].mlp.c_proj.weight.grad, atol=1e-5)


def test_a_weight_of_the_users_is_trained_from_outside(hf, model):
    given = hf.transformer.h[1].mlp.c_proj.weight.detach().clone().requires_grad_()
    with model.edit() as edited:
        edited.transformer.h[1].mlp.c_proj.weight = given
    with edited.trace(IDS):
        loss = edited.output[0, -1, 3].save()
    loss.backward()
    twin = copy.deepcopy(hf)
    twin(IDS).logits[0, -1, 3].backward()
    assert torch.allclose(given.grad, twin.transformer.h[1].mlp.c_proj.weight.grad, atol=1e-5)


def test_what_a_weight_cannot_be_set_to_is_refused_with_the_line(hf, model):
    for value in (torch.ones(3), 3, None):
        with pytest.raises(WriteError, match=r"'weight' of lm_head is set to .* where it is f32\[64, 32\]") as caught:
            with model.edit() as edited:
                edited.lm_head.weight = value
        assert caught.value.line.text == "edited.lm_head.weight = value"
    with pytest.raises(WriteError, match=r"'bias' of lm_head is set to f32\[64\], where it is None"):
        with model.edit() as edited:
            assert edited.lm_head.bias is None
            edited.lm_head.bias = torch.ones(64)
    with model.edit() as edited:
        edited.lm_head.weight = edited.lm_head.weight[:3]
    with pytest.raises(WriteError, match=r"lm_head\.weight is set to f32\[3, 32\]") as caught:
        logits(edited)
    assert caught.value.line.text == "edited.lm_head.weight = edited.lm_head.weight[:3]"
    with model.edit() as edited:
        edited.lm_head.weight[0] = edited.transformer.h[0].output[0][0, -1]
    with pytest.raises(OrderError, match="set to a value that the model computes only while it runs"):
        logits(edited)
    with pytest.raises(WriteError, match="would not undo it"):
        with model.trace(IDS):
            model.lm_head.weight = torch.zeros(64, 32)
