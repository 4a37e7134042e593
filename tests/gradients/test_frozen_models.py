"""Hold gradients of a model whose weights ask for none against those of the same model with all of them asking."""

from contextlib import contextmanager

import pytest
import torch

from loupe import LanguageModel, Model
from loupe.errors import OperationError
from tests import tiny
from tests.gradients.by_hand import IDS, gradients, weights_with_gradients

FAMILIES = ["gpt2", "llama"]


@contextmanager
def frozen(family):
    hf = tiny.hf_model(family).requires_grad_(False)
    try:
        yield LanguageModel(hf)
        assert not any(parameter.requires_grad for parameter in hf.parameters())
    finally:
        hf.requires_grad_(True)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_read_of_a_frozen_model(family):
    want = gradients(family)
    with frozen(family) as model:
        layers = model.get(tiny.BLOCKS[family])
        with model.trace(IDS):
            hidden = [layer.output for layer in layers]
            with model.output[:, -1, 0].sum().backward():
                found = [each.grad.save() for each in reversed(hidden)]
    for gradient, expected in zip(reversed(found), want, strict=True):
        torch.testing.assert_close(gradient.value, expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_frozen_models_value_can_be_changed_in_place_and_has_a_gradient(family):
    def change(hidden):
        hidden = hidden.clone()
        hidden[:, 0] *= 3
        hidden[:, 1] = 0.5
        return hidden

    want = gradients(family, change={f"{tiny.BLOCKS[family]}.1": change})[1]
    with frozen(family) as model, model.trace(IDS):
        hidden = model.get(tiny.BLOCKS[family])[1].output
        hidden[:, 0] *= 3
        hidden[:, 1] = 0.5
        model.output[:, -1, 0].sum().backward()
        found = hidden.grad.save()
    torch.testing.assert_close(found.value, want)


@pytest.mark.parametrize("how", ["requires_grad", "requires_grad_", "retain_grad"])
@pytest.mark.parametrize("invokes", [False, True])
def test_what_the_block_makes_require_a_gradient_has_one_after_the_block(how, invokes):
    want = gradients("gpt2")[1]
    with frozen("gpt2") as model, model.trace(*(() if invokes else (IDS,))) as tracer:

        def ask():
            value = model.transformer.h[1].output.save()
            if how == "requires_grad":
                value.requires_grad = True
            else:
                getattr(value, how)()
            return value, model.output[:, -1, 0].sum()

        if invokes:
            with tracer.invoke(IDS + 1):
                model.transformer.h[2].output[:] = 0
            with tracer.invoke(IDS):
                hidden, loss = ask()
        else:
            hidden, loss = ask()
        loss.backward()
    torch.testing.assert_close(hidden.grad, want, atol=1e-5, rtol=1e-4)


def test_a_backward_pass_after_the_block_finds_what_the_block_asked_for():
    want = gradients("gpt2")[1]
    with frozen("gpt2") as model:
        with model.trace(IDS):
            hidden = model.transformer.h[1].output.save()
            hidden.requires_grad = True
            loss = model.output[:, -1, 0].sum().save()
        loss.backward()
        with model.trace() as tracer:
            with tracer.invoke(IDS * 0 + 3):
                other = model.output.save()
            with tracer.invoke(IDS):
                rows = model.transformer.h[1].output.save()
                rows.retain_grad()
                rows_loss = model.output[:, -1, 0].sum().save()
        rows_loss.backward()
    torch.testing.assert_close(hidden.grad, want)
    torch.testing.assert_close(rows.grad, want, atol=1e-5, rtol=1e-4)
    assert other.shape == (1, 4, 64)


@pytest.mark.parametrize("freeze", [False, True])
def test_a_gradient_asked_for_after_a_peek_is_there_although_the_pass_did_not_track_it(freeze):
    probe = torch.nn.Linear(32, 1)
    want, hf = gradients("gpt2"), tiny.hf_model("gpt2").requires_grad_(not freeze)
    try:
        model = LanguageModel(hf)
        with model.trace(IDS):
            early, hidden = model.transformer.h[0].output, model.transformer.h[1].output
            assert float(early.norm() + probe(hidden).sum().exp()) > 0  # the probe alone is tracked
            loss = model.output[:, -1, 0].sum()
            with loss.backward(retain_graph=True):
                late = float(hidden.grad.norm())  # and now the second block
            with loss.backward():
                found = early.grad.save()
    finally:
        hf.requires_grad_(True)
    assert late == pytest.approx(float(want[1].norm()), rel=1e-4)
    torch.testing.assert_close(found.value, want[0])


def test_prompts_of_one_frozen_pass_have_the_gradients_of_each_alone():
    prompts = [torch.tensor([[5, 9, 2, 7]]), torch.tensor([[3, 8, 1, 6], [2, 2, 9, 4]])]
    want = [gradients("gpt2", prompt) for prompt in prompts]
    with frozen("gpt2") as model, model.trace() as tracer:
        hidden, losses = [], []
        for prompt in prompts:
            with tracer.invoke(prompt):
                hidden.append([layer.output for layer in model.transformer.h])
                losses.append(model.output[:, -1, 0].sum())
        with (losses[0] + losses[1]).backward():
            found = [[each.grad.save() for each in every] for every in hidden]
    for gradients_found, expected in zip(found, want, strict=True):
        for gradient, each in zip(gradients_found, expected, strict=True):
            torch.testing.assert_close(gradient.value, each, atol=1e-5, rtol=1e-4)


def test_inputs_and_tensors_of_the_user_do_not_require_a_gradient_afterwards():
    torch.manual_seed(0)
    module, x, stored = tiny.stack().requires_grad_(False), torch.randn(3, 8), torch.randn(3, 8)
    try:
        first = x.clone().requires_grad_()
        module(first).sum().backward()
        second = stored.clone().requires_grad_()
        table = module.table.weight.sum(0)
        (torch.tanh(module.layers[2](torch.tanh(module.layers[1](second)) + table)) + table).sum().backward()
        model = Model(module)
        with model.trace(x):
            given = model.layers[0].input
            with model.output.sum().backward():
                by_input = given.grad.save()
        with model.trace(x):
            model.layers[1].input = stored
            with model.output.sum().backward():
                by_stored = model.layers[1].input.grad.save()
    finally:
        module.requires_grad_(True)
    torch.testing.assert_close(by_input.value, first.grad)
    torch.testing.assert_close(by_stored.value, second.grad)
    assert not x.requires_grad
    assert not stored.requires_grad


def test_the_gradient_of_a_frozen_weight_is_refused_with_what_unfreezes_it():
    with frozen("gpt2") as model:
        with pytest.raises(OperationError, match=r"model\.lm_head\.weight\.requires_grad_\(True\)"):
            with model.trace(IDS):
                loss = model.output[:, -1, 0].sum()
                loss.backward()
                model.lm_head.weight.grad.save()
        assert weights_with_gradients(model._model) == []
