"""Hold gradients of activations against autograd through the same model by hand."""

import pytest
import torch

from loupe import LanguageModel, Model
from loupe.errors import NotReachedError, OperationError
from tests import tiny

FAMILIES = ["gpt2", "llama", "mamba"]
IDS = torch.tensor([[5, 9, 2, 7]])


def by_hand(family, ids=IDS, stop_at=None):
    """Gradients of the last token's first logit by each block's output; `stop_at` zeroes one on the way."""
    hf, kept = tiny.hf_model(family), {}

    def keep(number):
        def hook(_module, _inputs, output):
            output.retain_grad()
            kept[number] = output
            if number == stop_at:
                output.register_hook(torch.zeros_like)

        return hook

    layers = hf.get_submodule(tiny.BLOCKS[family])
    handles = [layer.register_forward_hook(keep(number)) for number, layer in enumerate(layers)]
    try:
        hf(ids).logits[:, -1, 0].sum().backward()
    finally:
        for handle in handles:
            handle.remove()
        hf.zero_grad(set_to_none=True)
    return [kept[number].grad for number in range(len(kept))]


def no_weight_has_a_gradient(family):
    return all(parameter.grad is None for parameter in tiny.hf_model(family).parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_read_in_any_order_inside_and_after_a_backward_block(family):
    want = by_hand(family)
    model = LanguageModel(tiny.hf_model(family))
    layers = model.get(tiny.BLOCKS[family])
    with model.trace(IDS):
        hidden = [layer.output for layer in layers]
        with model.output[:, -1, 0].sum().backward():
            inside = [each.grad.save() for each in hidden]
    with model.trace(IDS):
        kept = layers[1].output.save()
        kept.retain_grad()
        model.output[:, -1, 0].sum().backward()
        after = layers[0].output.grad.save()
    for found, expected in zip(inside, want, strict=True):
        torch.testing.assert_close(found.value, expected)
    torch.testing.assert_close(after.value, want[0])
    torch.testing.assert_close(kept.grad, want[1])
    assert no_weight_has_a_gradient(family)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_written_gradient_is_what_the_backward_pass_goes_on_with(family):
    want = by_hand(family, stop_at=1)
    model = LanguageModel(tiny.hf_model(family))
    layers = model.get(tiny.BLOCKS[family])
    for write in ("in place", "assigned"):
        with model.trace(IDS):
            first, second = layers[0].output, layers[1].output
            with model.output[:, -1, 0].sum().backward():
                if write == "in place":
                    second.grad[:] = 0
                else:
                    second.grad = second.grad * 0
                stopped = first.grad.save()
        torch.testing.assert_close(stopped.value, want[0])


def test_several_backward_passes_each_give_their_own_gradients():
    model = LanguageModel(tiny.hf_model("gpt2"))
    with model.trace(IDS):
        hidden = model.transformer.h[1].output
        with model.output[:, -1, 0].sum().backward(retain_graph=True):
            first = hidden.grad.save()
        with (model.output[:, -1, 0].sum() * 3).backward():
            second = hidden.grad.save()
    want = by_hand("gpt2")[1]
    torch.testing.assert_close(first.value, want)
    torch.testing.assert_close(second.value, want * 3)


def test_gradients_of_several_prompts_are_those_of_each_alone():
    prompts = [torch.tensor([[5, 9, 2, 7]]), torch.tensor([[3, 8, 1, 6], [2, 2, 9, 4]])]
    model = LanguageModel(tiny.hf_model("gpt2"))
    found = []
    with model.trace() as tracer:
        losses = []
        for prompt in prompts:
            with tracer.invoke(prompt):
                found.append(model.transformer.h[1].output)
                losses.append(model.output[:, -1, 0].sum())
        with sum(losses[1:], losses[0]).backward():
            gradients = [hidden.grad.save() for hidden in found]
    for prompt, gradient in zip(prompts, gradients, strict=True):
        torch.testing.assert_close(gradient.value, by_hand("gpt2", prompt)[1], atol=1e-5, rtol=1e-4)


def test_a_module_of_the_users_own_trains_through_a_block():
    torch.manual_seed(0)
    module = tiny.stack()
    probe = torch.nn.Linear(8, 1)
    x, target = torch.randn(6, 8), torch.randn(6, 1)
    hidden = torch.tanh(module.layers[0](x)).detach() + module.table.weight.sum(0).detach()
    probe(hidden).sub(target).pow(2).mean().backward()
    want = probe.weight.grad.clone()
    probe.zero_grad(set_to_none=True)
    model = Model(module)
    with model.trace(x):
        loss = (probe(model.layers[1].input) - target).pow(2).mean()
        loss.backward()
        kept = loss.detach().save()
    torch.testing.assert_close(probe.weight.grad, want)
    assert float(kept) > 0
    assert all(parameter.grad is None for parameter in module.parameters())


def test_a_frozen_model_gives_gradients_all_the_same():
    want = by_hand("gpt2")
    hf = tiny.hf_model("gpt2").requires_grad_(False)
    try:
        model = LanguageModel(hf)
        with model.trace(IDS):
            hidden = model.transformer.h[0].output
            with model.output[:, -1, 0].sum().backward():
                gradient = hidden.grad.save()
    finally:
        hf.requires_grad_(True)
    torch.testing.assert_close(gradient.value, want[0])


def test_what_has_no_gradient_is_named_with_its_line():
    model = LanguageModel(tiny.hf_model("gpt2"))
    with pytest.raises(NotReachedError, match="grad"), model.trace(IDS):
        late = model.transformer.h[2].output
        model.transformer.h[0].output.sum().backward()
        late.grad.save()
    with pytest.raises(OperationError, match="nothing to reach"), model.trace(IDS):
        (model.transformer.h[0].output.argmax() * 1).backward()
