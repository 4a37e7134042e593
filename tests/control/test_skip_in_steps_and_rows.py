"""Hold skips at steps of a generation, in single prompts of a batch and around peeks against forwards by hand."""

import pytest
import torch

from loupe import LanguageModel, Model
from loupe.errors import OrderError, RowsError
from tests import tiny
from tests.control.by_hand import IDS, OPTIONS, given, gpt2, replaced, watched

FAMILIES = list(tiny.CONFIGS)
H1 = "transformer.h.1"


def generated(family, path, steps, **options):
    """What the library generates where a module gives its input at these steps, and does nothing else."""
    hf = tiny.hf_model(family)
    with replaced(hf, {path: lambda call, own, x, *args, **kwargs: x if call in steps else own(x, *args, **kwargs)}):
        return hf.generate(IDS, **OPTIONS, **options)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("steps", [range(5), [0], [2], range(1, 4)], ids=["all", "first", "one", "some"])
def test_a_skip_at_steps_of_a_generation_equals_a_forward_replaced_at_those_steps(family, layer, steps):
    path = f"{tiny.BLOCKS[family]}.{layer}"
    model = LanguageModel(tiny.hf_model(family))
    block, want = model.get(path), generated(family, path, steps)
    with model.generate(IDS, **OPTIONS) as tracer:
        with tracer.iter[list(steps)]:
            block.skip(block.input)
        found = tracer.result.save()
    assert torch.equal(found, want)
    with model.generate(IDS, **OPTIONS) as tracer:
        for step in tracer.iter[:5]:
            if step in steps:
                block.skip(block.input)
        found = tracer.result.save()
    assert torch.equal(found, want)


def test_a_skip_without_steps_is_about_the_first_one():
    model = gpt2()
    with model.generate(IDS, **OPTIONS) as tracer:
        model.transformer.h[1].skip(model.transformer.h[1].input)
        found = tracer.result.save()
    assert torch.equal(found, generated("gpt2", H1, [0]))


def test_every_beam_of_a_prompt_skips():
    model = gpt2()
    with model.generate(IDS, **OPTIONS, num_beams=2) as tracer:
        with tracer.all():
            model.transformer.h[1].skip(model.transformer.h[1].input)
        found = tracer.result.save()
    assert torch.equal(found, generated("gpt2", H1, range(5), num_beams=2))


def test_what_is_looked_at_decides_about_skips_in_one_pass():
    model, hf = gpt2(), tiny.hf_model("gpt2")
    norms, skipped = [], []
    with watched(hf, ["transformer.wte"]) as ran, model.generate(IDS, **OPTIONS) as tracer:
        for step in tracer.iter[:5]:
            norms.append(float(model.transformer.h[1].input.norm()))
            if step % 2:
                skipped.append(step)
                model.transformer.h[1].skip(model.transformer.h[1].input)
        found = tracer.result.save()
    assert skipped == [1, 3]
    assert torch.equal(found, generated("gpt2", H1, skipped))
    assert len(ran) == 5  # no step was run twice
    assert len(set(norms)) > 1


def test_a_skip_that_is_written_at_one_step_leaves_another_open_to_lines_inside():
    model, hf = gpt2(), tiny.hf_model("gpt2")
    with model.generate(IDS, **OPTIONS) as tracer:
        model.transformer.h[1].mlp.output = model.transformer.h[1].mlp.output * 2
        with tracer.iter[2]:
            model.transformer.h[1].skip(model.transformer.h[0].output)
        early = model.transformer.h[0].output.save()  # the pass stops before the line above it
        found = tracer.result.save()
    doubled = {f"{H1}.mlp": lambda call, own, x: own(x) * 2 if call == 0 else own(x)}
    with replaced(hf, doubled):
        want = generated("gpt2", H1, [2])
    assert torch.equal(found, want)
    with model.generate(IDS, **OPTIONS) as tracer:
        model.transformer.h[1].mlp.output = torch.zeros(1, 4, 32)
        with tracer.iter[2]:
            model.transformer.h[1].skip(model.transformer.h[0].output)
        only = model.transformer.h[0].output.save()
    assert torch.equal(only, early.value)


