"""Hold that a block reads real values where Python needs them, in one pass where it reads in order, and
wherever it is written.
"""

import contextlib
import gc
import io
import subprocess
import sys
import textwrap
import weakref

import numpy as np
import pytest
import torch
from torch import nn

import loupe
from loupe import LanguageModel, Model
from loupe.errors import InputError, NotReachedError, OperationError, UnsavedError
from tests import tiny
from tests.trace import Pass, value


class Deep(nn.Module):
    """Twelve layers with dropout between them; counts its passes and notes which layers ran."""

    def __init__(self, dropout=0.0):
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(12))
        self.drop = nn.Dropout(dropout)
        self.passes, self.ran = 0, []
        for place, layer in enumerate(self.layers):
            layer.register_forward_pre_hook(lambda _m, _i, place=place: self.ran.append(place))

    def forward(self, x):
        self.passes += 1
        for layer in self.layers:
            x = self.drop(torch.tanh(layer(x)))
        return x


def layer_outputs(module, x):
    """What a plain hook on each layer sees."""
    seen = []
    handles = [each.register_forward_hook(lambda _m, _i, o: seen.append(o.detach().clone())) for each in module.layers]
    with torch.no_grad():
        module(x)
    for handle in handles:
        handle.remove()
    module.passes, module.ran[:] = 0, []
    return seen


def test_peeking_at_every_layer_in_order_is_one_pass():
    module = Deep()
    wanted = layer_outputs(module, value())
    model = Model(module)
    with model.trace(value()):
        found = [float(layer.output.norm()) for layer in model.layers]
        assert module.passes == 1
        out = model.output.save()
    assert module.passes == 1
    assert module.ran == list(range(12))
    assert found == pytest.approx([float(each.norm()) for each in wanted], rel=1e-5)
    torch.testing.assert_close(out.value, torch.tanh(wanted[-1]))


def test_a_peek_runs_the_model_no_further_than_it_must():
    module = Deep()
    model = Model(module)
    with model.trace(value()):
        float(model.layers[2].output.sum())
        assert module.ran == [0, 1, 2]
        float(model.layers[5].input.sum())
        assert max(module.ran) <= 5
        float(model.layers[5].output.sum())
    assert max(module.ran) == 5


def test_the_pass_stops_after_the_last_thing_that_is_wanted():
    module = Deep()
    model = Model(module)
    with model.trace(value()):
        model.layers[3].output.save()
        model.layers[9].output * 2
    assert module.ran == [0, 1, 2, 3]


def test_a_block_that_wants_nothing_runs_like_a_plain_call():
    module = Deep()
    with Model(module).trace(value()):
        pass
    assert module.ran in ([], list(range(12)))


def test_reading_what_has_passed_replays_with_the_same_random_numbers():
    module = Deep(dropout=0.5).train()
    model = Model(module)
    with model.trace(value()):
        late = model.layers[8].output.tolist()
        early = model.layers[1].output.tolist()
        assert module.passes == 2
        again = model.layers[8].output.tolist()
        kept = model.layers[8].output.save()
    assert late == again == kept.tolist()
    assert module.passes == 2
    assert np.shape(early) == (3, 8)


def test_a_block_with_peeks_draws_the_random_numbers_of_a_plain_call():
    module = Deep(dropout=0.5).train()
    torch.manual_seed(5)
    with torch.no_grad():
        wanted = module(value())
    after = torch.rand(1)
    model = Model(module)
    torch.manual_seed(5)
    with model.trace(value()):
        float(model.layers[3].output.sum())
        out = model.output.save()
    assert torch.equal(out.value, wanted)
    assert torch.equal(torch.rand(1), after)
    torch.manual_seed(5)
    with model.trace(value()):
        out = model.output.save()
    assert torch.equal(out.value, wanted)
    assert torch.equal(torch.rand(1), after)


def test_a_replay_leaves_the_random_numbers_of_the_block_after_those_of_the_pass():
    module = Deep(dropout=0.5).train()
    model = Model(module)
    torch.manual_seed(5)
    with model.trace(value()):
        late = model.output.tolist()
        float(model.layers[1].output.sum())
        out = model.output.save()
    assert out.tolist() == late


