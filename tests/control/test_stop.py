"""Count the modules that run before a block stops its pass, and say what lines below a stop cannot have."""

import pytest
import torch

import loupe
from loupe import Model
from loupe.errors import BlockError, NotReachedError
from tests import tiny
from tests.control.by_hand import IDS, gpt2, watched

LAYERS = [f"transformer.h.{layer}" for layer in range(3)]


@pytest.fixture
def ran():
    """The blocks of GPT-2 that begin to run, in order."""
    with watched(tiny.hf_model("gpt2"), LAYERS) as seen:
        yield seen


def outputs(**options):
    """What the blocks of GPT-2 return in a plain call."""
    return tiny.outputs_of(tiny.hf_model("gpt2"), LAYERS, IDS, **options)[0]


def test_a_stop_ends_a_pass_in_which_nothing_is_saved(ran):
    model = gpt2()
    with model.trace(IDS) as tracer:
        model.transformer.h[1].output
        tracer.stop()
    assert ran == LAYERS[:2]
    ran.clear()
    with model.trace(IDS) as tracer:
        model.transformer.h[0].output = torch.zeros(1, 4, 32)
        tracer.stop()
    assert ran == LAYERS[:1]
    ran.clear()
    with model.trace(IDS) as tracer:
        tracer.stop()
    assert ran == []


def test_what_is_saved_above_a_stop_is_there_although_lines_are_not_in_the_order_of_the_model(ran):
    model = gpt2()
    with model.trace(IDS) as tracer:
        late = model.transformer.h[1].output.save()
        early = model.transformer.h[0].output.save()
        both = (late + early).save()
        tracer.stop()
    want = outputs()
    assert torch.equal(both, want[LAYERS[0]] + want[LAYERS[1]])
    assert ran[:2] == LAYERS[:2]
    assert len(ran) == 2 + 3  # those of the plain call


def test_functions_and_tensors_of_the_user_above_a_stop_have_had_their_turn(ran):
    model, total, seen = gpt2(), torch.zeros(1, 4, 32), []

    @loupe.fn
    def note(value):
        seen.append(value.clone())
        return value

    with model.trace(IDS) as tracer:
        total.add_(model.transformer.h[1].output)
        note(model.transformer.h[0].output)
        tracer.stop()
    assert ran == LAYERS[:2]
    want = outputs()
    assert torch.equal(total, want[LAYERS[1]])
    assert torch.equal(seen[0], want[LAYERS[0]])


def test_lines_below_a_stop_may_use_what_has_passed(ran):
    model = gpt2()
    with model.trace(IDS) as tracer:
        late = model.transformer.h[1].output
        tracer.stop()
        early = model.transformer.h[0].output.save()
        total = (late + early).sum().save()
        unused = model.transformer.h[2].output  # named, and not asked for
    assert ran == LAYERS[:2]
    want = outputs()
    assert torch.equal(early, want[LAYERS[0]])
    assert torch.equal(total, (want[LAYERS[0]] + want[LAYERS[1]]).sum())
    assert "transformer.h.2" in repr(unused)


@pytest.mark.parametrize("line", ["read", "write", "result", "output", "peek"])
def test_lines_below_a_stop_that_need_more_of_the_model_name_the_stop(line):
    model = gpt2()
    with pytest.raises(NotReachedError, match="was not reached: the block stops the pass before it") as caught:
        with model.trace(IDS) as tracer:
            kept = model.transformer.h[1].output.save()
            tracer.stop()  # here
            if line == "read":
                model.transformer.h[2].output.save()
            elif line == "write":
                model.transformer.h[2].output[:] = 0
            elif line == "result":
                tracer.result.save()
            elif line == "output":
                model.output.save()
            else:
                float(model.transformer.h[2].output.sum())
                pytest.fail("the line above had to raise")
    assert "tracer.stop()  # here" in caught.value.fact
    assert "move this line above tracer.stop()" in caught.value.remedy
    assert tiny.hooks_on(tiny.hf_model("gpt2")) == 0
    if line != "peek":
        assert torch.equal(kept, outputs()[LAYERS[1]])


