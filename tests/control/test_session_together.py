"""Blocks of a session that do not need each other run as one batch; what cannot runs alone, and it says why."""

import pytest
import torch
from torch import nn

import loupe
from loupe import LanguageModel, Model
from loupe.errors import InputError, OperationError
from tests import tiny

IDS = torch.tensor([[5, 9, 2, 7, 11]])
OTHER = torch.tensor([[8, 1, 3, 3, 20]])


def blocks_of(family):
    return tiny.hf_model(family).get_submodule(tiny.BLOCKS[family])


def rows_at(modules, run):
    """How many rows each of these modules was called with, call by call, while `run` ran."""
    seen = [[] for _ in modules]
    handles = [
        module.register_forward_hook(lambda _m, args, _out, place=place: seen[place].append(args[0].shape[0]))
        for place, module in enumerate(modules)
    ]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return seen


def by_hand(family, layer, position, stored):
    """The logits of a pass in which one position of a layer's output is another."""

    def patch(output):
        hidden = output[0] if isinstance(output, tuple) else output
        hidden[:, position] = stored[layer][:, position]

    module = tiny.hf_model(family)
    with tiny.hooked(module, {f"{tiny.BLOCKS[family]}.{layer}": patch}):
        return module(IDS).logits


def clean_states(family):
    paths = [f"{tiny.BLOCKS[family]}.{layer}" for layer in range(3)]
    seen, _ = tiny.outputs_of(tiny.hf_model(family), paths, OTHER)
    return [seen[path][0] if isinstance(seen[path], tuple) else seen[path] for path in paths]


def sweep(model, layers, **options):
    found = {}
    with model.session(**options) as session:
        with model.trace(OTHER):
            stored = [layer.output[0] for layer in layers]
        for place, layer in enumerate(layers):
            for position in range(5):
                with model.trace(IDS):
                    layer.output[0][:, position] = stored[place][:, position]
                    found[place, position] = model.output.save()
    return found, session


@pytest.mark.parametrize("family", ["gpt2", "llama", "mamba", "mixtral"])
def test_a_sweep_gives_what_hooks_give_pass_by_pass(family):
    model = LanguageModel(tiny.hf_model(family))
    found, session = sweep(model, list(model.get(tiny.BLOCKS[family])))
    stored = clean_states(family)
    for (layer, position), logits in found.items():
        want = by_hand(family, layer, position, stored)
        torch.testing.assert_close(logits.value.as_subclass(torch.Tensor), want, atol=1e-5, rtol=1e-4)
    assert str(session).count(", with 14 others") == 15


def test_rows_are_one_row_until_their_blocks_differ():
    model = LanguageModel(tiny.hf_model("gpt2"))
    layers = list(model.transformer.h)
    sweep(model, layers)  # what is learned of a model once costs passes too
    seen = rows_at(blocks_of("gpt2"), lambda: sweep(model, layers))
    # The first block is alone. Of the fifteen others five leave behind each layer; the last of all keeps the first row.
    assert seen == [[1, 1], [1, 6], [1, 11]]


def test_different_prompts_run_as_one_batch():
    model = LanguageModel(tiny.hf_model("gpt2"))

    def run():
        with model.session():
            found.append([])
            for ids in (IDS, OTHER, IDS + 1):
                with model.trace(ids):
                    model.transformer.h[0].output[0][:, 0] = 0
                    found[-1].append(model.output.save())

    found = []
    run()
    assert rows_at(blocks_of("gpt2"), run) == [[3], [3], [3]]
    for ids, logits in zip((IDS, OTHER, IDS + 1), found[-1], strict=True):

        def zero(output):
            output[:, 0] = 0

        with tiny.hooked(tiny.hf_model("gpt2"), {"transformer.h.0": zero}):
            want = tiny.hf_model("gpt2")(ids).logits
        torch.testing.assert_close(logits.value.as_subclass(torch.Tensor), want, atol=1e-5, rtol=1e-4)


def test_a_pair_of_blocks_is_told_in_the_singular():
    model = LanguageModel(tiny.hf_model("gpt2"))
    with model.session() as session:
        for ids in (IDS, OTHER):
            with model.trace(ids):
                model.output.save()
    assert [row.split(": ")[0] for row in str(session).splitlines()] == [
        "block 0, has run, with 1 other",
        "block 1, has run, with 1 other",
    ]


def test_a_batch_has_no_more_rows_than_it_may():
    model = LanguageModel(tiny.hf_model("gpt2"))
    sweep(model, list(model.transformer.h), batch_size=4)
    seen = rows_at(blocks_of("gpt2"), lambda: sweep(model, list(model.transformer.h), batch_size=4))
    assert max(rows for calls in seen for rows in calls) <= 4
    assert len(seen[0]) == 1 + 4


def test_a_batch_size_of_none_at_all_is_refused():
    with pytest.raises(InputError, match="a batch of 0 rows"):
        LanguageModel(tiny.hf_model("gpt2")).session(batch_size=0)


def test_blocks_that_only_read_one_prompt_share_one_row():
    model = LanguageModel(tiny.hf_model("gpt2"))

    def run():
        with model.session():
            for layer in model.transformer.h:
                with model.trace(IDS):
                    found.append(layer.output[0].save())

    found = []
    run()
    assert rows_at(blocks_of("gpt2"), run) == [[1], [1], [1]]
    seen, _ = tiny.outputs_of(tiny.hf_model("gpt2"), [f"transformer.h.{layer}" for layer in range(3)], IDS)
    for layer in range(3):
        torch.testing.assert_close(found[-3 + layer].value, seen[f"transformer.h.{layer}"])


