"""A graph that was recorded before runs on other inputs, with parameters, again and again, on models that it fits."""

import copy
import threading
import warnings

import pytest
import torch
from torch import nn

import loupe
from loupe import LanguageModel, Model
from loupe.errors import FitError, InputError, LoupeError, OperationError, OriginWarning
from tests import tiny
from tests.tiny import hooked, outputs_of

X = torch.linspace(-1, 1, 16).reshape(2, 8)
IDS = torch.tensor([[5, 9, 2, 7]])
OPTIONS = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}


def stack():
    return Model(tiny.stack())


def gpt2():
    return LanguageModel(tiny.hf_model("gpt2"), tokenizer=tiny.tokenizer())


def scaling(model, x=X, factor=loupe.param("factor", 2.0)):
    """A graph that scales the first layer's output by a parameter."""
    with model.trace(x) as tracer:
        model.layers[0].output[:] = model.layers[0].output * factor
        model.output.save("out")
    return tracer.graph


def scaled(factor=2.0, x=X):
    """The same with a hook."""
    with hooked(tiny.stack(), {"layers.0": lambda output: output * factor}):
        return tiny.stack()(x)


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_other_numbers_of_rows(stored, rows):
    x = torch.linspace(-2, 1, 8 * rows).reshape(rows, 8)
    torch.testing.assert_close(stack().run(stored(scaling(stack())), x)["out"], scaled(x=x))