def test_a_stop_after_looks_ends_the_pass_that_was_looked_at(ran):
    model = gpt2()
    with model.trace(IDS) as tracer:
        early = float(model.transformer.h[0].output.norm())
        kept = model.transformer.h[1].output.save()
        tracer.stop()
    assert ran == LAYERS[:2]
    want = outputs()
    assert early == float(want[LAYERS[0]].norm())
    assert torch.equal(kept, want[LAYERS[1]])
    ran.clear()
    with model.trace(IDS) as tracer:
        there = model.transformer.h[1].output
        tracer.stop()
        late = float(there.norm())  # a look below the stop, at what is above it
    assert ran == LAYERS[:2]
    assert late == float(want[LAYERS[1]].norm())


def test_a_stop_in_one_invoke_ends_the_pass_of_all(ran):
    model = gpt2()
    with model.trace() as tracer:
        with tracer.invoke(IDS):
            first = model.transformer.h[0].output.save()
            tracer.stop()
        with tracer.invoke([[3, 8, 1, 1]]):
            second = model.transformer.h[0].output.save()
    assert ran == LAYERS[:1]
    assert torch.allclose(first, outputs()[LAYERS[0]], atol=1e-6)
    assert second.shape == (1, 4, 32)
    with pytest.raises(NotReachedError, match="the block stops the pass before it"), model.trace() as tracer:
        with tracer.invoke(IDS):
            model.transformer.h[0].output.save()
            tracer.stop()
        with tracer.invoke([[3, 8, 1, 1]]):
            model.transformer.h[2].output.save()


def test_a_stop_waits_for_a_backward_pass_above_it(ran):
    model = gpt2()
    with model.trace(IDS) as tracer:
        hidden = model.transformer.h[0].output
        model.transformer.h[1].output.sum().backward()
        gradient = hidden.grad.save()
        tracer.stop()
    assert ran == LAYERS[:2]
    hf = tiny.hf_model("gpt2")
    with torch.no_grad():
        x = hf.transformer.wte(IDS) + hf.transformer.wpe(torch.arange(4))
        x = hf.transformer.h[0](x)
    x.requires_grad_()
    hf.transformer.h[1](x).sum().backward()
    hf.zero_grad()
    torch.testing.assert_close(gradient.value, x.grad, atol=1e-4, rtol=1e-4)


def test_the_first_of_two_stops_holds(ran):
    model = gpt2()
    with pytest.raises(NotReachedError, match=r"transformer\.h\.1\.output was not reached"):
        with model.trace(IDS) as tracer:
            model.transformer.h[0].output
            tracer.stop()
            model.transformer.h[1].output
            tracer.stop()
    assert ran == LAYERS[:1]


def test_a_stop_outside_its_block_is_refused():
    model = gpt2()
    with model.trace(IDS) as tracer:
        model.transformer.h[0].output.save()
    with pytest.raises(BlockError, match="cannot record"):
        tracer.stop()


def test_modules_that_a_plain_model_calls_after_the_stop_do_not_run():
    net = tiny.net()
    with watched(net, ["a", "shared", "b"]) as seen, Model(net).trace(torch.ones(2, 4)) as tracer:
        Model(net)  # another wrapper of the model changes nothing
        tracer.stop()
    assert seen == []
    model = Model(net)
    with watched(net, ["a", "shared", "b"]) as seen, model.trace(torch.ones(2, 4)) as tracer:
        second = model.shared.calls[1].output.save()
        tracer.stop()
    assert seen == ["a", "shared", "shared"]
    with torch.no_grad():
        assert torch.equal(second, net.shared(net.shared(torch.relu(net.a(torch.ones(2, 4))))))


def test_a_stop_in_a_block_on_one_module_and_in_a_session(ran):
    model, x = gpt2(), torch.randn(1, 4, 32)
    with watched(tiny.hf_model("gpt2"), ["transformer.h.1.mlp.c_fc", "transformer.h.1.mlp.c_proj"]) as inside:
        with model.transformer.h[1].trace(x) as tracer, tracer.all():
            model.transformer.h[1].mlp.c_fc.output
            tracer.stop()
    assert inside == ["transformer.h.1.mlp.c_fc"]
    ran.clear()
    with model.session():
        with model.trace(IDS) as tracer:
            first = model.transformer.h[0].output
            tracer.stop()
        with model.trace(IDS):
            twice = (first + model.transformer.h[0].output).save()
    assert ran == LAYERS[:1] * 2
    assert torch.equal(twice, outputs()[LAYERS[0]] * 2)