def test_one_backward_pass_serves_all_blocks():
    module = tiny.hf_model("gpt2")
    model = LanguageModel(module)
    factors = [1.0, -2.0, 0.5]

    def run():
        with model.session() as session:
            for factor in factors:
                with model.trace(IDS):
                    hidden = model.transformer.h[1].output[0]
                    (model.output[0, -1].sum() * factor).backward()
                    found.append(hidden.grad.save())
        return session

    found = []
    session = run()
    kept = {}
    handle = module.transformer.h[1].register_forward_hook(lambda _m, _a, output: kept.update(hidden=output))
    want = torch.autograd.grad(module(IDS).logits[0, -1].sum(), kept["hidden"])[0]
    handle.remove()
    for factor, gradient in zip(factors, found, strict=True):
        torch.testing.assert_close(gradient.value, want * factor, atol=1e-5, rtol=1e-4)
    assert str(session).count(", with 2 others") == 3


ALONE = {
    "Python looked at a value in it": lambda model: float(model.transformer.h[0].output[0].sum()),
    "it calls a function of the user's": lambda model: loupe.fn(lambda x: x)(model.output).save(),
    "it draws random numbers": lambda model: torch.rand_like(model.transformer.h[0].output[0]).save(),
    "it changes a tensor in place that is not its own": lambda model: KEPT.add_(model.output.mean()),
}
KEPT = torch.zeros(())


@pytest.mark.parametrize("reason", [*ALONE, "it stops the pass", "it collects with tracer.cache"])
def test_what_cannot_run_with_others_runs_alone_and_the_session_says_why(reason):
    model = LanguageModel(tiny.hf_model("gpt2"))
    with model.session() as session:
        for _ in range(2):
            with model.trace(IDS) as tracer:
                if reason in ALONE:
                    ALONE[reason](model)
                elif reason == "it stops the pass":
                    model.transformer.h[0].output.save()
                    tracer.stop()
                else:
                    tracer.cache("transformer.h.0")
    if reason == "Python looked at a value in it":  # the look lets a block run when it ends
        assert str(session).count("has run: ") == 2
    else:
        assert str(session).count(f"has run alone: {reason}: ") == 2


def test_a_wall_keeps_its_place_among_the_blocks():
    model = LanguageModel(tiny.hf_model("gpt2"))
    total = torch.zeros(())
    with model.session() as session:
        with model.trace(IDS):
            before = (model.output.mean() * 0 + total).save()
        with model.trace(IDS):
            total.add_(model.output.mean() * 0 + 1)
        with model.trace(IDS):
            after = (model.output.mean() * 0 + total).save()
    assert float(before) == 0
    assert float(after) == 1
    assert "others" not in str(session)


def test_an_error_is_that_of_its_block_and_earlier_blocks_have_their_values():
    model = LanguageModel(tiny.hf_model("gpt2"))
    saved = []
    with pytest.raises(OperationError, match=r"operator\.matmul failed") as caught, model.session():
        for width in (32, 32, 33, 32):
            with model.trace(IDS):
                saved.append((model.transformer.h[0].output[0] @ torch.ones(width, 1)).save())
    assert "torch.ones(width, 1)" in caught.value.line.text
    assert saved[0].shape == saved[1].shape == (1, 5, 1)
    with pytest.raises(loupe.LoupeError):
        _ = saved[2].shape


class Centred(nn.Module):
    """A module in which rows have to do with each other."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x - x.mean(0)


def test_a_model_whose_rows_depend_on_each_other_is_run_block_by_block():
    torch.manual_seed(0)
    module = Centred().eval()
    model, inputs, found = Model(module), [torch.randn(2, 4), torch.randn(2, 4)], []
    with model.session() as session:
        for x in inputs:
            with model.trace(x):
                found.append(model.output.save())
    for x, output in zip(inputs, found, strict=True):
        torch.testing.assert_close(output.value, module(x))
    assert "the rows of a batch depend on each other in this model" in str(session)


def test_a_model_that_trains_is_run_block_by_block():
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
    model = Model(module.train())
    x, found = torch.randn(2, 4), []
    torch.manual_seed(3)
    with model.session() as session:
        for _ in range(2):
            with model.trace(x):
                found.append(model.output.save())
    torch.manual_seed(3)
    for output in found:
        torch.testing.assert_close(output.value, module(x))
    assert "the model is training" in str(session)


class Around(nn.Module):
    """A stack with a connection around it, which does not pass through its layers."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, x):
        start = x
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x + start


@pytest.mark.parametrize("prompts", [1, 2])
def test_a_connection_around_the_layers_gives_no_wrong_value(prompts):
    torch.manual_seed(0)
    module = Around().eval()
    model, found = Model(module), []
    inputs = [torch.randn(1, 4) for _ in range(prompts)]
    with model.session():
        for x in inputs:
            for place in range(3):
                with model.trace(x):
                    model.layers[place].output[:, 0] = 1
                    found.append((x, place, model.output.save()))
    for x, place, output in found:

        def one(value):
            value[:, 0] = 1

        with tiny.hooked(module, {f"layers.{place}": one}):
            torch.testing.assert_close(output.value, module(x))
