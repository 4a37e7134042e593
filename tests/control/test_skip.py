"""Hold skipped modules against modules whose forward was replaced by hand."""

import pytest
import torch
from torch import nn

from loupe import LanguageModel, Model
from loupe.errors import BlockError, NotReachedError, OrderError, WriteError
from tests import tiny
from tests.control.by_hand import IDS, given, gpt2, replaced, watched

FAMILIES = list(tiny.CONFIGS)
H1 = "transformer.h.1"
LAYERS = [f"transformer.h.{layer}" for layer in range(3)]


def logits(forwards, ids=IDS, family="gpt2"):
    hf = tiny.hf_model(family)
    with replaced(hf, forwards):
        return hf(ids).logits


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layer", [0, 2])
def test_a_block_that_gives_its_input_equals_a_block_that_does_nothing(family, layer):
    path = f"{tiny.BLOCKS[family]}.{layer}"
    model = LanguageModel(tiny.hf_model(family))
    with model.trace(IDS):
        block = model.get(path)
        block.skip(block.input)
        found = model.output.save()
    assert torch.equal(found, logits({path: given(lambda x: x)}, family=family))


def test_a_skipped_module_gives_a_constant_an_earlier_value_or_what_is_computed_from_it():
    model = gpt2()
    constant = torch.randn(1, 4, 32)
    with model.trace(IDS):
        model.transformer.h[0].skip(constant)
        model.transformer.h[2].skip(model.transformer.h[1].output * 2 + constant)
        found = model.output.save()
        second = model.transformer.h[2].output.save()
        first = model.transformer.h[1].output[0].save()
    want = logits({"transformer.h.0": given(constant), "transformer.h.2": given(lambda x: x * 2 + constant)})
    assert torch.equal(found, want)
    assert torch.equal(second, first * 2 + constant)


def test_a_module_inside_a_block_is_skipped():
    model = gpt2()
    with model.trace(IDS):
        model.transformer.h[1].mlp.skip(model.transformer.h[1].mlp.input * -1)
        found = model.output.save()
    assert torch.equal(found, logits({f"{H1}.mlp": given(lambda x: x * -1)}))


def test_a_module_that_returns_a_tuple_is_skipped_with_a_tuple():
    model = gpt2()
    with model.trace(IDS):
        attention = model.transformer.h[1].attn
        attention.skip((attention.input * 0.5, None))
        found, states = model.output.save(), attention.output[0].save()
    assert torch.equal(found, logits({f"{H1}.attn": given(lambda x: (x * 0.5, None))}))
    assert states.shape == (1, 4, 32)


def test_a_tensor_in_place_of_a_tuple_is_refused_and_never_unpacked():
    model, two = gpt2(), IDS.repeat(2, 1)  # two rows would be unpacked as the two items of the tuple
    with pytest.raises(WriteError, match="does not return a tensor"), model.trace(two):
        model.transformer.h[1].attn.skip(model.transformer.h[1].attn.input)
    with pytest.raises(WriteError, match=r"attn\.output is a tuple, and is replaced by a tensor"), model.trace(two):
        model.transformer.h[1].attn.output = model.transformer.h[1].attn.input


def test_what_is_skipped_does_not_run_and_the_rest_stops_as_ever():
    model = gpt2()
    with watched(tiny.hf_model("gpt2"), [*LAYERS, f"{H1}.mlp", f"{H1}.ln_1"]) as ran:
        with model.trace(IDS):
            model.transformer.h[1].skip(model.transformer.h[0].output)
            out = model.transformer.h[1].output.save()
    assert ran == LAYERS[:2]  # the call begins, and nothing in it does
    assert out.shape == (1, 4, 32)


