"""Names and values of a block are those of Python and torch, saved or not, during the block and after it."""

import warnings

import pytest
import torch

import loupe
from loupe import LanguageModel, Model
from loupe.errors import OverwrittenWarning, UnsavedError
from tests import tiny

X = torch.linspace(-1, 1, 12).reshape(3, 4)


def a_of(x=X):
    with torch.no_grad():
        return tiny.net().a(x)


def test_an_unsaved_value_says_that_it_was_not_saved_and_on_which_line():
    model = Model(tiny.net())
    with model.trace(X):
        lost = model.a.output * 2
    with pytest.raises(UnsavedError) as caught:
        lost.sum()
    assert "not saved" in caught.value.fact
    assert ".save()" in caught.value.remedy
    assert caught.value.line.text == "lost = model.a.output * 2"


def test_names_that_a_block_binds_are_there_after_it():
    model = Model(tiny.net())
    chosen, kept = "before", []
    with model.trace(X):
        chosen = "inside"
        kept = [*kept, model.a.output.save()]
        new = 5
    assert (chosen, new) == ("inside", 5)
    assert torch.equal(kept[0], a_of())


def test_a_counter_that_a_block_adds_to_is_counted():
    model = Model(tiny.net())
    count = 0
    for _ in range(3):
        with model.trace(X):
            count += 1
            model.a.output.save()
    assert count == 3


def test_a_name_bound_to_a_new_value_leaves_the_model_alone_and_a_change_in_place_does_not():
    model, net = Model(tiny.net()), tiny.net()
    with model.trace(X):
        hidden = model.a.output
        hidden = hidden * 0
        alone = model.b.output.save()
    with model.trace(X):
        hidden = model.a.output
        hidden *= 0
        changed = model.b.output.save()
    with torch.no_grad():
        assert torch.equal(alone, net(X)["logits"])
        still = net.shared(net.shared(net.shared(torch.zeros(3, 8))))
        assert torch.allclose(changed, net.b(still), atol=1e-6)
    assert not torch.allclose(alone, changed)


def test_a_list_from_outside_takes_values_and_they_are_saved_one_by_one_or_as_a_list():
    model, single, whole = Model(tiny.net()), [], []
    with model.trace(X):
        single.append(model.a.output.save())
        single.append(model.b.output)
        loupe.save(whole)
        whole.append(model.a.output)
    assert torch.equal(single[0], a_of())
    assert torch.equal(whole[0], a_of())
    with pytest.raises(UnsavedError, match=r"single\.append\(model\.b\.output\)"):
        single[1].sum()


def test_a_saved_tensor_that_a_later_line_changes_is_warned_about_with_both_lines():
    model = Model(tiny.net())
    with pytest.warns(OverwrittenWarning) as caught:
        with model.trace(X):
            before = model.a.output.save()
            model.a.output[:] = 0
            model.b.output.save()
    said = str(caught[0].message)
    assert "before = model.a.output.save()" in said
    assert "model.a.output[:] = 0" in said
    assert ".clone().save()" in said
    assert not before.any()

    with warnings.catch_warnings(), model.trace(X):
        warnings.simplefilter("error")
        before = model.a.output.clone().save()
        model.a.output[:] = 0
        model.b.output.save()
    assert torch.equal(before, a_of())


def test_a_line_above_a_change_in_place_uses_the_value_as_it_was_also_where_it_is_computed_later():
    model, net = Model(tiny.net()), tiny.net()
    with model.trace(X):
        product = (model.a.output * model.b.output.sum()).save()
        model.a.output[:] = 0
        total = model.b.output.sum().save()
    with torch.no_grad():
        want = net.b(net.shared(net.shared(net.shared(torch.zeros(3, 8))))).sum()
    assert torch.allclose(total, want, atol=1e-5)
    assert torch.allclose(product, a_of() * want, atol=1e-5)


def test_saving_a_number_keeps_no_other_name_and_loses_none():
    model = Model(tiny.net())
    with model.trace(X):
        one, other, third = loupe.save(1), 1, 2
        kept = model.a.output.save()
        lost = model.a.output + 1
    assert (one, other, third) == (1, 1, 2)
    assert torch.equal(kept, a_of())
    with pytest.raises(UnsavedError):
        lost.sum()


def test_a_saved_value_is_a_tensor_and_has_its_bare_value():
    model = Model(tiny.net())
    with model.trace(X):
        hidden = model.a.output.save()
    assert isinstance(hidden, torch.Tensor)
    assert type(hidden.value) is torch.Tensor
    assert torch.equal(hidden.value, a_of())


def test_no_history_is_kept_where_no_gradient_is_asked_for():
    model = Model(tiny.net())
    with torch.enable_grad():
        assert tiny.net().a(X).requires_grad
        with model.trace(X):
            hidden = model.a.output.save()
    assert not hidden.requires_grad
    assert hidden.grad_fn is None


def test_zero_of_a_decoder_blocks_output_is_its_hidden_states_and_no_row_of_the_batch():
    model = LanguageModel(tiny.hf_model("gpt2"))
    ids = [[1, 2, 3], [4, 5, 6]]
    with model.trace(ids):
        model.transformer.h[1].output[0][:] = 0
        entered = model.transformer.h[2].input.save()
    assert entered.shape == (2, 3, 32)
    assert not entered.any()
