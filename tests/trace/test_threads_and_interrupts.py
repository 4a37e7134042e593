"""Hold that a block leaves the model, the threads and torch's own state clean, whatever ends it and whoever
else is at work.
"""

import gc
import os
import signal
import subprocess
import sys
import threading
import weakref

import pytest
import torch
from torch import nn

import loupe
from loupe import LanguageModel, Model
from loupe.errors import BlockError, InputError, OperationError, UnsavedError
from tests import tiny
from tests.trace import Pass, value

TIMEOUT = 20


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    """After every test: the same threads, grad mode, default dtype and `list` as before, and no open block."""
    before, grad = set(threading.enumerate()), torch.is_grad_enabled()
    yield
    assert set(threading.enumerate()) <= before
    assert torch.is_grad_enabled() == grad
    assert torch.get_default_dtype() is torch.float32
    assert not torch.is_autocast_enabled("cpu")
    assert not hasattr(list, "save")
    assert loupe.trace.recorder.open_recorders() == []


class Act(nn.Module):
    """Calls a function when it runs on real tensors, and hands its input on."""

    def __init__(self, action=lambda: None):
        super().__init__()
        self.action = action

    def forward(self, x):
        if not x.is_meta:
            self.action()
        return x


def acting(action):
    """A model that does something between its first and its last module."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), Act(action), nn.Linear(8, 8))


def once(error):
    """A function that raises at its first call in a real pass."""
    state = {"left": 1}

    def action():
        if state["left"]:
            state["left"] -= 1
            raise error

    return action


def works(model, module):
    """A second block gives what plain calls give, and no hook is left."""
    assert tiny.hooks_on(module) == 0
    with torch.no_grad():
        wanted = module[0](value())
    with model.trace(value()):
        peeked = model[0].output.tolist()
        out = (model[0].output * 2).save()
    assert peeked == wanted.tolist()
    assert torch.equal(out.value, wanted * 2)
    assert tiny.hooks_on(module) == 0


def interrupt():
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("peek", [False, True])
@pytest.mark.parametrize(
    "error", [ValueError("no"), KeyboardInterrupt(), SystemExit(1), StopIteration(), GeneratorExit()]
)
def test_an_exception_of_the_models_own_is_raised_as_it_is_and_leaves_everything_clean(error, peek):
    module = acting(once(error))
    model = Model(module)
    with pytest.raises(type(error)) as caught, model.trace(value()):
        if peek:
            float(model[0].output.sum())
            float(model[2].output.sum())
        kept = model[2].output.save()
    assert caught.value is error
    if not peek:
        with pytest.raises(UnsavedError, match="never computed"):
            kept + 1
    works(model, module)


@pytest.mark.parametrize("peek", [False, True])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_exception_in_the_block_leaves_everything_clean(error, peek):
    module = acting(lambda: None)
    model = Model(module)
    with pytest.raises(error), model.trace(value()):
        kept = model[0].output.save()
        if peek:
            float(kept.sum())
        raise error
    with pytest.raises(UnsavedError, match="never computed"):
        kept + 1
    works(model, module)


def test_the_model_goes_on_with_no_error_of_the_blocks_hidden_in_another():
    model = Model(acting(lambda: None))
    with pytest.raises(ValueError, match="mine") as caught, model.trace(value()):
        float(model[0].output.sum())
        raise ValueError("mine")
    assert caught.value.__context__ is None


@pytest.mark.parametrize("peek", [False, True])
def test_control_c_while_the_model_runs_ends_the_pass_and_leaves_everything_clean(peek):
    state = {"left": 1}

    def action():
        if state["left"]:
            state["left"] -= 1
            interrupt()

    module = acting(action)
    model = Model(module)
    with pytest.raises(KeyboardInterrupt), model.trace(value()):
        if peek:
            float(model[0].output.sum())
            float(model[2].output.sum())
        model[2].output.save()
    works(model, module)


@pytest.mark.parametrize("peek", [False, True])
def test_control_c_from_elsewhere_while_a_long_layer_runs(peek):
    started, state = threading.Event(), {"left": 1}

    def action():
        if state["left"]:
            state["left"] -= 1
            started.set()
            for _ in range(200):
                torch.linspace(0, 1, 1000).sum()
                threading.Event().wait(0.005)

    module = acting(action)
    model = Model(module)

    def press():
        started.wait(TIMEOUT)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    presser = threading.Thread(target=press)
    presser.start()
    with pytest.raises(KeyboardInterrupt), model.trace(value()):
        if peek:
            float(model[0].output.sum())
            float(model[2].output.sum())
        model[2].output.save()
    presser.join(TIMEOUT)
    works(model, module)


@pytest.mark.parametrize("peek", [False, True])
def test_control_c_in_the_block_leaves_everything_clean(peek):
    module = acting(lambda: None)
    model = Model(module)
    with pytest.raises(KeyboardInterrupt), model.trace(value()):
        if peek:
            float(model[0].output.sum())
        interrupt()
        model[2].output.save()
    works(model, module)


def test_an_error_in_an_operation_after_a_peek_leaves_everything_clean():
    module = acting(lambda: None)
    model = Model(module)
    with pytest.raises(OperationError), model.trace(value()):
        float(model[0].output.sum())
        (model[2].output @ torch.ones(2, 2)).save()
    works(model, module)


def test_an_input_that_the_model_refuses_leaves_everything_clean():
    module = acting(lambda: None)
    model = Model(module)
    for peek in (False, True):
        with pytest.raises(RuntimeError, match="shapes"), model.trace(torch.ones(3, 5)):
            model[0].output.save()
            if peek:
                float(model[0].output.sum())
    works(model, module)


def test_an_empty_prompt_is_refused_before_the_body_and_leaves_everything_clean():
    model = LanguageModel(tiny.hf_model("gpt2"))
    with pytest.raises(InputError), model.trace([]):
        pytest.fail("the body ran")
    with model.trace(torch.tensor([[1, 2, 3]])):
        out = model.output.save()
    assert out.shape == (1, 3, 64)


def test_a_block_that_is_never_ended_in_a_dropped_generator_frees_the_model():
    module = Pass()
    model = Model(module)

    def walk():
        with model.trace(value()):
            yield float(model.first.output.sum())

    generator = walk()
    next(generator)
    del generator
    gc.collect()
    with model.trace(value()):
        out = model.output.save()
    assert torch.equal(out.value, value())


# -- several threads ---------------------------------------------------------------------------------------------------


def together(*jobs):
    """Run jobs in threads at once; their results in order. Fails where one does not end."""
    results, errors, start = [None] * len(jobs), [], threading.Barrier(len(jobs))

    def run(place, job):
        try:
            start.wait(TIMEOUT)
            results[place] = job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=each, daemon=True) for each in enumerate(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert not any(thread.is_alive() for thread in threads), "a thread is stuck"
    if errors:
        raise errors[0]
    return results


def scaling_job(model, factor, times, peek):
    """Many blocks that scale one layer's output by a factor of their own."""

    def job():
        found = []
        for number in range(times):
            with model.trace(value() + number):
                if peek and number % 2:
                    float(model.layers[1].output.sum())
                model.layers[0].output[:] *= factor
                kept = list().save()
                kept.append(model.layers[0].output.clone())
                out = model.output.save()
            found.append((kept[0], out.value))
        return found

    return job


