"""Check that a function which may do anything to its arguments acts as on that line, and harms nothing of the model."""

import pytest
import torch
from torch import nn

import loupe
from loupe import Model
from loupe.errors import OrderError, WriteError
from tests import tiny


@pytest.fixture
def wide():
    return torch.randn(3, 8, generator=torch.Generator().manual_seed(1))


def by_hand(x):
    return {
        name: value.detach() for name, value in tiny.outputs_of(tiny.stack(), ["layers.0", "layers.2"], x)[0].items()
    }


def test_a_function_whose_result_nobody_uses_is_called(wide):
    called = []
    with Model(tiny.stack()).trace(wide) as tracer:
        loupe.fn(lambda value: called.append(value.shape))(tracer.result)
    assert called == [(3, 8)]


def test_a_function_of_two_sites_that_changes_neither_gets_both(wide):
    model, seen = Model(tiny.stack()), by_hand(wide)
    with model.trace(wide):
        total = loupe.fn(lambda one, two: one + two)(model.layers[0].output, model.layers[2].output).save()
    torch.testing.assert_close(total.value, seen["layers.0"] + seen["layers.2"])


def test_a_line_above_a_function_that_changes_a_site_sees_it_as_it_was(wide):
    model, seen = Model(tiny.stack()), by_hand(wide)
    with model.trace(wide):
        hidden = model.layers[0].output
        above = (hidden + model.layers[2].output * 0).save()
        loupe.fn(lambda value: value.zero_())(hidden)
        below = (hidden + 0).save()
    torch.testing.assert_close(above.value, seen["layers.0"])
    assert torch.equal(below.value, torch.zeros(3, 8))


def test_a_function_that_changes_a_site_with_a_later_value_is_refused(wide):
    model = Model(tiny.stack())
    with pytest.raises(OrderError, match=r"layers\.0\.output is changed in place"):
        with model.trace(wide):
            loupe.fn(lambda one, two: one.add_(two))(model.layers[0].output, model.layers[2].output)


def test_a_function_that_changes_a_parameter_is_refused_and_the_parameter_stays(wide):
    module = tiny.Stack()
    before, model = module.layers[0].weight.detach().clone(), Model(module)
    with pytest.raises(WriteError, match=r"layers\.0\.weight") as caught:
        with model.trace(wide):
            loupe.fn(lambda weight: weight.zero_())(model.layers[0].weight)
    assert "clone()" in caught.value.remedy
    assert caught.value.line.filename == __file__
    assert torch.equal(module.layers[0].weight, before)


def test_an_attached_module_that_one_prompt_calls_has_that_prompts_rows():
    torch.manual_seed(0)
    module, added = tiny.Stack(), nn.Linear(8, 8)
    alone, batched = torch.randn(1, 8), torch.randn(2, 8)
    model = Model(module)
    model.added = added
    with model.trace() as tracer:
        with tracer.invoke(alone):
            model.layers[1].output = model.added(model.layers[1].output)
            model.added.output[:, 0] = 3
            first = model.output.save()
        with tracer.invoke(batched):
            model.added(model.layers[1].output)
            shape = model.added.calls[1].output.save()
            second = model.output.save()

    def change(output):
        output = added(output)
        output[:, 0] = 3
        return output

    with torch.no_grad():
        torch.testing.assert_close(second.value, module(batched))
        with tiny.hooked(module, {"layers.1": change}):
            torch.testing.assert_close(first.value, module(alone))
    assert shape.shape == (2, 8)
