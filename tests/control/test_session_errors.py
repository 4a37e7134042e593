"""Hold what is there, and what is said, when a session or one of its blocks goes wrong; and gradients in sessions."""

import pytest
import torch

from loupe import LanguageModel, Model
from loupe.errors import BlockError, NotReachedError, OperationError, UnsavedError, WriteError
from loupe.trace.stacks import open_recorders, open_sessions
from tests import tiny
from tests.tiny import hooked, outputs_of

X = torch.randn(2, 8, generator=torch.Generator().manual_seed(1))
Y = torch.randn(2, 8, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def net():
    return tiny.stack()


@pytest.fixture
def model(net):
    return Model(net)


@pytest.fixture(autouse=True)
def nothing_stays_open(model):
    yield
    assert open_sessions() == []
    assert open_recorders() == []
    assert not hasattr(list, "save")
    with model.trace(X):
        states = [model.layers[0].output].save()
    assert torch.equal(states[0], layer(tiny.stack(), 0, X))


def layer(net, place, x):
    return outputs_of(net, [f"layers.{place}"], x)[0][f"layers.{place}"]


def test_unsaved_values_are_gone_with_the_session_and_name_their_line(model):
    with model.session():
        with model.trace(X):
            hidden = model.layers[0].output
            looked = model.layers[1].output
            used = model.layers[2].output
        float(looked.sum())
        with model.trace(Y):
            later = (used * 2).save()
    assert later.shape == (2, 8)
    for value, line in ((hidden, "hidden = "), (looked, "looked = "), (used, "used = ")):
        with pytest.raises(UnsavedError, match="not saved") as caught:
            value.sum()
        assert caught.value.line.text.startswith(line)


def test_an_exception_in_the_session_runs_no_block_that_waits(net, model):
    passes = []
    handle = net.register_forward_pre_hook(lambda _m, _i: passes.append(1))
    with pytest.raises(ZeroDivisionError):
        with model.session():
            with model.trace(X):
                first = model.layers[0].output.save()
            float(first.sum())
            with model.trace(X):
                second = model.layers[1].output.save()
            raise ZeroDivisionError
    handle.remove()
    assert len(passes) == 1
    assert torch.equal(first, layer(net, 0, X))
    with pytest.raises(UnsavedError, match="never computed") as caught:
        second.sum()
    assert caught.value.line.text.startswith("second = ")


def test_an_exception_in_a_block_loses_this_block_alone(net, model):
    with model.session():
        with model.trace(X):
            first = model.layers[0].output
        with pytest.raises(ZeroDivisionError):
            with model.trace(X):
                second = model.layers[1].output.save()
                raise ZeroDivisionError
        with pytest.raises(ZeroDivisionError):
            with model.trace(X):
                third = model.layers[1].output
                float(third.sum())
                raise ZeroDivisionError
        with model.trace(Y):
            model.layers[1].output = first
            found = model.layers[1].output.save()
        with pytest.raises(UnsavedError, match="never computed"):
            with model.trace(Y):
                model.layers[1].output = second
    assert torch.equal(found, layer(net, 0, X))
    for value in (second, third):
        with pytest.raises(UnsavedError, match="never computed"):
            value.sum()


def test_an_error_in_a_run_is_raised_where_the_session_ends_and_blocks_before_it_have_run(net, model):
    with pytest.raises(OperationError, match=r"operator\.matmul") as caught:
        with model.session():
            with model.trace(X):
                first = model.layers[0].output.save()
            with model.trace(X):
                second = (model.layers[0].output @ torch.ones(3, 3)).save()
            with model.trace(X):
                third = model.layers[1].output.save()
    assert caught.value.line.text.startswith("second = ")
    assert torch.equal(first, layer(net, 0, X))
    for value in (second, third):
        with pytest.raises(UnsavedError, match="never computed"):
            value.sum()
    assert tiny.hooks_on(net) == 0


def test_an_error_in_a_run_that_a_look_begins_is_raised_at_the_look(net, model):
    with model.session():
        with model.trace(X):
            broken = model.layers[0].output @ torch.ones(3, 3)
        with model.trace(X):
            fine = model.layers[1].output
        with pytest.raises(OperationError, match=r"operator\.matmul"):
            float(fine.sum())
        with pytest.raises(UnsavedError, match="never computed"):
            float(broken.sum())
        assert torch.equal(fine + 0, layer(net, 1, X))
        with pytest.raises(OperationError, match=r"operator\.matmul"):
            with model.trace(X):
                [model.layers[0].output].save()
                float(model.layers[0].output.sum())
                (model.layers[0].output @ torch.ones(3, 3)).save()


def test_a_value_that_is_not_reached_is_missed_in_its_own_block():
    net = tiny.net()
    model, x = Model(net), torch.ones(1, 4)
    with pytest.raises(NotReachedError, match=r"never\.output did not run") as caught:
        with model.session():
            with model.trace(x):
                value = model.never.output
            with model.trace(x):
                model.b.output = value
                model.b.output.save()
    assert caught.value.line.text == "value = model.never.output"
    with model.session():
        with model.trace(x):
            value = model.never.output
        with pytest.raises(NotReachedError):
            value.sum()
        with pytest.raises(UnsavedError):
            with model.trace(x):
                model.b.output = value


def test_an_interrupt_leaves_the_model_clean_and_later_blocks_unrun(net, model):
    def interrupt(_module, _inputs):
        handle.remove()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        with model.session():
            with model.trace(X):
                first = model.layers[0].output.save()
            float(first.sum())
            with model.trace(X):
                second = model.output.save()
            with model.trace(X):
                third = model.output.save()
            handle = net.layers[1].register_forward_pre_hook(interrupt)
    assert torch.equal(first, layer(net, 0, X))
    for value in (second, third):
        with pytest.raises(UnsavedError, match="never computed"):
            value.sum()
    assert tiny.hooks_on(net) == 0
    assert net.state_dict().keys() == tiny.Stack().state_dict().keys()


def test_a_session_stands_neither_in_a_session_nor_in_a_block_and_is_opened_once(net, model):
    with model.session() as session:
        with pytest.raises(BlockError, match=r"(?s)already open.*end it first") as caught:
            with model.session():
                pass
        assert caught.value.line.text == "with model.session():"
        with model.edit() as edited:
            pass
        with pytest.raises(BlockError, match="already open"):
            with edited.session():
                pass
        with model.trace(X):
            first = model.layers[0].output.save()
            with pytest.raises(BlockError, match="already open"):
                with model.session():
                    pass
    assert torch.equal(first, layer(net, 0, X))
    with pytest.raises(BlockError, match=r"(?s)inside a block.*open the session first"):
        with model.trace(X):
            with model.session():
                pass
    with pytest.raises(BlockError, match="opened again"):
        with session:
            pass


def test_a_cache_is_read_after_its_block_has_ended(model):
    with model.session():
        with model.trace(X) as tracer:
            cache = tracer.cache()
            with pytest.raises(BlockError, match="filled when its block has run"):
                cache["layers.0"]


def test_a_weight_is_not_changed_by_a_later_block_that_was_given_it(net, model):
    before = net.layers[0].weight.detach().clone()
    with pytest.raises(WriteError, match=r"the model's own layers\.0\.weight is changed in place") as caught:
        with model.session():
            with model.trace(X):
                weight = model.layers[0].weight
            with model.trace(X):
                weight[0] = 0
                model.output.save()
    assert caught.value.line.text == "weight[0] = 0"
    assert torch.equal(net.layers[0].weight, before)


def gradients_by_hand(net, x, place, change=None):
    """The gradient at a layer of the sum of the output, where the layer's output is perhaps replaced."""
    kept = []

    def keep(_module, _inputs, output):
        new = output if change is None else change.clone().requires_grad_()
        new.retain_grad()
        kept.append(new)
        return new

    handle = net.layers[place].register_forward_hook(keep)
    net(x).sum().backward()
    handle.remove()
    net.zero_grad()
    return kept[0].grad


def test_each_block_has_backward_passes_of_its_own(net, model):
    with model.session():
        with model.trace(X):
            hidden = model.layers[0].output
            model.output.sum().backward()
            first = hidden.grad
        with model.trace(Y):
            model.layers[0].output = hidden
            again = model.layers[0].output
            model.output.sum().backward()
            second = again.grad.save()
        with model.trace(Y):
            product = (first * model.layers[0].output).sum().save()
    want = gradients_by_hand(net, X, 0)
    assert torch.allclose(second, want, atol=1e-6)
    assert torch.allclose(product, (want * layer(net, 0, Y)).sum(), atol=1e-5)


def test_a_value_that_came_in_from_an_earlier_block_has_a_gradient(net, model):
    with model.session():
        with model.trace(X):
            hidden = model.layers[0].output
        with model.trace(Y):
            model.layers[0].output = hidden * 1
            model.output.sum().backward()
            found = hidden.grad.save()
    assert torch.allclose(found, gradients_by_hand(net, Y, 0, layer(net, 0, X)), atol=1e-6)


def test_what_lies_before_a_value_that_came_in_has_no_gradient_and_the_error_says_why(model):
    with pytest.raises(NotReachedError, match=r"(?s)earlier block comes without its history.*one block") as caught:
        with model.session():
            with model.trace(X):
                before = model.layers[0].output
                after = model.layers[1].output
            with model.trace(Y):
                model.layers[1].output = after
                model.output.sum().backward()
                gradient = before.grad.save()
    assert caught.value.line.text == "gradient = before.grad.save()"
    with pytest.raises(OperationError, match=r"(?s)nothing to reach.*earlier block of a session"):
        with model.session():
            with model.trace(X):
                loss = model.output.sum()
            with model.trace(Y):
                loss.backward()
                model.output.save()
    with pytest.raises(UnsavedError):
        gradient.sum()


def test_a_tensor_of_the_users_is_trained_through_two_blocks(net, model):
    steer = torch.zeros(8, requires_grad=True)
    with model.session():
        with model.trace(X):
            hidden = model.layers[0].output + steer
        with model.trace(Y):
            model.layers[1].output = hidden
            loss = model.output.sum().save()
    loss.backward()
    clean = layer(net, 0, X)
    by_hand = torch.zeros(8, requires_grad=True)
    handle = net.layers[1].register_forward_hook(lambda _m, _i, _o: clean + by_hand)
    net(Y).sum().backward()
    handle.remove()
    net.zero_grad()
    assert torch.allclose(steer.grad, by_hand.grad, atol=1e-6)


def test_sessions_on_an_edited_copy_and_the_original_are_one(net, model):
    with model.edit() as edited:
        edited.layers[2].output[:] = 0
    with edited.session():
        with model.trace(X):
            hidden = model.layers[0].output
        with edited.trace(Y):
            edited.layers[1].output = hidden
            found = edited.output.save()
    clean = layer(net, 0, X)
    with hooked(net, {"layers.1": lambda _o: clean, "layers.2": lambda o: o * 0}):
        assert torch.allclose(found, net(Y))


def test_generations_of_a_model_that_fails_leave_its_session_usable():
    hf = tiny.hf_model("gpt2")
    model = LanguageModel(hf, tokenizer=tiny.tokenizer())
    ids = torch.tensor([[5, 9]])
    with model.session():
        with model.generate(ids, max_new_tokens=3, eos_token_id=None, pad_token_id=0, do_sample=False) as tracer:
            with tracer.all():
                broken = model.transformer.h[0].output[0] @ torch.ones(3, 3)
            result = tracer.result
        with pytest.raises(OperationError):
            int(result[0, -1])
        with model.trace(ids):
            fine = model.output.save()
    assert torch.allclose(fine, hf(ids).logits, atol=1e-6)
    assert tiny.hooks_on(hf) == 0
    with pytest.raises(UnsavedError):
        broken.sum()
