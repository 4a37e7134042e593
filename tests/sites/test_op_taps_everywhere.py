"""Op taps in invokes, under gradients, in hybrids and in experts do what they do in a plain trace."""

import pytest
import torch
from torch import nn

from loupe import LanguageModel, Model
from loupe.errors import NotReachedError
from tests import tiny
from tests.sites.attention import pair, same, watched

IDS = torch.tensor([[5, 9, 3, 8]])


def attention(model, layer=1):
    return model.model.layers[layer].self_attn


# -- rows of invokes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["in place", "replaced", "input"])
def test_an_operation_that_is_written_for_one_prompt_is_as_it_was_for_the_others(form):
    module, (prompt, other) = pair("llama")[0], ([5, 9, 3, 8], [3, 8, 1])
    model = LanguageModel(module)
    with model.trace() as tracer:
        with tracer.invoke(other):
            untouched, pattern = model.lm_head.output.save(), attention(model).ops.softmax[0].output.save()
        with tracer.invoke(prompt):
            site = attention(model, 0).ops.softmax[0]
            if form == "in place":
                site.output[:] = 0
            elif form == "replaced":
                site.output = site.output * 0
            else:
                site.input = torch.zeros_like(site.input)
            written, mixed = model.lm_head.output.save(), attention(model, 0).o_proj.input.save()
    with torch.no_grad():
        same(untouched[:, -3:], module(torch.tensor([other])).logits)
    same(pattern.sum(-1), torch.ones(1, 4, 4))
    by_hand = {0: (lambda taken: torch.full_like(taken, 0.25)) if form == "input" else torch.zeros_like}
    with torch.no_grad(), watched("softmax", 4, by_hand):  # a softmax of zeros looks at all four keys alike
        same(written, pair("llama")[1](torch.tensor([prompt])).logits)
    if form != "input":
        same(mixed, torch.zeros(1, 4, 32))


def test_an_operation_of_one_prompt_goes_into_another():
    model, eager = LanguageModel(pair("llama")[0]), pair("llama")[1]
    other = torch.tensor([[3, 8, 1, 4]])
    with model.trace() as tracer:
        with tracer.invoke(IDS):
            pattern = attention(model).ops.softmax[0].output
        with tracer.invoke(other):
            attention(model).ops.softmax[0].output = pattern.flip(1)
            logits = model.lm_head.output.save()
    with torch.no_grad():
        taken, plain = eager(IDS, output_attentions=True).attentions[1], eager(other).logits
        with watched("softmax", 4, {1: lambda _own: taken.flip(1)}):
            same(logits, eager(other).logits)
    assert float((logits - plain).abs().max()) > 1e-5


# -- gradients ---------------------------------------------------------------------------------------------------------


def gradient_of_pattern(ids, factor=1.0):
    """The gradient of a loss by the pattern of layer 1, by plain autograd through the eager model, and the loss."""
    kept = []

    def change(pattern):
        kept.append(pattern)
        return pattern * factor

    with torch.enable_grad(), watched("softmax", 4, {1: change}):
        loss = pair("llama")[1](ids).logits[0, -1].square().sum()
    return torch.autograd.grad(loss, kept[0])[0], float(loss.detach())


def test_the_gradient_of_an_operation_is_that_of_autograd():
    want, loss = gradient_of_pattern(IDS)
    model = LanguageModel(pair("llama")[0])
    with model.trace(IDS):
        pattern = attention(model).ops.softmax[0].output
        total = model.lm_head.output[0, -1].square().sum().save()
        total.backward()
        gradient = pattern.grad.save()
    same(gradient, want)
    assert float(total.detach()) == pytest.approx(loss, rel=1e-5)


def test_a_gradient_goes_through_an_operation_that_is_written():
    want, loss = gradient_of_pattern(IDS, 0.5)
    model = LanguageModel(pair("llama")[0])
    weight = torch.full((1, 4, 4, 4), 0.5, requires_grad=True)
    with model.trace(IDS):
        site = attention(model).ops.softmax[0]
        pattern = site.output
        site.output = pattern * weight
        total = model.lm_head.output[0, -1].square().sum().save()
        with total.backward():
            gradient = pattern.grad.save()
    same(gradient, want)
    assert float(total.detach()) == pytest.approx(loss, rel=1e-5)
    with torch.no_grad():
        taken = pair("llama")[1](IDS, output_attentions=True).attentions[1]
    same(weight.grad, want * 2 * taken)


def test_gradients_of_operations_in_invokes_are_those_of_each_prompt():
    other = torch.tensor([[3, 8, 1, 4]])
    model = LanguageModel(pair("llama")[0])
    with model.trace() as tracer:
        losses, patterns = [], []
        for ids in (IDS, other):
            with tracer.invoke(ids):
                patterns.append(attention(model).ops.softmax[0].output)
                losses.append(model.lm_head.output[0, -1].square().sum())
        with tracer.invoke():
            (losses[0] + losses[1]).backward()
            gradients = [pattern.grad.save() for pattern in patterns]
    for found, ids in zip(gradients, (IDS, other), strict=True):
        same(found, gradient_of_pattern(ids)[0])


