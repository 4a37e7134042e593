"""Any module can be wrapped: its tree is mirrored by name, its parts run by themselves, and modules can be attached."""

import copy

import pytest
import torch
from torch import nn

from loupe import LanguageModel, Model, NNsight
from loupe.errors import BlockError, LoadError, LoupeError, NotReachedError, UnknownModuleError
from tests import tiny


class Clashing(nn.Module):
    """Has children whose names an envoy uses itself."""

    def __init__(self):
        super().__init__()
        self.output, self.input, self.path = nn.Linear(4, 6), nn.Linear(4, 4), nn.Identity()
        self.trace, self.get = nn.Linear(6, 2), nn.Dropout(0.0)

    def forward(self, x):
        return self.get(self.trace(self.output(self.path(self.input(x)))))


class SAE(nn.Module):
    """A small sparse autoencoder."""

    def __init__(self, width=8, features=16):
        super().__init__()
        self.enc, self.dec = nn.Linear(width, features), nn.Linear(features, width)

    def forward(self, x):
        return self.dec(torch.relu(self.enc(x)))


@pytest.fixture
def wide():
    return torch.randn(3, 8, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def own_stack():
    return copy.deepcopy(tiny.stack())


def close(one, other):
    torch.testing.assert_close(torch.as_tensor(one.value if hasattr(one, "value") else one), other)


def test_nnsight_is_model():
    assert NNsight is Model


@pytest.mark.parametrize("value", [5, None, "gpt2", torch.relu, nn.Linear])
def test_what_is_no_module_is_refused(value):
    with pytest.raises(LoadError, match="no torch module"):
        Model(value)


# -- the tree ----------------------------------------------------------------------------------------------------------


def test_submodules_are_attributes_and_indices():
    module = nn.Sequential(
        nn.Linear(4, 4), nn.ModuleDict({"a": nn.ReLU(), "b": nn.Linear(2, 2)}), nn.Sequential(nn.Tanh())
    )
    model = Model(module)
    assert model[0].path == "0"
    assert model[-1][0].path == "2.0"
    assert model[1].b.path == model[1]["b"].path == "1.b"
    assert model[0] is model[0]
    assert [child.path for child in model] == ["0", "1", "2"]
    assert [child.path for child in model[0:2]] == ["0", "1"]
    assert [child.path for child in model[::-1]] == ["2", "1", "0"]
    assert len(model) == 3
    assert len(model[0]) == 0
    assert model[0]


def test_names_paths_and_parents():
    module, model = tiny.stack(), Model(tiny.stack())
    assert [path for path, _ in model.named_modules()] == [path for path, _ in module.named_modules()]
    assert all(envoy.path == path for path, envoy in model.named_modules())
    assert [path for path, _ in model.layers.named_modules()] == ["layers", "layers.0", "layers.1", "layers.2"]
    assert model.get("layers.1") is model.layers[1]
    assert model.layers.get("1") is model.layers[1]
    assert model.get("") is model
    assert model.layers[1].parent is model.layers
    assert model.layers.parent is model
    assert model.parent is None
    assert model.path == ""
    for path in ("layers.7", "layers.", "nothing", "layers.0.weight.x"):
        with pytest.raises(UnknownModuleError):
            model.get(path)


def test_device_and_dtype_are_those_of_the_parameters():
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4).double())
    model = Model(module)
    assert (model[0].dtype, model[2].dtype, model.dtype) == (torch.float32, torch.float64, torch.float32)
    assert model[1].dtype == torch.get_default_dtype()
    assert model.device == model[1].device == torch.device("cpu")
    assert Model(nn.Linear(2, 2, device="meta")).device == torch.device("meta")


def test_printing_shows_the_tree():
    model = Model(tiny.stack())
    for line in repr(tiny.stack()).splitlines():
        assert line in str(model)
    assert str(model.layers[0]) == "Linear(in_features=8, out_features=8, bias=True)"
    assert "layers.0" in repr(model.layers[0].calls) or "calls of" in repr(model.layers[0].calls)


def test_other_attributes_of_the_module_are_there():
    model = Model(tiny.stack())
    assert model.layers[0].in_features == 8
    assert model.training is tiny.stack().training
    assert LanguageModel(tiny.hf_model("gpt2")).config.n_layer == 3
    assert {"layers", "table", "output", "named_modules"} <= set(dir(model))
    assert "weight" in dir(model.layers[0])


