"""Hold that aliases name the modules that PyTorch's own paths name, everywhere a name can be used."""

import pytest
import torch
from torch import nn
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP, GPT2Attention, GPT2Block, GPT2Model

from loupe import LanguageModel, Model
from loupe.errors import BlockError, LoadError, NotReachedError, UnknownModuleError
from tests import tiny
from tests.tiny import hooked, outputs_of

IDS = torch.tensor([[5, 9, 2, 7]])


@pytest.fixture
def hf():
    return tiny.hf_model("gpt2")


def wrap(rename, hf=None):
    return LanguageModel(hf or tiny.hf_model("gpt2"), tokenizer=tiny.tokenizer(), rename=rename)


FORMS = {  # what is renamed, one of the new paths, and the module that it is
    "a name at any depth": ({"mlp": "my_mlp"}, "transformer.h.1.my_mlp", "transformer.h.1.mlp"),
    "a path from the model": ({"transformer.h": "layers"}, "layers.2", "transformer.h.2"),
    "a path from within": ({"h.0": "first"}, "transformer.first.mlp", "transformer.h.0.mlp"),
    "a whole path": ({"transformer.h.0": "first"}, "first.attn", "transformer.h.0.attn"),
    "a class": ({GPT2MLP: "ff"}, "transformer.h.0.ff", "transformer.h.0.mlp"),
    "a class that is there once": ({GPT2Model: "body"}, "body.h.1", "transformer.h.1"),
    "a base class": ({nn.ModuleList: "layers"}, "transformer.layers.1", "transformer.h.1"),
    "a pattern": ({"*.h": "layers"}, "layers.1.ln_1", "transformer.h.1.ln_1"),
    "a new path of one length": (
        {"attn.c_proj": "attn.o_proj"},
        "transformer.h.2.attn.o_proj",
        "transformer.h.2.attn.c_proj",
    ),
    "a shorter path": ({"attn.c_proj": "o_proj"}, "transformer.h.2.o_proj", "transformer.h.2.attn.c_proj"),
    "several names": ({"wte": ["e", "emb"]}, "transformer.emb", "transformer.wte"),
    "names as a tuple": ({"wte": ("e", "emb")}, "transformer.e", "transformer.wte"),
    "an alias in an alias": (
        {"transformer.h": "model.layers", "transformer": "model"},
        "model.layers.0",
        "transformer.h.0",
    ),
    "aliases of several": (
        {"transformer": "body", "h": "layers", "mlp": "ff"},
        "body.layers.2.ff",
        "transformer.h.2.mlp",
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_names_the_module_that_the_models_own_path_names(hf, form):
    rename, alias, path = FORMS[form]
    model, module = wrap(rename, hf), hf.get_submodule(path)
    by_attributes = model
    for name in alias.split("."):
        by_attributes = by_attributes[int(name)] if name.isdigit() else getattr(by_attributes, name)
    by_items = model
    for name in alias.split("."):
        by_items = by_items[name]
    for envoy in (by_attributes, by_items, model.get(alias), model.get(path)):
        assert envoy.path == path
        assert envoy._module is module
        assert envoy is by_attributes


def test_a_model_with_many_aliases_reads_and_writes_by_both_names(hf):
    model = wrap({"transformer.h": "layers", "mlp": "ff", "attn.c_proj": "attn.o_proj", "wte": ["e", "emb"]}, hf)
    with model.trace(IDS) as tracer:
        first = model.layers[0].ff.output.save()
        same = model.transformer.h[0].mlp.output.save()
        inner = model.layers[1].attn.o_proj.input.save()
        weight = model.transformer.emb.weight.save()
        model.layers[-1].output[0][:, -1] *= 2
        model.transformer.h[1].ff.output = model.layers[1].mlp.output * 0
        found = model.output.save()
    changes = {
        "transformer.h.1.mlp": lambda o: o * 0,
        "transformer.h.2": lambda o: torch.cat([o[:, :-1], o[:, -1:] * 2], 1),
    }
    with hooked(hf, changes):
        assert torch.allclose(found, hf(IDS).logits, atol=1e-5)
    outputs, _ = outputs_of(hf, ["transformer.h.0.mlp"], IDS)
    assert torch.equal(first, outputs["transformer.h.0.mlp"])
    assert first.value is same.value
    assert inner.shape == (1, 4, 32)
    assert torch.equal(weight, hf.transformer.wte.weight)
    paths = {site.path for site in tracer.graph.sites}
    assert paths <= {name for name, _ in hf.named_modules()}
    assert "layers" not in str(tracer.graph).split("#")[0]


def test_caches_take_and_give_aliases_and_patterns_of_them(hf):
    model = wrap({"transformer": "body", "transformer.h": "layers", "mlp": "ff"}, hf)
    with model.trace(IDS) as tracer:
        every = tracer.cache()
        some = tracer.cache(modules=["layers.*.ff", "body.h.1", "body.wte"])
    want, _ = outputs_of(hf, ["transformer.h.1.mlp", "transformer.wte"], IDS)
    assert set(some) == {*(f"transformer.h.{place}.mlp" for place in range(3)), "transformer.h.1", "transformer.wte"}
    for cache in (every, some):
        for name in ("layers.1.ff", "body.h.1.mlp", "transformer.h.1.ff", "transformer.h.1.mlp"):
            assert name in cache
            assert torch.equal(cache[name].output, want["transformer.h.1.mlp"])
        assert torch.equal(cache.layers[1].ff.output, want["transformer.h.1.mlp"])
        assert torch.equal(cache.body.wte.output, want["transformer.wte"])
    with model.trace(IDS):
        with pytest.raises(UnknownModuleError, match=r"layers\.\*\.fff"):
            tracer._recorder.owner.paths_of("layers.*.fff")


def test_an_unknown_name_is_answered_with_the_nearest_aliases(hf):
    model = wrap({"transformer.h": "layers", "mlp": "my_mlp"}, hf)
    for line, near in (
        (lambda: model.laers, "'layers'"),
        (lambda: model["layrs"], "'layers'"),
        (lambda: model.layers[0].my_mpl, "'my_mlp'"),
        (lambda: model.get("layers.0.mymlp"), "'my_mlp'"),
    ):
        with pytest.raises(UnknownModuleError, match=f"(?s)did you mean.*{near}"):
            line()


def test_aliases_are_listed_by_dir_and_by_repr(hf):
    model = wrap({"transformer.h": "layers", "mlp": "ff", "h.0": "first", "wte": ["e", "emb"]}, hf)
    assert "layers" in dir(model)
    assert {"ff", "mlp", "ln_1"} <= set(dir(model.layers[0]))
    assert {"e", "emb", "first"} <= set(dir(model.transformer))
    lines = repr(model).splitlines()
    assert "# layers is another name of transformer.h" in lines
    assert "# transformer.h.*.ff is another name of transformer.h.*.mlp" in lines
    assert "# transformer.first is another name of transformer.h.0" in lines
    assert sum("another name" in line for line in lines) == 5
    assert repr(model.layers[1]).splitlines()[-1] == "# transformer.h.1.ff is another name of transformer.h.1.mlp"
    assert repr(model.lm_head) == repr(hf.lm_head)


def test_errors_of_a_run_use_the_models_own_paths_and_the_users_line():
    net = tiny.net()
    model = Model(net, rename={"never": "not_called", "shared": "again"})
    with pytest.raises(NotReachedError, match=r"never\.output did not run") as caught:
        with model.trace(torch.ones(1, 4)):
            model.not_called.output.save()
    assert caught.value.line.text == "model.not_called.output.save()"
    with model.trace(torch.ones(1, 4)):
        second = model.again.calls[1].output.save()
    assert torch.allclose(second, net.shared(net.shared(torch.relu(net.a(torch.ones(1, 4))))))


def test_modules_of_a_sequential_and_of_a_list_get_names():
    model = Model(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), rename={"0": "first", nn.ReLU: "act"})
    x = torch.tensor([[1.0, -2.0]])
    with model.trace(x):
        hidden = model.first.output.save()
        found = model.act.output.save()
    assert torch.equal(hidden, model._model[0](x))
    assert torch.equal(found, torch.relu(model._model[0](x)))
    model = Model(tiny.stack(), rename={"layers": "blocks", "layers.0": "start"})
    assert model.blocks[0] is model.start is model.layers[0]
    assert [each.path for each in model.blocks] == ["layers.0", "layers.1", "layers.2"]
    assert len(model.blocks) == 3


@pytest.mark.parametrize(
    ("rename", "fact"),
    [
        ({"mlp": "attn"}, "has a 'attn' already"),
        ({"lm_head": "transformer"}, "the model has a 'transformer' already"),
        ({"lm_head": "config"}, "the model has a 'config' already"),
        ({"mlp": "output"}, "has a 'output' already"),
        ({"mlp": "skip"}, "has a 'skip' already"),
        ({"transformer.h": "generate"}, "the model has a 'generate' already"),
        ({"mlp": "part", "ln_1": "part"}, "would have the same name"),
        ({GPT2Block: "block"}, "'transformer.h.0' would have the same name"),
        ({nn.Embedding: "emb"}, "'transformer.wte' would have the same name"),
        ({"transformer.h.*.mlp": "ff"}, "'transformer.h.0.mlp' would have the same name"),
        ({"w?e": "any"}, "'transformer.wte' would have the same name"),
        ({"h": "blocks.layers"}, "no module 'transformer.blocks' to hold the name"),
        ({"mlp": "my mlp"}, "'my mlp' cannot be a module's name"),
        ({"mlp": "class"}, "'class' cannot be a module's name"),
        ({"mlp": "_mlp"}, "'_mlp' cannot be a module's name"),
        ({"mlp": "0"}, "'0' cannot be a module's name"),
        ({"mlp": ""}, "'' cannot be a module's name"),
        ({"mlp": 3}, "'mlp' cannot be renamed to 3"),
        ({"mlp": ["ff", None]}, "'mlp' cannot be renamed to None"),
        ({3: "x"}, "3 names no module"),
        ({int: "x"}, "names no module"),
    ],
)
def test_a_name_that_cannot_be_given_is_refused_with_a_way_out(rename, fact):
    with pytest.raises(LoadError) as caught:
        wrap(rename)
    assert fact in caught.value.fact
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("rename", "near"),
    [
        ({"mlpp": "x"}, "did you mean 'mlp'"),
        ({"transformer.hh": "x"}, "'transformer.h'"),
        ({"att.c_proj": "x"}, "c_proj"),
        ({"gpt": "x"}, "there are: transformer, wte"),
        ({nn.ReLU: "x"}, "GPT2"),
        ({"": "x"}, "there are: transformer, wte"),
    ],
)
def test_a_key_that_names_no_module_is_refused_with_the_nearest(rename, near):
    with pytest.raises(UnknownModuleError, match="so it cannot be renamed") as caught:
        wrap(rename)
    assert near in caught.value.remedy