class Half(nn.Module):
    """A block of a toy decoder, of the form that older versions of the library have."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.inner = kind, nn.Linear(8, 8)

    def forward(self, x):
        x = x + self.inner(x)
        return (x, "cache") if self.kind == "tuple" else x


class Decoder(nn.Module):
    """A toy decoder whose blocks return tensors or tuples."""

    _no_split_modules = ["Half"]

    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(16, 8)
        self.layers = nn.ModuleList(Half(kind) for _ in range(3))

    def forward(self, input_ids, attention_mask=None):
        x = self.embed(input_ids)
        for layer in self.layers:
            x = layer(x)
            x = x[0] if isinstance(x, tuple) else x
        return x


@pytest.mark.parametrize("kind", ["tensor", "tuple"])
def test_hidden_states_are_enough_for_a_block_whatever_it_returns(kind):
    hf = Decoder(kind)
    model = LanguageModel(hf, tokenizer=tiny.tokenizer())
    with model.trace(IDS):
        model.layers[1].skip(model.layers[0].output[0] * 3)
        found, states = model.layers[2].output[0].save(), model.layers[1].output[0].save()
    with replaced(hf, {"layers.1": given(lambda x: (x * 3, None) if kind == "tuple" else x * 3)}):
        assert torch.equal(found, hf(IDS))
        first = hf.layers[0](hf.embed(IDS))
    assert torch.equal(states, (first[0] if kind == "tuple" else first) * 3)
    with model.trace(IDS):
        model.layers[1].skip(model.layers[0].output)
        found = model.layers[2].output[0].save()
    with replaced(hf, {"layers.1": given(lambda x: (x, None) if kind == "tuple" else x)}):
        assert torch.equal(found, hf(IDS))


def test_a_later_line_reads_writes_and_changes_the_output_of_a_skipped_module():
    model = gpt2()
    with model.trace(IDS):
        model.transformer.h[1].skip(model.transformer.h[0].output)
        model.transformer.h[1].output = model.transformer.h[1].output * 2
        before = model.transformer.h[1].input.save()
        out, found = model.transformer.h[1].output.save(), model.output.save()
    assert torch.equal(out, before * 2)
    assert torch.equal(found, logits({H1: given(lambda x: x * 2)}))
    with model.trace(IDS):
        model.transformer.h[1].skip(model.transformer.h[0].output)
        model.transformer.h[1].output[0][:, -1] += 1
        found = model.output.save()
    assert torch.equal(found, logits({H1: given(lambda x: torch.cat([x[:, :-1], x[:, -1:] + 1], 1))}))


def test_the_last_of_two_skips_holds():
    model = gpt2()
    with model.trace(IDS):
        model.transformer.h[1].skip(torch.zeros(1, 4, 32))
        model.transformer.h[1].skip(model.transformer.h[0].output * 2)
        found = model.output.save()
    assert torch.equal(found, logits({H1: given(lambda x: x * 2)}))


@pytest.mark.parametrize("above", ["read", "write", "change", "skip and read"])
def test_a_line_above_the_skip_cannot_be_about_another_output(above):
    model = gpt2()
    with pytest.raises(BlockError, match=r"h\.1 is skipped, but a line above (read|write)s its output") as caught:
        with model.trace(IDS):
            block, zeros = model.transformer.h[1], torch.zeros(1, 4, 32)
            if above == "read":
                block.output.save()
            elif above == "write":
                block.output = zeros
            elif above == "change":
                block.output[:] = 0
            else:
                block.skip(zeros)
                block.output.save()
            block.skip(model.transformer.h[0].output)
            model.output.save()
    assert "block.skip(model.transformer.h[0].output)" in str(caught.value)
    assert tiny.hooks_on(tiny.hf_model("gpt2")) == 0


def test_a_value_of_the_module_itself_or_of_a_later_one_comes_too_late():
    model = gpt2()
    with pytest.raises(OrderError, match=r"h\.1 is skipped with a value .*it needs transformer\.h\.2\.output"):
        with model.trace(IDS):
            model.transformer.h[1].skip(model.transformer.h[2].output)
            model.output.save()


def test_reading_and_writing_inside_a_skipped_module_names_the_skip():
    model = gpt2()
    for line in ("read", "write", "peek", "op"):
        with pytest.raises(NotReachedError, match=r"did not run in this pass") as caught:
            with model.trace(IDS):
                model.transformer.h[1].skip(model.transformer.h[0].output)  # the skip
                mlp = model.transformer.h[1].mlp
                if line == "read":
                    mlp.output.save()
                elif line == "write":
                    mlp.output = torch.zeros(1, 4, 32)
                    model.transformer.h[0].output.save()  # the pass stops before it
                elif line == "peek":
                    float(mlp.output.sum())
                    pytest.fail("the line above had to raise")
                else:
                    model.transformer.h[1].ops.add[0].output.save()
        assert "the block skips transformer.h.1, in which it lies" in caught.value.remedy
        assert "# the skip" in caught.value.remedy


def test_skipping_a_module_that_never_runs_raises_whether_or_not_the_pass_comes_to_its_end():
    model = Model(tiny.net())
    for stops in (False, True):
        with pytest.raises(NotReachedError, match="never did not run in this pass, so it could not be skipped"):
            with model.trace(torch.ones(2, 4)):
                model.never.skip(torch.ones(2, 2))
                (model.a if stops else model).output.save()


def test_a_shape_that_the_model_cannot_use_names_the_skip_and_the_value():
    model = gpt2()
    with pytest.raises(WriteError, match=r"h\.1 was skipped with f32\[1, 4, 31\]") as caught, model.trace(IDS):
        model.transformer.h[1].skip(torch.zeros(1, 4, 31))
        model.output.save()
    assert "skip(torch.zeros(1, 4, 31))" in str(caught.value)
    assert tiny.hooks_on(tiny.hf_model("gpt2")) == 0


def test_a_skip_outside_a_block_is_refused():
    with pytest.raises(BlockError, match=r"h\.1\.skip\(\) is used outside a block"):
        gpt2().transformer.h[1].skip(torch.zeros(1, 4, 32))


def test_the_whole_model_is_skipped():
    model = Model(tiny.net())
    with watched(tiny.net(), ["a", "b"]) as ran, model.trace(torch.ones(2, 4)) as tracer:
        model.skip({"logits": torch.ones(2, 2)})
        found, result = model.output["logits"].save(), tracer.result.save()
    assert ran == []
    assert torch.equal(found, torch.ones(2, 2))
    assert list(result) == ["logits"]


def test_one_call_of_a_module_that_runs_several_times_is_skipped():
    net, x = tiny.net(), torch.randn(2, 4)
    model = Model(net)
    for chosen in ([0], [1], [0, 2], [0, 1, 2]):
        with model.trace(x):
            for call in chosen:
                model.shared.calls[call].skip(model.shared.calls[call].input * 3)
            found = model.output["logits"].save()
            last = model.shared.calls[2].output.save()
        by_hand = lambda call, own, x, chosen=chosen: x * 3 if call in chosen else own(x)  # noqa: E731
        with replaced(net, {"shared": by_hand}):
            want = net(x)
        assert torch.equal(found, want["logits"])
        assert torch.equal(last, want["pair"][0])
    with model.trace(x):
        model.shared.skip(model.shared.input)  # without a number: the first
        found = model.shared.calls[1].input.save()
    with torch.no_grad():
        assert torch.equal(found, torch.relu(net.a(x)))


def test_gradients_flow_through_a_skip():
    hf, model = tiny.hf_model("gpt2"), gpt2()
    with model.trace(IDS):
        below = model.transformer.h[0].output
        model.transformer.h[1].skip(below * 2)
        model.output.sum().backward()
        found, above = below.grad.save(), model.transformer.h[1].output.grad.save()
    kept = []

    def keep(_module, _args, output):
        output.retain_grad()
        kept.append(output)

    handle = hf.transformer.h[0].register_forward_hook(keep)
    try:
        with replaced(hf, {H1: given(lambda x: x * 2)}), torch.enable_grad():
            hf(IDS).logits.sum().backward()
    finally:
        handle.remove()
        hf.zero_grad()
    torch.testing.assert_close(found.value, kept[0].grad)
    torch.testing.assert_close(above.value * 2, kept[0].grad)


class Direct(nn.Module):
    """Calls the forward of a child, which no hook sees."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.b(self.a.forward(x))


def test_a_module_of_which_only_the_forward_is_called_is_not_there_to_be_skipped():
    model = Model(Direct())
    with pytest.raises(NotReachedError, match="a did not run in this pass"), model.trace(torch.ones(2, 4)):
        model.a.skip(torch.zeros(2, 4))
        model.output.save()


def test_an_edit_skips_in_traces_and_generations():
    hf, model = tiny.hf_model("gpt2"), gpt2()
    with model.edit() as edited:
        edited.transformer.h[1].skip(edited.transformer.h[0].output)
    with edited.trace(IDS):
        found = edited.output.save()
    assert torch.equal(found, logits({H1: given(lambda x: x)}))
    options = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with replaced(hf, {H1: given(lambda x: x)}):
        want = hf.generate(IDS, **options)
    assert torch.equal(torch.as_tensor(edited.generate(IDS, **options).value), want)
