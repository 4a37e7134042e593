"""Hold models with LoRA adapters against plain hooks, and adapters that train through blocks against plain training."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model

from loupe import LanguageModel, Model
from loupe.errors import NotReachedError
from tests import tiny

# peft asks transformers by a name that transformers is about to drop
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

FAMILIES = ["gpt2", "llama"]
IDS = torch.tensor([[5, 9, 2, 7]])
INSIDE = "base_model.model."
ADAPTED = {"gpt2": "transformer.h.1.attn.c_attn", "llama": "model.layers.1.self_attn.q_proj"}


def config(family, **options):
    names = {"gpt2": ["c_attn"], "llama": ["q_proj", "v_proj"]}[family]
    return LoraConfig(r=2, target_modules=names, init_lora_weights=False, fan_in_fan_out=family == "gpt2", **options)


def adapted(family, **options):
    """A model with adapters that do something from the start; the same weights each time."""
    torch.manual_seed(3)
    return get_peft_model(copy.deepcopy(tiny.hf_model(family)), config(family, **options)).eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_are_modules_with_sites(family):
    whole, path = adapted(family), INSIDE + ADAPTED[family]
    names = [f"{path}.lora_A.default", f"{path}.lora_B.default", f"{path}.base_layer", path]
    seen, out = tiny.outputs_of(whole, names, IDS)
    model = LanguageModel(whole)
    with model.trace(IDS):
        layer = model.get(path)
        values = [layer.lora_A.default, layer.lora_B.default, layer.base_layer, layer]
        assert layer.lora_A.default.output.shape == (1, 4, 2)
        found = [each.output.save() for each in values]
        logits = model.output.save()
    for name, value in zip(names, found, strict=True):
        torch.testing.assert_close(value.value, seen[name])
    torch.testing.assert_close(logits.logits, out.logits)
    plain = Model(whole)
    with plain.trace(input_ids=IDS):
        low = plain.get(path).lora_A["default"].output.save()
    torch.testing.assert_close(low.value, seen[names[0]])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_write_inside_an_adapter_is_that_of_a_hook(family):
    whole, path = adapted(family), INSIDE + ADAPTED[family]

    def change(output):
        output[:, -1] = output[:, 0] * 4

    with tiny.hooked(whole, {f"{path}.lora_A.default": change}):
        want = whole(IDS).logits
    model = LanguageModel(whole)
    with model.trace(IDS):
        low = model.get(path).lora_A.default.output
        low[:, -1] = low[:, 0] * 4
        logits = model.output.save()
    torch.testing.assert_close(logits.logits, want)
    with torch.no_grad():
        assert not torch.allclose(want, whole(IDS).logits, atol=1e-5)


@pytest.mark.parametrize("task", [None, "CAUSAL_LM"])
@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_of_several_lengths_each_give_what_they_give_alone(family, task):
    whole = adapted(family, task_type=task)
    model = LanguageModel(whole, tokenizer=tiny.tokenizer())
    short, long = [5, 6], [1, 2, 3, 4, 7]
    with model.trace() as tracer:
        with tracer.invoke(short):
            first = model.output[:, -2:].save()
        with tracer.invoke(long):
            second = model.output[:, -5:].save()
    with torch.no_grad():
        for found, ids in ((first, short), (second, long)):
            torch.testing.assert_close(found.value, whole(input_ids=torch.tensor([ids])).logits, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_train_through_blocks_as_they_do_by_hand(family):
    whole, twin = adapted(family), adapted(family)
    frozen = {n: p.clone() for n, p in whole.named_parameters() if not p.requires_grad}
    trained = [p for p in whole.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in trained]
    by_hand = torch.optim.SGD([p for p in twin.parameters() if p.requires_grad], lr=0.1)
    optimizer, model = torch.optim.SGD(trained, lr=0.1), LanguageModel(whole)
    for _ in range(2):
        by_hand.zero_grad()
        twin(IDS).logits[:, -1].log_softmax(-1)[0, 3].neg().backward()
        by_hand.step()
        optimizer.zero_grad()
        with model.trace(IDS, parameter_gradients=True):
            model.output[:, -1].log_softmax(-1)[0, 3].neg().backward()
        optimizer.step()
    for (name, found), want in zip(whole.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(found, want, msg=lambda text, name=name: f"{name}: {text}")
        assert not found.requires_grad or found.grad is not None
    assert any(not torch.equal(old, new) for old, new in zip(before, trained, strict=True))
    assert all(torch.equal(whole.get_parameter(name), value) for name, value in frozen.items())


def test_gradients_inside_adapters_are_those_of_autograd_by_hand():
    whole, path = adapted("llama"), INSIDE + ADAPTED["llama"]
    twin, kept = adapted("llama"), []

    def keep(_module, _args, output):
        output.retain_grad()
        kept.append(output)

    twin.get_submodule(f"{path}.lora_A.default").register_forward_hook(keep)
    twin(IDS).logits[:, -1, 0].sum().backward()
    model = LanguageModel(whole)
    with model.trace(IDS):
        low = model.get(path).lora_A.default.output
        with model.output[:, -1, 0].sum().backward():
            gradient = low.grad.save()
    torch.testing.assert_close(gradient.value, kept[0].grad)
    assert all(parameter.grad is None for parameter in whole.parameters())


def test_adapters_that_are_off_do_not_run_and_those_that_are_on_again_do():
    whole, path = adapted("gpt2"), INSIDE + ADAPTED["gpt2"]
    model = LanguageModel(whole)
    seen, on = tiny.outputs_of(whole, [f"{path}.lora_A.default"], IDS)
    with torch.no_grad(), whole.disable_adapter():
        off = whole(IDS).logits
    assert not torch.allclose(on.logits, off, atol=1e-5)
    with whole.disable_adapter():
        with model.trace(IDS):
            assert model.get(path).output.shape == (1, 4, 96)  # what is learned here is not kept for adapters that run
            without = model.output.save()
        with pytest.raises(NotReachedError, match=r"lora_A\.default\.output did not run"):
            with model.trace(IDS):
                model.get(path).lora_A.default.output.save()
    torch.testing.assert_close(without.logits, off)
    for _ in range(2):
        with model.trace(IDS):
            model.get(path).lora_A.default.output[:] = 0
            early = model.base_model.model.transformer.h[0].output.save()
    assert early.shape == (1, 4, 32)
    with model.trace(IDS):
        low = model.get(path).lora_A.default.output.save()
    torch.testing.assert_close(low.value, seen[f"{path}.lora_A.default"])


def test_another_adapter_is_another_module():
    whole, path = adapted("llama"), INSIDE + ADAPTED["llama"]
    whole.add_adapter("second", config("llama"))
    model = LanguageModel(whole)
    for name in ("default", "second", "default"):
        whole.set_adapter(name)
        seen, _ = tiny.outputs_of(whole, [f"{path}.lora_A.{name}"], IDS)
        other = {"default": "second", "second": "default"}[name]
        with model.trace(IDS):
            low = model.get(path).lora_A[name].output.save()
            assert low.shape == (1, 4, 2)
        torch.testing.assert_close(low.value, seen[f"{path}.lora_A.{name}"])
        with pytest.raises(NotReachedError), model.trace(IDS):
            model.get(path).lora_A[other].output.save()


def test_adapters_put_into_a_model_that_is_wrapped_already_are_what_runs():
    hf, path = copy.deepcopy(tiny.hf_model("gpt2")), ADAPTED["gpt2"]
    model = LanguageModel(hf)
    with model.trace(IDS):
        before = model.get(path).output.save()
    get_peft_model(hf, config("gpt2"))
    seen, _ = tiny.outputs_of(hf, [path, f"{path}.lora_A.default", f"{path}.base_layer"], IDS)
    with model.trace(IDS):
        low, base = model.get(path).lora_A.default.output.save(), model.get(path).base_layer.output.save()
        after = model.get(path).output.save()
    torch.testing.assert_close(low.value, seen[f"{path}.lora_A.default"])
    torch.testing.assert_close(base.value, seen[f"{path}.base_layer"])
    torch.testing.assert_close(after.value, seen[path])
    assert not torch.allclose(after.value, before.value, atol=1e-5)


def test_an_adapted_model_generates():
    whole = adapted("llama")
    model = LanguageModel(whole, tokenizer=tiny.tokenizer())
    options = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None}
    path = f"{INSIDE}{ADAPTED['llama']}.lora_B.default"
    with tiny.hooked(whole, {path: lambda output: output * -5}):
        want = whole.generate(input_ids=IDS, **options)
    with model.generate(IDS, **options) as tracer:
        with tracer.all():
            model.get(path).output *= -5
        ids = tracer.result.save()
    assert ids.tolist() == want.tolist()