def test_a_write_after_a_peek_at_the_same_site_is_one_pass():
    module = Pass()
    model = Model(module)
    with model.trace(value()):
        if model.first.output.sum() < 1e9:
            model.first.output[:] = 5
        model.first.output += 1
        out = model.second.output.save()
    assert module.passes == 1
    assert torch.equal(out.value, torch.full((3, 8), 6.0))


def test_a_write_of_what_has_passed_replays():
    module = Pass()
    model = Model(module)
    with model.trace(value()):
        before = float(model.second.output.sum())
        model.first.output = model.first.output * 2
        after = float(model.second.output.sum())
        out = model.output.save()
    assert after == pytest.approx(2 * before, rel=1e-4)
    assert torch.equal(out.value, value() * 2)
    assert module.passes == 2


def test_a_peek_sees_the_lines_above_it_and_not_those_below():
    model = Model(Pass())
    with model.trace(value()):
        v = model.first.output
        before = float(v.sum())
        v[:] = 1
        middle = float(v.sum())
        v *= 3
        last = float(v.sum())
    assert (before, middle, last) == (pytest.approx(float(value().sum()), rel=1e-4), 24.0, 72.0)


def test_a_loop_steers_itself_by_the_values_that_it_reads():
    module = Deep()
    wanted = layer_outputs(module, value())
    model = Model(module)
    with model.trace(value()):
        best, place = -1.0, 0
        for number, layer in enumerate(model.layers):
            norm = layer.output.norm()
            if norm > best:
                best, place = float(norm), number
        kept = model.output.save()
    norms = [float(each.norm()) for each in wanted]
    assert place == norms.index(max(norms))
    assert module.passes == 1
    assert kept.shape == (3, 8)


PEEKS = {
    "float": lambda v: float(v[0, 0]),
    "int": lambda v: int(v[0, 0] * 100),
    "complex": lambda v: complex(v[0, 0]),
    "bool": lambda v: bool(v[0, 0] > 0),
    "item": lambda v: v.max().item(),
    "tolist": lambda v: v.tolist(),
    "numpy": lambda v: v.numpy().tolist(),
    "np.asarray": lambda v: np.asarray(v).tolist(),
    "np.linalg": lambda v: float(np.linalg.norm(v)),
    "f-string": lambda v: f"{v} {v[0, 0]:.3f}",
    "str": lambda v: str(v),
    "percent": lambda v: "%.3f" % v[0, 0],
    "format": lambda v: "{:.2f}".format(v[0, 0]),  # noqa: UP032
    "while": lambda v: _count_up_to(v.abs().max()),
    "min of numbers": lambda v: float(min(v[0])),
    "sorted": lambda v: [float(each) for each in sorted(v[0])],
    "index": lambda v: "abcdefgh"[v[0].argmax()],
    "range": lambda v: list(range(v[0].argmax())),
    "in": lambda v: 1e9 in v,
    "ternary": lambda v: 1 if v.sum() > 0 else 2,
    "any": lambda v: any(v[0] > 0),
    "dict": lambda v: {int(k): 1 for k in v.argmax(1)},
    "equal": lambda v: torch.equal(v, v + 0) and not torch.equal(v, v + 1),
    "allclose": lambda v: bool(torch.allclose(v, v)),
    "json": lambda v: __import__("json").dumps(v.tolist()),
}


def _count_up_to(most):
    count = 0
    while most > count:
        count += 1
    return count


@pytest.mark.parametrize("name", PEEKS)
def test_python_gets_the_real_value_where_it_needs_one(name):
    module = Pass()
    model = Model(module)
    with model.trace(value()):
        found = PEEKS[name](model.first.output)
        out = model.output.save()
    assert found == PEEKS[name](value())
    assert module.passes == 1
    assert torch.equal(out.value, value())


