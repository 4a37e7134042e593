"""What a block cannot do is said with the user's line, what was wrong and what to write; nothing else is lost."""

import inspect

import pytest
import torch
from torch import nn

from loupe import LanguageModel, Model
from loupe.errors import (
    BlockError,
    LoupeError,
    NotReachedError,
    OperationError,
    UnknownModuleError,
    UnsavedError,
    WriteError,
)
from tests import tiny


class Fails(nn.Module):
    """Fails on its own account when its input is negative; else doubles it by its child."""

    def __init__(self):
        super().__init__()
        self.child = nn.Linear(4, 4)

    def forward(self, x):
        x = self.child(x)
        if x.isnan().any():
            raise ArithmeticError("no numbers")
        return x * 2


@pytest.fixture
def x():
    return torch.randn(2, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def wide():
    return torch.randn(3, 8, generator=torch.Generator().manual_seed(2))


def same(one, other):
    torch.testing.assert_close(torch.as_tensor(one.value), other)


@pytest.mark.parametrize("port", ["output", "input", "inputs"])
def test_reading_a_module_that_never_runs_raises_says_what_ran_and_fills_the_rest(port, x):
    model = Model(tiny.net())
    with pytest.raises(NotReachedError, match=rf"never\.{port} did not run") as caught:
        with model.trace(x):
            before = model.a.output.save()
            getattr(model.never, port).save()
            after = model.output["logits"].save()
    text = str(caught.value)
    assert "getattr(model.never, port).save()" in text
    assert "shared" in text
    same(before, tiny.net().a(x).detach())
    same(after, tiny.net()(x)["logits"].detach())
    assert caught.value.remedy


def test_writing_a_module_that_never_runs_raises_and_fills_the_rest(x):
    model = Model(tiny.net())
    with pytest.raises(NotReachedError, match=r"never\.output did not run in this pass, so it could not be written"):
        with model.trace(x):
            model.never.output = torch.zeros(2, 2)
            out = model.output["logits"].save()
    same(out, tiny.net()(x)["logits"].detach())
    with pytest.raises(NotReachedError, match=r"never\.output"):
        with model.trace(x):
            out = model.output["logits"].save()
            model.never.output[:] = 0
    same(out, tiny.net()(x)["logits"].detach())


def test_a_call_that_does_not_happen_says_how_often_the_module_runs(x):
    model = Model(tiny.net())
    with pytest.raises(NotReachedError, match=r"shared\.calls\[3\]\.output") as caught:
        with model.trace(x):
            model.shared.calls[3].output.save()
    assert "called 3 times" in str(caught.value)
    with pytest.raises(NotReachedError, match=r"shared\.calls\[3\]\.output"):
        with model.trace(x):
            model.shared.calls[3].output[:] = 0
            model.b.output.save()


def test_peeking_at_a_module_that_never_runs_raises_on_the_spot(x):
    model = Model(tiny.net())
    with pytest.raises(NotReachedError, match=r"never\.output"):
        with model.trace(x):
            float(model.never.output.sum())
            pytest.fail("the line above had to raise")


def test_a_value_that_was_missed_says_so_when_it_is_read(x):
    model = Model(tiny.net())
    with pytest.raises(NotReachedError):
        with model.trace(x):
            missed = model.never.output.save()
    with pytest.raises(UnsavedError, match="before it was reached"):
        missed.shape


def test_a_misspelt_module_offers_the_near_names(wide):
    model = Model(tiny.stack())
    with pytest.raises(UnknownModuleError, match="no module 'layer' under the model") as caught:
        model.layer
    assert "did you mean 'layers'" in str(caught.value)
    assert isinstance(caught.value, AttributeError)
    with pytest.raises(UnknownModuleError, match=r"under layers\.1.*\n.*\n.*\n.*did you mean 'weight'"):
        with model.trace(wide):
            model.layers[1].wieght
    with pytest.raises(UnknownModuleError, match="did you mean 'layers'"):
        model.get("layrs.0")
    assert not hasattr(model, "nothing_like_it")
    assert getattr(model, "nothing_like_it", 5) == 5


@pytest.mark.parametrize("place", [3, 99, -4])
def test_an_index_past_the_end_is_a_lookup_error_that_gives_the_range(place):
    model = Model(tiny.stack())
    with pytest.raises(LookupError, match="indices go from 0 to 2") as caught:
        model.layers[place]
    assert isinstance(caught.value, UnknownModuleError)


def test_an_error_names_the_users_line_and_its_source(wide):
    model = Model(tiny.stack())
    with pytest.raises(OperationError) as caught:
        with model.trace(wide):
            hidden = model.layers[1].output
            (hidden @ torch.ones(3, 5)).save()
    here = inspect.currentframe().f_lineno
    line = caught.value.line
    assert (line.filename, line.number) == (__file__, here - 1)
    assert line.text == "(hidden @ torch.ones(3, 5)).save()"
    assert "operator.matmul" in str(caught.value)
    assert "f32[3, 8]" in str(caught.value)
    assert "f32[3, 5]" in str(caught.value)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    ("change", "shapes"),
    [
        (lambda m: m.layers[0].output.__setitem__(slice(None), torch.zeros(3, 7)), ("f32[3, 8]", "f32[3, 7]")),
        (lambda m: m.layers[0].output.add_(torch.zeros(2, 8)), ("f32[3, 8]", "f32[2, 8]")),
        (lambda m: torch.cat([m.layers[0].output, torch.zeros(1, 7)]).save(), ("f32[3, 8]", "f32[1, 7]")),
        (lambda m: m.layers[1](m.layers[0].output[:, :5]).save(), ("f32[3, 5]",)),
    ],
    ids=["set", "method", "function", "module"],
)
def test_wrong_shapes_are_named(change, shapes, wide):
    model = Model(tiny.stack())
    with pytest.raises(OperationError) as caught:
        with model.trace(wide):
            change(model)
            model.output.save()
    for shape in shapes:
        assert shape in str(caught.value)
    assert caught.value.line.filename == __file__


