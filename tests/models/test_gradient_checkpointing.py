"""Hold models that compute activations a second time in the backward pass against the same models that keep them."""

import copy
import logging

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from loupe import LanguageModel, Model
from loupe.errors import NotReachedError, OperationError
from loupe.runtime import plain
from tests import tiny

FAMILIES = ["gpt2", "llama"]
IDS = torch.tensor([[5, 9, 2, 7]])


def training(family, reentrant=None):
    """A model that trains, without dropout; with gradient checkpointing where `reentrant` says which kind."""
    hf = copy.deepcopy(tiny.hf_model(family)).train()
    for module in hf.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0
    if reentrant is not None:
        hf.activation_checkpointing_enable({"use_reentrant": reentrant})
    return hf


def by_hand(family, inner):
    """Gradients without checkpointing: of each block's output, of the inner module's, and of the weights.

    The inner module's output is halved, and that of block 1 has its first token replaced.
    """
    hf, kept = training(family), {}

    def hook(name):
        def change(_module, _args, output):
            if name == inner:
                output = output * 0.5
            elif name.endswith(".1"):
                output = torch.cat([output[:, 1:2], output[:, 1:]], dim=1)
            output.retain_grad()
            kept[name] = output
            return output

        return change

    for name in [f"{tiny.BLOCKS[family]}.{number}" for number in range(3)] + [inner]:
        hf.get_submodule(name).register_forward_hook(hook(name))
    hf(IDS).logits[:, -1, 0].sum().backward()
    return {name: value.grad for name, value in kept.items()}, {name: p.grad for name, p in hf.named_parameters()}


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_values_and_gradients_are_those_of_a_model_without_checkpointing(family, reentrant):
    inner = f"{tiny.BLOCKS[family]}.2.mlp"
    want, weights = by_hand(family, inner)
    hf = training(family, reentrant)
    hooks = tiny.hooks_on(hf)  # the library has one of its own there
    model = LanguageModel(hf)
    blocks = model.get(tiny.BLOCKS[family])
    with model.trace(IDS, parameter_gradients=True):
        model.get(inner).output = model.get(inner).output * 0.5
        hidden = blocks[1].output
        blocks[1].output = torch.cat([hidden[:, 1:2], hidden[:, 1:]], dim=1)
        values = {f"{tiny.BLOCKS[family]}.{number}": block.output for number, block in enumerate(blocks)}
        values[inner] = model.get(inner).output
        with model.output[:, -1, 0].sum().backward():
            found = {name: values[name].grad.save() for name in reversed(want)}
    for name, gradient in found.items():
        torch.testing.assert_close(gradient.value, want[name], msg=lambda text, name=name: f"{name}: {text}")
    for name, parameter in hf.named_parameters():
        torch.testing.assert_close(parameter.grad, weights[name], msg=lambda text, name=name: f"{name}: {text}")
    assert all(block._module.gradient_checkpointing is True for block in blocks)
    assert tiny.hooks_on(hf) == hooks


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_block_without_gradients_reads_and_peeks_as_always(reentrant):
    model = LanguageModel(training("llama", reentrant))
    seen, _ = tiny.outputs_of(training("llama"), ["model.layers.1.mlp", "model.layers.2"], IDS)
    with model.trace(IDS):
        looked = float(model.model.layers[1].mlp.output.sum())
        last = model.model.layers[2].output.save()
    assert looked == pytest.approx(float(seen["model.layers.1.mlp"].sum()), abs=1e-4)
    torch.testing.assert_close(last.value, seen["model.layers.2"])


def test_running_without_checkpointing_is_said_once_and_only_where_it_is_on(caplog):
    plain._notice_checkpointing.cache_clear()
    with caplog.at_level(logging.WARNING, logger="loupe"):
        idle = LanguageModel(training("llama", False).eval())
        with idle.trace(IDS):
            idle.output.save()
        model = LanguageModel(training("llama", False))
        with model.trace(IDS):
            model.output.save()  # nothing inside a layer: these run as they are
        assert not [text for text in caplog.messages if "checkpointing" in text]
        for _ in range(2):
            with model.trace(IDS):
                model.model.layers[1].mlp.output.save()
    assert len([text for text in caplog.messages if "checkpointing" in text]) == 1


# -- a module that calls torch.utils.checkpoint itself ---------------------------------------------------------------