def by_hand(module, factor, number):
    x = value() + number
    with torch.no_grad():
        table = module.table.weight.sum(0)
        first = module.layers[0](x) * factor
        h = torch.tanh(first) + table
        for layer in module.layers[1:]:
            h = torch.tanh(layer(h)) + table
    return first, h


@pytest.mark.parametrize("peek", [False, True])
@pytest.mark.parametrize("shared", ["one wrapper", "two wrappers", "two models"])
def test_threads_that_trace_many_times_at_once_never_mix(shared, peek):
    modules = [tiny.stack(), tiny.Stack() if shared == "two models" else tiny.stack()]
    first = Model(modules[0])
    models = [first, first if shared == "one wrapper" else Model(modules[1])]
    factors = [2.0, -1.0, 0.5, 3.0]
    jobs = [scaling_job(models[place % 2], factor, 12, peek) for place, factor in enumerate(factors)]
    for place, (factor, found) in enumerate(zip(factors, together(*jobs), strict=True)):
        for number, (kept, out) in enumerate(found):
            wanted_kept, wanted = by_hand(modules[place % 2], factor, number)
            torch.testing.assert_close(kept, wanted_kept)
            torch.testing.assert_close(out, wanted)


def test_a_block_of_one_thread_waits_for_the_pass_of_another_on_the_same_model():
    module, order, peeked, go = tiny.stack(), [], threading.Event(), threading.Event()
    model = Model(module)

    def slow():
        with model.trace(value()):
            float(model.layers[0].output.sum())
            peeked.set()
            go.wait(TIMEOUT)
            out = (model.output * 1).save()
        order.append("slow")
        return out.value

    def quick():
        peeked.wait(TIMEOUT)
        threading.Timer(0.2, go.set).start()
        with model.trace(value() + 1):
            out = model.output.save()
        order.append("quick")
        return out.value

    found = together(slow, quick)
    for place in (0, 1):
        torch.testing.assert_close(found[place], by_hand(module, 1.0, place)[1])