def test_a_write_of_another_shape_that_breaks_the_model_says_which_write(wide):
    model = Model(tiny.stack())
    with pytest.raises(WriteError) as caught:
        with model.trace(wide):
            model.layers[0].output = torch.zeros(3, 5)
            model.output.save()
    text = str(caught.value)
    assert "layers.0.output was replaced by f32[3, 5] where it was f32[3, 8]" in text
    assert "model.layers[0].output = torch.zeros(3, 5)" in text
    assert caught.value.__cause__ is not None


def test_none_as_an_output_is_refused_and_never_silently_lost(wide):
    model = Model(tiny.stack())
    with pytest.raises(WriteError, match=r"layers\.0\.output"):
        with model.trace(wide):
            model.layers[0].output = None
            model.output.save()


def test_a_write_of_values_that_break_the_model_says_which_write():
    model = LanguageModel(tiny.hf_model("gpt2"))
    with pytest.raises(WriteError, match=r"transformer\.wte\.input"):
        with model.trace([1, 2, 3]):
            model.transformer.wte.input = model.transformer.wte.input + 1000
            model.output.save()


def test_a_write_of_another_dtype_that_breaks_the_model_says_which_write(wide):
    model = Model(tiny.stack())
    with pytest.raises(WriteError, match=r"layers\.0\.output"):
        with model.trace(wide):
            model.layers[0].output = model.layers[0].output.double()
            model.output.save()


def test_a_write_of_another_shape_that_the_model_can_take_is_fine(wide):
    model = Model(tiny.stack())
    with model.trace(wide):
        model.layers[0].output = torch.zeros(8)
        out = model.output.save()
    assert out.shape == (8,)


def test_the_models_own_errors_pass_through_as_they_are(x):
    model = Model(Fails())
    with pytest.raises(ArithmeticError, match="no numbers"):
        with model.trace(x * float("nan")):
            model.child.output.save()
            model.output.save()
    with pytest.raises(TypeError):
        with model.trace(x, unknown=1):
            model.output.save()
    assert tiny.hooks_on(model._model) == 0


