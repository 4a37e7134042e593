"""Hold models that accelerate has split or offloaded against the whole model: sites, weights, devices, its hooks."""

import copy

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from torch import nn

from loupe import LanguageModel, Model
from loupe.errors import LoadError, WriteError
from tests import tiny

IDS = torch.tensor([[5, 9, 2, 7]])
KINDS = ["cpu", "disk", "map"]
META = torch.device("meta")


def split(kind, folder):
    """A llama whose weights are kept on the CPU or on disk, not where they are used; `map`: a part of them."""
    hf = copy.deepcopy(tiny.hf_model("llama"))
    if kind == "cpu":
        return cpu_offload(hf, execution_device=torch.device("cpu"))
    if kind == "disk":
        disk_offload(hf, str(folder), execution_device=torch.device("cpu"))
        return hf
    places = dict.fromkeys(("model.embed_tokens", "model.layers.0", "model.layers.2", "model.norm"), "cpu")
    places |= {"model.rotary_emb": "cpu", "model.layers.1": "disk", "lm_head": "disk"}
    return dispatch_model(hf, places, main_device="cpu", offload_dir=str(folder), force_hooks=True)


def hooks_of(hf):
    """What accelerate and torch have put on each module."""
    kept = ("forward", "_old_forward", "_hf_hook")
    return {
        name: ([module.__dict__.get(key) for key in kept], len(module._forward_hooks), len(module._forward_pre_hooks))
        for name, module in hf.named_modules()
    }


@pytest.fixture(params=KINDS)
def hf(request, tmp_path):
    found = split(request.param, tmp_path)
    before, offloaded = hooks_of(found), {name for name, p in found.named_parameters() if p.is_meta}
    assert "model.layers.1.mlp.down_proj.weight" in offloaded
    yield found
    assert hooks_of(found) == before
    assert {name for name, p in found.named_parameters() if p.is_meta} == offloaded


def test_sites_of_a_split_model_are_those_of_the_whole_one(hf):
    whole, model = tiny.hf_model("llama"), LanguageModel(hf)
    with tiny.hooked(whole, {"model.layers.1.mlp": lambda output: output * 0.5}):
        seen, want = tiny.outputs_of(whole, ["model.layers.1.self_attn.q_proj", "model.layers.2"], IDS)
    with model.trace(IDS):
        assert model.model.layers[2].output.shape == (1, 4, 32)
        model.model.layers[1].mlp.output = model.model.layers[1].mlp.output * 0.5
        query, last = model.model.layers[1].self_attn.q_proj.output.save(), model.model.layers[2].output.save()
        logits = model.output.save()
    torch.testing.assert_close(query.value, seen["model.layers.1.self_attn.q_proj"])
    torch.testing.assert_close(last.value, seen["model.layers.2"])
    torch.testing.assert_close(logits.logits, want.logits)


def test_operations_of_a_split_model_are_the_modules_own(hf):
    whole, model = LanguageModel(tiny.hf_model("llama")), LanguageModel(hf)
    paths = ["model.layers.1.mlp", "model.layers.1.mlp.down_proj", "model.layers.1.self_attn"]
    listed = []
    for each in (whole, model):
        with each.trace(IDS):
            listed.append([[line.split()[0] for line in str(each.get(path).ops).splitlines()] for path in paths])
    assert listed[0] == listed[1]
    kept = []

    def keep(_module, args, kwargs):
        kept.append(args[0].clone())

    handle = tiny.hf_model("llama").get_submodule(paths[1]).register_forward_pre_hook(keep, with_kwargs=True)
    seen, _ = tiny.outputs_of(tiny.hf_model("llama"), [paths[1], "model.layers.0"], IDS)
    handle.remove()
    with model.trace(IDS):
        into_norm = model.model.layers[1].input_layernorm.ops.to[0].output.save()  # accelerate calls `to` for itself
        product = model.get(paths[0]).ops.mul[0].output.save()
        linear = model.get(paths[1]).ops.linear[0].output.save()
        pattern = model.get(paths[2]).ops.softmax[0].output.save()
    torch.testing.assert_close(into_norm.value, seen["model.layers.0"])
    torch.testing.assert_close(product.value, kept[0])
    torch.testing.assert_close(linear.value, seen[paths[1]])
    torch.testing.assert_close(pattern.value.sum(-1), torch.ones(1, 4, 4))