def test_an_error_in_one_thread_frees_the_model_for_the_others():
    module = tiny.stack()
    model = Model(module)

    def failing():
        for _ in range(10):
            with pytest.raises(ZeroDivisionError), model.trace(value()):
                float(model.layers[0].output.sum())
                1 / 0

    for found in together(failing, scaling_job(model, 2.0, 10, True), failing)[1:2]:
        torch.testing.assert_close(found[3][1], by_hand(module, 2.0, 3)[1])


def test_a_value_of_a_block_is_used_in_a_thread_that_the_block_starts():
    model = Model(Pass())
    with model.trace(value()):
        v, found = model.first.output, []
        worker = threading.Thread(target=lambda: found.append((v * 2).save()))
        worker.start()
        worker.join(TIMEOUT)
        out = found[0] + 1
        out = out.save()
    assert torch.equal(out.value, value() * 2 + 1)


# -- a trace inside a trace --------------------------------------------------------------------------------------------


def test_a_trace_inside_a_trace_of_the_same_model_is_refused_and_the_outer_goes_on():
    module = Pass()
    model = Model(module)
    with model.trace(value()):
        kept = model.first.output.save()
        with pytest.raises(BlockError, match="already open"), model.trace(value()):
            pytest.fail("the body ran")
        states = list().save()
        states.append(model.second.output)
    assert torch.equal(kept.value, value())
    assert torch.equal(states[0], value())


def test_a_trace_inside_a_trace_of_another_model_takes_values_across():
    outer, inner = Model(Pass()), Model(Pass())
    with outer.trace(value()):
        v = outer.first.output
        with inner.trace(v * 2):
            doubled = inner.second.output.save()
        outer.second.output = doubled + v
        out = outer.output.save()
    assert torch.equal(doubled.value, value() * 2)
    assert torch.equal(out.value, value() * 3)


def test_containers_of_two_nested_blocks_keep_the_values_of_each():
    outer, inner = Model(Pass()), Model(Pass())
    with outer.trace(value()):
        mine = list().save()
        with inner.trace(value() * 2):
            theirs = list().save()
            theirs.append(inner.first.output)
            mine.append(outer.first.output)
        mine.append(outer.second.output)
    assert torch.equal(theirs[0], value() * 2)
    assert len(mine) == 2
    assert torch.equal(mine[1], value())


# -- torch's own state -------------------------------------------------------------------------------------------------


class Watching(nn.Module):
    """Notes torch's state while it runs."""

    def __init__(self):
        super().__init__()
        self.inner, self.notes = nn.Linear(8, 8), []

    def forward(self, x):
        self.notes.append(
            (torch.is_autocast_enabled("cpu"), torch.get_default_dtype(), torch.is_inference_mode_enabled())
        )
        return self.inner(x)


@pytest.mark.parametrize("peek", [False, True])
def test_autocast_default_dtype_and_inference_mode_of_the_caller_hold_in_the_model(peek):
    module, x = Watching(), value()
    model = Model(module)

    def run():
        module.notes.clear()
        with model.trace(x):
            if peek:
                float(model.inner.output.sum())
            kept = model.inner.output.save()
        return kept.dtype, module.notes[-1]

    assert run() == (torch.float32, (False, torch.float32, False))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert run() == (torch.bfloat16, (True, torch.float32, False))
        assert torch.is_autocast_enabled("cpu")
    with torch.inference_mode():
        assert run() == (torch.float32, (False, torch.float32, True))
    torch.set_default_dtype(torch.float64)
    try:
        assert run()[1] == (False, torch.float64, False)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("peek", [False, True])
def test_the_block_itself_keeps_the_callers_grad_mode_while_the_model_runs_without_autograd(peek):
    module = nn.Sequential(nn.Linear(8, 8))
    model = Model(module)
    with model.trace(value()):
        if peek:
            float(model[0].output.sum())
        assert torch.is_grad_enabled()
        own = torch.ones(1, requires_grad=True) * 2
        kept = model[0].output.save()
    assert own.requires_grad
    assert not kept.requires_grad
    with torch.no_grad(), model.trace(value()):
        if peek:
            float(model[0].output.sum())
        assert not torch.is_grad_enabled()


