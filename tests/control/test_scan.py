"""Hold shapes and dtypes of a block without data against those of a plain call, and that nothing is loaded or left."""

import threading

import pytest
import torch
from torch import nn

from loupe import LanguageModel, Model
from loupe.errors import InputError, NotReachedError, OperationError, UnknownModuleError, WriteError
from tests import tiny
from tests.control.by_hand import IDS, all_inputs, all_outputs, gpt2, tensors

FAMILIES = list(tiny.CONFIGS)
PROMPT = "w1 w2 w3 w4 w5"


def forms(value):
    return [(each.shape, each.dtype) for each in tensors(value)]


@pytest.fixture(scope="module")
def unloaded(tmp_path_factory):
    """A model whose weights nobody loads."""
    return LanguageModel(tiny.saved_model(tmp_path_factory.mktemp("gpt2")))


@pytest.fixture(autouse=True)
def nothing_is_loaded(unloaded):
    yield
    assert not unloaded.dispatched
    assert all(parameter.is_meta for parameter in unloaded._model.parameters())
    assert tiny.hooks_on(unloaded._model) == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_every_module_has_the_shapes_and_dtypes_of_a_plain_call(family):
    hf, model = tiny.hf_model(family), LanguageModel(tiny.hf_model(family))
    with model.scan(IDS) as tracer:
        cache = tracer.cache(include_inputs=True)
    outputs, inputs = all_outputs(hf, lambda: hf(input_ids=IDS)), all_inputs(hf, lambda: hf(input_ids=IDS))
    assert set(cache) == set(outputs)
    for path, calls in outputs.items():
        assert len(cache[path]) == len(calls)
        for found, want, given in zip(cache[path], calls, inputs[path], strict=True):
            assert forms(found.output) == forms(want if path else want.logits), path
            assert forms(found.inputs) == forms(given), path
            assert all(each.is_meta for each in tensors(found.output)), path


def test_a_plain_model_in_half_precision_has_the_forms_of_a_plain_call():
    net, x = tiny.Net().to(torch.bfloat16), torch.randn(3, 4, dtype=torch.bfloat16)
    model = Model(net)
    with model.scan(x, scale=2.0):
        third, out = model.shared.calls[2].output.save(), model.output.save()
    want = net(x, scale=2.0)
    assert forms(third) == forms(want["pair"][0])
    assert forms(out.value) == forms(want)
    assert set(out.value) == {"logits", "pair"}


def test_values_computed_in_the_block_have_their_shapes_and_are_saved_without_data():
    hf, model = tiny.hf_model("llama"), LanguageModel(tiny.hf_model("llama"))
    probe = nn.Linear(32, 5)
    with model.scan(IDS):
        hidden = model.model.layers[1].output[0]
        lens = model.lm_head(model.model.norm(hidden)).save()
        projected = probe(hidden.float()).softmax(-1).save()
        top = model.output[0, -1].topk(3).indices.save()
        weight = (hidden @ model.lm_head.weight.T).save()
        size = hidden.shape.save()
    seen, result = tiny.outputs_of(hf, ["model.layers.1"], IDS)
    hidden = seen["model.layers.1"]
    assert forms(lens) == forms(weight) == forms(hf.lm_head(hidden))
    assert forms(projected) == forms(probe(hidden))
    assert forms(top) == forms(result.logits[0, -1].topk(3).indices)
    assert size == hidden.shape
    assert lens.is_meta
    assert top.is_meta
    assert "meta" in repr(lens)


def test_weights_are_not_loaded(unloaded):
    model = unloaded
    with model.scan(PROMPT):
        hidden = model.transformer.h[0].output[0]
        assert hidden.shape == (1, 5, 32)
        assert hidden.device.type == "meta"
        assert model.lm_head.weight.shape == (64, 32)
        logits = model.lm_head(model.transformer.ln_f(hidden)).save()
        pattern = model.transformer.h[2].attn.attn_dropout.input.save()
        product = model.transformer.h[2].mlp.act.ops.mul[0].output.save()
    assert logits.shape == (1, 5, 64)
    assert pattern.shape == (1, 4, 5, 5)
    assert product.shape == (1, 5, 128)


