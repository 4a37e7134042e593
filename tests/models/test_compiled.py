"""Hold models that are compiled against the same models that are not: blocks run them uncompiled, and leave them so."""

import copy
import logging

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from loupe import Model
from loupe.runtime import plain
from tests import tiny


class Backend:
    """Runs graphs as they are, and counts the graphs that it was given and the times that they ran."""

    def __init__(self):
        self.graphs = self.runs = 0

    def __call__(self, graph, _example):
        self.graphs += 1

        def run(*args):
            self.runs += 1
            return graph.forward(*args)

        return run


class OwnLinear(nn.Linear):
    """A linear layer whose forward is not torch's own file, which `compile()` would leave alone."""

    def forward(self, x):
        return nn.functional.linear(x, self.weight, self.bias)


class Branching(nn.Module):
    """Goes on by what the data says, so that only real passes tell whose rows are where."""

    def __init__(self):
        super().__init__()
        self.first, self.second = OwnLinear(8, 8), OwnLinear(8, 8)

    def forward(self, x):
        x = self.first(x)
        return self.second(x) if bool((x.abs() > -1).all()) else x


def whole(module, backend):
    return torch.compile(module, backend=backend)


def in_place(module, backend):
    module.compile(backend=backend)
    return module


def one_layer(module, backend):
    module.layers[1] = torch.compile(module.layers[1], backend=backend)
    return module


def one_layer_in_place(module, backend):
    layer = OwnLinear(8, 8)
    layer.load_state_dict(module.layers[1].state_dict())
    module.layers[1] = layer
    module.layers[1].compile(backend=backend)
    return module


def forward_alone(module, backend):
    module.forward = torch.compile(module.forward, backend=backend)
    return module


WAYS = [whole, in_place, one_layer, one_layer_in_place, forward_alone]


@pytest.fixture(autouse=True)
def nothing_is_compiled_yet():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture
def x():
    return torch.randn(3, 8, generator=torch.Generator().manual_seed(2))


def zero_first(output):
    output[:, 0] = 0


@pytest.mark.parametrize("warm", [False, True], ids=["never run", "run before"])
@pytest.mark.parametrize("compile_it", WAYS, ids=lambda way: way.__name__)
def test_sites_of_a_compiled_model_are_those_of_the_model(compile_it, warm, x):
    backend = Backend()
    module = compile_it(copy.deepcopy(tiny.stack()), backend)
    if warm:
        with torch.no_grad():
            module(x)
        assert backend.runs
    runs = backend.runs
    with tiny.hooked(tiny.stack(), {"layers.1": zero_first}):
        seen, want = tiny.outputs_of(tiny.stack(), ["layers.0", "layers.2"], x)
    model = Model(module)
    with model.trace(x):
        assert model.layers[2].output.shape == (3, 8)
        model.layers[1].output[:, 0] = 0
        first, last, out = model.layers[0].output.save(), model.layers[2].output.save(), model.output.save()
    torch.testing.assert_close(first.value, seen["layers.0"])
    torch.testing.assert_close(last.value, seen["layers.2"])
    torch.testing.assert_close(out.value, want)
    assert backend.runs == runs
    with torch.no_grad():
        torch.testing.assert_close(module(x), tiny.stack()(x))
    assert backend.runs > runs
    assert tiny.hooks_on(module) == (1 if compile_it is forward_alone else int(compile_it in (whole, one_layer)))


def test_a_compiled_layer_that_no_site_is_in_runs_compiled(x):
    backend = Backend()
    module = one_layer_in_place(copy.deepcopy(tiny.stack()), backend)
    with torch.no_grad():
        want = module(x)
    runs, model = backend.runs, Model(module)
    with model.trace(x):
        out = model.layers[2].output.save(), model.output.save()
    torch.testing.assert_close(out[1].value, want)
    assert backend.runs == runs + 1
    with model.trace(x):
        inside = model.layers[1].output.save()
    assert backend.runs == runs + 1
    seen, _ = tiny.outputs_of(tiny.stack(), ["layers.1"], x)
    torch.testing.assert_close(inside.value, seen["layers.1"])


@pytest.mark.parametrize("compile_it", WAYS, ids=lambda way: way.__name__)
def test_a_compiled_model_is_peeked_at_tapped_and_batched(compile_it, x):
    module = compile_it(copy.deepcopy(tiny.stack()), Backend())
    seen, _ = tiny.outputs_of(tiny.stack(), ["layers.0", "layers.1"], x)
    model = Model(module)
    with model.trace() as tracer:
        with tracer.invoke(x[:1]):
            looked = float(model.layers[1].output.sum())
        with tracer.invoke(x[1:]):
            rows = model.layers[1].output.save()
    with model.trace(x):
        assert str(model.layers[1].ops).startswith("linear[0]")
        tanh = model.ops.tanh[0].output.save()
        linear = model.layers[1].ops.linear[0].output.save()
    assert looked == pytest.approx(float(seen["layers.1"][:1].sum()), abs=1e-5)
    torch.testing.assert_close(rows.value, seen["layers.1"][1:])
    torch.testing.assert_close(tanh.value, torch.tanh(seen["layers.0"]))
    torch.testing.assert_close(linear.value, seen["layers.1"])


