"""Hold that what an edit cannot do is refused on the user's own line, with a way out, and leaves nothing half done."""

import pytest
import torch

import loupe
from loupe import LanguageModel, Model
from loupe.errors import BlockError, OrderError
from loupe.trace.stacks import open_recorders
from tests import tiny

IDS = torch.tensor([[5, 9, 2, 7]])


@pytest.fixture
def model():
    return LanguageModel(tiny.hf_model("gpt2"), tokenizer=tiny.tokenizer())


def logits(model):
    with model.trace(IDS):
        found = model.output.save()
    return found


def hidden(edited):
    return edited.transformer.h[0].output[0]


def gradient(value):
    return value.grad


REFUSED = {  # what is refused: the line, the fact, a part of the way out
    "a value that is saved": (lambda e: hidden(e).save(), "a value is saved in an edit", "in a trace"),
    "a list that is saved": (lambda e: [hidden(e)].save(), "a container is saved in an edit", "in a trace"),
    "loupe.save": (lambda e: loupe.save([hidden(e)]), "a container is saved in an edit", "in a trace"),
    "backward": (lambda e: hidden(e).sum().backward(), "runs a backward pass", "in a trace"),
    "a gradient": (lambda e: gradient(hidden(e)), "about a gradient", "in a trace"),
    "a gradient that is set": (lambda e: setattr(hidden(e), "grad", 0), "about a gradient", "in a trace"),
    "retain_grad": (lambda e: hidden(e).retain_grad(), "about a gradient", "in a trace"),
    "the result": (lambda e: e.generator.output, "about the result of a run", "edited.output"),
    "if": (lambda e: "yes" if hidden(e).sum() > 0 else "no", "needs a value", "without if, float, print"),
    "float": (lambda e: float(hidden(e).sum()), "needs a value", "without if, float, print"),
    "print": (lambda e: print(hidden(e)), "needs a value", "without if, float, print"),
    "numpy": (lambda e: hidden(e).numpy(), "needs a value", "without if, float, print"),
    "a shape": (lambda e: hidden(e).shape[-1], "needs a shape or dtype", "negative indices"),
    "a dtype": (lambda e: hidden(e).dtype, "needs a shape or dtype", "zeros_like"),
    "unpacking": (lambda e: list(e.transformer.h[0].attn.output), "needs a shape", r"x\[0\]"),
    "a device": (lambda e: hidden(e).device, "asks for a device", "as they are"),
    "operations": (lambda e: len(e.transformer.h[0].attn.ops), "lists operations", "in a trace"),
    "a generation": (lambda e: e.generate(max_new_tokens=2), "generates", "after the block"),
    "a block": (lambda e: e.trace(IDS).__enter__(), "already open on this model", "end it first"),
    "a scan": (lambda e: e.scan(IDS).__enter__(), "already open on this model", "end it first"),
    "a session": (lambda e: e.session().__enter__(), "a session is opened inside a block", "session first"),
    "another edit": (lambda e: e.edit(), "an edit stands inside a block", "end the block first"),
    "an edit in place": (lambda e: e.edit(inplace=True), "an edit stands inside a block", "end the block first"),
}


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("what", REFUSED)
def test_what_needs_a_run_is_refused_on_its_own_line(model, what, inplace):
    line, fact, way_out = REFUSED[what]
    before = logits(model)
    with pytest.raises(BlockError, match=f"(?s){fact}.*{way_out}") as caught:
        with model.edit(inplace=inplace) as edited:
            hidden(edited)[:] = 0
            line(edited)
    shown = caught.value.line
    assert shown.filename == __file__
    assert "lambda e:" in shown.text or "line(edited)" in shown.text or "return value.grad" in shown.text
    assert edited.edits == []
    assert open_recorders() == []
    assert not hasattr(list, "save")
    assert torch.equal(logits(model), before)
    assert torch.equal(logits(edited), before)


def test_steps_are_named_in_a_generation_and_not_in_an_edit(model):
    with pytest.raises(BlockError, match="next step"):
        with model.edit() as edited:
            edited.transformer.h[0].next().output[0][:] = 0
    assert edited.edits == []


def test_an_exception_in_an_edit_leaves_nothing_half_done(model):
    before = logits(model)
    with pytest.raises(ZeroDivisionError):
        with model.edit(inplace=True):
            hidden(model)[:] = 0
            model.lm_head.weight[:] = 0
            raise ZeroDivisionError
    assert model.edits == []
    assert torch.equal(logits(model), before)
    assert open_recorders() == []
    with model.edit(inplace=True):
        hidden(model)[:] = 0
    assert not torch.equal(logits(model), before)


def test_an_edit_cannot_be_opened_inside_a_block_on_its_model(model):
    for inplace in (False, True):
        with pytest.raises(BlockError, match="an edit stands inside a block") as caught:
            with model.trace(IDS):
                hidden(model)[:] = 0
                model.edit(inplace=inplace)
        assert caught.value.line.text == "model.edit(inplace=inplace)"


def test_values_of_an_edit_are_no_values_after_it(model):
    with model.edit() as edited:
        value = hidden(edited) * 2
        edited.transformer.h[0].output[0][:] = value
    with pytest.raises(loupe.errors.UnsavedError, match="not saved") as caught:
        value.sum()
    assert "value = hidden(edited) * 2" in str(caught.value)


def test_a_write_that_needs_a_later_value_says_so_in_the_run_with_the_edits_line(model):
    with model.edit() as edited:
        edited.transformer.h[0].output[0][:] = edited.transformer.h[1].output[0]
    with pytest.raises(OrderError) as caught:
        logits(edited)
    assert caught.value.line.text == "edited.transformer.h[0].output[0][:] = edited.transformer.h[1].output[0]"


def test_what_does_not_depend_on_the_prompt_is_allowed(model, capsys):
    with model.edit() as edited:
        value = hidden(edited)
        assert "loupe.hidden_states" in repr(value)
        print(repr(value))
        assert isinstance(value, torch.Tensor)
        if edited.transformer.h[0].attn.path == "transformer.h.0.attn":
            value[:, -1, : edited.config.n_embd // 2] = torch.zeros_like(value)[:, -1, : edited.config.n_embd // 2]
    assert "hidden_states" in capsys.readouterr().out
    with edited.trace(IDS):
        found = edited.transformer.h[0].output[0][0, -1].save()
    assert found[:16].abs().sum() == 0
    assert found[16:].abs().sum() > 0


def test_an_edit_of_a_plain_module_needs_no_example():
    net = tiny.net()
    model = Model(net)
    x = torch.ones(2, 4)
    with model.edit() as edited:
        edited.shared.calls[1].output[:] = 0
        edited.output["logits"] = edited.output["logits"] * 0
    with edited.trace(x):
        found = edited.shared.output.save()
        result = edited.output["logits"].save()
    hidden = torch.relu(net.a(x))
    assert torch.allclose(found, net.shared(hidden))
    assert result.abs().sum() == 0
    assert net(x)["logits"].abs().sum() > 0