def test_an_alias_is_neither_set_nor_attached_over(hf):
    model = wrap({"mlp": "ff"}, hf)
    with pytest.raises(BlockError, match=r"'ff' of transformer\.h\.0 is there already"):
        model.transformer.h[0].ff = nn.Linear(1, 1)
    assert "ff" not in hf.transformer.h[0]._modules
    assert model.transformer.h[0].ff.path == "transformer.h.0.mlp"
    with model.trace(IDS), pytest.raises(BlockError, match="cannot be set to int"):
        model.transformer.h[0].ff = 3


def test_aliases_hold_before_and_after_the_weights_are_loaded():
    model = LanguageModel("loupe/landmarks", rename={"transformer.h": "layers", GPT2Attention: "heads", "mlp": "ff"})
    assert model.layers[3].ff.path == "transformer.h.3.mlp"
    assert not model.dispatched
    with model.scan("The Eiffel Tower"):
        assert model.layers[3].heads.output[0].shape == (1, 3, 96)
    assert not model.dispatched
    before = model.layers[3].ff
    with model.trace("The Eiffel Tower"):
        found = model.layers[3].ff.output.save()
    assert model.dispatched
    assert model.layers[3].ff is before
    assert before._module is model._model.transformer.h[3].mlp
    ids = model.tokenizer("The Eiffel Tower", return_tensors="pt").input_ids
    want, _ = outputs_of(model._model, ["transformer.h.3.mlp"], ids)
    assert torch.allclose(found, want["transformer.h.3.mlp"], atol=1e-5)