class Stop(BaseException):
    """Something that is no Exception, as an interrupt is."""


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, Stop])
@pytest.mark.parametrize("peek", [False, True])
def test_an_exception_in_the_block_passes_and_leaves_the_model_clean(kind, peek, wide):
    module = tiny.stack()
    model = Model(module)
    with pytest.raises(kind):
        with model.trace(wide):
            value = model.layers[0].output.save()
            model.layers[1].output[:] = 0
            if peek:
                float(value.sum())
            raise kind
    assert tiny.hooks_on(module) == 0
    with pytest.raises(UnsavedError, match=r"never computed|ended with an exception"):
        value.shape
    with model.trace(wide):
        out = model.output.save()
    same(out, module(wide).detach())


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("peek", [False, True])
def test_an_exception_inside_the_model_leaves_it_clean(kind, peek, wide):
    module = tiny.stack()
    model = Model(module)

    def fail(_output):
        raise kind("inside")

    with tiny.hooked(module, {"layers.2": fail}):
        with pytest.raises(kind, match="inside"):
            with model.trace(wide):
                if peek:
                    float(model.layers[0].output.sum())
                model.layers[1].ops.linear[0].output.save()
                model.output.save()
    assert tiny.hooks_on(module) == 0
    with model.trace(wide):
        out = model.output.save()
    same(out, module(wide).detach())


def test_an_error_of_an_op_tap_leaves_no_replaced_forward(wide):
    module = tiny.stack()
    model = Model(module)
    with pytest.raises(LoupeError):
        with model.trace(wide):
            model.layers[1].ops.linear[0].output[:] = torch.zeros(2, 2)
            model.output.save()
    assert tiny.hooks_on(module) == 0


def test_a_forward_and_hooks_of_the_users_own_are_kept(wide):
    torch.manual_seed(0)
    module = tiny.Stack()
    plain = module.layers[1].forward
    module.layers[1].forward = lambda value: plain(value) + 1
    handle = module.layers[0].register_forward_hook(lambda _m, _a, output: output * 2)
    mine = module.layers[1].forward
    model = Model(module)
    with model.trace(wide):
        doubled = model.layers[0].output.save()
        linear = model.layers[1].ops.add[0].output.save()
        out = model.output.save()
    assert module.layers[1].forward is mine
    assert list(module.layers[0]._forward_hooks) == [handle.id]
    same(doubled, (nn.functional.linear(wide, module.layers[0].weight, module.layers[0].bias) * 2).detach())
    assert linear.shape == (3, 8)
    same(out, module(wide).detach())


@pytest.mark.parametrize("use", ["output", "input", "inputs"])
def test_sites_outside_a_block_are_refused(use):
    model = Model(tiny.stack())
    with pytest.raises(BlockError, match="outside a block"):
        getattr(model.layers[0], use)
    with pytest.raises(BlockError, match="outside a block"):
        setattr(model.layers[0], use, torch.zeros(1))
    with pytest.raises(BlockError, match="outside a block"):
        str(model.layers[0].ops)


def test_a_module_or_a_tensor_cannot_be_set_as_a_value_of_a_module():
    model = Model(tiny.stack())
    with pytest.raises(BlockError, match="'outptu'"):
        model.layers[0].outptu = torch.zeros(1)
    with pytest.raises(BlockError, match="layers"):
        model.layers = 5


def test_the_errors_of_a_language_model_name_the_line_too():
    model = LanguageModel(tiny.hf_model("gpt2"))
    with pytest.raises(UnknownModuleError, match="did you mean 'transformer'") as caught:
        with model.trace([1, 2, 3]):
            model.trasformer.h[0].output.save()
    assert caught.value.line.text == "model.trasformer.h[0].output.save()"
    with pytest.raises(NotReachedError) as missed:
        with model.trace([1, 2, 3]):
            logits = model.output.save()
            model.transformer.h[2].attn.ops.bmm[7].output.save()
    assert "model.transformer.h[2].attn.ops.bmm[7].output.save()" in str(missed.value)
    assert logits.shape == (1, 3, 64)
