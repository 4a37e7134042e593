"""Name what a cache collects by paths, patterns, envoys, modules and classes, and find it again."""

import pytest
import torch
from torch import nn

from loupe import LanguageModel
from loupe.errors import BlockError, NotReachedError, UnknownModuleError
from tests import tiny
from tests.control.by_hand import IDS, all_outputs, gpt2, same

H1 = "transformer.h.1"


def hooks():
    hf = tiny.hf_model("gpt2")
    return all_outputs(hf, lambda: hf(IDS))


@pytest.mark.parametrize(
    ("named", "want"),
    {
        "a path": (lambda model: H1, [H1]),
        "a pattern": (lambda model: "transformer.h.*.mlp", [f"transformer.h.{n}.mlp" for n in range(3)]),
        "an envoy": (lambda model: model.transformer.h[1], [H1]),
        "a torch module": (lambda model: tiny.hf_model("gpt2").transformer.h[1], [H1]),
        "a class": (lambda model: type(tiny.hf_model("gpt2").lm_head), ["lm_head"]),
        "a list of these": (
            lambda model: ["lm_head", model.transformer.h[1], "transformer.h.*", nn.Embedding],
            ["transformer.wte", "transformer.wpe", *(f"transformer.h.{n}" for n in range(3)), "lm_head"],
        ),
        "the model": (lambda model: model, [""]),
        "a list of modules, by its path": (lambda model: "transformer.h", [f"transformer.h.{n}" for n in range(3)]),
        "a list of modules, by its envoy": (
            lambda model: model.transformer.h,
            [f"transformer.h.{n}" for n in range(3)],
        ),
        "a list of modules of torch": (
            lambda model: tiny.hf_model("gpt2").transformer.h,
            [f"transformer.h.{n}" for n in range(3)],
        ),
        "a slice": (lambda model: model.transformer.h[1:], [H1, "transformer.h.2"]),
        "nothing": (lambda model: [], []),
    }.values(),
)
def test_modules_are_named_in_every_way(named, want):
    model = gpt2()
    with model.trace(IDS) as tracer:
        cache = tracer.cache(named(model))
    assert list(cache) == want
    seen = hooks()
    for path in want:
        found, expected = cache[path].output, seen[path][0]
        assert same(found, expected if path else expected.logits)


def test_a_name_that_no_module_has_is_refused_with_the_near_ones():
    model = gpt2()
    with pytest.raises(UnknownModuleError, match=r"no module 'transformer\.h\.1\.mpl'") as caught:
        with model.trace(IDS) as tracer:
            tracer.cache(["lm_head", "transformer.h.1.mpl"])
    assert "transformer.h.1.mlp" in caught.value.remedy
    assert "tracer.cache(" in str(caught.value)
    with pytest.raises(UnknownModuleError, match="no module"), model.trace(IDS) as tracer:
        tracer.cache(nn.Linear(2, 2))
    with pytest.raises(BlockError, match="collects nothing"), model.trace(IDS) as tracer:
        tracer.cache(include_output=False)


def test_reading_a_cache_offers_near_names_and_tells_what_did_not_run():
    model = gpt2()
    with model.trace(IDS) as tracer:
        some, every = tracer.cache("transformer.h.*"), tracer.cache()
    with pytest.raises(UnknownModuleError, match=r"holds nothing of 'transformer\.h\.7'") as caught:
        some["transformer.h.7"]
    assert "transformer.h.2" in caught.value.remedy
    with pytest.raises(UnknownModuleError, match=r"holds nothing of 'transformer\.hh'"):
        some.transformer.hh
    with pytest.raises(NotReachedError, match=r"attn_dropout did not run in this pass"):
        every["transformer.h.0.attn.attn_dropout"]
    assert every.get("transformer.h.0.attn.attn_dropout") is None
    assert some.get("transformer.h.7", 3) == 3
    assert some.get(H1).output.shape == (1, 4, 32)
    assert "transformer.h.7" not in some
    assert 7 not in some


def test_a_path_is_walked_and_aliases_work():
    model = LanguageModel(tiny.hf_model("gpt2"), rename={"transformer.h": "layers"})
    with model.trace(IDS) as tracer:
        cache = tracer.cache(["layers.*.mlp", "layers.*"])
    seen = hooks()
    assert torch.equal(cache.transformer.h[1].mlp.output, seen[f"{H1}.mlp"][0])
    assert torch.equal(cache.layers[1].mlp.output, seen[f"{H1}.mlp"][0])
    assert torch.equal(cache["layers.1"].output, cache[H1].output)
    assert torch.equal(cache[f"model.{H1}"].output, cache[H1].output)
    assert "layers.2.mlp" in cache
    assert repr(cache.transformer.h) == "<cache at transformer.h>"
    assert repr(cache) == (
        "<cache of 6 modules: transformer.h.0.mlp, transformer.h.0, transformer.h.1.mlp, transformer.h.1, …>"
    )