# -- modules of other kinds --------------------------------------------------------------------------------------------


class Bare(nn.Module):
    """Has no child; its operations are those of the model itself."""

    def forward(self, x):
        y = torch.relu(x)
        return torch.relu(y - 0.5) + y


def test_operations_of_the_model_itself_are_tapped_with_looks_and_gradients():
    x = torch.tensor([[1.0, -2.0, 0.25]])
    model = Model(Bare())
    with model.trace(x):
        largest = float(model.ops.relu[0].output.max())
        if largest > 0.5:
            model.ops.relu[1].output[:] = 7
        first, second = model.ops.relu[0].output.save(), model.ops.relu[1].output.clone().save()
        total = model.output.save()
    assert largest == 1.0
    same(first, torch.tensor([[1.0, 0.0, 0.25]]))
    same(second, torch.full((1, 3), 7.0))
    same(total, torch.tensor([[8.0, 7.0, 7.25]]))
    with model.trace(x):
        between = model.ops.sub[0].output
        model.output.sum().backward()
        gradient = between.grad.save()
    same(gradient, torch.tensor([[1.0, 0.0, 0.0]]))


@pytest.mark.parametrize("family", ["bamba", "mamba"])
def test_operations_of_a_recurrent_mixer_are_read_written_and_split_by_prompt(family):
    module, path = (
        (pair("bamba")[0], "model.layers.0.mamba")
        if family == "bamba"
        else (tiny.hf_model("mamba"), "backbone.layers.0.mixer")
    )
    with torch.no_grad(), watched("softplus") as seen:
        plain = module(IDS).logits
    model = LanguageModel(module)
    mixer = model.get(path)
    with model.trace(IDS):
        names = dir(mixer.ops)
        step = mixer.ops.softplus[0].output.save()
    assert {"softplus", "exp", "mul"} <= set(names)
    same(step, seen[0])
    with model.trace() as tracer:
        with tracer.invoke(IDS):
            split, alone = mixer.ops.softplus[0].output.save(), model.lm_head.output.save()
        with tracer.invoke([[1, 2, 3, 4]]):
            mixer.ops.softplus[0].output[:] = 0
            changed, logits = mixer.ops.softplus[0].output.save(), model.lm_head.output.save()
    same(split, seen[0])
    same(changed, torch.zeros_like(seen[0]))
    same(alone, plain)
    with torch.no_grad(), watched("softplus", change={0: torch.zeros_like}):
        same(logits, module(torch.tensor([[1, 2, 3, 4]])).logits)


def test_the_attention_of_a_hybrid_is_tapped_beside_its_mixer():
    model = LanguageModel(pair("bamba")[0])
    with torch.no_grad():
        want = pair("bamba")[1](IDS, output_attentions=True).attentions[-1]
    with model.trace(IDS):
        pattern = model.model.layers[1].self_attn.ops.softmax[0].output.save()
        step = model.model.layers[0].mamba.ops.softplus[0].output
        heads = (pattern.mean((0, 2, 3)) + step.mean() * 0).save()
    same(pattern, want)
    same(heads, want.mean((0, 2, 3)))


def test_operations_of_a_router_and_of_experts_are_listed_as_they_run_and_tapped():
    module = tiny.hf_model("mixtral")
    model = LanguageModel(module)
    block = model.model.layers[1].mlp
    with watched("softmax", 2) as seen:
        want = tiny.outputs_of(module, ["model.layers.1.mlp"], IDS)[0]["model.layers.1.mlp"]
    with model.trace(IDS):
        name, number = str(block.experts.ops).splitlines()[-1].split()[0].rstrip("]").split("[")
        last = getattr(block.experts.ops, name)[int(number)]
        gates, output = block.gate.ops.softmax[0].output.save(), block.output.save()
        whole, operation = block.experts.output.save(), last.output.save()
    same(gates, seen[1])
    same(output, want)
    same(operation.reshape(whole.shape), whole.value)
    with model.trace(IDS):
        last.output = last.output * 0
        nothing = block.output.save()
    same(nothing, torch.zeros_like(want))
    with pytest.raises(NotReachedError, match=r"print\(model\.layers\.1\.mlp\.experts\.ops\)"), model.trace(IDS):
        block.experts.ops.never_called[0].output.save()


def test_a_gate_that_is_written_for_one_prompt_routes_the_others_as_before():
    module = tiny.hf_model("mixtral")
    model = LanguageModel(module)
    with model.trace() as tracer:
        with tracer.invoke(IDS):
            logits = model.lm_head.output.save()
        with tracer.invoke([[3, 8, 1, 4]]):
            gate = model.model.layers[0].mlp.gate
            gate.ops.linear[0].output = gate.ops.linear[0].output * torch.tensor([0.0, 0.0, 1.0, 1.0]) - 5
            written = model.lm_head.output.save()
    with torch.no_grad():
        same(logits, module(IDS).logits)
        plain = module(torch.tensor([[3, 8, 1, 4]])).logits
    assert float((written - plain).abs().max()) > 1e-4
