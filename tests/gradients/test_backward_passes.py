"""Hold backward passes of a block, several and in any order, against plain autograd with hooks on tensors."""

import copy

import pytest
import torch

from loupe import LanguageModel
from tests import tiny
from tests.gradients.by_hand import IDS, blocks_of, gradients, keeping

FAMILIES = ["gpt2", "llama"]


def model_of(family):
    model = LanguageModel(tiny.hf_model(family))
    return model, model.get(tiny.BLOCKS[family])


@pytest.mark.parametrize("family", FAMILIES)
def test_lines_in_and_around_backward_blocks_may_stand_in_any_order(family):
    first, second = (gradients(family, loss_of=lambda logits, t=t: logits[0, -1, t]) for t in (3, 8))
    model, layers = model_of(family)
    with model.trace(IDS):
        last = layers[2].output
        logits = model.output
        early = layers[0].output
        one = logits[0, -1, 3]
        with one.backward(retain_graph=True):
            product = early.grad * last.grad
            found = [last.grad.save(), layers[1].output.grad.save(), early.grad.save()]
        with logits[0, -1, 8].backward():
            again = [early.grad.save(), last.grad.save()]
        kept = product.save()
        plain = layers[1].output.grad.save()
    for gradient, expected in zip(found, reversed(first), strict=True):
        torch.testing.assert_close(gradient.value, expected)
    torch.testing.assert_close(kept.value, first[0] * first[2])
    torch.testing.assert_close(again[0].value, second[0])
    torch.testing.assert_close(again[1].value, second[2])
    torch.testing.assert_close(plain.value, second[1])  # outside such blocks it is the last pass


def test_a_gradient_given_to_backward_weighs_the_loss():
    weights = torch.linspace(-1, 1, 4 * 64).view(1, 4, 64)
    want = gradients("gpt2", loss_of=lambda logits: (logits * weights).sum())
    model, layers = model_of("gpt2")
    for call in (lambda loss: loss.backward(weights), lambda loss: loss.backward(gradient=weights)):
        with model.trace(IDS):
            hidden = layers[1].output
            call(model.output)
            found = hidden.grad.save()
        torch.testing.assert_close(found.value, want[1])


@pytest.mark.parametrize("invokes", [False, True])
@pytest.mark.parametrize("write", ["in place", "assigned"])
def test_a_written_gradient_is_what_goes_on_and_what_is_kept(invokes, write):
    def hook(hidden):
        hidden = hidden.clone()
        hidden.register_hook(lambda gradient: gradient * torch.tensor([0.0, 2, 2, 2])[:, None])
        return hidden

    alone, want = gradients("gpt2"), gradients("gpt2", change={"transformer.h.1": hook})
    model, layers = model_of("gpt2")

    def block():
        early, hidden = layers[0].output, layers[1].output.save()
        hidden.retain_grad()
        with model.output[:, -1, 0].sum().backward():
            if write == "in place":
                hidden.grad[:] *= 2
                hidden.grad[:, 0] = 0
            else:
                hidden.grad = hidden.grad * torch.tensor([0.0, 2, 2, 2])[:, None]
            return early.grad.save(), hidden

    with model.trace(*(() if invokes else (IDS,))) as tracer:
        if invokes:
            with tracer.invoke(IDS + 1):
                other = layers[1].output.save()
                other.retain_grad()
                model.output[:, -1, 0].sum().backward()
            with tracer.invoke(IDS):
                found, hidden = block()
        else:
            found, hidden = block()
    torch.testing.assert_close(found.value, want[0], atol=1e-5, rtol=1e-4)
    expected = alone[1] * 2
    expected[:, 0] = 0
    torch.testing.assert_close(hidden.grad, expected, atol=1e-5, rtol=1e-4)
    if invokes:
        torch.testing.assert_close(other.grad, gradients("gpt2", IDS + 1)[1], atol=1e-5, rtol=1e-4)


def test_a_gradient_saved_before_it_is_replaced_stays_what_it_was():
    want = gradients("gpt2")
    model, layers = model_of("gpt2")
    with model.trace(IDS):
        early, hidden = layers[0].output, layers[1].output
        with model.output[:, -1, 0].sum().backward():
            before = hidden.grad.save()
            hidden.grad = hidden.grad * 2
            after = hidden.grad.save()
            doubled = early.grad.save()
    torch.testing.assert_close(before.value, want[1])
    torch.testing.assert_close(after.value, want[1] * 2)
    torch.testing.assert_close(doubled.value, want[0] * 2)


