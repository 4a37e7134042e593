"""Hold which weights collect a gradient, and which gradient a block reads of one, against plain backward passes."""

import pytest
import torch

from loupe import LanguageModel, Model
from tests import tiny
from tests.gradients.by_hand import IDS, weights_with_gradients


@pytest.fixture
def model():
    hf = tiny.hf_model("gpt2")
    yield LanguageModel(hf)
    hf.zero_grad(set_to_none=True)


@pytest.fixture
def want():
    """The gradients of all weights by the sum of the logits."""
    hf = tiny.hf_model("gpt2")
    hf(IDS).logits.sum().backward()
    found = {name: parameter.grad for name, parameter in hf.named_parameters()}
    hf.zero_grad(set_to_none=True)
    return found


def test_no_weight_collects_a_gradient_that_the_block_does_not_read(model):
    with model.trace(IDS):
        hidden = model.transformer.h[1].output
        model.output.sum().backward()
        hidden.grad.save()
    assert weights_with_gradients(model._model) == []


@pytest.mark.parametrize("inside", [False, True])
def test_a_weight_that_the_block_reads_collects_as_in_a_plain_pass(model, want, inside):
    with model.trace(IDS):
        loss = model.output.sum()
        if inside:
            with loss.backward():
                read = model.transformer.ln_f.weight.grad.save()
        else:
            loss.backward()
            read = model.transformer.ln_f.weight.grad.save()
    own = model._model.transformer.ln_f.weight
    torch.testing.assert_close(read.value, want["transformer.ln_f.weight"])
    torch.testing.assert_close(own.grad, want["transformer.ln_f.weight"])
    assert weights_with_gradients(model._model) == ["transformer.ln_f.weight"]
    own.grad.zero_()
    assert read.value.abs().sum() > 0  # the two share no memory


def test_a_weight_asked_for_after_a_peek_has_its_gradient(model, want):
    probe = torch.nn.Linear(32, 1)
    with model.trace(IDS):
        looked = float(probe(model.transformer.h[0].output).norm())  # a pass that tracks the probe, and no weight
        model.output.sum().backward()
        read = model.transformer.ln_f.weight.grad.save()
    assert looked > 0
    torch.testing.assert_close(read.value, want["transformer.ln_f.weight"])


def test_each_pass_reads_its_own_gradient_of_a_weight_while_the_weight_adds_them_up(model, want):
    found = []
    for factor in (1.0, 3.0):
        with model.trace(IDS):
            (model.output.sum() * factor).backward()
            found.append(model.lm_head.weight.grad.save())
    for gradient, factor in zip(found, (1.0, 3.0), strict=True):
        torch.testing.assert_close(gradient.value, want["transformer.wte.weight"] * factor)
    torch.testing.assert_close(model._model.lm_head.weight.grad, want["transformer.wte.weight"] * 4)


def test_a_gradient_of_a_weight_that_is_written_is_what_it_collects(model, want):
    with model.trace(IDS):
        with model.output.sum().backward():
            before = model.transformer.ln_f.weight.grad.clone().save()
            model.transformer.ln_f.weight.grad[:4] = 0
    expected = want["transformer.ln_f.weight"].clone()
    torch.testing.assert_close(before.value, expected)
    expected[:4] = 0
    torch.testing.assert_close(model._model.transformer.ln_f.weight.grad, expected)


def test_all_weights_collect_where_the_trace_says_so(model, want):
    with model.trace(IDS, parameter_gradients=True):
        model.output.sum().backward()
    for name, parameter in model._model.named_parameters():
        torch.testing.assert_close(parameter.grad, want[name])


def test_all_weights_collect_in_a_backward_pass_after_the_block_where_the_trace_says_so(model, want):
    with model.trace(IDS, parameter_gradients=True):
        loss = model.output.sum().save()
    loss.backward()
    for name, parameter in model._model.named_parameters():
        torch.testing.assert_close(parameter.grad, want[name])


def test_a_backward_pass_after_the_block_leaves_the_weights_alone(model):
    probe = torch.nn.Linear(32, 1)
    with model.trace(IDS):
        hidden = model.transformer.h[1].output.save()
        hidden.retain_grad()
        loss = probe(hidden).pow(2).sum().save()
    loss.backward()
    want = torch.autograd.grad(probe(hidden.detach().requires_grad_(True)).pow(2).sum(), probe.weight)[0]
    torch.testing.assert_close(probe.weight.grad, want)
    assert hidden.grad.abs().sum() > 0
    assert weights_with_gradients(model._model) == []
    assert all(parameter.requires_grad for parameter in model._model.parameters())


def test_a_direction_made_of_weights_outside_the_block_asks_for_nothing(model):
    direction = model.lm_head.weight[5] - model.lm_head.weight[6]
    assert direction.requires_grad
    with model.trace(IDS):
        model.transformer.h[0].output[:] += direction
        logits = model.output.save()
    assert not logits.requires_grad
    with model.trace(IDS):
        hidden = model.transformer.h[0].output
        (model.transformer.h[1].output @ direction).sum().backward()
        found = hidden.grad.save()
    assert found.abs().sum() > 0
    assert weights_with_gradients(model._model) == []


def test_an_input_of_the_users_that_requires_a_gradient_collects_one():
    torch.manual_seed(0)
    module, x = tiny.stack(), torch.randn(3, 8, requires_grad=True)
    module(x).pow(2).sum().backward()
    want = x.grad.clone()
    module.zero_grad(set_to_none=True)
    model = Model(module)
    x.grad = None
    with model.trace(x):
        model.output.pow(2).sum().backward()
    torch.testing.assert_close(x.grad, want)
    assert weights_with_gradients(module) == []
    x.grad = None
    with model.trace(x):
        loss = model.output.pow(2).sum().save()
    loss.backward()
    torch.testing.assert_close(x.grad, want)
    module.zero_grad(set_to_none=True)
