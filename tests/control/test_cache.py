"""Compare what a cache collects with what plain hooks on every module see."""

import pytest
import torch

from loupe import LanguageModel, Model
from loupe.errors import BlockError, NotReachedError
from tests import tiny
from tests.control.by_hand import IDS, OPTIONS, all_inputs, all_outputs, gpt2, same

FAMILIES = list(tiny.CONFIGS)
H1 = "transformer.h.1"


def hooks(family="gpt2", ids=IDS):
    hf = tiny.hf_model(family)
    return all_outputs(hf, lambda: hf(ids))


def assert_equal(cache, seen) -> None:
    """A cache holds what hooks have seen at every module, call by call."""
    assert set(cache) == set(seen)
    for path, calls in seen.items():
        assert len(cache[path]) == len(calls), path
        for found, want in zip(cache[path], calls, strict=True):
            assert same(want if not path else found.output, want), path
            if not path:
                assert torch.equal(found.output, want.logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cache_holds_the_output_of_every_module(family):
    model = LanguageModel(tiny.hf_model(family))
    with model.trace(IDS) as tracer:
        cache = tracer.cache()
    assert_equal(cache, hooks(family))


def test_a_cache_of_a_plain_model_holds_dicts_tuples_and_every_call():
    net, x = tiny.net(), torch.randn(3, 4)
    with Model(net).trace(x) as tracer:
        cache = tracer.cache(include_inputs=True)
    outputs, inputs = all_outputs(net, lambda: net(x)), all_inputs(net, lambda: net(x))
    assert set(cache) == {"", "a", "b", "shared"} == set(outputs)
    assert next(iter(cache)) == ""  # with inputs, the model begins first
    assert len(cache["shared"]) == 3
    for path, calls in outputs.items():
        for call, want in enumerate(calls):
            assert same(cache[path][call].output, want)
            assert same(cache[path][call].inputs, inputs[path][call])
            assert same(cache[path][call].input, inputs[path][call][0][0])
    assert set(cache[""].output) == {"logits", "pair"}
    assert torch.equal(cache["shared"][-1].output, outputs["shared"][2])
    assert torch.equal(cache["shared"].output, outputs["shared"][0])


def test_inputs_are_collected_with_their_keywords_or_alone():
    hf, model = tiny.hf_model("llama"), LanguageModel(tiny.hf_model("llama"))
    with model.trace(IDS) as tracer:
        both = tracer.cache(include_inputs=True)
        alone = tracer.cache("model.layers.1.*", include_inputs=True, include_output=False)
    want = all_inputs(hf, lambda: hf(input_ids=IDS))
    for path, calls in want.items():
        assert same(both[path].inputs, calls[0]), path
        assert set(both[path].inputs[1]) == set(calls[0][1]), path
    mlp = "model.layers.1.mlp"
    assert torch.equal(alone[mlp].input, want[mlp][0][0][0])
    with pytest.raises(NotReachedError, match=r"holds no output of model\.layers\.1\.mlp"):
        alone[mlp].output
    with model.trace(IDS) as tracer:
        outputs = tracer.cache(mlp)
    with pytest.raises(NotReachedError, match=r"holds no input of .*mlp") as caught:
        outputs[mlp].input
    assert "include_inputs=True" in caught.value.remedy


def test_hidden_states_and_logits_are_seen_as_in_a_block():
    model = gpt2()
    with model.trace(IDS) as tracer:
        cache = tracer.cache()
        hidden, logits = model.transformer.h[1].output[0].save(), model.output.save()
    assert torch.equal(cache[H1].output[0], hidden)
    assert cache[H1].output.shape == hidden.shape == (1, 4, 32)
    assert torch.equal(cache[""].output, logits)
    assert torch.equal(cache[""].output[0, -1], logits[0, -1])
    assert torch.equal(cache[""].output.logits, logits)
    assert cache[""].output.past_key_values.get_seq_length() == 4


def test_values_are_those_with_which_the_model_goes_on():
    hf, model = tiny.hf_model("gpt2"), gpt2()
    changes = {
        "transformer.h.0": lambda output: output * 0,
        H1: lambda output: output + torch.cat([torch.zeros(1, 3, 32), torch.ones(1, 1, 32)], 1),
    }
    with model.trace(IDS) as tracer:
        cache = tracer.cache()
        model.transformer.h[0].output[:] = 0
        model.transformer.h[1].output[0][:, -1] += 1
        model.transformer.h[2].mlp.input = model.transformer.h[2].mlp.input * 2
    with tiny.hooked(hf, changes, {"transformer.h.2.mlp": lambda args, kwargs: ((args[0] * 2,), kwargs)}):
        seen = all_outputs(hf, lambda: hf(IDS))
    assert_equal(cache, seen)


def test_a_skipped_module_has_its_output_and_nothing_inside():
    model = gpt2()
    with model.trace(IDS) as tracer:
        cache = tracer.cache(include_inputs=True)
        model.transformer.h[1].skip(model.transformer.h[0].output)
    assert torch.equal(cache[H1].output, cache["transformer.h.0"].output)
    assert torch.equal(cache[H1].input, cache["transformer.h.0"].output)
    assert [path for path in cache if path.startswith(f"{H1}.")] == []
    with pytest.raises(NotReachedError, match=r"h\.1\.mlp did not run"):
        cache.transformer.h[1].mlp


def test_two_caches_of_one_block_are_apart():
    model = gpt2()
    with model.trace(IDS) as tracer:
        one = tracer.cache(H1)
        two = tracer.cache([H1, "lm_head"], dtype=torch.float64)
    assert list(one) == [H1]
    assert list(two) == [H1, "lm_head"]
    assert one[H1].output.dtype == torch.float32
    assert torch.equal(two[H1].output, one[H1].output.double())


@pytest.mark.parametrize("when", ["before the looks", "after the looks"])
def test_looks_and_replays_do_not_double_what_is_collected(when):
    model = gpt2()
    with model.trace(IDS) as tracer:
        cache = tracer.cache(include_inputs=True) if when == "before the looks" else None
        late = float(model.transformer.h[2].output.norm())
        early = float(model.transformer.h[0].mlp.output.norm())  # a second pass
        cache = tracer.cache(include_inputs=True) if cache is None else cache
    seen = hooks()
    assert late == float(seen["transformer.h.2"][0].norm())
    assert early == float(seen["transformer.h.0.mlp"][0].norm())
    assert_equal(cache, seen)


def test_a_cache_is_read_after_its_block_and_not_in_it():
    model = gpt2()
    with pytest.raises(BlockError, match="filled when its block has run") as caught, model.trace(IDS) as tracer:
        cache = tracer.cache()
        assert repr(cache) == "<cache, filled when its block has run>"
        cache[H1].output
    assert "tracer.cache()" in str(caught.value)
    for look in (list, len, lambda cache: cache.transformer, lambda cache: H1 in cache):
        with pytest.raises(BlockError, match="filled when its block has run"), model.trace(IDS) as tracer:
            look(tracer.cache())


def test_an_error_of_the_block_leaves_the_cache_empty_and_a_missed_site_leaves_it_filled():
    model = gpt2()
    with pytest.raises(KeyError), model.trace(IDS) as tracer:
        cache = tracer.cache()
        raise KeyError("mine")
    with pytest.raises(BlockError, match="if that ends without an error"):
        cache[H1]
    with pytest.raises(NotReachedError, match=r"calls\[3\]"), model.trace(IDS) as tracer:
        cache = tracer.cache()
        model.transformer.h[0].mlp.calls[3].output.save()
    assert_equal(cache, hooks())


def test_a_stop_ends_what_is_collected():
    model = gpt2()
    with model.trace(IDS) as tracer:
        cache = tracer.cache()
        model.transformer.h[0].output
        tracer.stop()
    seen = hooks()
    assert "transformer.h.0.mlp" in cache
    assert not any(path.startswith((H1, "lm_head")) for path in cache)
    for path in cache:
        assert same(cache[path].output, seen[path])


# -- steps -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cache_of_a_generation_holds_every_step(family):
    hf, model = tiny.hf_model(family), LanguageModel(tiny.hf_model(family))
    with model.generate(IDS, **OPTIONS) as tracer:
        cache = tracer.cache()
        ids = tracer.result.save()
    assert_equal(cache, all_outputs(hf, lambda: hf.generate(IDS, **OPTIONS)))
    assert torch.equal(ids, hf.generate(IDS, **OPTIONS))
    block = tiny.BLOCKS[family]
    assert torch.equal(cache[f"{block}.1"][2].output, cache[f"{block}.1"][-3].output)


def test_a_cache_at_some_steps_is_read_by_the_number_of_the_step():
    hf, model = tiny.hf_model("llama"), LanguageModel(tiny.hf_model("llama"))
    with model.generate(IDS, **OPTIONS) as tracer:
        with tracer.iter[2:4]:
            some = tracer.cache()
        looped = []
        for _step in tracer.iter[:3]:
            looped.append(tracer.cache("model.layers.*"))
    seen = all_outputs(hf, lambda: hf.generate(IDS, **OPTIONS))
    assert set(some) == set(seen)
    for path in seen:
        if path:
            assert same([call.output for call in some[path]], seen[path][2:4])
    layer = "model.layers.1"
    assert torch.equal(some[layer][3].output, seen[layer][3])
    assert torch.equal(some[layer][-2].output, seen[layer][2])
    assert torch.equal(some.model.layers[1][3].output, seen[layer][3])
    with pytest.raises(NotReachedError, match=r"no call 1 of model\.layers\.1") as caught:
        some[layer][1]
    assert "it holds 2, 3" in caught.value.remedy
    for step, cache in enumerate(looped):
        assert len(cache[layer]) == 1
        assert torch.equal(cache[layer][step].output, seen[layer][step])