def test_edited_copies_parts_alone_and_sessions_keep_the_aliases(hf):
    model = wrap({"transformer.h": "layers", "mlp": "ff", "lm_head": "unembed"}, hf)
    with model.edit() as edited:
        edited.layers[1].ff.output[:] = 0
        edited.unembed.weight[0] = 0
    with edited.trace(IDS):
        inside = edited.layers[1].ff.output.save()
        found = edited.unembed.output.save()
    assert inside.abs().sum() == 0
    assert found[..., 0].abs().sum() == 0
    hidden = torch.ones(1, 2, 32)
    with edited.layers[1].trace(hidden):
        alone = edited.layers[1].output.save()
    with hooked(hf, {"transformer.h.1.mlp": lambda o: o * 0}):
        assert torch.allclose(alone, hf.transformer.h[1](hidden), atol=1e-5)
    with model.session():
        with model.trace(IDS):
            state = model.layers[0].output[0]
        with model.trace(IDS.flip(1)):
            model.layers[0].output[0][:] = state
            moved = model.unembed.output.save()
    assert torch.allclose(moved, hf(IDS).logits, atol=1e-5)


def test_two_wrappers_of_one_module_have_aliases_of_their_own(hf):
    one, other = wrap({"transformer.h": "layers"}, hf), wrap({"transformer.h": "blocks"}, hf)
    assert one.layers[0]._module is other.blocks[0]._module
    with pytest.raises(UnknownModuleError):
        _ = one.blocks
    with pytest.raises(UnknownModuleError):
        _ = other.layers
    assert not hasattr(hf, "layers")