def test_weights_that_are_offloaded_are_read_with_their_data(hf):
    whole, model = tiny.hf_model("llama"), LanguageModel(hf)
    want = whole.model.layers[1].mlp.down_proj.weight.detach()
    seen, _ = tiny.outputs_of(whole, ["model.layers.1.mlp", "model.layers.0"], IDS)
    with model.trace(IDS):
        weight = model.model.layers[1].mlp.down_proj.weight
        assert weight.shape == want.shape
        back = (model.model.layers[1].mlp.output @ weight).save()
        kept = weight.save()
        lens = model.lm_head(model.model.norm(model.model.layers[0].output)).save()
    torch.testing.assert_close(kept.value, want)
    torch.testing.assert_close(back.value, seen["model.layers.1.mlp"] @ want)
    with torch.no_grad():
        torch.testing.assert_close(lens.value, whole.lm_head(whole.model.norm(seen["model.layers.0"])))


def test_devices_are_those_where_the_model_runs(hf):
    model = LanguageModel(hf)
    assert model.device == model.model.layers[1].device == model.model.layers[1].mlp.down_proj.device
    assert model.device == torch.device("cpu")
    with model.trace(IDS):
        device = model.model.layers[1].output.device
        model.output.save()
    assert device == torch.device("cpu")


def test_peeks_gradients_and_invokes_work_on_a_split_model(hf):
    whole, model = tiny.hf_model("llama"), LanguageModel(hf, tokenizer=tiny.tokenizer())
    seen, _ = tiny.outputs_of(whole, ["model.layers.1"], IDS)
    with model.trace(IDS):
        looked = float(model.model.layers[1].output.sum())
    assert looked == pytest.approx(float(seen["model.layers.1"].sum()), abs=1e-4)
    hidden = seen["model.layers.1"].clone().requires_grad_()
    handle = whole.model.layers[1].register_forward_hook(lambda *_: hidden)
    whole(IDS).logits[:, -1, 0].sum().backward()
    handle.remove()
    whole.zero_grad(set_to_none=True)
    with model.trace(IDS):
        value = model.model.layers[1].output
        with model.output[:, -1, 0].sum().backward():
            gradient = value.grad.save()
    torch.testing.assert_close(gradient.value, hidden.grad)
    with model.trace() as tracer:
        with tracer.invoke([3, 4]):
            short = model.model.layers[1].output[0][:, -2:].save()
        with tracer.invoke([5, 9, 2, 7]):
            long = model.model.layers[1].output[0].save()
    alone, _ = tiny.outputs_of(whole, ["model.layers.1"], torch.tensor([[3, 4]]))
    torch.testing.assert_close(short.value, alone["model.layers.1"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(long.value, seen["model.layers.1"], atol=1e-5, rtol=1e-4)


def test_weights_brought_for_a_module_in_which_a_pass_ends_are_sent_away_again(tmp_path):
    hf = split("cpu", tmp_path)
    model = LanguageModel(hf)
    with model.trace(IDS):
        model.model.layers[1].mlp.down_proj.ops.linear[0].input.save()
    assert all(parameter.is_meta for parameter in hf.parameters())
    with pytest.raises(WriteError), model.trace(IDS):
        model.model.layers[1].mlp.down_proj.input = torch.ones(1, 4, 7)
        model.output.save()
    assert all(parameter.is_meta for parameter in hf.parameters())
    with model.trace(IDS):
        logits = model.output.save()
    torch.testing.assert_close(logits.logits, tiny.hf_model("llama")(IDS).logits.detach())


def test_setting_a_weight_that_is_offloaded_is_refused(tmp_path):
    hf = split("cpu", tmp_path)
    edited = LanguageModel(hf)
    with pytest.raises(WriteError, match="is offloaded"):
        with edited.edit(inplace=True):
            edited.model.layers[1].mlp.down_proj.weight = torch.zeros(32, 48)
        with edited.trace(IDS):
            edited.output.save()
    assert all(parameter.is_meta for parameter in hf.parameters())


def test_a_weight_held_for_a_submodule_is_found_where_it_is_kept():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 2))
    want, x = module[0][0].weight.detach().clone(), torch.ones(1, 4)
    plain = module(x).detach()
    hook = AlignDevicesHook(execution_device=torch.device("cpu"), offload=True, place_submodules=True)
    add_hook_to_module(module[0], hook)
    assert module[0][0].weight.is_meta
    model = Model(module)
    with model.trace(x):
        weight, out = model[0][0].weight.save(), model.output.save()
    torch.testing.assert_close(weight.value, want)
    torch.testing.assert_close(out.value, plain)
    del hook.weights_map["0.weight"]
    with pytest.raises(LoadError, match=r"0\.0\.weight is offloaded"), model.trace(x):
        model[0][0].weight.save()


