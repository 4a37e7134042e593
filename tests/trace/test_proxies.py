"""Hold what is recorded on values of a block against the same lines on the tensor that a plain hook sees."""

import collections
import subprocess
import sys

import einops
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import loupe
from loupe import LanguageModel, Model
from loupe.errors import BlockError, LoupeError, OperationError, UnknownModuleError
from tests import tiny
from tests.trace import CONST, EXPRESSIONS, Pass, assert_same, plain, value

IDS = torch.tensor([[3, 1, 4, 1, 5]])


def keep(result):
    """Save every proxy in a result."""
    if type(result) in (tuple, list):
        return type(result)(keep(item) for item in result)
    return result.save() if hasattr(type(result), "save") else result


def recorded(expression, given=None):
    """An expression of the first module's output, as a block records and runs it; it costs one pass at most."""
    module = Pass()
    model = Model(module)
    with model.trace(value() if given is None else given):
        result = keep(expression(model.first.output))
    assert module.passes <= 1
    return plain(result)


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_a_recorded_expression_equals_torch(name):
    assert_same(recorded(EXPRESSIONS[name]), EXPRESSIONS[name](value()))


@pytest.mark.parametrize("seed", range(3))
def test_a_recorded_attention_by_hand_equals_torch_on_random_numbers(seed):
    def attention(x):
        q, k, v = einops.rearrange(x, "b s (three h d) -> three b h s d", three=3, h=2)
        scores = einops.einsum(q, k, "b h i d, b h j d -> b h i j") / q.shape[-1] ** 0.5
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        scores = scores.masked_fill(mask, float("-inf"))
        return einops.rearrange(scores.softmax(-1) @ v, "b h s d -> b s (h d)")

    given = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(seed))
    assert_same(recorded(attention, given), attention(given))


@pytest.mark.parametrize("pattern", ["a b -> b a", "a b -> (a b)", "a (b c) -> a b c", "a b -> a 1 b"])
def test_einops_takes_values_of_a_block(pattern):
    sizes = {"c": 2} if "c" in pattern else {}
    assert_same(recorded(lambda v: einops.rearrange(v, pattern, **sizes)), einops.rearrange(value(), pattern, **sizes))


def test_einops_reduce_and_repeat_take_values_of_a_block():
    assert_same(recorded(lambda v: einops.reduce(v, "a b -> b", "mean")), value().mean(0))
    assert_same(recorded(lambda v: einops.repeat(v, "a b -> a b c", c=2)), torch.stack([value(), value()], -1))


@pytest.mark.parametrize("other", [CONST.numpy(), np.float32(2.5), CONST[0].numpy()], ids=["array", "scalar", "row"])
@pytest.mark.parametrize("op", ["add", "sub", "mul", "truediv"])
def test_numpy_beside_a_value_of_a_block_is_arithmetic(other, op):
    import operator

    function = getattr(operator, op)
    wanted = function(np.asarray(other), value().numpy())
    np.testing.assert_allclose(recorded(lambda v: function(other, v)).numpy(), wanted, rtol=1e-5)
    wanted = function(value().numpy(), np.asarray(other))
    np.testing.assert_allclose(recorded(lambda v: function(v, other)).numpy(), wanted, rtol=1e-5)


def test_a_line_writes_into_the_users_own_tensor():
    own, rows = torch.zeros(3, 8), torch.zeros(2, 3, 8)
    total = own
    model = Model(Pass())
    with model.trace(value()):
        own[1:] = model.first.output[1:]
        rows[1].add_(model.second.output)
        total += model.second.output
    assert_same(own, torch.cat([torch.zeros(1, 8), value()[1:]]) + value())
    assert_same(rows, torch.stack([torch.zeros(3, 8), value()]))


def test_a_change_of_the_users_own_tensor_happens_once_although_the_pass_is_replayed():
    total, calls = torch.zeros(3, 8), []
    note = loupe.fn(lambda v: calls.append(v.sum()))
    module = Pass()
    model = Model(module)
    with model.trace(value()):
        total.add_(model.first.output)
        note(model.first.output)
        before = float(model.second.output.sum())
        model.first.output[:] *= 2
        after = float(model.second.output.sum())
        model.first.output[:] *= 2
        out = model.output.save()
    assert module.passes == 3
    assert after == pytest.approx(2 * before, rel=1e-4)
    assert_same(plain(out), value() * 4)
    assert_same(total, value())
    assert len(calls) == 3  # a function of the user's own runs in each pass: what it does outside cannot be put back


def test_a_line_below_a_write_into_the_users_own_tensor_sees_it_written():
    own = torch.zeros(3, 8)
    model = Model(Pass())
    with model.trace(value()):
        own[:] = model.first.output
        total = own.sum()
        twice = own[0] * 2
        kept = loupe.save([total, twice])
    assert_same(torch.as_tensor(float(kept[0])), torch.as_tensor(float(value().sum())))
    assert_same(plain(kept[1]), value()[0] * 2)


