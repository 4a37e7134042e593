"""Op taps list, read and write the torch operations of one module's own forward pass."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from loupe import LanguageModel, Model
from loupe.errors import BlockError, NotReachedError
from tests import tiny


class Gate(nn.Module):
    """Gates its input by a softmax, with operations of its own around those of a child."""

    def __init__(self):
        super().__init__()
        self.child = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

    def forward(self, x):
        weights = torch.softmax(x, -1)
        x = self.child(x * weights)
        x = torch.relu(x + 1)
        return F.softmax(x, dim=-1) * 2


class Twice(nn.Module):
    """Calls its gate twice, with an operation in between."""

    def __init__(self):
        super().__init__()
        self.gate = Gate()

    def forward(self, x):
        return self.gate(torch.relu(self.gate(x) - 0.3))


@pytest.fixture
def x():
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def twice():
    torch.manual_seed(5)
    return Twice()


IDS = torch.tensor([[3, 9, 27, 17, 51]])


def gate_by_hand(gate, x, change_weights=lambda w: w):
    """The gate's forward pass, line by line: every value on the way."""
    with torch.no_grad():
        weights = change_weights(torch.softmax(x, -1))
        after_child = gate.child(x * weights)
        relu = torch.relu(after_child + 1)
        soft = torch.softmax(relu, -1)
        return {"weights": weights, "into_relu": after_child + 1, "relu": relu, "soft": soft, "out": soft * 2}


def same(one, other):
    torch.testing.assert_close(torch.as_tensor(one.value if hasattr(one, "value") else one), other)


def test_the_list_has_the_modules_own_operations_in_order_with_shapes_and_lines(twice, x):
    model = Model(twice)
    with model.trace(x):
        listed = str(model.gate.ops)
        length = len(model.gate.ops)
        names = dir(model.gate.ops)
        model.output.save()
    rows = listed.splitlines()
    assert [row.split()[0] for row in rows] == ["softmax[0]", "mul[0]", "add[0]", "relu[0]", "softmax[1]", "mul[1]"]
    assert length == 6
    assert names == ["add", "mul", "relu", "softmax"]
    assert all("f32[3, 4]" in row for row in rows)
    assert rows[0].endswith("weights = torch.softmax(x, -1)")
    assert rows[3].endswith("x = torch.relu(x + 1)")


def test_listing_the_operations_runs_nothing_and_leaves_the_block_as_it_was(twice, x):
    model, runs = Model(twice), []
    with tiny.hooked(twice, {"gate.child": lambda output: runs.append(1)}):
        with model.trace(x):
            str(model.gate.ops)
            assert runs == []
            out = model.output.save()
    assert len(runs) == 2
    same(out, twice(x).detach())


def test_an_operation_is_read_with_its_inputs(twice, x):
    model = Model(twice)
    want = gate_by_hand(twice.gate, x)
    with model.trace(x):
        weights, soft = model.gate.ops.softmax[0].output.save(), model.gate.ops.softmax[1].output.save()
        relu, into = model.gate.ops.relu[0].output.save(), model.gate.ops.relu[0].input.save()
        inputs = model.gate.ops.softmax[1].inputs.save()
    same(weights, want["weights"])
    same(soft, want["soft"])
    same(relu, want["relu"])
    same(into, want["into_relu"])
    same(inputs[0][0], want["relu"])
    assert inputs[1]["dim"] == -1


def test_an_operation_is_written_and_the_module_goes_on_with_it(twice, x):
    gate = twice.gate
    model = Model(gate)
    with model.trace(x):
        model.ops.softmax[0].output = model.ops.softmax[0].output.flip(-1)
        assigned = model.output.save()
    same(assigned, gate_by_hand(gate, x, lambda w: w.flip(-1))["out"])
    with model.trace(x):
        model.ops.softmax[0].output[:, 0] = 0
        in_place = model.output.save()

    def zero(weights):
        weights[:, 0] = 0
        return weights

    same(in_place, gate_by_hand(gate, x, zero)["out"])
    with model.trace(x):
        model.ops.softmax[0].input = x * 0
        by_input = model.output.save()
    same(by_input, gate_by_hand(gate, x, lambda w: torch.full_like(w, 0.25))["out"])
    with model.trace(x):
        model.ops.mul[1].inputs = ((model.ops.mul[1].input, 3), {})
        by_inputs = model.output.save()
    same(by_inputs, gate_by_hand(gate, x)["soft"] * 3)


def test_operations_of_a_module_that_is_called_twice_are_those_of_one_call(twice, x):
    model = Model(twice)
    first = gate_by_hand(twice.gate, x)
    second = gate_by_hand(twice.gate, torch.relu(first["out"] - 0.3))
    with model.trace(x):
        plain = model.gate.ops.softmax[0].output.save()
        one = model.gate.calls[0].ops.softmax[0].output.save()
        two = model.gate.calls[1].ops.softmax[0].output.save()
        last = model.gate.calls[1].ops.mul[1].output.save()
    same(plain, first["weights"])
    same(one, first["weights"])
    same(two, second["weights"])
    same(last, second["out"])
    changed = gate_by_hand(twice.gate, torch.relu(first["out"] - 0.3), lambda w: w * 0)
    with model.trace(x):
        model.gate.calls[1].ops.softmax[0].output *= 0
        out = model.output.save()
    same(out, changed["out"])