def test_several_prompts_have_their_rows(unloaded):
    with unloaded.scan() as tracer:
        with tracer.invoke(PROMPT):
            one = unloaded.transformer.h[0].output.save()
            unloaded.transformer.h[1].output[:] = 0
        with tracer.invoke([PROMPT, "w7"]):
            unloaded.transformer.h[1].output[0][:, -1] = one[:, -1]
            two, logits = unloaded.transformer.h[0].output.save(), unloaded.output.save()
    assert one.shape == (1, 5, 32)
    assert two.shape == (2, 5, 32)
    assert logits.shape == (2, 5, 64)


def test_a_decision_by_shape_works(unloaded):
    with unloaded.scan(PROMPT):
        hidden = unloaded.transformer.h[2].output[0]
        assert len(hidden) == 1
        assert [each.shape for each in hidden] == [(5, 32)]
        found = (hidden.sum() if hidden.shape[0] > 1 else hidden.mean(-1)).save()
    assert found.shape == (1, 5)


def test_a_line_that_would_fail_in_a_trace_fails_here_with_its_own_line(unloaded):
    model = unloaded
    with pytest.raises(OperationError, match=r"matmul failed on \(f32\[1, 5, 32\], f32\[3, 3\]\)") as caught:
        with model.scan(PROMPT):
            (model.transformer.h[0].output[0] @ torch.ones(3, 3)).save()
    assert "@ torch.ones(3, 3)" in str(caught.value)
    with pytest.raises(OperationError, match="matmul failed"), model.scan(PROMPT):
        model.transformer.h[2].output[0] @ torch.ones(3, 3)  # nothing comes of it, and it is tried
    with pytest.raises(OperationError, match="setitem failed"), model.scan(PROMPT):
        model.transformer.h[0].output[0][:, -1] = torch.zeros(3)
    with pytest.raises(OperationError, match="the call of lm_head failed"), model.scan(PROMPT):
        model.lm_head(model.transformer.h[0].output[0][..., :5])
    with pytest.raises(WriteError, match=r"h\.0\.output was replaced by f32\[1, 2, 3\]"), model.scan(PROMPT):
        model.transformer.h[0].output = torch.zeros(1, 2, 3)
    with pytest.raises(WriteError, match=r"h\.2 was skipped with f32\[1, 5\]"), model.scan(PROMPT):
        model.transformer.h[2].skip(torch.zeros(1, 5))
    net = Model(tiny.net())
    with pytest.raises(NotReachedError, match=r"never\.output did not run"), net.scan(torch.ones(1, 4)):
        net.never.output.save()
    with pytest.raises(UnknownModuleError, match="'hh' under transformer"), model.scan(PROMPT):
        model.transformer.hh


def test_writes_of_other_shapes_are_seen_downstream():
    net = tiny.net()
    model = Model(net)
    with model.scan(torch.ones(3, 4)):
        model.shared.output = torch.zeros(7, 8)
        found = model.output.save()
    with tiny.hooked(net, {"shared": iter_first(torch.zeros(7, 8))}):
        want = net(torch.ones(3, 4))
    assert forms(found.value) == forms(want)
    assert found["logits"].shape == (7, 2)


def iter_first(value):
    """A change of the first output that passes, and of no other."""
    rest = [value]
    return lambda output: rest.pop() if rest else None


def test_skips_stops_edits_and_attached_modules_work_without_data(unloaded):
    model = unloaded
    with model.scan(PROMPT) as tracer:
        cache = tracer.cache()
        model.transformer.h[2].skip(model.transformer.h[1].output)
        logits = model.output.save()
    assert logits.shape == (1, 5, 64)
    assert "transformer.h.2" in cache
    assert "transformer.h.2.mlp" not in cache
    with pytest.raises(NotReachedError, match="the block stops the pass before it"), model.scan(PROMPT) as tracer:
        early = model.transformer.h[1].output.save()
        tracer.stop()
        model.transformer.h[2].output.save()
    assert early.shape == (1, 5, 32)
    with model.edit() as edited:
        edited.transformer.h[1].output[0][:] = 0
    with edited.scan(PROMPT):
        assert edited.transformer.h[1].output.shape == (1, 5, 32)
    net = tiny.Stack()
    plain = Model(net)
    plain.sae = nn.Linear(8, 20)
    with plain.scan(torch.ones(2, 8)):
        plain.sae(plain.layers[0].output)
        codes = plain.sae.output.save()
    assert codes.shape == (2, 20)