NUMBERS = """
import torch, loupe, warnings
warnings.simplefilter("ignore")
from loupe import Model
from tests.trace import Pass
model = Model(Pass())
c = torch.tensor([1.0, 3.0])
calls = {
    "torch.where(c > 2, p, 0.0)": 2.0, "torch.clamp(c, p, 9.0)": 3.0, "torch.tensor(p)": 2.0,
    "torch.tensor([p, p])": 2.0, "torch.tensor([[p, 1.0], [0.0, p]])": 2.0, "torch.as_tensor(p)": 2.0,
    "torch.full((2,), p)": 2.0, "torch.full_like(c, p)": 2.0, "torch.isin(p, 2.0)": 1.0, "torch.arange(n)": 1.0,
    "torch.zeros(n)": 0.0, "torch.zeros(n, 2)": 0.0, "torch.ones(n).cumsum(0)": 2.0, "c.view(n)": 3.0,
    "c.expand(n, 2)": 3.0, "c.repeat(n)": 3.0, "c.topk(n)[0]": 3.0, "torch.roll(c, n)": 3.0, "c[:n]": 3.0,
    "c[n - 1]": 3.0, "torch.norm(c, p=n)": 10 ** 0.5, "torch.addcmul(c, c, c, value=p)": 21.0,
    "c.new_full((2,), p)": 2.0,
    "torch.linspace(0.0, p, 3)": 2.0, "c.clone().fill_(p)": 2.0, "torch.pow(c, p)": 9.0,
    "c.masked_fill(c < 2, p)": 3.0, "torch.eye(n)": 1.0, "c.reshape(n, 1)": 3.0, "c.split(n)[0]": 3.0,
}
for text, wanted in calls.items():
    print(text, flush=True)
    given = torch.tensor([2.0])
    with model.trace(given):
        p, n = model.first.output[0], model.first.output[0].int()
        kept = loupe.save([eval(text)])
    found = float(torch.as_tensor(kept[0]).max())
    assert abs(found - wanted) < 1e-4, (text, found)
print("all")
"""