class Checkpointed(nn.Module):
    """Computes two of its layers a second time in the backward pass; counts how often the first of them ran."""

    def __init__(self, reentrant=False):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 1)
        self.reentrant, self.runs = reentrant, 0

    def inner(self, x):
        self.runs += 1
        return torch.tanh(self.b(torch.tanh(self.a(x))))

    def forward(self, x):
        return self.c(checkpoint(self.inner, x, use_reentrant=self.reentrant))


def checkpointed(reentrant=False):
    torch.manual_seed(1)
    return Checkpointed(reentrant)


@pytest.fixture
def x():
    return torch.randn(3, 8, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("weights", [True, False], ids=["weights too", "values alone"])
def test_gradients_inside_a_checkpointed_part_are_those_of_autograd_by_hand(weights, x):
    module = checkpointed()
    first = module.a(x).detach().requires_grad_()
    second = module.b(torch.tanh(first))
    second.retain_grad()
    module.c(torch.tanh(second)).sum().backward()
    module.zero_grad(set_to_none=True)
    model = Model(module)
    with model.trace(x, parameter_gradients=weights):
        values = [model.a.output, model.b.output]
        with model.output.sum().backward():
            found = [value.grad.save() for value in values]
    assert module.runs == 2
    torch.testing.assert_close(found[0].value, first.grad)
    torch.testing.assert_close(found[1].value, second.grad)


def test_a_second_run_in_the_backward_pass_is_no_second_call(x):
    module = checkpointed()
    model = Model(module)
    with pytest.raises(NotReachedError, match="called 1 time"):
        with model.trace(x, parameter_gradients=True):
            model.output.sum().backward()
            model.a.calls[1].output.save()
    assert module.runs == 2
    with model.trace(x, parameter_gradients=True) as tracer:
        cached = tracer.cache(modules=["a"])
        model.output.sum().backward()
    torch.testing.assert_close(cached["a"].output, module.a(x).detach())


@pytest.mark.parametrize("port", ["output", "input", "operation", "in place"])
def test_a_change_that_a_second_run_would_miss_is_refused(port, x):
    module = checkpointed()
    model = Model(module)
    with pytest.raises(OperationError, match="a second time") as caught:
        with model.trace(x, parameter_gradients=True):
            if port == "output":
                model.b.output = model.b.output * 0.5
            elif port == "input":
                model.b.input = model.b.input * 0.5
            elif port == "operation":
                model.b.ops.linear[0].output = model.b.ops.linear[0].output * 0.5
            else:
                model.b.output[:, 0] = 0
            model.output.sum().backward()
    assert "model.b." in caught.value.line.text
    assert "torch.utils.checkpoint" in str(caught.value)
    assert tiny.hooks_on(module) == 0


def test_a_module_that_the_block_calls_at_a_gradient_has_its_sites(x):
    torch.manual_seed(4)
    module, probe = checkpointed(), nn.Sequential(nn.Linear(8, 2), nn.Linear(2, 2))
    model = Model(module)
    model.probe = probe
    with model.trace(x):
        hidden = model.c.input
        with model.output.sum().backward():
            gradient = hidden.grad.save()
            scores = model.probe(hidden.grad).save()
            inside = model.probe[0].output.save()
    torch.testing.assert_close(gradient.value, module.c.weight.detach().expand(3, 8))
    torch.testing.assert_close(inside.value, probe[0](gradient.value).detach())
    torch.testing.assert_close(scores.value, probe(gradient.value).detach())


def test_a_change_after_a_checkpointed_part_is_seen_by_the_backward_pass(x):
    module = checkpointed()
    hidden = module.inner(x)
    module.c(hidden * torch.tensor([0.5])).sum().backward()
    want = module.a.weight.grad.clone()
    module.zero_grad(set_to_none=True)
    model = Model(module)
    with model.trace(x, parameter_gradients=True):
        model.c.input = model.c.input * 0.5
        model.output.sum().backward()
    torch.testing.assert_close(module.a.weight.grad, want)


def test_an_operation_on_a_value_inside_says_what_is_in_the_way(x):
    model = Model(checkpointed())
    with pytest.raises(OperationError, match="call that part without"):
        with model.trace(x):
            hidden = model.a.output
            ((hidden * hidden).sum() + model.output.sum()).backward()
            hidden.grad.save()


def test_a_checkpoint_of_the_reentrant_kind_says_what_is_in_the_way(x):
    model = Model(checkpointed(reentrant=True))
    with pytest.raises(OperationError, match="call that part without"):
        with model.trace(x.requires_grad_()):
            hidden = model.c.input
            with model.output.sum().backward():
                hidden.grad.save()