# -- rows -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_one_prompt_of_several_skips_and_the_other_is_as_it_was(family):
    hf, path = tiny.hf_model(family), f"{tiny.BLOCKS[family]}.1"
    model, other = LanguageModel(hf), [3, 8, 1]
    block = model.get(path)
    with model.trace() as tracer:
        with tracer.invoke(IDS):
            block.skip(block.input * 2)
            first = model.output.save()
        with tracer.invoke(other):
            second, states = model.output.save(), block.output.save()
    with replaced(hf, {path: given(lambda x: x * 2)}):
        want = hf(IDS).logits
    assert torch.allclose(first, want, atol=1e-5)
    seen, result = tiny.outputs_of(hf, [path], torch.tensor([other]))
    assert torch.allclose(second[:, -3:], result.logits, atol=1e-5)
    assert torch.allclose(states[:, -3:], seen[path], atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_where_every_prompt_skips_the_module_does_not_run(family):
    hf, path = tiny.hf_model(family), f"{tiny.BLOCKS[family]}.1"
    model = LanguageModel(hf)
    block = model.get(path)
    inner = f"{path}.{next(name for name, _ in hf.get_submodule(path).named_children())}"
    with watched(hf, [inner]) as ran, model.trace() as tracer:
        with tracer.invoke(IDS):
            block.skip(block.input * 2)
            first = model.output.save()
        with tracer.invoke([3, 8]):
            block.skip(block.input - 1)
            second = model.output.save()
    assert ran == []
    for found, ids, change in ((first, IDS, lambda x: x * 2), (second, torch.tensor([[3, 8]]), lambda x: x - 1)):
        with replaced(hf, {path: given(change)}):
            assert torch.allclose(found[:, -ids.shape[1] :], hf(ids).logits, atol=1e-5)


def test_the_whole_batch_skips_beside_a_prompt_that_goes_its_own_way():
    net, one, two = tiny.net(), torch.randn(2, 4), torch.randn(3, 4)
    model = Model(net)
    with model.trace() as tracer:
        with tracer.invoke():
            model.shared.skip(model.shared.input * 5)
        with tracer.invoke(one):
            model.shared.skip(model.shared.input * 7)
            first = model.output["logits"].save()
        with tracer.invoke(two):
            second = model.output["logits"].save()
    for found, x, factor in ((first, one, 7), (second, two, 5)):
        by_hand = lambda call, own, x, factor=factor: x * factor if call == 0 else own(x)  # noqa: E731
        with replaced(net, {"shared": by_hand}):
            torch.testing.assert_close(torch.as_tensor(found.value), net(x)["logits"])


def test_a_prompt_skips_at_steps_of_a_generation_of_two():
    hf, model, other = tiny.hf_model("llama"), LanguageModel(tiny.hf_model("llama")), [3, 8, 1, 1]
    path = "model.layers.1"
    with model.generate(**OPTIONS) as tracer:
        with tracer.invoke(IDS):
            with tracer.iter[1:3]:
                model.get(path).skip(model.get(path).input)
            first = tracer.result.save()
        with tracer.invoke(other):
            second = tracer.result.save()

    def by_hand(call, own, x, *args, **kwargs):
        out = own(x, *args, **kwargs)  # the other prompt needs it, so what it keeps is kept
        return x if call in (1, 2) else out

    with replaced(hf, {path: by_hand}):
        want = hf.generate(IDS, **OPTIONS)
    assert torch.equal(first, want)
    assert torch.equal(second, hf.generate(torch.tensor([other]), **OPTIONS))


def test_one_prompt_cannot_skip_with_what_another_has_only_later_or_with_rows_of_another_shape():
    model = gpt2()
    with pytest.raises(OrderError, match=r"lets the module run"), model.trace() as tracer:
        with tracer.invoke(IDS):
            there = model.transformer.h[1].output
        with tracer.invoke([[3, 8, 4, 4]]):
            model.transformer.h[1].skip(there)
            model.output.save()
    with pytest.raises(RowsError, match=r"\[1, 2, 32\], where this prompt's rows are \[1, 4, 32\]"):
        with model.trace() as tracer:
            with tracer.invoke(IDS):
                model.transformer.h[1].skip(torch.zeros(1, 2, 32))
                model.output.save()
            with tracer.invoke([[3, 8, 4, 4]]):
                model.output.save()
    assert tiny.hooks_on(tiny.hf_model("gpt2")) == 0


# -- peeks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("looked", ["before", "at its input", "after", "beyond", "at its output, not kept"])
def test_a_skip_holds_wherever_the_pass_has_been_looked_at(looked):
    hf, model = tiny.hf_model("gpt2"), gpt2()
    h = model.transformer.h
    with watched(hf, ["transformer.wte"]) as ran, model.trace(IDS):
        if looked == "before":
            assert float(h[0].output.norm()) > 0
        elif looked == "at its input":
            assert float(h[1].input.norm()) > 0
        elif looked == "beyond":
            assert float(h[2].output.norm()) > 0
        elif looked == "at its output, not kept":
            assert float(h[1].output.norm()) > 0
        h[1].skip((h[1].input if looked == "at its input" else h[0].output) * 2)
        if looked == "after":
            assert float((h[1].output - h[0].output * 2).norm()) == 0
            assert float(h[2].output.norm()) > 0
        found = model.output.save()
    with replaced(hf, {H1: given(lambda x: x * 2)}):
        assert torch.equal(found, hf(IDS).logits)
    assert len(ran) == (2 if looked in ("beyond", "at its output, not kept") else 1)


def test_an_error_in_a_pass_that_stands_still_leaves_no_forward_behind():
    hf, model = tiny.hf_model("gpt2"), gpt2()
    with pytest.raises(ZeroDivisionError), model.trace(IDS):
        model.transformer.h[1].skip(model.transformer.h[0].output)
        1 / int(model.transformer.h[1].output.norm() * 0)
    assert tiny.hooks_on(hf) == 0
    assert hf.transformer.h[1].forward.__func__ is type(hf.transformer.h[1]).forward


def test_what_is_learnt_of_a_model_while_a_pass_stands_still_is_learnt_of_the_plain_model():
    net, x = tiny.Net(), torch.randn(2, 4)
    model = Model(net)
    with model.trace(x):
        for site in (model.shared.input, model.shared.output, model.b.output):
            site.save()
    net.eval()  # so that its shapes are learnt anew; which of its sites are tensors is known
    with model.trace(x):
        model.shared.skip(model.shared.input)
        assert float(model.shared.output.sum()) >= 0
        assert model.b.output.shape == (2, 2)
    with model.scan(x) as tracer:
        cache = tracer.cache()
    assert set(cache) == {"", "a", "shared", "b"}
    assert len(cache["shared"]) == 3