def test_children_with_an_envoys_own_names_are_reached_by_index():
    torch.manual_seed(0)
    module, x = Clashing(), torch.ones(2, 4)
    model = Model(module)
    assert '"output"' in str(model)
    assert model["output"].path == "output"
    assert model.get("path").path == "path"
    seen, _ = tiny.outputs_of(module, ["output", "input", "trace"], x)
    with model.trace(x):
        child, first, last = model["output"].output.save(), model["input"].output.save(), model["trace"].output.save()
        into = model.input.save()
        out = model.output.save()
    close(child, seen["output"])
    close(first, seen["input"])
    close(last, seen["trace"])
    close(out, seen["trace"])
    assert into.value is x


@pytest.mark.parametrize("name", ["output", "input", "path", "trace", "get"])
def test_every_child_that_is_hidden_by_an_envoys_own_name_is_told_in_print(name):
    assert f'["{name}"]' in str(Model(Clashing()))


def test_unknown_names_say_what_there_is():
    model = Model(tiny.net())
    with pytest.raises(UnknownModuleError, match="did you mean 'shared'"):
        model.shard
    with pytest.raises(UnknownModuleError, match="it has none"):
        Model(nn.ReLU()).first
    with pytest.raises(UnknownModuleError, match="no module '0'"):
        model[0]
    with pytest.raises(UnknownModuleError, match="no module 'q'"):
        model["q"]


# -- calls -------------------------------------------------------------------------------------------------------------


def test_a_call_outside_a_block_is_the_plain_call(wide):
    model = Model(tiny.stack())
    out = model(wide)
    close(out, tiny.stack()(wide))
    assert out.requires_grad
    close(model.layers[1](wide), tiny.stack().layers[1](wide))
    with model.trace(wide):
        saved = model.layers[0].output.save()
    close(model.layers[1](saved), tiny.stack().layers[1](saved.value))
    assert type(model.layers[1](saved)) is torch.Tensor


def test_a_module_called_in_a_block_is_one_more_value_and_no_call_of_the_pass(wide):
    module, model = tiny.stack(), Model(tiny.stack())
    seen, result = tiny.outputs_of(module, ["layers.0", "layers.1"], wide)
    with model.trace(wide):
        called = model.layers[1](model.layers[0].output * 2).save()
        plain = model.layers[1].output.save()
        constant = model.layers[2](torch.ones(1, 8)).save()
        out = model.output.save()
    with torch.no_grad():
        close(called, module.layers[1](seen["layers.0"] * 2))
        close(constant, module.layers[2](torch.ones(1, 8)))
    close(plain, seen["layers.1"])
    close(out, result)
    with pytest.raises(NotReachedError):
        with model.trace(wide):
            model.layers[1](model.layers[0].output)
            model.layers[1].calls[1].output.save()


def test_a_module_that_changes_its_input_in_place_is_called_as_python_would(wide):
    module = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    module.clip = nn.ReLU(inplace=True)
    module.forward = lambda x: module[1](module[0](x))
    model = Model(module)
    with model.trace(wide):
        model.clip(model[0].output)
        out = model.output.save()
    with torch.no_grad():
        close(out, module[1](torch.relu(module[0](wide))))


def test_an_outside_module_on_values_of_a_block_is_recorded(wide):
    torch.manual_seed(0)
    module, model, sae = tiny.stack(), Model(tiny.stack()), SAE()
    seen, _ = tiny.outputs_of(module, ["layers.1"], wide)
    with model.trace(wide), torch.no_grad():
        features = torch.relu(sae.enc(model.layers[1].output)).save()
        model.layers[1].output = sae(model.layers[1].output)
        out = model.output.save()
    with torch.no_grad():
        close(features, torch.relu(sae.enc(seen["layers.1"])))
    with tiny.hooked(module, {"layers.1": sae}):
        close(out, module(wide))


def test_an_attached_module_has_sites_of_its_own(own_stack, wide):
    torch.manual_seed(0)
    model, sae = Model(own_stack), SAE()
    seen, plain = tiny.outputs_of(own_stack, ["layers.1"], wide)
    model.sae = sae
    assert model.sae.path == "sae"
    assert model.sae.enc.path == "sae.enc"
    assert "sae" in str(model)
    with model.trace(wide):
        rebuilt = model.sae(model.layers[1].output).save()
        features = model.sae.enc.output.save()
        out = model.output.save()
    with torch.no_grad():
        close(rebuilt, sae(seen["layers.1"]))
        close(features, sae.enc(seen["layers.1"]))
    close(out, plain)