def test_a_module_and_the_module_around_it_can_both_be_watched(twice, x):
    model = Model(twice)
    first = gate_by_hand(twice.gate, x)
    with model.trace(x):
        outer = model.ops.relu[0].output.save()
        inner = model.gate.ops.relu[0].output.save()
        leaf = model.gate.child[1].ops.relu[0].output.save()
        listed = [len(model.ops), len(model.gate.ops), len(model.gate.child[1].ops), len(model.gate.child.ops)]
    same(outer, torch.relu(first["out"] - 0.3))
    same(inner, first["relu"])
    with torch.no_grad():
        same(leaf, twice.gate.child(x * first["weights"]))
    assert listed == [2, 6, 1, 0]


def test_edits_of_the_block_are_no_operations_of_the_module(twice, x):
    model = Model(twice.gate)
    gate = twice.gate
    with model.trace(x):
        hidden = torch.relu(model.child[0].output) + torch.softmax(model.child.input, -1)
        model.child[1].output = torch.relu(hidden * 1.5) + 1
        relu = model.ops.relu[0].output.save()
        soft = model.ops.softmax[1].output.save()
        called = model.child(model.child.input).save()
    with torch.no_grad():
        into = x * torch.softmax(x, -1)
        child = torch.relu((torch.relu(gate.child[0](into)) + torch.softmax(into, -1)) * 1.5) + 1
        same(relu, torch.relu(child + 1))
        same(soft, torch.softmax(torch.relu(child + 1), -1))
        same(called, gate.child(into))


def test_a_peek_between_operations_changes_nothing(twice, x):
    model = Model(twice.gate)
    want = gate_by_hand(twice.gate, x)
    with model.trace(x):
        first = float(model.ops.softmax[0].output.sum())
        relu = float((torch.relu(model.child.output) * 2).sum())
        last = model.ops.softmax[1].output.save()
        total = float(model.ops.mul[1].output.sum())
    assert first == pytest.approx(3.0)
    with torch.no_grad():
        assert relu == pytest.approx(float(torch.relu(twice.gate.child(x * want["weights"])).sum() * 2), abs=1e-5)
    same(last, want["soft"])
    assert total == pytest.approx(6.0)


def test_an_operation_that_does_not_run_raises_and_says_which_do(twice, x):
    model = Model(twice)
    with pytest.raises(NotReachedError, match=r"gate\.ops\.relu\[1\]") as caught:
        with model.trace(x):
            fine = model.gate.ops.relu[0].output.save()
            model.gate.ops.relu[1].output.save()
    assert "softmax[0], mul[0], add[0], relu[0], softmax[1], mul[1]" in str(caught.value)
    same(fine, gate_by_hand(twice.gate, x)["relu"])


def test_an_operation_without_a_number_is_refused(twice, x):
    model = Model(twice)
    for use in (lambda: model.gate.ops.relu.output, lambda: model.gate.ops.relu[-1]):
        with pytest.raises(BlockError, match="relu"):
            with model.trace(x):
                use()


def test_the_listing_of_a_module_that_does_not_run_is_refused(x):
    model = Model(tiny.net())
    with pytest.raises(NotReachedError, match="never"):
        with model.trace(x):
            str(model.never.ops)


@pytest.mark.parametrize("family", ["gpt2", "llama", "mixtral"])
def test_the_operations_of_an_attention_are_listed_for_a_prompt_with_a_mask(family):
    model = LanguageModel(tiny.hf_model(family))
    attention = model.get({"gpt2": "transformer.h.1.attn"}.get(family, "model.layers.1.self_attn"))
    with model.trace([1, 2, 3]):
        listed = str(attention.ops)
        model.output.save()
    assert "softmax[0]" in listed  # the operations that a tap on one of them would meet
    assert "f32[1, 4, 3, 8]" in listed


# -- attention patterns ------------------------------------------------------------------------------------------------


def eager(family):
    """The family's model with eager attention for good: the oracle for patterns."""
    model = type(tiny.hf_model(family))._from_config(tiny.CONFIGS[family](), attn_implementation="eager").eval()
    model.load_state_dict(tiny.hf_model(family).state_dict())
    return model


def patterns(family):
    with torch.no_grad():
        return eager(family)(IDS, output_attentions=True).attentions