@pytest.mark.parametrize("peek", [False, True])
def test_a_model_that_changes_torchs_state_changes_nothing_for_the_block(peek):
    class Rude(nn.Module):
        def forward(self, x):
            with torch.enable_grad():
                return nn.functional.dropout(x, 0.0).requires_grad_()

    model = Model(nn.Sequential(Rude(), nn.Identity()))
    with torch.no_grad(), model.trace(value()):
        if peek:
            float(model[0].output.sum())
        assert not torch.is_grad_enabled()
        kept = model[1].output.save()
    assert kept.shape == (3, 8)


@pytest.mark.parametrize("peek", [False, True])
def test_a_model_in_train_mode_drops_out_like_a_plain_call(peek):
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(8, 64), nn.Dropout(0.5), nn.Linear(64, 8)).train()
    torch.manual_seed(3)
    with torch.no_grad():
        wanted = module(value())
    model = Model(module)
    torch.manual_seed(3)
    with model.trace(value()):
        if peek:
            assert float((model[1].output == 0).float().mean()) > 0.1
        out = model.output.save()
    assert torch.equal(out.value, wanted)
    assert module.training


def test_context_variables_of_the_caller_are_seen_by_a_model_that_is_peeked_at():
    import contextvars

    variable, seen = contextvars.ContextVar("variable", default="none"), []
    model = Model(acting(lambda: seen.append(variable.get())))
    token = variable.set("mine")
    with model.trace(value()):
        float(model[2].output.sum())
    variable.reset(token)
    assert seen[-1] == "mine"


def test_nothing_of_a_finished_block_keeps_its_tensors_alive():
    class Returns(nn.Module):
        def forward(self, x):
            y = x.exp()
            refs.append(weakref.ref(y))
            return y

    refs = []
    model = Model(nn.Sequential(Returns(), nn.Identity()))
    for peek in (False, True):
        refs.clear()
        with model.trace(value()):
            if peek:
                float(model[0].output.sum())
            kept = model[0].output.mean().save()
            model[1].output.sum().save()
        real = [ref for ref in refs if ref() is not None and not ref().is_meta]
        assert kept.ndim == 0
        del kept
        gc.collect()
        assert [ref for ref in real if ref() is not None] == []


PLAIN_CALL = """
import threading, torch
from loupe import Model
from tests import tiny
module, x = tiny.stack(), torch.ones(3, 8)
model = Model(module)
with torch.no_grad():
    wanted = module(x)
    table = module.table.weight.sum(0)
found = []
def call():
    with torch.no_grad():
        found.append(module(x))
with model.trace(x):
    model.layers[2].output[:] = 0
    float(model.layers[1].output.sum())
    CALL
    float(model.layers[2].output.sum())
    out = model.output.save()
assert torch.equal(found[0], wanted), "the plain call was changed by the block"
assert torch.equal(out.value, table.expand(3, 8)), "the block was changed by the plain call"
"""


@pytest.mark.parametrize("call", ["call()", "other = threading.Thread(target=call); other.start(); other.join()"])
def test_a_plain_call_of_the_module_while_a_pass_stands_still_is_no_part_of_it(call):
    """In a process of its own, which can be ended where it stands still for good."""
    program = PLAIN_CALL.replace("CALL", call)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr[-500:]


def test_blocks_that_are_looked_at_one_after_the_other_share_a_thread():
    class Where(nn.Module):
        def forward(self, x):
            if not x.is_meta:
                seen.append(threading.get_ident())
            return x + 1

    seen = []
    model = Model(nn.Sequential(Where(), Where()))
    for _ in range(3):
        with model.trace(torch.ones(1, 2)):
            assert float(model[0].output.sum()) == 4
            out = model.output.save()
        assert out.sum() == 6
    assert len(set(seen)) == 1
    assert seen[0] != threading.get_ident()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_looks_at_values_too():
    program = """
import os, sys, torch
from torch import nn
from loupe import Model

model = Model(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))


def look():
    with model.trace(torch.ones(1, 2)):
        return float(model[0].output.sum())


here = look()
child = os.fork()
if child == 0:
    os._exit(0 if look() == here else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert look() == here
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, timeout=120)