@pytest.mark.parametrize("ids", [[1], [3, 4], [9, 8, 7, 6, 5, 4, 3, 2, 1]])
def test_prompts_of_other_lengths(stored, ids):
    model = gpt2()
    with model.trace(IDS) as tracer:
        model.transformer.h[1].output[0][:, -1] *= 0.5
        model.output[:, -1].save("last")

    def halve(output):
        (output[0] if isinstance(output, tuple) else output)[:, -1] *= 0.5

    with hooked(tiny.hf_model("gpt2"), {"transformer.h.1": halve}):
        want = tiny.hf_model("gpt2")(torch.tensor([ids])).logits[:, -1]
    torch.testing.assert_close(model.run(stored(tracer.graph), ids)["last"], want, atol=1e-5, rtol=1e-4)
    words = " ".join(f"w{number}" for number in ids)
    torch.testing.assert_close(model.run(tracer.graph, words)["last"], want, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("from_file", [False, True])
def test_a_constant_that_a_graph_changes_is_as_it_was_for_every_run(stored, from_file):
    model, total = stack(), torch.zeros(2, 8)
    with model.trace(X) as tracer:
        total.add_(model.layers[0].output).save("total")
        (total + model.layers[0].output * 0).save("copy")
    graph = stored(tracer.graph) if from_file else tracer.graph
    want = tiny.stack().layers[0](X).detach()
    before = graph.hash
    for _ in range(3):
        found = model.run(graph, X)
        torch.testing.assert_close(found["total"], want)
        torch.testing.assert_close(found["copy"], want)
        found["total"].zero_()
    assert graph.hash == before


def test_a_result_that_lies_in_a_constant_can_be_changed_without_changing_the_graph(stored):
    model, shift = stack(), loupe.param("shift", torch.arange(8.0))
    with model.trace(X) as tracer:
        (model.layers[0].output + shift).save("sum")
        shift.reshape(2, 4).save("view")
    graph, mine = stored(tracer.graph), torch.ones(8)
    for _ in range(2):
        found = model.run(graph, X)
        assert torch.equal(found["view"], torch.arange(8.0).reshape(2, 4))
        torch.testing.assert_close(found["sum"], tiny.stack().layers[0](X).detach() + torch.arange(8.0))
        found["view"].zero_()
    model.run(graph, X, shift=mine)["view"].zero_()
    assert torch.equal(mine, torch.ones(8))


def test_a_constant_keeps_its_place_in_a_loaded_graph_when_a_parameters_default_is_changed_by_a_run(stored):
    model = stack()
    start = loupe.param("start", torch.zeros(2, 8))
    with model.trace(X) as tracer:
        start.add_(model.layers[0].output)
        (start * 1).save("sum")
    graph = stored(tracer.graph)
    for _ in range(2):
        torch.testing.assert_close(model.run(graph, X)["sum"], tiny.stack().layers[0](X).detach())


def test_a_tensor_that_is_given_for_a_parameter_is_not_changed():
    model = stack()
    start = loupe.param("start", torch.zeros(2, 8))
    with model.trace(X) as tracer:
        start.add_(model.layers[0].output)
        (start * 1).save("sum")
    mine = torch.ones(2, 8)
    model.run(tracer.graph, X, start=mine)
    assert torch.equal(mine, torch.ones(2, 8))


def test_two_threads_run_a_graph_at_once(stored):
    graph, found = stored(scaling(stack())), {}

    def run(number):
        found[number] = [Model(twins[number]).run(graph, X, factor=float(number))["out"] for _ in range(10)]

    torch.manual_seed(0)
    twins = [tiny.Stack().requires_grad_(False) for _ in range(2)]
    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, twin in enumerate(twins):
        with hooked(twin, {"layers.0": lambda output, number=number: output * float(number)}):
            want = twin(X)
        assert len(found[number]) == 10
        for out in found[number]:
            torch.testing.assert_close(out, want)


def test_a_graph_runs_after_a_run_of_it_has_failed(stored):
    graph = stored(scaling(stack()))
    with pytest.raises(OperationError, match="mul") as caught:
        stack().run(graph, X, factor=torch.ones(3))
    assert "layers[0].output * factor" in str(caught.value)
    torch.testing.assert_close(stack().run(graph, X)["out"], scaled())


def test_a_graph_runs_after_the_model_has_failed(stored):
    graph, model = stored(scaling(stack())), stack()
    with pytest.raises(RuntimeError):
        model.run(graph, torch.ones(2, 3))
    assert tiny.hooks_on(tiny.stack()) == 0
    torch.testing.assert_close(model.run(graph, X)["out"], scaled())


def test_a_graph_of_one_model_object_runs_on_another(stored):
    torch.manual_seed(3)
    other = tiny.Stack()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = Model(other).run(stored(scaling(stack())), X, factor=0.5)["out"]
    with hooked(other, {"layers.0": lambda output: output * 0.5}):
        torch.testing.assert_close(found, other(X))


def test_a_plain_model_gets_several_arguments_and_keywords(stored):
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Identity()

        def forward(self, a, b, *, scale=1.0):
            return self.inner(a + 2 * b) * scale

    model, a, b = Model(Sum()), torch.ones(2), torch.arange(2.0)
    with model.trace(a, b, scale=3.0) as tracer:
        model.inner.output.save("inner")
        model.output.save("out")
    graph = stored(tracer.graph)
    found = model.run(graph, b, a, scale=2.0)
    assert torch.equal(found["inner"], torch.tensor([2.0, 3.0]))
    assert torch.equal(found["out"], torch.tensor([4.0, 6.0]))


def test_a_tuple_is_one_input_of_several_arguments_for_an_invoke(stored):
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Identity()

        def forward(self, a, b):
            return self.inner(a + 2 * b)

    model, a, b = Model(Sum()), torch.ones(1, 2), torch.arange(2.0)[None]
    with model.trace() as tracer:
        for name in ("one", "two"):
            with tracer.invoke(a, b):
                model.inner.output.save(name)
    found = model.run(stored(tracer.graph), (a, b), (b, a))
    assert torch.equal(found["one"], a + 2 * b)
    assert torch.equal(found["two"], b + 2 * a)


def test_options_of_a_generation_are_those_of_the_graph_or_those_that_are_given(stored):
    model, hf = gpt2(), tiny.hf_model("gpt2")
    with model.generate(IDS, **OPTIONS) as tracer:
        with tracer.all():
            model.transformer.h[0].output[0][:, -1].save("states")
        tracer.result.save("ids")
    graph = stored(tracer.graph)
    assert torch.equal(model.run(graph, IDS)["ids"], hf.generate(IDS, **OPTIONS))
    longer = model.run(graph, IDS, max_new_tokens=7)
    assert torch.equal(longer["ids"], hf.generate(IDS, **{**OPTIONS, "max_new_tokens": 7}))
    assert len(longer["states"]) == 7
    assert len(model.run(graph, IDS)["states"]) == 4
    assert len(model.run(graph, IDS, max_new_tokens=1)["states"]) == 1


def test_a_cache_collects_anew_at_each_run(stored):
    model = stack()
    with model.trace(X) as tracer:
        tracer.cache(modules=[model.layers[1]])
    graph = stored(tracer.graph)
    for x in (X, X * 3):
        (found,) = model.run(graph, x).values()
        seen, _ = outputs_of(tiny.stack(), ["layers.1"], x)
        torch.testing.assert_close(found["layers.1"].output, seen["layers.1"].detach())


def test_a_graph_runs_behind_the_edits_of_a_model(stored):
    model = stack()
    graph = stored(scaling(model))
    with model.edit() as edited:
        edited.layers[1].output[:] = edited.layers[1].output + 1
    with hooked(tiny.stack(), {"layers.0": lambda out: out * 2, "layers.1": lambda out: out + 1}):
        want = tiny.stack()(X)
    torch.testing.assert_close(edited.run(graph, X)["out"], want)
    torch.testing.assert_close(model.run(graph, X)["out"], scaled())


def test_a_graph_calls_a_module_that_is_attached_to_both_models(stored):
    sae = nn.Linear(8, 3)

    def attached():
        torch.manual_seed(0)
        model = Model(tiny.Stack())
        model.sae = sae
        return model

    model = attached()
    with model.trace(X) as tracer:
        model.sae(model.layers[0].output).save("features")
        model.sae.output.save("same")
    graph = stored(tracer.graph)
    want = sae(tiny.stack().layers[0](X)).detach()
    found = attached().run(graph, X)
    torch.testing.assert_close(found["features"], want)
    torch.testing.assert_close(found["same"], want)
    with pytest.raises(FitError, match="'sae'"):
        stack().run(graph, X)


# -- mistakes ----------------------------------------------------------------------------------------------------------


def test_a_misspelt_parameter_is_refused_with_the_right_name():
    with pytest.raises(InputError, match="factr") as caught:
        stack().run(scaling(stack()), X, factr=1.0)
    assert "did you mean 'factor'?" in str(caught.value)


def test_a_name_that_nobody_knows_is_the_models_business():
    with pytest.raises((TypeError, LoupeError), match="colour"):
        stack().run(scaling(stack()), X, colour=1.0)


def test_a_parameter_without_a_value_is_asked_for(stored):
    model = stack()
    try:
        with model.trace(X) as tracer:
            (model.layers[0].output * loupe.param("needed")).save("product")
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        graph = stored(tracer.graph)
    with pytest.raises(InputError, match="'needed'") as caught:
        model.run(graph, X)
    assert "needed=" in str(caught.value)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_another_number_of_prompts_is_refused(stored, count):
    model = stack()
    with model.trace() as tracer:
        for name in ("one", "two"):
            with tracer.invoke(X):
                model.output.save(name)
    with pytest.raises(InputError, match=f"has 2 prompts, and is given {count}"):
        model.run(stored(tracer.graph), *[X] * count)


def test_another_number_of_prompts_of_a_session_is_refused():
    model = stack()
    with model.session() as session:
        for name in ("one", "two"):
            with model.trace(X):
                model.output.save(name)
    with pytest.raises(InputError, match="the session has 2 prompts, and is given 1"):
        model.run(session.graphs, X)
    with pytest.raises(InputError, match="leaves no 'strength' open"):
        model.run(session.graphs, X, X, strength=1.0)


# -- other models ------------------------------------------------------------------------------------------------------


def patching(model):
    with model.trace(IDS) as tracer:
        model.transformer.h[1].output[0][:, -1] *= 0.5
        model.transformer.h[2].mlp.output.save("mlp")
    return tracer.graph


def test_a_model_of_another_tree_does_not_fit_and_the_way_to_carry_it_over_is_told(stored):
    llama = LanguageModel(tiny.hf_model("llama"), tokenizer=tiny.tokenizer())
    with pytest.raises(FitError) as caught:
        llama.run(stored(patching(gpt2())), IDS)
    text = str(caught.value)
    assert "'transformer.h.1'" in text
    assert "LlamaForCausalLM does not have" in text
    assert "it was written for a model (GPT2LMHeadModel)" in text
    assert "rename_sites({'transformer.h': 'model.layers'" in text
    assert "transformer.h[1].output[0]" in text


def test_a_graph_is_carried_over_to_another_architecture(stored):
    hf = tiny.hf_model("llama")
    llama = LanguageModel(hf, tokenizer=tiny.tokenizer())
    graph = stored(patching(gpt2())).rename_sites({"transformer.h": "model.layers"})
    seen = {}

    def halve(output):
        (output[0] if isinstance(output, tuple) else output)[:, -1] *= 0.5

    with hooked(hf, {"model.layers.1": halve, "model.layers.2.mlp": lambda out: seen.update(mlp=out.clone())}):
        hf(IDS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(llama.run(graph, IDS)["mlp"], seen["mlp"], atol=1e-5, rtol=1e-4)


def test_renaming_names_what_it_does_not_find_and_leaves_the_graph_as_it_was():
    graph = patching(gpt2())
    before = graph.hash
    with pytest.raises(loupe.errors.GraphError, match=r"names nothing in 'transformer\.hh'") as caught:
        graph.rename_sites({"transformer.hh": "model.layers"})
    assert "transformer.h" in str(caught.value)
    graph.rename_sites({"transformer.h": "model.layers"})
    assert graph.hash == before


def test_the_longest_name_wins_and_parts_of_names_do_not_count():
    graph = patching(gpt2())
    renamed = graph.rename_sites({"transformer": "a", "transformer.h": "b", "transformer.h.2": "c"})
    assert renamed.modules == ["b.1", "c.mlp"]
    with pytest.raises(loupe.errors.GraphError):
        graph.rename_sites({"transformer.h.": "x"})
    with pytest.raises(loupe.errors.GraphError):
        graph.rename_sites({"trans": "x"})


def test_a_module_of_another_class_in_the_same_place_warns(stored):
    graph = stored(scaling(stack()))
    torch.manual_seed(0)
    other = tiny.Stack()
    other.layers[0] = nn.Sequential(other.layers[0])
    with pytest.warns(OriginWarning, match=r"layers\.0 is Sequential where it was Linear"):
        Model(other).run(graph, X)


def called(name, commit):
    """The GPT-2 as if it had come from a hub under a name and at a commit."""
    hf = copy.deepcopy(tiny.hf_model("gpt2"))
    hf.config._name_or_path, hf.config._commit_hash = name, commit
    return LanguageModel(hf, tokenizer=tiny.tokenizer())


def test_a_model_of_another_name_or_revision_warns_on_the_line_of_the_run(stored):
    graph = stored(patching(called("someone/one", "abc")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        called("someone/one", "abc").run(graph, IDS)
        called("someone/one", None).run(graph, IDS)
    with pytest.warns(OriginWarning, match="written for 'someone/one', and runs on 'someone/two'") as caught:
        called("someone/two", "abc").run(graph, IDS)
    assert [each.filename for each in caught] == [__file__]
    with pytest.warns(OriginWarning, match="written for revision abc of 'someone/one', and runs on def"):
        called("someone/one", "def").run(graph, IDS)


def test_where_a_model_lies_on_the_disk_is_in_no_file(tmp_path, stored):
    model = LanguageModel(tiny.saved_model(tmp_path / "secret-place"))
    with model.trace("w1 w2") as tracer:
        model.output[:, -1].save("last")
    stored(tracer.graph)
    assert b"secret-place" not in (tmp_path / "graph.loupe").read_bytes()
    assert tracer.graph.origin.model is None


def test_results_are_the_same_whether_gradients_are_tracked_around_the_run(stored):
    graph, model = stored(scaling(stack())), stack()
    with torch.no_grad():
        inside = model.run(graph, X)["out"]
    torch.testing.assert_close(model.run(graph, X)["out"].detach(), inside)


def test_a_block_on_one_module_runs_that_module_alone_from_a_file_too(tmp_path):
    module = tiny.hf_model("gpt2")
    model = LanguageModel(module)
    hidden = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0))
    with model.transformer.h[1].trace(hidden) as tracer:
        model.transformer.h[1].mlp.output.save("mlp")
    tracer.graph.save(tmp_path / "block.loupe")
    graph = loupe.load(tmp_path / "block.loupe")
    other = torch.randn(1, 4, 32, generator=torch.Generator().manual_seed(1))
    seen, _ = tiny.outputs_of(module.transformer.h[1], ["mlp"], other)
    torch.testing.assert_close(model.run(graph, other)["mlp"], seen["mlp"])
    assert graph.validate(model, other)