@pytest.fixture
def fast_kernel(monkeypatch):
    """Counts the calls of the fast kernel."""
    calls, plain = [], F.scaled_dot_product_attention

    def counted(query, *args, **kwargs):
        if not query.is_meta:  # a scan without data is no pass
            calls.append(1)
        args = (query, *args)
        return plain(*args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    return calls


@pytest.mark.parametrize("port", ["input", "output"])
def test_attn_dropout_of_gpt2_is_the_attention_pattern(port, fast_kernel):
    model, want = LanguageModel(tiny.hf_model("gpt2")), patterns("gpt2")
    with model.trace(IDS):
        found = getattr(model.transformer.h[1].attn.attn_dropout, port)
        assert found.shape == (1, 4, 5, 5)
        found = found.save()
        second = model.transformer.h[1].attn.output[1].save()
    same(found, want[1])
    same(second, want[1])
    assert fast_kernel == []
    assert tiny.hf_model("gpt2").config._attn_implementation == "sdpa"


def test_attn_dropout_of_gpt2_is_the_pattern_where_attention_is_reordered_and_upcast():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=48, reorder_and_upcast_attn=True)
    module = GPT2LMHeadModel(config).eval()
    module.set_attn_implementation("eager")
    with torch.no_grad():
        want = module(IDS, output_attentions=True).attentions[1]
    model = LanguageModel(module)
    with model.trace(IDS):
        found = model.transformer.h[1].attn.attn_dropout.input.save()
    same(found, want)


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_patterns_of_other_families_are_a_softmax_and_the_second_output(family, fast_kernel):
    model, want = LanguageModel(tiny.hf_model(family)), patterns(family)
    with model.trace(IDS):
        by_op = model.model.layers[2].self_attn.ops.softmax[0].output.save()
        by_output = model.model.layers[0].self_attn.output[1].save()
    same(by_op, want[2])
    same(by_output, want[0])
    assert fast_kernel == []


def test_a_block_that_reads_no_pattern_keeps_the_fast_kernel(fast_kernel):
    model = LanguageModel(tiny.hf_model("gpt2"))
    with model.trace(IDS):
        model.transformer.h[1].attn.output[0].save()
        model.output.save()
    assert len(fast_kernel) == 3
    with model.trace(IDS):
        attention = model.transformer.h[0].attn.ops.scaled_dot_product_attention[0].output.save()
        into = model.transformer.h[0].attn.c_proj.input.save()
    assert len(fast_kernel) == 4
    same(into, attention.value.transpose(1, 2).reshape(1, 5, 32))


def test_writing_a_pattern_does_what_a_hook_on_eager_attention_does():
    model, module = LanguageModel(tiny.hf_model("gpt2")), eager("gpt2")
    uniform = torch.tril(torch.ones(5, 5)) / torch.arange(1, 6)[:, None]
    with model.trace(IDS):
        model.transformer.h[1].attn.attn_dropout.output[:, 2] = uniform
        logits = model.output.save()

    def attend(attention, args, kwargs):
        """GPT-2's attention by its own formula, with head 2 made uniform."""
        query, key, value = (
            part.view(1, 5, 4, 8).transpose(1, 2) for part in attention.c_attn(args[0]).split(32, dim=2)
        )
        scores = (query @ key.transpose(-1, -2) / 8**0.5).masked_fill(torch.ones(5, 5).triu(1).bool(), float("-inf"))
        pattern = scores.softmax(-1)
        pattern[:, 2] = uniform
        return attention.c_proj((pattern @ value).transpose(1, 2).reshape(1, 5, 32)), pattern

    handle = module.transformer.h[1].attn.register_forward_hook(
        lambda attention, args, kwargs, output: attend(attention, args or (kwargs["hidden_states"],), kwargs),
        with_kwargs=True,
    )
    with torch.no_grad():
        want = module(IDS).logits
        plain = tiny.hf_model("gpt2")(IDS).logits
    handle.remove()
    same(logits, want)
    assert (want - plain).abs().max() > 1e-4


def test_a_pattern_of_llama_written_by_op_changes_the_logits_as_zeroed_values_do():
    module = tiny.hf_model("llama")
    model = LanguageModel(module)
    with model.trace(IDS):
        model.model.layers[0].self_attn.ops.softmax[0].output[:] = 0
        logits = model.output.save()
    with tiny.hooked(module, {"model.layers.0.self_attn.o_proj": torch.zeros_like}):
        same(logits, module(IDS).logits)


def test_the_attention_setting_is_restored_after_an_exception():
    model = LanguageModel(tiny.hf_model("gpt2"))
    configs = [m.config for m in tiny.hf_model("gpt2").modules() if hasattr(m, "config")]
    with pytest.raises(ZeroDivisionError):
        with model.trace(IDS):
            float(model.transformer.h[0].attn.attn_dropout.input.sum())
            1 / 0
    assert {config._attn_implementation for config in configs} == {"sdpa"}
    with pytest.raises(Exception, match="Error"):
        with model.trace(IDS):
            model.transformer.h[0].attn.attn_dropout.input.save()
            model.transformer.h[1].output = torch.zeros(1, 5, 3)
            model.output.save()
    assert {config._attn_implementation for config in configs} == {"sdpa"}


def test_a_pattern_in_invokes_is_that_of_each_prompt(fast_kernel):
    model, want = LanguageModel(tiny.hf_model("gpt2")), patterns("gpt2")
    with model.trace() as tracer:
        with tracer.invoke([1, 2, 3, 4, 5, 6, 7]):
            model.transformer.h[2].attn.attn_dropout.input[:] = 0
        with tracer.invoke(IDS):
            pattern = model.transformer.h[2].attn.attn_dropout.input.save()
    same(pattern[:, :, 2:, 2:], want[2])
    assert pattern.shape == (1, 4, 7, 7)