def test_a_site_of_an_attached_module_can_be_written(own_stack, wide):
    torch.manual_seed(0)
    model, sae = Model(own_stack), SAE()
    model.sae = sae
    with model.trace(wide):
        model.layers[1].output = model.sae(model.layers[1].output)
        model.sae.enc.output[:, 3] = 5
        out = model.output.save()

    def change(output):
        encoded = sae.enc(output)
        encoded[:, 3] = 5
        return sae.dec(torch.relu(encoded))

    del own_stack.sae
    with tiny.hooked(own_stack, {"layers.1": change}):
        close(out, own_stack(wide))


def test_a_module_that_is_attached_before_the_weights_are_there_stays(tmp_path):
    model, probe = LanguageModel(tiny.saved_model(tmp_path)), nn.Linear(32, 2)
    model.transformer.h[1].probe = probe
    ids = torch.tensor([[1, 2, 3]])
    assert not model.dispatched
    for _ in range(2):
        with model.trace(ids):
            scores = model.transformer.h[1].probe(model.transformer.h[1].output[0]).save()
        seen, _ = tiny.outputs_of(tiny.hf_model("gpt2"), ["transformer.h.1"], ids)
        with torch.no_grad():
            close(scores, probe(seen["transformer.h.1"]))
    assert model.dispatched


def test_a_module_is_attached_below_the_root_too(own_stack, wide):
    model, extra = Model(own_stack), nn.Linear(8, 2)
    model.layers[1].probe = extra
    with model.trace(wide):
        scores = model.layers[1].probe(model.layers[1].output).save()
    seen, _ = tiny.outputs_of(own_stack, ["layers.1"], wide)
    with torch.no_grad():
        close(scores, extra(seen["layers.1"]))


def test_a_module_cannot_be_attached_under_a_name_that_is_taken(own_stack, wide):
    model, before = Model(own_stack), own_stack.layers
    for name in ("output", "path", "trace", "named_modules", "layers", "places", "calls"):
        with pytest.raises(LoupeError):
            setattr(model, name, SAE())
    assert own_stack.layers is before
    model.sae = first = SAE()
    assert own_stack.sae is first
    model.sae = second = SAE()
    assert own_stack.sae is second


# -- a part by itself --------------------------------------------------------------------------------------------------


def test_a_part_run_by_itself_starts_from_a_stored_value(wide):
    module, model = tiny.stack(), Model(tiny.stack())
    with model.layers[1].trace(wide):
        out, into = model.layers[1].output.save(), model.layers[1].input.save()
        bias = model.layers[1].bias.save()
        assert model.layers[1].output.shape == (3, 8)
    close(out, module.layers[1](wide).detach())
    close(bias, module.layers[1].bias.detach())
    assert into.value is wide
    with pytest.raises(NotReachedError, match=r"layers\.0\.output"):
        with model.layers[1].trace(wide):
            model.layers[0].output.save()


def test_a_part_with_parts_takes_invokes_writes_and_op_taps(wide):
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)))
    model = Model(module)
    with model[1].trace() as tracer:
        with tracer.invoke(wide):
            first = model[1].output.save()
        with tracer.invoke(wide[:1] * 2):
            model[1][0].output[:, 0] = 4
            relu = model[1][1].ops.relu[0].output.save()
            second = model[1].output.save()

    def change(output):
        output[:, 0] = 4

    with torch.no_grad():
        close(first, module[1](wide))
    with tiny.hooked(module, {"1.0": change}):
        close(second, module[1](wide[:1] * 2))
    assert relu.shape == (1, 8)
    assert float(relu[0, 0]) == 4


def test_two_blocks_on_one_model_in_one_thread_are_refused(wide):
    model = Model(tiny.stack())
    with pytest.raises(BlockError, match="already open"):
        with model.trace(wide):
            with model.layers[0].trace(wide):
                pass
    with model.trace(wide):
        out = model.output.save()
    close(out, tiny.stack()(wide).detach())


def test_a_module_that_cannot_be_copied_can_still_be_traced(wide):
    class Locked(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.table = nn.Linear(8, 8), nn.Embedding(2, 8)

        def forward(self, x):
            return self.inner(x) + self.table(torch.arange(2)).sum(0)

        def __deepcopy__(self, memo):
            raise RuntimeError("no copies")

    torch.manual_seed(0)
    module = Locked()
    model = Model(module)
    with model.trace() as tracer:
        with tracer.invoke(wide[:1]):
            assert model.inner.output.shape == (1, 8)
            first, table = model.output.save(), model.table.output.save()
        with tracer.invoke(wide[1:2]):
            second = model.output.save()
    with torch.no_grad():
        close(torch.cat([first, second]), module(wide[:2]))
    close(table, module.table.weight.detach())
