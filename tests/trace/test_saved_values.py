"""Hold that a saved value is its value after the block, for Python, torch, numpy and files; an unsaved one is gone."""

import builtins
import collections
import copy
import io
import math
import operator
import pickle
import subprocess
import sys
import types

import einops
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import loupe
from loupe import LanguageModel, Model
from loupe.errors import BlockError, UnsavedError
from tests import tiny
from tests.trace import CONST, EXPRESSIONS, Pass, assert_same, plain, value

IDS = torch.tensor([[3, 1, 4, 1, 5]])


@pytest.fixture
def saved():
    """A saved value whose tensor is `value()`."""
    model = Model(Pass())
    with model.trace(value()):
        kept = model.first.output.save()
    return kept


def number(of=2.5):
    """A saved tensor without dimensions."""
    model = Model(Pass())
    with model.trace(torch.tensor([of])):
        kept = model.first.output[0].save()
    return kept


@pytest.mark.parametrize("name", [name for name in EXPRESSIONS if name != "torch where number"])  # that one: see below
def test_an_expression_on_a_saved_value_equals_torch(name, saved):
    found = EXPRESSIONS[name](saved)
    assert_same(plain(found), EXPRESSIONS[name](value()))


CALLS_THAT_CRASHED = """
import faulthandler, torch
from loupe import Model
from tests.trace import Pass
model = Model(Pass())
with model.trace(torch.tensor([2.0])):
    p = model.first.output[0].save()
    n = model.first.output[0].int().save()
c = torch.tensor([1.0, 3.0])
calls = {
    "torch.where(c > 2, p, 0.0)": 2.0, "torch.clamp(c, p, 9.0)": 3.0, "torch.tensor(p)": 2.0,
    "torch.tensor([p, p])": 2.0,
    "torch.as_tensor(p)": 2.0, "torch.asarray(p)": 2.0, "torch.full((2,), p)": 2.0, "torch.full_like(c, p)": 2.0,
    "torch.scalar_tensor(p)": 2.0, "c.new_full((2,), p)": 2.0, "c.new_tensor(p)": 2.0, "torch.isin(p, 2.0)": 1.0,
    "torch.arange(n)": 1.0, "torch.zeros(n)": 0.0, "c.view(n)": 3.0, "c.expand(n, 2)": 3.0, "c.repeat(n)": 3.0,
    "c.topk(n)[0]": 3.0,
    "torch.roll(c, n)": 3.0, "c[:n]": 3.0, "torch.norm(c, p=n)": 10 ** 0.5, "torch.addcmul(c, c, c, value=p)": 21.0,
}
for text, wanted in calls.items():
    print(text, flush=True)
    found = float(torch.as_tensor(eval(text)).max())
    assert abs(found - wanted) < 1e-4, (text, found)
print("all")
"""