def test_gradients_have_shapes_and_reach_neither_weights_nor_tensors_of_the_user(unloaded):
    model, shift = unloaded, torch.zeros(32, requires_grad=True)
    with model.scan(PROMPT):
        hidden = model.transformer.h[0].output
        model.transformer.h[1].output[:] += shift
        with model.output[0, -1, 3].backward(retain_graph=True):
            last = hidden.grad[:, -1].save()
        model.output.sum().backward()
        whole, weight = hidden.grad.save(), model.lm_head.weight.grad.save()
    assert last.shape == (1, 32)
    assert whole.shape == (1, 5, 32)
    assert weight.shape == (64, 32)
    assert whole.is_meta
    assert shift.grad is None
    assert all(parameter.grad is None for parameter in model._model.parameters())
    with model.scan(PROMPT, parameter_gradients=True):
        model.output.sum().backward()
        assert model.transformer.wpe.weight.grad.shape == (48, 32)


def test_tensors_and_lists_of_the_user_stay_as_they_are(unloaded):
    total, counts = torch.zeros(1, 5, 32), torch.zeros(3, dtype=torch.long)
    with unloaded.scan(PROMPT):
        total.add_(unloaded.transformer.h[2].output)
        total.mul_(3).add_(1)
        counts[0] = unloaded.output[0, -1].argmax()
        grown = (total + 1).save()
    assert not total.any()
    assert not counts.any()
    assert grown.shape == (1, 5, 32)


def test_one_module_is_scanned_by_itself(unloaded):
    model = unloaded
    with model.transformer.h[2].scan(torch.randn(2, 7, 32)):
        inner, out = model.transformer.h[2].mlp.output.save(), model.transformer.h[2].output.save()
    assert inner.shape == out.shape == (2, 7, 32)
    assert out.is_meta
    with pytest.raises(OperationError, match="matmul"), model.transformer.h[2].mlp.scan(torch.randn(2, 7, 32)):
        model.transformer.h[2].mlp.c_fc.output @ torch.ones(3, 3)
    with model.session():
        with model.scan(PROMPT):
            logits = model.output.save()
    assert logits.shape == (1, 5, 64)


def test_a_scan_cannot_generate_and_needs_an_input(unloaded):
    with pytest.raises(InputError, match="cannot generate") as caught, unloaded.scan(PROMPT):
        unloaded.generate(max_new_tokens=3)
    assert "model.generate" in caught.value.remedy
    with pytest.raises(InputError, match="no input"), unloaded.scan():
        unloaded.output.save()
    with pytest.raises(InputError, match="the prompt is empty"), unloaded.scan(""):
        pass


def test_a_scan_waits_for_nobody_who_runs_the_model():
    model, shapes = gpt2(), []

    def other():
        second = gpt2()
        with second.scan(IDS):
            shapes.append(second.output.shape)

    with model.trace(IDS):
        assert float(model.transformer.h[0].output.norm()) > 0  # the pass stands still, and keeps the model
        thread = threading.Thread(target=other, daemon=True)
        thread.start()
        thread.join(20)
        assert shapes == [(1, 4, 64)]
        model.transformer.h[1].output.save()


def test_threads_that_scan_one_model_do_not_mix():
    model, wrong = gpt2(), []

    def work(length):
        for _ in range(3):
            with model.scan(torch.ones(1, length, dtype=torch.long)) as tracer:
                cache = tracer.cache()
                if length % 2:
                    model.transformer.h[1].skip(model.transformer.h[0].output)
                model.transformer.h[2].attn.attn_dropout.input.save()
            if cache["transformer.h.2"].output.shape != (1, length, 32):
                wrong.append(length)
            if ("transformer.h.1.mlp" in cache) == bool(length % 2):
                wrong.append(length)

    threads = [threading.Thread(target=work, args=(length,)) for length in (3, 4, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