def test_a_shape_is_known_without_a_copy_of_the_offloaded_weights():
    class Kept(dict):
        def __deepcopy__(self, memo):
            raise AssertionError("the weights are copied")

    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    cpu_offload(module, torch.device("cpu"), state_dict=Kept(module.state_dict()))
    calls, model = [], Model(module)
    module[1]._hf_hook.pre_forward = lambda _module, *args, **kwargs: calls.append(1) or (args, kwargs)
    with model.trace(torch.ones(3, 4)):
        shape = model[1].output.shape
        assert not calls
        model[0].output.save()
    assert shape == (3, 2)


def test_constants_go_to_the_device_of_the_values_that_they_meet():
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2, device=META))
    add_hook_to_module(module[1], AlignDevicesHook(execution_device="meta"))
    model, constant = Model(module), torch.ones(1, 4)
    with model.trace(torch.ones(3, 4)):
        here = (model[0].output + constant).save()
        there = (model[1].input * constant).save()
        model[1].output += torch.ones(2)
        out = model[1].output.save()
        devices = [model[0].output.device, model[1].output.device]
    assert [here.value.device, there.value.device, out.value.device] == [torch.device("cpu"), torch.device("cpu"), META]
    assert devices == [torch.device("cpu"), META]
    assert (model[0].device, model[1].device) == (torch.device("cpu"), META)


def test_a_model_without_data_gives_its_parameters_without_data():
    model = Model(nn.Linear(4, 2, device=META))
    assert model.device == META
    with model.trace(torch.ones(3, 4, device=META)):
        assert model.weight.device == model.output.device == META
        weight = model.weight.save()
    assert weight.value.is_meta
    assert weight.shape == (2, 4)


def test_a_weight_that_is_offloaded_to_memory_is_not_changed_in_place(tmp_path):
    hf = split("cpu", tmp_path)
    model, whole = LanguageModel(hf), tiny.hf_model("llama")
    lines = (
        lambda m: m.model.layers[1].mlp.down_proj.weight.zero_(),
        lambda m: m.model.layers[1].mlp.down_proj.ops.linear[0].inputs[0][1].zero_(),
        lambda m: m.model.layers[1].mlp.down_proj.ops.linear[0].inputs[0][1].mul_(m.model.norm.output.mean()),
    )
    for line in lines:
        with pytest.raises(WriteError, match=r"down_proj\.weight is changed in place"), model.trace(IDS):
            line(model)
            model.output.save()
        with model.trace(IDS):
            logits = model.output.save()
        torch.testing.assert_close(logits.logits, whole(IDS).logits.detach())
        assert all(parameter.is_meta for parameter in hf.parameters())
