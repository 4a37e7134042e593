"""Hold gradients of prompts that run in one pass against those of each prompt alone."""

import pytest
import torch

from loupe import LanguageModel
from tests import tiny
from tests.gradients.by_hand import IDS, blocks_of, gradients, keeping

OTHER = torch.tensor([[3, 8, 1, 6], [2, 2, 9, 4]])


def model_of(family):
    model = LanguageModel(tiny.hf_model(family))
    return model, model.get(tiny.BLOCKS[family])


def test_each_invoke_may_run_its_own_backward_pass():
    prompts = [torch.tensor([[5, 9, 2, 7]]), torch.tensor([[3, 8, 1, 6], [2, 2, 9, 4]])]
    model, layers = model_of("gpt2")
    found = []
    with model.trace() as tracer:
        for prompt in prompts:
            with tracer.invoke(prompt):
                hidden = [layer.output for layer in layers]
                with model.output[:, -1, 0].sum().backward():
                    found += [each.grad.save() for each in hidden]
    want = gradients("gpt2", prompts[0]) + gradients("gpt2", prompts[1])
    for gradient, expected in zip(found, want, strict=True):
        torch.testing.assert_close(gradient.value, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("invokes", [False, True])
def test_logits_have_the_gradient_of_a_loss_that_the_model_computes_of_them(invokes):
    logits = tiny.hf_model("gpt2")(IDS).logits.detach().requires_grad_()
    torch.nn.functional.cross_entropy(logits[0, :-1], IDS[0, 1:]).backward()
    model, _ = model_of("gpt2")
    with model.trace(*(() if invokes else (IDS,)), **({} if invokes else {"labels": IDS})) as tracer:
        if invokes:
            with tracer.invoke(IDS, labels=IDS):
                output = model.output
        else:
            output = model.output
        output.loss.backward()
        found = output.grad.save()
    torch.testing.assert_close(found.value, logits.grad)


def test_rows_that_the_loss_takes_directly_keep_their_whole_gradient():
    def loss_of(kept, logits):
        return logits[:, -1, 0].sum() + kept["transformer.h.1"].pow(2).sum()

    hf = tiny.hf_model("gpt2")
    with keeping(hf, blocks_of("gpt2")) as kept:
        loss_of(kept, hf(IDS).logits).backward()
        want = kept["transformer.h.1"].grad
    model, layers = model_of("gpt2")
    with model.trace() as tracer:
        with tracer.invoke(IDS * 0 + 1):
            layers[0].output[:] = 0
        with tracer.invoke(IDS):
            hidden = layers[1].output.save()
            hidden.retain_grad()
            (model.output[:, -1, 0].sum() + hidden.pow(2).sum()).backward(retain_graph=True)
            once = hidden.grad.save()
            (model.output[:, -1, 0].sum() + hidden.pow(2).sum()).backward()
    torch.testing.assert_close(once.value, want, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(hidden.grad, want * 2, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("place", ["transformer.h.1", "transformer.h.1.mlp"])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("in_place", [False, True])
def test_a_prompt_changes_its_rows_in_place_and_another_computes_with_its_own(place, frozen, in_place):
    def alone(ids, change=None):
        with keeping(hf, [place], change) as kept:
            logits = hf(ids).logits
            value = kept[place]
            (logits[:, -1, 0].sum() + value.pow(2).sum() + early(value)).backward()
            return value.grad

    def early(value):
        return value[:, 0].exp().sum()

    def change(value):
        if in_place:
            value = value.clone()
            value[:, -1] *= 2
            value[..., 0] = 1
        return value

    hf = tiny.hf_model("gpt2")
    want = [alone(IDS), alone(OTHER, {place: change})]
    hf.requires_grad_(not frozen)
    try:
        model = LanguageModel(hf)
        with model.trace() as tracer:
            with tracer.invoke(IDS):
                first = model.get(place).output
                partial = early(first)
                first_loss = model.output[:, -1, 0].sum()
            with tracer.invoke(OTHER):
                second = model.get(place).output
                if in_place:
                    second[:, -1] *= 2
                    second[..., 0] = 1
                second_loss = model.output[:, -1, 0].sum() + second.pow(2).sum() + early(second)
            with tracer.invoke():
                with (first_loss + first.pow(2).sum() + partial + second_loss).backward():
                    found = [first.grad.save(), second.grad.save()]
    finally:
        hf.requires_grad_(True)
    for gradient, expected in zip(found, want, strict=True):
        torch.testing.assert_close(gradient.value, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_loss_of_nothing_but_rows_that_were_changed_has_their_gradient(family):
    model, layers = model_of(family)
    with model.trace() as tracer:
        with tracer.invoke(IDS):
            layers[1].output.pow(2).sum()
        with tracer.invoke(OTHER):
            hidden = layers[1].mlp.output
            hidden[..., -1] += 1
            hidden.pow(2).sum().backward()
            value, found = hidden.save(), hidden.grad.save()
    torch.testing.assert_close(found.value, 2 * value.detach())
    assert found.abs().sum() > 0
