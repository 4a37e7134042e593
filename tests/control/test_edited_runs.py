"""Hold every kind of run of an edited model against plain hooks: invokes, generations, plain calls, parts alone."""

import threading

import pytest
import torch

from loupe import LanguageModel, Model
from loupe.errors import BlockError
from tests import tiny
from tests.tiny import hooked

IDS = torch.tensor([[5, 9, 2, 7]])
OTHER = torch.tensor([[3, 3, 8, 1]])
GENERATE = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}


@pytest.fixture
def hf():
    return tiny.hf_model("gpt2")


@pytest.fixture
def model(hf):
    return LanguageModel(hf, tokenizer=tiny.tokenizer())


def logits(model, ids=IDS):
    with model.trace(ids):
        found = model.output.save()
    return found


def by_hooks(hf, outputs, ids=IDS, inputs=()):
    with hooked(hf, outputs, inputs):
        return hf(ids).logits


def times(value):
    return lambda output: output * value


def test_every_invoke_sees_an_edit_in_its_own_rows(hf, model):
    with model.edit() as edited:
        edited.transformer.h[1].output[0][:, -1] *= -2
    with edited.trace() as tracer:
        with tracer.invoke(IDS):
            first = edited.output.save()
        with tracer.invoke(torch.cat([OTHER, IDS])):
            edited.transformer.h[2].mlp.output[:] = 0
            second = edited.output.save()
    changes = {"transformer.h.1": lambda o: torch.cat([o[:, :-1], o[:, -1:] * -2], 1)}
    assert torch.allclose(first, by_hooks(hf, changes), atol=1e-5)
    both = {**changes, "transformer.h.2.mlp": times(0)}
    assert torch.allclose(second, by_hooks(hf, both, torch.cat([OTHER, IDS])), atol=1e-5)


def test_an_edit_holds_at_each_step_of_a_generation(hf, model):
    with model.edit() as edited:
        edited.transformer.h[1].output[0][:, -1] *= -3
        edited.transformer.h[2].mlp.output[:] += edited.transformer.h[0].mlp.output
    first, seen = {}, []

    def keep(output):
        first["mlp"] = output

    def turned(output):
        seen.append(output[:, -1] * -3)
        return torch.cat([output[:, :-1], output[:, -1:] * -3], 1)

    changes = {
        "transformer.h.0.mlp": keep,
        "transformer.h.1": turned,
        "transformer.h.2.mlp": lambda o: o + first["mlp"],
    }
    with hooked(hf, changes):
        want = hf.generate(IDS, **GENERATE)
    assert not torch.equal(want, hf.generate(IDS, **GENERATE))
    with edited.generate(IDS, **GENERATE) as tracer:
        states = [].save()
        with tracer.all():
            states.append(edited.transformer.h[1].output[0][:, -1])
        ids = tracer.result.save()
    assert torch.equal(ids, want)
    assert torch.allclose(torch.stack(states), torch.stack(seen), atol=1e-5)
    assert torch.equal(edited.generate(IDS, **GENERATE).value, want)
    with edited.trace(IDS):
        inside = edited.generate(**GENERATE).save()
    assert torch.equal(inside, want)


def test_steps_of_a_generation_are_written_on_top_of_an_edit(hf, model):
    with model.edit() as edited:
        edited.transformer.h[1].output[0][:] *= -1
    with edited.generate(IDS, **GENERATE) as tracer:
        with tracer.iter[1:3]:
            edited.transformer.h[1].output[0][:] *= 2
            edited.transformer.h[1].output[0][..., 0] += 9
        ids = tracer.result.save()
    step = [0]

    def change(output):
        step[0] += 1
        return output * -2 + torch.eye(32)[0] * 9 if step[0] - 1 in (1, 2) else -output

    with hooked(hf, {"transformer.h.1": change}):
        assert torch.equal(ids, hf.generate(IDS, **GENERATE))


def test_the_plain_call_is_edited_and_gradients_reach_the_weights(hf, model):
    with model.edit() as edited:
        edited.transformer.h[1].mlp.output[:] *= 2
    output = edited(IDS)
    assert torch.allclose(output.logits, by_hooks(hf, {"transformer.h.1.mlp": times(2)}), atol=1e-5)
    weight = hf.transformer.h[1].mlp.c_proj.weight
    found = torch.autograd.grad(output.logits.sum(), weight)[0]
    handle = hf.transformer.h[1].mlp.register_forward_hook(lambda _m, _i, o: o * 2)
    want = torch.autograd.grad(hf(IDS).logits.sum(), weight)[0]
    handle.remove()
    assert torch.allclose(found, want, atol=1e-4)
    assert weight.grad is None
    with torch.no_grad():
        assert not edited(IDS).logits.requires_grad


def test_saved_values_are_arguments_of_the_plain_call_of_an_edited_model():
    net = tiny.stack()
    model = Model(net)
    with model.edit() as edited:
        edited.layers[2].output[:] = 0
    with model.trace(torch.ones(2, 8)):
        largest = torch.max(model.layers[0].output, 0, keepdim=True).save()
    with hooked(net, {"layers.2": times(0)}):
        assert torch.allclose(edited(largest[0]), net(net.layers[0](torch.ones(2, 8)).amax(0, keepdim=True)))