def test_value_and_numpy_functions_give_the_real_value_inside_a_block():
    model = Model(Pass())
    with model.trace(value()):
        bare = model.first.output.value
        added = np.add(np.ones(8, dtype=np.float32), model.first.output)
        assert type(bare) is torch.Tensor
    assert torch.equal(bare, value())
    np.testing.assert_array_equal(added, value().numpy() + 1)


def test_print_shows_the_real_value(capsys):
    model = Model(Pass())
    with model.trace(value()):
        print(model.first.output, model.first.output.mean())
    assert capsys.readouterr().out == f"{value()!s} {value().mean()!s}\n"


def test_sklearn_and_matplotlib_work_inside_a_block():
    from matplotlib.figure import Figure
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression

    model = Model(Pass())
    with model.trace(value()):
        v = model.first.output
        parts = PCA(2).fit(v)
        found = LogisticRegression().fit(v, [0, 1, 0]).predict(v)
        (line,) = Figure().subplots().plot(v[0])
        direction = torch.tensor(parts.components_[0]).float()
        along = (v @ direction).save()
    assert found.shape == (3,)
    np.testing.assert_array_equal(line.get_ydata(), value()[0].numpy())
    torch.testing.assert_close(along.value, value() @ torch.tensor(PCA(2).fit(value().numpy()).components_[0]).float())


def test_a_tensor_made_from_numbers_of_the_block_is_real():
    model = Model(Pass())
    with model.trace(value()):
        v = model.first.output
        made = torch.tensor([float(v[0, 0]), v[0, 1].item()])
        kept = (v[0, :2] - made).save()
    assert torch.equal(kept.value, torch.zeros(2))


def test_a_peek_before_any_input_says_so():
    model = Model(Pass())
    with pytest.raises(InputError, match="no input yet"), model.trace():
        float(model.first.output.sum())


def test_a_peek_at_a_module_that_never_runs_says_so_on_its_line():
    model = Model(tiny.net())
    with pytest.raises(NotReachedError, match="never"), model.trace(torch.ones(1, 4)):
        float(model.never.output.sum())


def test_an_operation_that_fails_at_a_peek_is_raised_in_the_block_and_the_block_can_go_on():
    model = Model(Pass())
    with model.trace(value()):
        with pytest.raises(OperationError, match="matmul"):
            float((model.first.output @ torch.ones(3, 3)).sum())
        first = float(model.first.output.sum())
    assert first == pytest.approx(float(value().sum()), rel=1e-4)


# -- where a block may stand -------------------------------------------------------------------------------------------


def test_a_block_may_return_from_a_function():
    model = Model(Pass())

    def run():
        with model.trace(value()):
            kept = model.first.output.save()
            return kept
        return None

    assert torch.equal(run().value, value())


def test_a_block_may_break_and_continue_a_loop():
    model = Model(Pass())
    kept = []
    for number in range(5):
        with model.trace(value() * number):
            kept.append(model.first.output.save())
            if number == 1:
                continue
            if number == 3:
                break
    assert [each[0, 0].item() for each in kept] == [(value() * number)[0, 0].item() for number in range(4)]


def test_a_block_may_stand_in_comprehensions_lambdas_generators_and_nested_functions():
    model = Model(Pass())

    def saved(x):
        with model.trace(x):
            return [kept.save() for kept in (site.output for site in (model.first, model.second))]

    found = [saved(value() * n)[1] for n in range(3)]
    assert torch.equal(found[2].value, value() * 2)

    def values():
        with model.trace(value()):
            yield from (lambda: [float(model.first.output.sum()), float(model.second.output.sum())])()

    assert len(list(values())) == 2
    with model.trace(value()):
        total = sum(model.first.output[row] for row in range(3)).save()
        every = list(map(lambda site: site.output.save(), (model.first, model.second)))  # noqa: C417
    torch.testing.assert_close(total.value, value().sum(0))
    assert torch.equal(every[1].value, value())


def test_a_generator_that_is_closed_in_its_block_leaves_the_model_clean():
    module = Pass()
    model = Model(module)

    def values():
        with model.trace(value()):
            yield float(model.first.output.sum())
            yield float(model.second.output.sum())

    walk = values()
    next(walk)
    walk.close()
    assert tiny.hooks_on(module) == 1  # the one that counts passes
    assert not hasattr(list, "save")