def test_torch_reads_a_saved_number_where_it_takes_a_number_or_a_size():
    done = subprocess.run(
        [sys.executable, "-c", CALLS_THAT_CRASHED], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.split("\n")[-2:-1] == ["all"], done.stdout[-200:] + done.stderr[-600:]


@pytest.mark.parametrize("name", "iadd isub imul itruediv ifloordiv ipow imod".split())
def test_an_operator_in_place_changes_the_saved_tensor_itself(name, saved):
    alias, wanted = saved.value, value()
    function, other = getattr(operator, name), 2.0
    result = function(saved, other)
    function(wanted, other)
    assert_same(alias, wanted)
    assert result is alias or result is saved


def test_items_of_a_saved_value_are_written_into_its_tensor(saved):
    saved[0] = 1.0
    saved[1, :2] = saved[2, :2]
    saved[:, 7] += 1
    wanted = value()
    wanted[0] = 1.0
    wanted[1, :2] = wanted[2, :2]
    wanted[:, 7] += 1
    assert_same(saved.value, wanted)


def test_a_saved_value_is_written_into_and_indexes_a_plain_tensor(saved):
    own = torch.zeros(3, 8)
    own[:] = saved
    assert_same(own, value())
    assert_same(own[saved > 0], value()[value() > 0])
    own[saved > 0] = 0
    own.add_(saved)
    assert_same(own, value().clamp(max=0) + value())


def test_torch_functions_mix_saved_values_and_tensors(saved):
    v = value()
    assert_same(torch.cat([saved, v]), torch.cat([v, v]))
    assert_same(torch.stack([v, saved, saved]), torch.stack([v, v, v]))
    assert_same(torch.einsum("ab,ab->a", saved, v), (v * v).sum(1))
    assert_same(F.cosine_similarity(saved, saved, dim=1), torch.ones(3))
    assert torch.add(v, 1, out=saved) is saved
    assert torch.equal(saved, v + 1)
    torch.testing.assert_close(saved, v + 1)
    assert torch.is_tensor(saved)
    assert torch.is_floating_point(saved)


def test_numpy_takes_a_saved_value(saved):
    array = CONST.numpy()
    assert type(np.asarray(saved)) is np.ndarray
    assert np.array(saved, dtype=np.float64).dtype == np.float64
    np.testing.assert_array_equal(np.asarray(saved), value().numpy())
    np.testing.assert_array_equal(saved.numpy(), value().numpy())
    for operation in (np.add, np.multiply, operator.add, operator.mul, operator.sub, operator.gt):
        for first, second in ((array, saved), (saved, array)):
            bare = [value().numpy() if each is saved else each for each in (first, second)]
            np.testing.assert_allclose(np.asarray(operation(first, second)), operation(*bare), rtol=1e-5)
    np.testing.assert_allclose(array.T @ saved, array.T @ value().numpy(), rtol=1e-5)
    np.testing.assert_allclose(saved @ array.T, value().numpy() @ array.T, rtol=1e-5)
    assert np.linalg.norm(saved) == pytest.approx(float(value().norm()))
    assert np.mean(np.stack([saved, saved])) == pytest.approx(float(value().mean()), abs=1e-6)
    assert np.array([number(1.0), number(2.0)]).tolist() == [1.0, 2.0]
    plus = CONST.numpy().copy()
    plus += saved
    np.testing.assert_allclose(plus, array + value().numpy())


def test_a_saved_value_that_needs_a_gradient_or_is_half_gives_its_array_like_torch_would_say():
    model = Model(Pass())
    with model.trace(value().requires_grad_()):
        kept, half = model.first.output.save(), model.first.output.bfloat16().float().half().save()
    assert np.asarray(kept).shape == (3, 8)
    assert np.asarray(half).dtype == np.float16


def test_type_checks_after_the_block_see_the_value(saved):
    assert isinstance(saved, torch.Tensor)
    assert not isinstance(saved, np.ndarray)
    assert isinstance(saved.value, torch.Tensor)
    assert type(saved.value) is torch.Tensor
    assert callable(saved.mean)
    assert hasattr(saved, "mean")
    assert not hasattr(saved, "meen")


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_keeps_the_bare_value(saved, protocol):
    found = pickle.loads(pickle.dumps({"a": [saved]}, protocol))["a"][0]
    assert type(found) is torch.Tensor
    assert torch.equal(found, value())


@pytest.mark.parametrize("only", [True, False])
def test_torch_save_keeps_the_bare_value(saved, only):
    file = io.BytesIO()
    torch.save({"a": saved, "b": [saved, 1]}, file)
    file.seek(0)
    found = torch.load(file, weights_only=only)
    assert type(found["a"]) is torch.Tensor
    assert torch.equal(found["a"], value())
    assert torch.equal(found["b"][0], value())


def test_pickle_keeps_saved_numbers_strings_and_containers():
    model = Model(tiny.net())
    with model.trace(torch.ones(2, 4)):
        pair = model.output["pair"].save()
        whole = model.output.save()
    assert type(pickle.loads(pickle.dumps(pair))) is tuple
    assert list(pickle.loads(pickle.dumps(whole))) == ["logits", "pair"]


def test_copies_are_bare_values_of_their_own(saved):
    deep, shallow = copy.deepcopy(saved), copy.copy(saved)
    assert type(deep) is type(shallow) is torch.Tensor
    saved.zero_()
    assert torch.equal(deep, value())
    assert_same(copy.deepcopy({"a": [saved]})["a"][0], torch.zeros(3, 8))


def test_text_of_a_saved_value_is_that_of_the_value(saved):
    v = value()
    assert (repr(saved), str(saved), f"{saved}", f"{saved!r}", f"{saved!s}") == (
        repr(v),
        str(v),
        f"{v}",
        repr(v),
        str(v),
    )
    scalar = number(2.5)
    assert f"{scalar:.3f}|{scalar:>8.1f}|{scalar:e}" == "2.500|     2.5|2.500000e+00"
    assert f"{number(7.0).int():03d}" == "007"
    assert "%.2f" % scalar == "2.50"
    assert f"{saved.shape}" == "torch.Size([3, 8])"


def test_python_reads_a_saved_number_where_it_wants_one():
    scalar = number(2.5)
    assert (float(scalar), int(scalar), complex(scalar), bool(scalar), bool(number(0.0))) == (2.5, 2, 2.5, True, False)
    assert math.sqrt(number(4.0)) == 2.0
    assert [10, 20, 30][number(2.0).int()] == 30
    assert list(range(number(3.0).int())) == [0, 1, 2]
    assert sorted([number(3.0), number(1.0)])[0] == 1.0
    assert max(number(3.0), number(1.0)) == 3.0
    assert sum([number(3.0), number(1.0)]) == 4.0
    assert not number(0.0)
    assert (scalar if scalar > 2 else None) is scalar


def test_python_walks_a_saved_value(saved):
    assert len(saved) == 3
    assert [row.shape for row in saved] == [(8,)] * 3
    first, *_others = saved
    assert torch.equal(first, value()[0])
    assert value()[0, 0] in saved
    assert 1e9 not in saved
    assert [float(a) for a, _ in zip(saved[0], range(2), strict=False)] == value()[0, :2].tolist()
    assert list(reversed(saved.tolist())) == value().tolist()[::-1]
    with pytest.raises(RuntimeError, match="ambiguous"):
        bool(saved)
    with pytest.raises(TypeError):
        len(number())


def test_a_saved_value_is_a_key_like_a_tensor(saved):
    assert {saved: 1}[saved] == 1
    assert hash(saved) == hash(saved)
    assert saved in [saved]


def test_dir_and_attributes_are_those_of_the_value(saved):
    assert {"mean", "value", "save", "untyped_storage"} <= set(dir(saved))
    assert saved.device.type == "cpu"
    assert saved.stride() == (8, 1)
    saved.requires_grad = True
    assert saved.value.requires_grad
    assert saved.grad is None
    (saved * 2).sum().backward()
    assert_same(saved.grad, torch.full((3, 8), 2.0))


def test_other_libraries_take_a_saved_value(saved):
    from matplotlib.figure import Figure
    from sklearn.decomposition import PCA

    assert_same(einops.rearrange(saved, "a b -> b a"), value().T)
    axes = Figure().subplots()
    (line,) = axes.plot(saved[0])
    np.testing.assert_array_equal(line.get_ydata(), value()[0].numpy())
    np.testing.assert_array_equal(axes.imshow(saved).get_array(), value().numpy())
    assert PCA(1).fit_transform(saved).shape == (3, 1)


def test_saving_again_after_the_block_changes_nothing(saved):
    assert saved.save() is saved


def test_a_saved_value_is_input_of_the_next_block(saved):
    model = Model(Pass())
    with model.trace(saved):
        again = (model.first.output + saved).save()
        model.second.output = saved * 0
        out = model.output.save()
    assert_same(again.value, value() * 2)
    assert_same(out.value, value() * 0)


def test_logits_of_a_language_model_stay_logits_after_the_block():
    gpt2 = tiny.hf_model("gpt2")
    model = LanguageModel(gpt2)
    with model.trace(IDS):
        out = model.output.save()
    with torch.no_grad():
        wanted = gpt2(IDS)
    assert isinstance(out, torch.Tensor)
    assert_same(out[0, -1].argmax(), wanted.logits[0, -1].argmax())
    assert_same(out.softmax(-1), wanted.logits.softmax(-1))
    assert_same(torch.cat([out, out]), torch.cat([wanted.logits] * 2))
    assert_same(pickle.loads(pickle.dumps(out)), wanted.logits)
    assert_same(copy.deepcopy(out), wanted.logits)
    torch.testing.assert_close(out.logits, wanted.logits)
    assert out.loss is None
    file = io.BytesIO()
    torch.save(out, file)
    file.seek(0)
    assert_same(torch.load(file, weights_only=True), wanted.logits)
    np.testing.assert_allclose(np.asarray(out), wanted.logits.numpy())


def test_containers_saved_in_a_block_hold_bare_values():
    model = Model(Pass())
    with model.trace(value()):
        states = list().save()
        named = dict().save()
        states.append(model.first.output)
        states.extend([model.second.output[0], 3, "text"])
        named["a"] = {"deep": [model.first.output * 2, (model.second.output, None)]}
        nested = loupe.save([[model.first.output], {"x": model.first.output.mean()}])
    assert [type(each) for each in states] == [torch.Tensor, torch.Tensor, int, str]
    assert_same(states[0], value())
    assert type(named["a"]["deep"][0]) is torch.Tensor
    assert_same(named["a"]["deep"][1][0], value())
    assert_same(nested[1]["x"], value().mean())


Named = collections.namedtuple("Named", "x y")


def test_any_other_object_is_saved_with_the_values_in_it():
    model = Model(Pass())
    with model.trace(value()):
        v = model.first.output
        pair = loupe.save((v + 1, v + 2))
        named = loupe.save(Named(v + 3, [v + 4]))
        grouped = loupe.save(collections.defaultdict(list))
        grouped["k"].append(v + 5)
        ordered = loupe.save(collections.OrderedDict(a=v + 6))
        holder = loupe.save(types.SimpleNamespace(a=v + 7, b=[v + 8]))
        queue = loupe.save(collections.deque([v + 9]))
        assert loupe.save(3) == 3
        assert loupe.save(None) is None
    found = [*pair, named.x, named.y[0], grouped["k"][0], ordered["a"], holder.a, holder.b[0], queue[0]]
    for place, each in enumerate(found, 1):
        assert_same(plain(each), value() + place)


def test_a_container_that_holds_itself_is_saved():
    model = Model(Pass())
    with model.trace(value()):
        states = list().save()
        states.append(states)
        states.append(model.first.output)
    assert_same(states[1], value())


def test_values_in_plain_containers_and_attributes_are_there_where_they_were_saved():
    model = Model(Pass())
    holder = types.SimpleNamespace()
    states = {}
    with model.trace(value()):
        for name in ("first", "second"):
            states[name] = getattr(model, name).output.save()
        holder.v = model.first.output.mean().save()
    assert_same(states["second"].value, value())
    assert float(holder.v) == pytest.approx(float(value().mean()))


def test_an_unsaved_value_names_the_line_that_made_it():
    model = Model(Pass())
    with model.trace(value()):
        kept = model.first.output.save()
        lost = model.first.output * 2  # this very line
    reads = [float, str, len, iter, bool, np.asarray, torch.sum, torch.neg, pickle.dumps, copy.copy, copy.deepcopy]
    reads += [
        lambda v: v + 1,
        lambda v: 1 + v,
        lambda v: v.mean(),
        lambda v: v[0],
        lambda v: v.value,
        lambda v: v.shape,
    ]
    reads += [lambda v: torch.cat([v, v]), lambda v: f"{v:.2f}", lambda v: v > 0, lambda v: kept + v, lambda v: -v]
    for read in reads:
        with pytest.raises(UnsavedError, match="this very line") as caught:
            read(lost)
        assert ".save()" in caught.value.remedy
    assert "operator.mul" in repr(lost)


def test_saving_after_the_block_or_without_one_is_refused():
    model = Model(Pass())
    with model.trace(value()):
        late = model.first.output
        model.second.output.save()
    with pytest.raises(BlockError, match="after its block"):
        late.save()
    with pytest.raises(BlockError, match="no block is open"):
        loupe.save([1])


def test_lists_have_no_save_after_the_block_or_after_its_exception():
    model = Model(Pass())
    with model.trace(value()):
        assert builtins.list.save
        assert list().save() == []
    assert not hasattr(list, "save")
    with pytest.raises(ZeroDivisionError), model.trace(value()):
        1 / 0
    assert not hasattr(list, "save")
    assert not hasattr({}, "save")
    with pytest.raises(AttributeError):
        [].save()


def test_two_names_for_saved_values_are_keys_of_the_graph():
    model = Model(Pass())
    with model.trace(value()) as tracer:
        model.first.output.save("one")
        with pytest.raises(BlockError, match="two values are saved as 'one'"):
            model.second.output.save("one")
    assert list(tracer.graph.saves) == ["one"]


def test_a_saved_value_that_a_later_line_overwrites_warns_with_both_lines():
    model = Model(Pass())
    with (
        pytest.warns(loupe.errors.OverwrittenWarning, match=r"(?s)kept line.*clobbering line.*\.clone\(\)"),
        model.trace(value()),
    ):
        kept = model.first.output.save()  # kept line
        model.first.output[:] = 0  # clobbering line
    assert_same(kept.value, torch.zeros(3, 8))
    with model.trace(value()):
        kept = model.first.output.clone().save()
        model.first.output[:] = 0
    assert_same(kept.value, value())