@pytest.mark.parametrize("compile_it", [whole, one_layer], ids=lambda way: way.__name__)
def test_a_compiled_wrapper_has_no_name_of_its_own(compile_it):
    model = Model(compile_it(copy.deepcopy(tiny.stack()), "eager"))
    assert [path for path, _ in model.named_modules()] == [path for path, _ in tiny.stack().named_modules()]
    assert model.layers[1].path == "layers.1"
    assert model.get("layers.1").in_features == 8


def test_a_class_that_compiles_its_forward_is_run_uncompiled(x):
    backend = Backend()

    class OwnForward(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

        @torch.compile(backend=backend)
        def forward(self, x):
            return self.second(torch.tanh(self.first(x)))

    torch.manual_seed(0)
    module = OwnForward()
    first = module.first(x).detach()
    with torch.no_grad():
        want, runs = module(x), backend.runs
    frames, model = counters["frames"]["total"], Model(module)
    with model.trace(x):
        assert model.second.output.shape == (3, 8)
        seen, out = model.first.output.save(), model.output.save()
    torch.testing.assert_close(seen.value, first)
    torch.testing.assert_close(out.value, want)
    assert backend.runs == runs == 1
    assert counters["frames"]["total"] == frames > 0
    assert "forward" not in module.__dict__


def test_a_wrapper_around_a_module_that_took_its_shape_from_data_is_run_uncompiled(x):
    torch.manual_seed(0)
    backend = Backend()
    module = nn.Sequential(torch.compile(nn.LazyLinear(8), backend=backend), nn.Tanh())
    with torch.no_grad():
        want = module(x)
    runs, model = backend.runs, Model(module)
    with model.trace(x):
        inside, out = model[0].output.save(), model.output.save()
    torch.testing.assert_close(torch.tanh(inside.value), want)
    torch.testing.assert_close(out.value, want)
    assert backend.runs == runs > 0


def test_rows_of_a_compiled_model_are_found_where_data_decides_its_way(x):
    torch.manual_seed(0)
    module = Branching()
    seen, _ = tiny.outputs_of(module, ["second"], x)
    backend = Backend()
    module.compile(backend=backend)
    model = Model(module)
    with model.trace() as tracer:
        with tracer.invoke(x[:1]):
            first = model.second.output.save()
        with tracer.invoke(x[1:]):
            second = model.second.output.save()
    torch.testing.assert_close(torch.cat([first.value, second.value]), seen["second"])
    assert backend.runs == 0


def test_a_compiled_module_is_put_back_after_an_error(x):
    module = in_place(copy.deepcopy(tiny.stack()), Backend())
    compiled, model = module._compiled_call_impl, Model(module)
    with pytest.raises(RuntimeError), model.trace(x[:, :3]):
        model.output.save()
    assert module._compiled_call_impl is compiled
    assert tiny.hooks_on(module) == 0


def test_gradients_come_through_a_compiled_model(x):
    module, twin = in_place(copy.deepcopy(tiny.stack()), "eager"), copy.deepcopy(tiny.stack())
    kept = []

    def keep(_module, _args, output):
        output.retain_grad()
        kept.append(output)

    twin.layers[0].register_forward_hook(keep)
    twin(x)[:, 0].sum().backward()
    model = Model(module)
    with model.trace(x):
        hidden = model.layers[0].output
        with model.output[:, 0].sum().backward():
            gradient = hidden.grad.save()
    torch.testing.assert_close(gradient.value, kept[0].grad)


def test_running_uncompiled_is_said_once(x, caplog):
    plain._notice_compiled.cache_clear()
    model = Model(in_place(copy.deepcopy(tiny.stack()), "eager"))
    with caplog.at_level(logging.WARNING, logger="loupe"):
        for _ in range(2):
            with model.trace(x):
                model.output.save()
    assert [record.message for record in caplog.records if "uncompiled" in record.message] == [caplog.messages[0]]


class Around(nn.Module):
    """Runs a layer that other modules run too."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return torch.tanh(self.layer(x))


@pytest.mark.xfail(strict=True, reason="only modules on the way by the tapped path run plainly")
def test_a_layer_that_compiled_code_off_the_way_shares_is_seen_at_each_call():
    layer, x = nn.Linear(4, 4), torch.randn(2, 4)
    net = nn.Sequential(Around(layer), Around(layer))
    net[1].compile(backend="eager", fullgraph=True)
    model = Model(net)
    with model.trace(x):
        first, second = model[0].layer.output.save(), model[0].layer.next().output.save()
    with torch.no_grad():
        torch.testing.assert_close(first.value, layer(x))
        torch.testing.assert_close(second.value, layer(torch.tanh(layer(x))))