PROGRAM = """
import torch
from loupe import Model
model = Model(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()))
with model.trace(torch.ones(2, 4)):
    hidden = model[0].output
    if hidden.sum() < 1e9:
        kept = (hidden * 2).save()
lost = None
with model.trace(torch.ones(2, 4)):
    lost = model[0].output
    model[1].output.save()
with torch.no_grad():
    assert torch.equal(kept.value, model._module[0](torch.ones(2, 4)) * 2)
"""


def test_a_block_runs_under_exec_where_there_is_no_source():
    space = {}
    exec(PROGRAM, space)
    with pytest.raises(UnsavedError, match="<string>:11"):
        space["lost"] + 1


@pytest.mark.parametrize("way", ["-c", "stdin"])
def test_a_block_runs_in_an_interpreter_that_has_no_file(way):
    command = [sys.executable, "-W", "error", *(["-c", PROGRAM] if way == "-c" else ["-"])]
    done = subprocess.run(command, input=PROGRAM, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_a_block_runs_in_a_console():
    import code

    console = code.InteractiveConsole()
    lines = (
        textwrap.dedent(PROGRAM).replace("\nlost", "\n\nlost").replace("\nwith torch.no", "\n\nwith torch.no") + "\n\n"
    )
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        for line in lines.splitlines():
            console.push(line)
    assert errors.getvalue() == ""
    assert console.locals["kept"].shape == (2, 4)


# -- memory ------------------------------------------------------------------------------------------------------------


class Noting(nn.Module):
    """Two layers; before the second it notes whether what the first returned is still alive."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(64, 64), nn.Identity()
        self.refs, self.alive = [], []

    def forward(self, x):
        x = self.first(x).sum()
        gc.collect()
        self.alive = [ref() is not None for ref in self.refs]
        return self.last(x)


def test_values_are_freed_after_their_last_use_within_the_pass():
    module = Noting()
    model = Model(module)
    note = loupe.fn(lambda big: (module.refs.append(weakref.ref(big)), big.sum())[1])
    with model.trace(torch.ones(64, 64)):
        total = note(model.first.output.exp() * 2)
        out = (model.last.output + total).save()
    assert module.alive == [False]
    assert torch.isfinite(out.value)
    module.refs.clear()
    with model.trace(torch.ones(64, 64)):
        big = model.first.output.exp() * 2
        total = note(big)
        out = (model.last.output + total + big.mean()).save()
    assert module.alive == [False]


def test_a_value_that_is_used_later_lives_until_then():
    module = Noting()
    model = Model(module)
    keep = loupe.fn(lambda big: (module.refs.append(weakref.ref(big)), big)[1])
    with model.trace(torch.ones(64, 64)):
        big = keep(model.first.output.exp())
        (model.last.output + big).save()
    assert module.alive == [True]
    gc.collect()
    assert module.refs[0]() is None


def test_a_language_model_is_peeked_at_layer_by_layer_in_one_pass():
    gpt2 = tiny.hf_model("gpt2")
    ids, passes = torch.tensor([[3, 1, 4, 1, 5]]), []
    handle = gpt2.register_forward_pre_hook(lambda *_: passes.append(1))
    model = LanguageModel(gpt2)
    with model.trace(ids):
        lens = [
            int(model.lm_head(model.transformer.ln_f(block.output[0]))[0, -1].argmax()) for block in model.transformer.h
        ]
        out = model.output.save()
    handle.remove()
    with torch.no_grad():
        h = gpt2.transformer.wte(ids) + gpt2.transformer.wpe(torch.arange(5))
        wanted = []
        for block in gpt2.transformer.h:
            h = block(h)
            h = h if isinstance(h, torch.Tensor) else h[0]
            wanted.append(int(gpt2.lm_head(gpt2.transformer.ln_f(h))[0, -1].argmax()))
    assert lens == wanted
    assert len(passes) == 1
    assert int(out[0, -1].argmax()) == wanted[-1]