def test_a_blocks_output_and_the_next_ones_input_have_one_gradient():
    want = gradients("gpt2")
    model, layers = model_of("gpt2")
    with model.trace(IDS):
        output, given = layers[1].output, layers[2].input
        early = layers[0].output
        with model.output[:, -1, 0].sum().backward():
            before = given.grad.clone().save()
            output.grad = output.grad * 2
            between = given.grad.clone().save()
            given.grad[:, :2] = 0
            after = output.grad.save()
            reached = early.grad.save()

    def change(gradient):
        gradient = gradient * 2
        gradient[:, :2] = 0
        return gradient

    def hook(hidden):
        hidden = hidden.clone()
        hidden.register_hook(change)
        return hidden

    torch.testing.assert_close(before.value, want[1])
    torch.testing.assert_close(between.value, want[1] * 2)
    torch.testing.assert_close(after.value, change(want[1].clone()))
    torch.testing.assert_close(reached.value, gradients("gpt2", change={blocks_of("gpt2")[1]: hook})[0])


def test_gradients_of_inputs_operations_and_values_in_between_are_those_of_autograd():
    hf = copy.deepcopy(tiny.hf_model("gpt2"))  # the library leaves hooks on a model that gives its patterns
    hf.set_attn_implementation("eager")
    with keeping(hf, blocks_of("gpt2")) as kept:
        output = hf(IDS, output_attentions=True)
        norm, pattern = kept["transformer.h.2"].norm(dim=-1), output.attentions[1]
        norm.retain_grad()
        pattern.retain_grad()
        (output.logits[0, -1, 0] + norm.sum()).backward()
        want = [kept["transformer.h.0"].grad, pattern.grad, norm.grad]
    model, layers = model_of("gpt2")
    with model.trace(IDS):
        given = layers[1].input
        pattern = layers[1].attn.ops.softmax[0].output
        norm = layers[2].output.norm(dim=-1)
        with (model.output[0, -1, 0] + norm.sum()).backward():
            found = [each.grad.save() for each in (given, pattern, norm)]
    for gradient, expected in zip(found, want, strict=True):
        torch.testing.assert_close(gradient.value, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("invokes", [False, True])
def test_a_value_that_a_line_below_changes_in_place_has_the_gradient_that_it_had_above(invokes):
    scale = torch.linspace(0.5, 1.5, 32, requires_grad=True)

    def change(hidden):
        return hidden * scale * hidden[..., :1].tanh()

    want = gradients("gpt2", change={"transformer.h.1": change})[0]
    want_scale, scale.grad = scale.grad, None
    model, layers = model_of("gpt2")

    def block():
        early, hidden = layers[0].output, layers[1].output
        hidden[:] = hidden * scale * hidden[..., :1].tanh()
        model.output[:, -1, 0].sum().backward()
        return early.grad.save()

    with model.trace(*(() if invokes else (IDS,))) as tracer:
        if invokes:
            with tracer.invoke(IDS):
                found = block()
            with tracer.invoke(IDS + 1):  # both prompts' rows of one tensor are changed in place
                layers[1].output[:, 0] = 0
        else:
            found = block()
    torch.testing.assert_close(found.value, want, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(scale.grad, want_scale, atol=1e-5, rtol=1e-4)


def test_a_look_at_what_has_passed_adds_no_gradient_twice():
    probe = torch.nn.Linear(32, 1)
    with keeping(tiny.hf_model("gpt2"), blocks_of("gpt2")) as kept:
        tiny.hf_model("gpt2")(IDS)
        probe(kept["transformer.h.1"]).sum().backward()
    want, probe.weight.grad = probe.weight.grad, None
    model, layers = model_of("gpt2")
    with model.trace(IDS):
        probe(layers[1].output).sum().backward()
        late = float(layers[2].output.norm())
        early = float(layers[0].output.norm())  # the pass went by there: another one begins
        found = layers[0].output.save()
    assert late > 0
    assert early == pytest.approx(float(found.detach().norm()))
    torch.testing.assert_close(probe.weight.grad, want)


def test_a_gradient_that_only_a_peek_asks_for_keeps_nobody_from_going_on():
    want = gradients("gpt2")
    model, layers = model_of("gpt2")
    with model.trace(IDS):
        hidden = layers[1].output
        model.output[:, -1, 0].sum().backward()
        norm = float(hidden.grad.norm())
        given = layers[0].input.save()  # the pass went by there: another one begins, in which nobody asks
    assert norm == pytest.approx(float(want[1].norm()), rel=1e-4)
    assert given.shape == (1, 4, 32)


def test_a_peek_at_a_gradient_sees_the_real_one_and_the_block_goes_on():
    want = gradients("gpt2")
    model, layers = model_of("gpt2")
    with torch.no_grad(), model.trace(IDS):
        early, late = layers[0].output, layers[2].output
        scale = float(late.norm())  # this pass has no autograd: the next line needs another
        with model.output[:, -1, 0].sum().backward():
            if float(late.grad.norm()) > 0:
                late.grad = late.grad * 2
            found = early.grad.save()
    assert scale > 0
    torch.testing.assert_close(found.value, want[0] * 2)