def test_torch_takes_a_value_of_a_block_for_a_number_or_a_size():
    """In a process of its own: torch reads numbers straight from memory, and a wrong answer ends the process."""
    done = subprocess.run([sys.executable, "-c", NUMBERS], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split("\n")[-2:-1] == ["all"], done.stdout[-200:] + done.stderr[-900:]


@pytest.mark.parametrize(
    "write",
    [
        lambda v: v.zero_(),
        lambda v: v[:].zero_(),
        lambda v: torch.zero_(v),
        lambda v: torch.mul(v, 0.0, out=v),
        lambda v: nn.init.zeros_(v),
        lambda v: F.hardtanh_(v, 0.0, 0.0 + 1e-30).mul_(0),
        lambda v: torch.clamp_(v, 0.0, 0.0),
        lambda v: loupe.fn(lambda t: t.zero_())(v),
        lambda v: v.T[:, :].mul_(0),
    ],
    ids=["method", "view", "torch.zero_", "out", "nn.init", "F.hardtanh_", "torch.clamp_", "loupe.fn", "transposed"],
)
def test_an_in_place_change_of_a_site_reaches_the_model_whichever_function_makes_it(write):
    model = Model(Pass())
    with model.trace(value()):
        write(model.first.output)
        after = model.second.output.save()
    assert_same(after.value, torch.zeros(3, 8))


class Autoencoder(nn.Module):
    """A sparse autoencoder as users write them: names the dtype of its input, uses its own parameters and a buffer."""

    def __init__(self, width=32, features=96):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(width, features), nn.Linear(features, width, bias=False)
        self.register_buffer("scale", torch.tensor(2.0))

    def encode(self, x):
        if x.shape[-1] != self.encoder.in_features:
            raise ValueError("wrong width")
        return F.relu(self.encoder((x - self.encoder.bias.mean()).to(self.encoder.weight.dtype)))

    def forward(self, x):
        features = self.encode(x)
        kept = torch.zeros_like(features).scatter_(-1, features.topk(4).indices, features.topk(4).values)
        return self.decoder(kept) * self.scale + F.layer_norm(x, x.shape[-1:])


def _outside_modules():
    torch.manual_seed(3)
    return {
        "autoencoder": Autoencoder(),
        "encode": Autoencoder().encode,
        "LayerNorm": nn.LayerNorm(32),
        "Sequential": nn.Sequential(nn.Linear(32, 4), nn.GELU(), nn.Dropout(0.5).eval(), nn.Linear(4, 32)),
        "MultiheadAttention": lambda x, m=nn.MultiheadAttention(32, 4, batch_first=True): m(x, x, x),
        "MultiheadAttention.eval": lambda x, m=nn.MultiheadAttention(32, 4, batch_first=True).eval(): m(x, x, x)[0],
        "GRU": nn.GRU(32, 8, batch_first=True),
        "LSTM": lambda x, m=nn.LSTM(32, 8, batch_first=True): m(x)[0],
        "BatchNorm": lambda x, m=nn.BatchNorm1d(32).eval(): m(x[0]),
        "Conv1d": lambda x, m=nn.Conv1d(32, 4, 3): m(x.transpose(1, 2)),
        "EmbeddingBag": lambda x, m=nn.EmbeddingBag(16, 8): m(x[0].topk(3).indices % 16),
        "TransformerEncoderLayer": nn.TransformerEncoderLayer(32, 4, 48, batch_first=True).eval(),
        "Bilinear": lambda x, m=nn.Bilinear(32, 32, 4): m(x, x),
    }


@pytest.mark.parametrize("name", _outside_modules())
def test_an_outside_module_on_a_value_of_a_block_equals_running_it_on_the_hooks_tensor(name):
    module = _outside_modules()[name]
    seen = []
    gpt2 = tiny.hf_model("gpt2")
    handle = gpt2.transformer.h[1].register_forward_hook(
        lambda m, i, o: seen.append((o if isinstance(o, torch.Tensor) else o[0]).clone())
    )
    with torch.no_grad():
        gpt2(IDS)
    handle.remove()
    model = LanguageModel(gpt2)
    with torch.no_grad(), model.trace(IDS):
        result = module(model.transformer.h[1].output[0])
        result = keep(result) if type(result) in (tuple, list) else loupe.save(result)
    with torch.no_grad():
        wanted = module(seen[0])
    assert_same(plain(result), wanted)


def test_an_outside_module_can_stand_in_for_a_part_of_the_model():
    stack, half = tiny.stack(), nn.Linear(8, 8)
    x = torch.randn(2, 8)
    with torch.no_grad():
        table = stack.table.weight.sum(0)
        wanted = torch.tanh(half(torch.tanh(stack.layers[0](x)) + table)) + table
        wanted = torch.tanh(stack.layers[2](wanted)) + table
    model = Model(stack)
    with torch.no_grad(), model.trace(x):
        model.layers[1].output = half(model.layers[1].input)
        out = model.output.save()
    torch.testing.assert_close(out.value, wanted)


def test_shape_dtype_device_and_length_are_concrete_without_running_the_model():
    module = Pass()
    model = Model(module)
    with model.trace(value()):
        v = model.first.output
        wide = torch.cat([v, CONST], 1)[:, None].half()
        assert type(v.shape) is torch.Size
        assert v.shape == (3, 8)
        assert wide.shape == (3, 1, 16)
        assert wide.dtype is torch.float16
        assert v.device == torch.device("cpu")
        assert (v.ndim, wide.dim(), v.size(1), v.size(), v.numel(), len(v), len(wide[0])) == (2, 3, 8, (3, 8), 24, 3, 1)
        assert (v > 0).dtype is torch.bool
        assert v.is_floating_point()
        assert not v.is_cuda
        assert isinstance(v, torch.Tensor)
        assert len(v.split(3, dim=1)) == 3
        assert [row.shape for row in v] == [(8,)] * 3
        assert module.passes == 0
    assert module.passes <= 1


def test_type_checks_see_the_kind_of_value_that_will_be_there():
    model = Model(tiny.net())
    with model.trace(torch.ones(2, 4)):
        out = model.output
        assert isinstance(out, dict)
        assert isinstance(out["pair"], tuple)
        assert not isinstance(out, torch.Tensor)
        assert isinstance(out["logits"], torch.Tensor)
        assert torch.is_tensor(out["logits"])
        assert set(out.keys()) == {"logits", "pair"}
        assert list(out) == ["logits", "pair"]
        assert len(out) == 2
        assert "logits" in out
        first, total = out["pair"]
        assert first.shape == (2, 8)
        assert total.ndim == 0


def test_a_described_value_is_not_the_real_one_where_shapes_depend_on_data():
    given = torch.tensor([[1.0, -1.0, 2.0, -2.0, 3.0, -3.0, 4.0, -4.0]])
    module = Pass()
    model = Model(module)
    with model.trace(given):
        positive = model.first.output[model.first.output > 0]
        assert positive.shape == (4,)
        assert len(positive.nonzero()) == 4
    assert module.passes == 1


def test_a_misspelt_attribute_of_a_tensor_is_refused_on_its_line_with_the_near_name():
    model = Model(Pass())
    with pytest.raises(LoupeError, match="no attribute 'meen'") as caught, model.trace(value()):
        model.first.output.meen(0)
    assert "mean" in caught.value.remedy
    assert caught.value.line.filename == __file__
    with pytest.raises(LoupeError, match="no attribute 'shap'"), model.trace(value()):
        model.first.output.shap
    with model.trace(value()):
        assert not hasattr(model.first.output, "logitz")
        assert getattr(model.first.output, "logitz", 3) == 3


def test_a_misspelt_module_is_refused_in_a_block_with_the_near_name():
    model = Model(Pass())
    with pytest.raises(UnknownModuleError, match="did you mean 'first'"), model.trace(value()):
        model.frist.output.save()


def test_a_wrong_operation_names_its_line_and_the_shapes_of_its_arguments():
    model = Model(Pass())
    with pytest.raises(OperationError) as caught, model.trace(value()):
        (model.first.output @ CONST).save()  # the line
    assert "f32[3, 8], f32[3, 8]" in str(caught.value)
    assert "# the line" in str(caught.value)
    assert "operator.matmul" in str(caught.value)


def test_setting_an_attribute_of_a_value_is_refused():
    model = Model(Pass())
    with pytest.raises(BlockError, match="cannot be set"), model.trace(value()):
        model.first.output.name = "x"


def test_calling_a_value_is_refused_with_the_way_out():
    model = Model(Pass())
    with pytest.raises(BlockError) as caught, model.trace(value()):
        model.first.output(3)
    assert "loupe.fn" in caught.value.remedy


def test_repr_and_dir_never_run_the_model():
    module = Pass()
    model = Model(module)
    with model.trace(value()):
        v = model.first.output
        assert "read first.output" in repr(v)
        assert "operator.mul" in repr(v * 2)
        assert "softmax" in repr(v.softmax)
        assert {"mean", "save"} <= set(dir(v))
        assert repr([v])
        assert module.passes == 0


def test_a_function_marked_with_fn_runs_on_the_real_tensor():
    seen = []

    @loupe.fn
    def scaled(x, by, *, shift=0.0):
        seen.append(type(x))
        return {"value": x / x.norm() * by + shift}

    model = Model(Pass())
    with model.trace(value()):
        result = scaled(model.first.output, 3.0, shift=model.first.output.mean())["value"].save()
    torch.testing.assert_close(result.value, value() / value().norm() * 3.0 + value().mean())
    assert seen == [torch.Tensor]
    assert scaled(torch.ones(1), 2.0)["value"] == 2.0
    assert scaled.__name__ == "scaled"


def test_two_functions_of_one_name_are_kept_apart():
    plus, times = loupe.fn(lambda x: x + 1), loupe.fn(lambda x: x * 10)
    model = Model(Pass())
    with model.trace(value()):
        results = [plus(model.first.output).save(), times(model.first.output).save(), plus(model.first.output).save()]
    for result, wanted in zip(results, (value() + 1, value() * 10, value() + 1), strict=True):
        assert_same(result.value, wanted)


def test_a_function_marked_with_fn_finds_a_value_inside_a_list():
    total = loupe.fn(lambda values: sum(values))
    model = Model(Pass())
    with model.trace(value()):
        result = total([model.first.output, model.second.output]).save()
    assert_same(result.value, value() * 2)


def test_a_value_is_taken_inside_lists_dicts_and_keywords_of_a_torch_function():
    def spread(v):
        return F.interpolate(input=v[None], size=16) + torch.cat(tensors=[v[None], v[None]], dim=-1)

    assert_same(recorded(spread), spread(value()))


Pair = collections.namedtuple("Pair", "mean other")


class Struct(nn.Module):
    """Returns a named tuple, one of whose fields is called like a method of a tensor."""

    def forward(self, x):
        return Pair(x * 2, [x, {"deep": x + 1}])


def test_fields_of_a_named_tuple_that_a_module_returns():
    model = Model(nn.Sequential(Struct()))
    with model.trace(value()):
        deep = model[0].output.other[1]["deep"].save()
        first = model[0].output[0].save()
    assert_same(deep.value, value() + 1)
    assert_same(first.value, value() * 2)


def test_values_kept_in_attributes_and_closures_are_recorded_from_there():
    class Holder:
        pass

    holder, model = Holder(), Model(Pass())
    with model.trace(value()):
        holder.v = model.first.output * 2

        def later():
            return holder.v + 1

        result = later().save()
    assert_same(result.value, value() * 2 + 1)


def test_an_unhashable_key_and_a_set_of_values():
    model = Model(Pass())
    with model.trace(value()):
        v = model.first.output
        assert len({v, v, model.second.output}) == 2
        assert {v: 1}[v] == 1
