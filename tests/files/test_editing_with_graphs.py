"""A graph makes an edited model, as the same lines in `with model.edit():` do."""

import pytest
import torch
from torch import nn

import loupe
from loupe import LanguageModel, Model
from loupe.errors import BlockError, FitError, InputError
from tests import tiny
from tests.tiny import hooked

X = torch.linspace(-1, 1, 16).reshape(2, 8)
IDS = torch.tensor([[5, 9, 2, 7]])
OPTIONS = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}


def stack():
    return Model(tiny.stack())


def scaling(model):
    factor = loupe.param("factor", 2.0)
    with model.trace(X) as tracer:
        model.layers[0].output[:] = model.layers[0].output * factor
        model.layers[1].output.mean().save("read")
    return tracer.graph


def scaled(factor, x=X):
    with hooked(tiny.stack(), {"layers.0": lambda output: output * factor}):
        return tiny.stack()(x)


def out_of(model, x=X):
    with model.trace(x):
        out = model.output.save()
    return out.value


def test_a_graph_makes_the_edited_model_that_a_block_makes(stored):
    model = stack()
    edited = model.edit(stored(scaling(model)))
    with model.edit() as by_hand:
        by_hand.layers[0].output[:] = by_hand.layers[0].output * 2.0
    torch.testing.assert_close(out_of(edited), scaled(2.0))
    torch.testing.assert_close(edited(X).detach(), scaled(2.0))
    assert torch.equal(out_of(edited), out_of(by_hand))
    torch.testing.assert_close(out_of(model), tiny.stack()(X).detach())


def test_parameters_are_filled_in_for_good(stored):
    graph = stored(scaling(stack()))
    torch.testing.assert_close(out_of(stack().edit(graph, factor=-1.0)), scaled(-1.0))
    torch.testing.assert_close(out_of(stack().edit(graph, factor=torch.arange(8.0))), scaled(torch.arange(8.0)))
    torch.testing.assert_close(out_of(stack().edit(graph)), scaled(2.0))


def test_edits_from_graphs_add_up_and_can_be_cleared(stored):
    model = stack()
    graph = stored(scaling(model))
    twice = model.edit(graph).edit(graph, factor=3.0)
    torch.testing.assert_close(out_of(twice), scaled(6.0))
    twice.clear_edits()
    torch.testing.assert_close(out_of(twice), tiny.stack()(X).detach())


def test_an_edit_in_place_is_one_of_the_model_itself(stored):
    model = stack()
    assert model.edit(stored(scaling(model)), inplace=True) is model
    torch.testing.assert_close(out_of(model), scaled(2.0))


@pytest.mark.parametrize("on_edited", [False, True])
def test_a_graph_of_an_edited_model_brings_its_edits_along_once(stored, on_edited):
    model = stack()
    edited = model.edit(scaling(model))
    with edited.trace(X) as tracer:
        edited.layers[1].output[:] = edited.layers[1].output + 1
    graph = stored(tracer.graph)
    with hooked(tiny.stack(), {"layers.0": lambda out: out * 2, "layers.1": lambda out: out + 1}):
        want = tiny.stack()(X)
    torch.testing.assert_close(out_of((edited if on_edited else model).edit(graph)), want)
    torch.testing.assert_close(out_of(edited), scaled(2.0))


def test_a_weight_that_a_graph_sets_is_set_while_the_edited_model_runs(stored):
    model = stack()
    with model.edit() as other:
        other.layers[0].weight[0] = 0
    with other.trace(X) as tracer:
        other.output.save("out")
    edited = model.edit(stored(tracer.graph))
    before = tiny.stack().layers[0].weight.clone()
    with torch.no_grad():
        net = tiny.Stack()
        net.load_state_dict(tiny.stack().state_dict())
        net.layers[0].weight[0] = 0
        torch.testing.assert_close(out_of(edited), net(X))
    assert torch.equal(tiny.stack().layers[0].weight, before)


def test_an_edit_from_a_graph_holds_at_every_step_of_a_generation(stored):
    model = LanguageModel(tiny.hf_model("gpt2"), tokenizer=tiny.tokenizer())
    with model.trace(IDS) as tracer:
        model.transformer.h[1].output[0][:] = -model.transformer.h[1].output[0]
    edited = model.edit(stored(tracer.graph))

    def negate(output):
        return (-output[0], *output[1:]) if isinstance(output, tuple) else -output

    with hooked(tiny.hf_model("gpt2"), {"transformer.h.1": negate}):
        want = tiny.hf_model("gpt2").generate(IDS, **OPTIONS)
    assert torch.equal(edited.generate(IDS, **OPTIONS), want)
    assert not torch.equal(model.generate(IDS, **OPTIONS), want)


def test_a_constant_that_an_edit_changes_is_its_own(stored):
    model, total = stack(), torch.zeros(2, 8)
    with model.trace(X) as tracer:
        model.layers[1].input = model.layers[1].input + total.add_(1.0 + 0 * model.layers[0].output)
    graph = stored(tracer.graph)
    before = graph.hash
    model.edit(graph)(X)
    assert graph.hash == before


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_a_graph_that_changes_nothing_is_no_edit():
    model = stack()
    with model.trace(X) as tracer:
        model.layers[0].output.save("out")
    with pytest.raises(BlockError, match="changes nothing"):
        model.edit(tracer.graph)


def test_a_graph_about_single_prompts_is_no_edit():
    model = stack()
    with model.trace() as tracer:
        with tracer.invoke(X):
            model.layers[0].output[:] = 0
    with pytest.raises(BlockError, match="single prompts") as caught:
        model.edit(tracer.graph)
    assert "output[:] = 0" in str(caught.value)


def test_a_graph_about_single_steps_is_no_edit():
    model = LanguageModel(tiny.hf_model("gpt2"), tokenizer=tiny.tokenizer())
    with model.generate(IDS, **OPTIONS) as tracer:
        with tracer.iter[1:]:
            model.transformer.h[0].output[0][:] *= 2
    with pytest.raises(BlockError, match="single steps"):
        model.edit(tracer.graph)


def test_a_graph_with_a_gradient_is_no_edit():
    model = stack()
    with model.trace(X) as tracer:
        hidden = model.layers[0].output
        with model.output.sum().backward():
            hidden.grad = hidden.grad * 2
            model.layers[0].weight.grad.save("gradient")
    with pytest.raises(BlockError):
        model.edit(tracer.graph)


def test_an_unknown_parameter_is_refused_with_the_right_name():
    with pytest.raises(InputError, match="'factr'") as caught:
        stack().edit(scaling(stack()), factr=1.0)
    assert "'factor'" in str(caught.value)


def test_a_parameter_without_a_value_is_refused():
    model = stack()
    try:
        with model.trace(X) as tracer:
            model.layers[0].output[:] = model.layers[0].output * loupe.param("needed")
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        graph = tracer.graph
    with pytest.raises(BlockError, match="'needed' has no value"):
        model.edit(graph)
    torch.testing.assert_close(out_of(model.edit(graph, needed=0.5)), scaled(0.5))


def test_a_model_that_does_not_fit_is_not_edited():
    with pytest.raises(FitError, match=r"layers\.0"):
        Model(nn.Sequential(nn.Linear(8, 8))).edit(scaling(stack()))
