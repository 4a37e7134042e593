"""Keep in a cache the rows of one prompt, and what passed although it is overwritten later."""

import pytest
import torch
from torch import nn

from loupe import LanguageModel, Model
from loupe.errors import OperationError, RowsError
from tests import tiny
from tests.control.by_hand import IDS, all_outputs, gpt2, same


@pytest.mark.parametrize("family", ["gpt2", "llama", "mamba"])
def test_each_invoke_collects_what_its_prompt_gives_alone(family):
    hf, model = tiny.hf_model(family), LanguageModel(tiny.hf_model(family))
    with model.trace() as tracer:
        with tracer.invoke(IDS):
            first, logits = tracer.cache(), model.output.save()
        with tracer.invoke([[3, 8, 1, 1], [2, 2, 6, 4]]):
            second = tracer.cache()
        with tracer.invoke():
            whole = tracer.cache(tiny.BLOCKS[family] + ".1")
    for cache, ids in ((first, IDS), (second, torch.tensor([[3, 8, 1, 1], [2, 2, 6, 4]]))):
        for path, calls in all_outputs(hf, lambda ids=ids: hf(ids)).items():
            if path and torch.is_tensor(calls[0]):
                torch.testing.assert_close(cache[path].output.as_subclass(torch.Tensor), calls[0], atol=1e-5, rtol=1e-4)
    assert torch.equal(first[""].output, logits)
    assert whole[tiny.BLOCKS[family] + ".1"].output.shape[0] == 3


def test_what_cannot_be_split_raises_where_it_is_read_and_nowhere_else():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.square, self.loss = nn.Linear(4, 4), Square(), Mean()

        def forward(self, x):
            x = self.a(x)
            self.square(x)
            self.loss(x)
            return x

    net, x = Mixed(), torch.randn(2, 4)
    model = Model(net)
    with model.trace() as tracer:
        with tracer.invoke(x):
            cache = tracer.cache()  # all of it
        with tracer.invoke(torch.randn(3, 4)):
            pass
    with torch.no_grad():
        torch.testing.assert_close(cache["a"].output, net.a(x))
    with pytest.raises(RowsError, match=r"square\.output") as caught:
        cache["square"].output
    assert "# all of it" in str(caught.value)
    assert "not available to one" in repr(cache["loss"].output)


class Decides(nn.Module):
    """Goes on as its data decides, and changes a tensor in place that has passed."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        h = self.a(x)
        if h.abs().sum() >= 0:
            h.add_(1)
        return self.b(h)


def test_rows_are_found_by_runs_where_data_decides_how_the_model_goes_on():
    net, one, two = Decides(), torch.randn(2, 4), torch.randn(3, 4)
    with Model(net).trace() as tracer:
        with tracer.invoke(one):
            first = tracer.cache()
        with tracer.invoke(two):
            second = tracer.cache()
    for cache, x in ((first, one), (second, two)):
        for path, calls in all_outputs(net, lambda x=x: net(x)).items():
            torch.testing.assert_close(cache[path].output, calls[0])


class Square(nn.Module):
    def forward(self, x):
        return x @ x.T


class Mean(nn.Module):
    def forward(self, x):
        return x.mean()


def test_a_module_of_the_user_is_collected_in_the_invoke_that_calls_it():
    model, x = Model(tiny.Stack()), torch.randn(2, 8)
    model.sae = nn.Linear(8, 16)
    with model.trace() as tracer:
        with tracer.invoke(x):
            codes = model.sae(model.layers[0].output).save()
            here = tracer.cache()
        with tracer.invoke(torch.randn(3, 8)):
            there = tracer.cache()
    assert torch.equal(here["sae"].output, codes)
    assert "sae" not in there
    assert there["layers.0"].output.shape == (3, 8)


def test_calls_that_the_block_makes_of_the_models_own_modules_are_none_of_the_pass():
    model = gpt2()
    with model.trace(IDS) as tracer:
        cache = tracer.cache(["lm_head", "transformer.ln_f"])
        model.lm_head(model.transformer.ln_f(model.transformer.h[0].output)).save()
    assert len(cache["lm_head"]) == len(cache["transformer.ln_f"]) == 1
    hf = tiny.hf_model("gpt2")
    assert same(cache["lm_head"].output, all_outputs(hf, lambda: hf(IDS))["lm_head"])


class InPlace(nn.Module):
    """Overwrites what its parts return: by a module, by functions, through views and by an index."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c, self.d = (nn.Linear(size, 8) for size in (4, 8, 8, 8))
        self.relu, self.drop = nn.ReLU(inplace=True), nn.Dropout(0.5, inplace=True)

    def forward(self, x):
        h = self.relu(self.a(x))
        y = self.b(h)
        y += h
        y[:, 0] = 7
        z = self.c(self.drop(y))
        z.view(-1)[0] = -1
        torch.relu_(z)
        return self.d(z)


def test_what_the_model_overwrites_later_is_kept_as_it_passed():
    net, x, more = InPlace().eval(), torch.randn(3, 4), torch.randn(2, 4)
    model, seen = Model(net), all_outputs(net, lambda: net(x))
    with model.trace(x) as tracer:
        cache = tracer.cache(include_inputs=True)
    for path, calls in seen.items():
        assert same(cache[path].output, calls[0]), path
    with model.trace() as tracer:
        with tracer.invoke(x):
            first = tracer.cache()
        with tracer.invoke(more):
            second = tracer.cache()
    for cache, rows in ((first, x), (second, more)):
        for path, calls in all_outputs(net, lambda rows=rows: net(rows)).items():
            torch.testing.assert_close(cache[path].output, calls[0])