def test_a_part_that_runs_alone_has_the_edits_inside_it_and_no_others(hf, model):
    with model.edit() as edited:
        edited.transformer.h[0].mlp.output[:] = 0  # elsewhere
        edited.transformer.h[1].mlp.output[:] *= 2
        edited.transformer.h[1].output[0][:] += edited.transformer.h[1].attn.output[0]
        edited.output[:] = 0
    with edited.edit() as edited:
        edited.transformer.h[2].mlp.output = edited.transformer.h[1].mlp.output  # needs two blocks
    hidden = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0))
    with edited.transformer.h[1].trace(hidden):
        found = edited.transformer.h[1].output.save()
    kept = {}

    def keep(output):
        kept["attn"] = output[0]

    block = hf.transformer.h[1]
    with hooked(block, {"attn": keep, "mlp": times(2)}):
        want = block(hidden) + kept["attn"]
    assert torch.allclose(found, want, atol=1e-5)
    assert torch.allclose(edited.transformer.h[1](hidden), want, atol=1e-5)
    assert torch.allclose(model.transformer.h[1](hidden), block(hidden))
    with pytest.raises(
        BlockError, match=r"transformer\.h\.2 cannot be run alone.*needs transformer\.h\.1\.mlp\.output"
    ):
        edited.transformer.h[2].trace(hidden)


def test_scans_and_caches_are_of_the_edited_model(hf, model):
    with model.edit() as edited:
        edited.transformer.h[1].mlp.output = edited.transformer.h[1].mlp.output * 0 + 1
    with edited.scan(IDS):
        shape = edited.transformer.h[1].mlp.output.shape.save()
    assert tuple(shape) == (1, 4, 32)
    with edited.trace(IDS) as tracer:
        cache = tracer.cache(modules=["transformer.h.1.mlp", "transformer.h.1"])
    assert (cache["transformer.h.1.mlp"].output == 1).all()
    with hooked(hf, {"transformer.h.1.mlp": lambda o: o * 0 + 1}):
        want, _ = tiny.outputs_of(hf, ["transformer.h.1"], IDS)
    assert torch.allclose(cache["transformer.h.1"].output[0], want["transformer.h.1"], atol=1e-5)


def test_looks_at_values_of_an_edited_model_see_the_edits_in_order_and_in_reverse(hf, model):
    with model.edit() as edited:
        edited.transformer.h[0].output[0][:] *= -2
        edited.transformer.h[1].mlp.output[:] = 0
    with hooked(hf, {"transformer.h.0": times(-2), "transformer.h.1.mlp": times(0)}):
        want, _ = tiny.outputs_of(hf, ["transformer.h.0", "transformer.h.1"], IDS)
    with edited.trace(IDS):
        first = float(edited.transformer.h[0].output[0].sum())
        second = float(edited.transformer.h[1].output[0].sum())
        again = float(edited.transformer.h[0].output[0].norm())
        assert edited.transformer.h[1].mlp.output.abs().sum() == 0
    assert first == pytest.approx(want["transformer.h.0"].sum().item(), rel=1e-4)
    assert second == pytest.approx(want["transformer.h.1"].sum().item(), rel=1e-4)
    assert again == pytest.approx(want["transformer.h.0"].norm().item(), rel=1e-4)


def test_gradients_run_through_an_edit(hf, model):
    with model.edit() as edited:
        edited.transformer.h[1].output[0][:] *= 3
    with edited.trace(IDS):
        hidden = edited.transformer.h[0].output[0]
        edited.output[0, -1].sum().backward()
        gradient = hidden.grad.save()
    kept = []

    def keep(_module, _inputs, output):
        output.retain_grad()
        kept.append(output)

    handles = [
        hf.transformer.h[0].register_forward_hook(keep),
        hf.transformer.h[1].register_forward_hook(lambda _m, _i, o: o * 3),
    ]
    hf(IDS).logits[0, -1].sum().backward()
    for handle in handles:
        handle.remove()
    hf.zero_grad()
    assert torch.allclose(gradient, kept[0].grad, atol=1e-4)


def test_a_tensor_of_the_users_in_an_edit_can_be_trained(hf, model):
    steer = torch.zeros(32, requires_grad=True)
    with model.edit() as edited:
        edited.transformer.h[1].output[0][:, -1] += steer
    with edited.trace(IDS):
        loss = edited.output[0, -1, 3].save()
    loss.backward()
    found, steer.grad = steer.grad, None
    handle = hf.transformer.h[1].register_forward_hook(lambda _m, _i, o: torch.cat([o[:, :-1], o[:, -1:] + steer], 1))
    hf(IDS).logits[0, -1, 3].backward()
    handle.remove()
    hf.zero_grad()
    assert torch.allclose(found, steer.grad, atol=1e-5)


def test_an_edited_and_an_unedited_model_are_traced_in_two_threads(hf, model):
    with model.edit() as edited:
        edited.transformer.h[1].output[0][:] *= 2
        edited.lm_head.weight[0] = 0
    want = {id(model): logits(model), id(edited): logits(edited)}
    wrong, start = [], threading.Barrier(2)

    def work(each):
        start.wait()
        for turn in range(6):
            with each.trace(IDS):
                if turn % 2:
                    float(each.transformer.h[0].output[0].sum())
                found = each.output.save()
            if not torch.equal(found, want[id(each)]):
                wrong.append(each)

    threads = [threading.Thread(target=work, args=(each,)) for each in (model, edited)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