def test_only_what_is_overwritten_is_copied():
    net, places = InPlace().eval(), {}
    note = {path: lambda output, path=path: places.update({path: output.data_ptr()}) for path, _ in net.named_modules()}
    with tiny.hooked(net, note), Model(net).trace(torch.randn(3, 4)) as tracer:
        cache = tracer.cache()
    shared = {path for path in cache if cache[path].output.data_ptr() == places[path]}
    assert shared == {"", "d", "relu", "drop"}  # and not a, b and c


def test_what_data_decides_to_overwrite_is_kept_as_it_passed():
    net, x = Decides(), torch.randn(3, 4)
    with Model(net).trace(x) as tracer:
        cache = tracer.cache()
    for path, calls in all_outputs(net, lambda: net(x)).items():
        assert same(cache[path].output, calls[0]), path


def test_a_value_that_was_overwritten_although_nothing_told_so_is_an_error_and_not_a_wrong_value():
    class Sly(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            h = self.a(x)
            y = self.b(h)
            return y if h.is_meta else (h.zero_(), y)[1]

    with pytest.raises(OperationError, match=r"kept of a\.output was overwritten") as caught:
        with Model(Sly()).trace(torch.randn(3, 4)) as tracer:
            tracer.cache()
    assert ".clone().save()" in caught.value.remedy


@pytest.mark.parametrize("looks", [False, True])
def test_a_line_that_changes_the_next_modules_input_in_place_leaves_the_output_before_it(looks):
    model = gpt2()
    with model.trace(IDS) as tracer:
        cache = tracer.cache()
        if looks:
            assert float(model.transformer.wte.output.norm()) > 0
        model.transformer.h[1].input[:] = 0  # the very tensor that the block before returned
        found = model.transformer.h[1].input.save()
    hf = tiny.hf_model("gpt2")
    assert same(cache["transformer.h.0"].output, all_outputs(hf, lambda: hf(IDS))["transformer.h.0"])
    assert not found.any()


def blocks_that_ran(run):
    """The blocks of a GPT-2 that a plain hook sees while something runs on it."""
    model, ran = gpt2(), []
    blocks = model._model.transformer.h
    hooks = [
        block.register_forward_hook(lambda *_, place=place: ran.append(place)) for place, block in enumerate(blocks)
    ]
    try:
        run(model)
    finally:
        for hook in hooks:
            hook.remove()
    return ran


@pytest.mark.parametrize("invokes", [False, True])
def test_a_pass_ends_with_the_last_module_that_is_collected_from_the_first_run_on(invokes):
    hf, found = tiny.hf_model("gpt2"), []

    def run(model):
        for _ in range(3):
            with model.trace(*([] if invokes else [IDS])) as tracer:
                if invokes:
                    with tracer.invoke(IDS):
                        found.append(tracer.cache(["transformer.h.0.mlp", "transformer.wte"], include_inputs=True))
                    with tracer.invoke([[5, 6, 7, 8]]):
                        pass
                else:
                    found.append(tracer.cache(["transformer.h.0.mlp", "transformer.wte"], include_inputs=True))

    assert blocks_that_ran(run) == []  # the first block's end is behind its part
    want = all_outputs(hf, lambda: hf(IDS))
    for cache in found:
        for path in ("transformer.h.0.mlp", "transformer.wte"):
            torch.testing.assert_close(cache[path].output, want[path][0])


def test_a_pass_goes_on_where_something_else_is_wanted_or_the_model_itself_is_collected():
    def saves(model):
        with model.trace(IDS) as tracer:
            tracer.cache("transformer.h.0.mlp")
            model.output.save()

    def everything(model):
        with model.trace(IDS) as tracer:
            tracer.cache()

    blocks = list(range(len(tiny.hf_model("gpt2").transformer.h)))
    assert blocks_that_ran(saves) == blocks_that_ran(everything) == blocks


def test_a_pass_ends_behind_the_last_call_of_a_module_that_is_called_several_times():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.head, self.heads = nn.Linear(4, 4), nn.Linear(4, 4), 0

        def forward(self, x):
            for _ in range(3):
                x = self.cell(x)
            return self.head(x)

    net, x, heads = Recurrent(), torch.randn(2, 4), []
    net.head.register_forward_hook(lambda *_: heads.append(1))
    with Model(net).trace(x) as tracer:
        cache = tracer.cache("cell")
    assert len(cache["cell"]) == 3
    with torch.no_grad():
        assert torch.equal(cache["cell"][2].output, net.cell(net.cell(net.cell(x))))
    assert not heads


def test_a_model_that_keeps_count_is_collected_to_its_last_call():
    class Counting(nn.Module):
        """Calls its part once more at each pass."""

        def __init__(self):
            super().__init__()
            self.part, self.head, self.passes = nn.Linear(4, 4), nn.Linear(4, 4), 0

        def forward(self, x):
            self.passes += 1
            for _ in range(self.passes):
                x = self.part(x)
            return self.head(x)

    model = Model(Counting())
    for passes in (1, 2, 3):
        with model.trace(torch.randn(2, 4)) as tracer:
            cache = tracer.cache("part")
        assert len(cache["part"]) == passes
