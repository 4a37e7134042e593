"""Language models load lazily, take every kind of prompt, and show blocks and logits in one way under every version."""

import copy
import pickle

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, GPT2LMHeadModel
from transformers.modeling_outputs import CausalLMOutput

from loupe import CONFIG, LanguageModel, Model
from loupe.errors import InputError, LoadError, LoupeError
from loupe.hosts import transformers
from tests import tiny

IDS = torch.tensor([[3, 9, 27, 17, 51]])
TEXT = "w3 w9 w27 w17 w51"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.saved_model(tmp_path_factory.mktemp("gpt2"))


@pytest.fixture
def lm():
    return LanguageModel(tiny.hf_model("gpt2"), tokenizer=tiny.tokenizer())


def plain(family="gpt2", ids=IDS, **kwargs):
    with torch.no_grad():
        return tiny.hf_model(family)(ids, **kwargs)


def close(one, other, atol=1e-5):
    torch.testing.assert_close(
        torch.as_tensor(one.value if hasattr(one, "value") else one), other, atol=atol, rtol=1e-4
    )


# -- loading -----------------------------------------------------------------------------------------------------------


def test_a_local_path_loads_its_weights_at_the_first_run(folder):
    model = LanguageModel(folder)
    assert not model.dispatched
    assert all(parameter.is_meta for parameter in model._model.parameters())
    assert "weights are loaded at the first run" in repr(model)
    with model.trace(TEXT):
        hidden = model.transformer.h[1].output[0]
        assert hidden.shape == (1, 5, 32)
        assert (hidden @ torch.zeros(32, 7)).dtype == torch.float32
        assert not model.dispatched
        logits = model.output.save()
    assert model.dispatched
    assert not any(parameter.is_meta for parameter in model._model.parameters())
    assert not model._model.training
    assert "first run" not in repr(model)
    close(logits, plain().logits)


def test_dispatch_loads_at_once_or_when_asked(folder):
    model = LanguageModel(folder, dispatch=True)
    assert model.dispatched
    assert not next(model._model.parameters()).is_meta
    later = LanguageModel(folder)
    later.dispatch()
    assert later.dispatched
    with later.trace(IDS):
        close(later.output.value, plain().logits)


def test_a_plain_call_loads_too(folder):
    model = LanguageModel(folder)
    with torch.no_grad():
        close(model(TEXT).logits, plain().logits)
    assert model.dispatched


def test_a_module_run_by_itself_loads_too(folder):
    model = LanguageModel(folder)
    hidden = torch.randn(1, 3, 32, generator=torch.Generator().manual_seed(0))
    with model.transformer.h[1].trace(hidden):
        out = model.transformer.h[1].output[0].save()
    with torch.no_grad():
        close(out, tiny.hf_model("gpt2").transformer.h[1](hidden))


def test_parameters_are_read_in_a_block_of_a_model_that_is_not_loaded_yet(folder):
    model = LanguageModel(folder)
    with model.trace(IDS):
        weight = model.lm_head.weight
        assert weight.shape == (64, 32)
        logits = (model.transformer.ln_f.output @ weight.T).save()
    close(logits, plain().logits)


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("value", [torch.bfloat16, "bfloat16"])
def test_a_dtype_goes_to_the_model_before_and_after_loading(folder, key, value):
    model = LanguageModel(folder, **{key: value})
    assert model.dtype == torch.bfloat16
    with model.trace(TEXT):
        assert model.transformer.h[0].output[0].dtype == torch.bfloat16
        hidden = model.transformer.h[0].output[0].save()
        logits = model.output.save()
    assert model.dtype == hidden.dtype == logits.dtype == torch.bfloat16
    want = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    with torch.no_grad():
        assert torch.equal(torch.as_tensor(logits.value), want(IDS).logits)


def test_a_bfloat16_model_gives_each_prompt_what_it_gives_alone(folder):
    model = LanguageModel(folder, dtype=torch.bfloat16)
    with model.trace() as tracer:
        with tracer.invoke("w5 w6 w7"):
            model.transformer.h[1].output[0][:, -1] = torch.full((32,), 0.5)
            changed = model.output.save()
        with tracer.invoke(TEXT):
            other = model.output.save()
    with torch.no_grad():
        close(other[0].float(), model._model(IDS).logits[0].float(), atol=2e-2)
    with model.trace("w5 w6 w7"):
        model.transformer.h[1].output[0][:, -1] = 0.5
        alone = model.output.save()
    close(changed[0, -3:].float(), alone.value[0].float(), atol=2e-2)


def test_options_reach_the_loaded_model(folder):
    model = LanguageModel(folder, attn_implementation="eager", revision="main", device_map="cpu")
    with model.trace(TEXT):
        logits = model.output.save()
    assert model._model.config._attn_implementation == "eager"
    close(logits, plain().logits)


def test_device_map_auto_runs(folder):
    model = LanguageModel(folder, device_map="auto", dispatch=True)
    with model.trace(TEXT):
        hidden = model.transformer.h[2].output[0]
        hidden[:, 0] = 0
        hidden = hidden.save()
    assert hidden.device == model.device
    assert float(hidden[:, 0].abs().sum()) == 0


def test_a_loaded_model_takes_texts_with_its_tokenizer_only():
    bare = LanguageModel(tiny.hf_model("gpt2"))
    assert bare.tokenizer is None
    with bare.trace(IDS):
        logits = bare.output.save()
    close(logits, plain().logits)
    with pytest.raises(InputError, match="no tokenizer") as caught:
        with bare.trace("w1"):
            bare.output.save()
    assert "tokenizer=" in caught.value.remedy
    assert caught.value.line.text == 'with bare.trace("w1"):'


def test_a_loaded_model_from_a_folder_finds_its_tokenizer(folder):
    model = LanguageModel(AutoModelForCausalLM.from_pretrained(folder))
    with model.trace(TEXT):
        logits = model.output.save()
    close(logits, plain().logits)
    assert model.tokenizer.decode([3]) == "w3"


def test_a_tokenizer_given_by_hand_is_used_in_place_of_the_folders(folder):
    mine = tiny.tokenizer()
    model = LanguageModel(folder, tokenizer=mine)
    assert model.tokenizer is mine


@pytest.mark.parametrize("name", ["no/such-model", "./nowhere", "", "loupe/nothing"])
def test_a_model_that_cannot_be_had_is_a_load_error(name):
    with pytest.raises(LoadError) as caught:
        LanguageModel(name)
    assert caught.value.remedy


def test_a_folder_that_holds_no_model_is_a_load_error(tmp_path):
    with pytest.raises(LoadError):
        LanguageModel(str(tmp_path))
    (tmp_path / "config.json").write_text("not json")
    with pytest.raises(LoadError):
        LanguageModel(str(tmp_path))


def test_a_folder_without_weights_is_a_load_error_when_it_is_run(folder, tmp_path):
    tiny.hf_model("gpt2").config.save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    model = LanguageModel(str(tmp_path))
    with pytest.raises(LoadError):
        with model.trace(TEXT):
            model.output.save()


def test_something_that_is_no_model_is_a_load_error():
    for value in (5, None, object()):
        with pytest.raises(LoupeError):
            LanguageModel(value)


# -- prompts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prompt", ["", [], [[]], ["w1", ""], torch.zeros(1, 0, dtype=torch.long), torch.tensor([], dtype=torch.long)]
)
def test_an_empty_prompt_is_refused(lm, prompt):
    with pytest.raises(InputError, match="empty") as caught:
        with lm.trace(prompt):
            pytest.fail("the block had to be refused")
    assert caught.value.line.filename == __file__


@pytest.mark.parametrize(
    "prompt",
    [
        5,
        2.5,
        object(),
        b"bytes",
        torch.ones(1, 4),
        torch.ones(1, 2, 3).long(),
        [1, "w1", 2.0],
        {"ids": [1]},
        {1, 2},
        [None],
    ],
)
def test_a_prompt_of_another_kind_is_refused_with_what_a_prompt_is(lm, prompt):
    with pytest.raises(InputError) as caught:
        with lm.trace(prompt):
            lm.output.save()
    assert "a list of strings" in caught.value.remedy


def test_two_prompts_by_position_are_refused(lm):
    with pytest.raises(InputError, match="2 positional"):
        with lm.trace("w1", "w2"):
            lm.output.save()


def test_too_many_tokens_are_refused_on_the_prompts_line(lm):
    with lm.trace([1] * 48):
        assert lm.output.shape == (1, 48, 64)
        lm.output.save()
    with pytest.raises(InputError, match="49 tokens, and the model has positions for 48") as caught:
        with lm.trace([1] * 49):
            lm.output.save()
    assert caught.value.line.text == "with lm.trace([1] * 49):"


def test_token_ids_outside_the_vocabulary_are_refused(lm):
    for prompt in ([1, 64], [-1, 2]):
        with pytest.raises(InputError, match="vocabulary"):
            with lm.trace(prompt):
                lm.output.save()


def test_a_mask_of_another_length_is_refused(lm):
    for mask in (torch.ones(1, 3), torch.ones(2, 5)):
        with pytest.raises(InputError, match="mask"):
            with lm.trace({"input_ids": IDS, "attention_mask": mask.long()}):
                lm.output.save()


# -- a block's hidden states -------------------------------------------------------------------------------------------


class Block(nn.Module):
    """A decoder block that returns a tensor, a tuple or a list."""

    def __init__(self, kind):
        super().__init__()
        self.inner, self.kind = nn.Linear(8, 8), kind

    def forward(self, x):
        x = x + torch.tanh(self.inner(x))
        return {"tensor": x, "tuple": (x, "cache"), "list": [x, "cache"]}[self.kind]


class Decoder(nn.Module):
    """A causal language model of such blocks, as transformers writes them."""

    _no_split_modules = ["Block"]

    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(1)
        self.wte, self.head = nn.Embedding(64, 8), nn.Linear(8, 64)
        self.layers = nn.ModuleList(Block(kind) for _ in range(3))

    def get_input_embeddings(self):
        return self.wte

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids):
        x = self.wte(input_ids)
        for layer in self.layers:
            found = layer(x)
            x = found if isinstance(found, torch.Tensor) else found[0]
        return CausalLMOutput(logits=self.head(x))


def decoder_states(change=lambda state: state):
    """Hidden states after block 1 and logits, with `change` applied there: by hand, on blocks that return tensors."""
    module, kept = Decoder("tensor"), {}

    def hook(output):
        kept["state"] = change(output.clone())
        return kept["state"]

    with tiny.hooked(module, {"layers.1": hook}):
        logits = module(IDS).logits
    return kept["state"], logits


@pytest.mark.parametrize("kind", ["tensor", "tuple", "list"])
def test_output_0_of_a_block_is_its_hidden_states(kind):
    model = LanguageModel(Decoder(kind))
    with model.trace(IDS):
        state, whole = model.layers[1].output[0].save(), model.layers[1].output.save()
        called = model.layers[1].calls[0].output[0].save()
        assert model.layers[1].output[0].shape == (1, 5, 8)
    close(state, decoder_states()[0])
    close(called, decoder_states()[0])
    assert type(whole.value) is {"tensor": torch.Tensor, "tuple": tuple, "list": list}[kind]


@pytest.mark.parametrize("kind", ["tensor", "tuple", "list"])
@pytest.mark.parametrize("peek", [False, True])
def test_output_0_of_a_block_can_be_changed_and_assigned(kind, peek):
    model = LanguageModel(Decoder(kind))
    with model.trace(IDS):
        model.layers[1].output[0][:, -1] += 2
        if peek:
            float(model.layers[1].output[0].sum())
        logits = model.output.save()

    def change(state):
        state[:, -1] += 2
        return state

    close(logits, decoder_states(change)[1])
    with model.trace(IDS):
        model.layers[1].output[0] = model.layers[1].output[0] * 0.5
        model.layers[1].output[0] += 1
        again, logits = model.layers[1].output[0].save(), model.output.save()
        rest = None if kind == "tensor" else model.layers[1].output[1]
        assert rest is None or rest == "cache"
    close(again, decoder_states(lambda state: state * 0.5 + 1)[0])
    close(logits, decoder_states(lambda state: state * 0.5 + 1)[1])


def test_only_the_literal_0_applied_directly_means_the_hidden_states():
    model, state = LanguageModel(Decoder("tensor")), decoder_states()[0]
    two = torch.cat([IDS, IDS.flip(1)])
    with model.trace(two):
        row, last = model.layers[1].output[1].save(), model.layers[1].output[-1].save()
        first = model.layers[1].output[0][0].save()
        sliced = model.layers[1].output[0:1].save()
        indexed = model.layers[1].output[torch.tensor(0)].save()
        computed = (model.layers[1].output * 1)[0].save()
        inner = model.layers[1].inner.output[0].save()
    assert [tuple(v.shape) for v in (row, last, first, sliced, indexed, computed, inner)] == [
        (5, 8),
        (5, 8),
        (5, 8),
        (1, 5, 8),
        (5, 8),
        (5, 8),
        (5, 8),
    ]
    close(first, state[0])
    close(sliced, state)


def test_stable_outputs_can_be_switched_off_and_a_plain_model_never_has_them():
    model, module = LanguageModel(Decoder("tensor")), Decoder("tensor")
    CONFIG.version_stable_outputs = False
    try:
        with model.trace(IDS):
            off = model.layers[1].output[0].save()
    finally:
        CONFIG.version_stable_outputs = True
    close(off, decoder_states()[0][0])
    bare = Model(module)
    with bare.trace(IDS):
        row = bare.layers[1].output[0].save()
        out = bare.output.save()
    close(row, decoder_states()[0][0])
    assert isinstance(out, CausalLMOutput)


@pytest.mark.parametrize("family", list(tiny.CONFIGS))
def test_output_0_of_real_blocks_is_batch_seq_hidden(family):
    model = LanguageModel(tiny.hf_model(family))
    block = f"{tiny.BLOCKS[family]}.2"
    with model.trace(IDS):
        state = model.get(block).output[0].clone().save()
        model.get(block).output[0][:, 0] = 0
        model.get(block).output[0] = model.get(block).output[0] * 2
        logits = model.output.save()
    seen, _ = tiny.outputs_of(tiny.hf_model(family), [block], IDS)

    def change(output):
        output = output.clone()
        output[:, 0] = 0
        return output * 2

    assert state.shape == (1, 5, 32)
    close(state, seen[block])
    with tiny.hooked(tiny.hf_model(family), {block: change}):
        close(logits, tiny.hf_model(family)(IDS).logits)


# -- logits ------------------------------------------------------------------------------------------------------------


def test_the_output_of_a_causal_model_behaves_as_its_logits(lm):
    want = plain().logits
    with lm.trace(TEXT):
        out = lm.output
        assert isinstance(out, torch.Tensor)
        assert out.shape == (1, 5, 64)
        last, doubled, reflected = out[0, -1].save(), (out * 2).save(), (1 - out).save()
        probabilities, top = torch.softmax(out, -1).save(), out.argmax(-1).save()
        best = int(out[0, -1].argmax())
        logits, whole = out.logits.save(), out.save()
    for got, value in [
        (last, want[0, -1]),
        (doubled, want * 2),
        (reflected, 1 - want),
        (probabilities, want.softmax(-1)),
    ]:
        close(got, value)
    close(logits, want)
    assert torch.equal(top.value, want.argmax(-1))
    assert best == int(want[0, -1].argmax())
    assert whole.shape == (1, 5, 64)
    close(whole[0, -1], want[0, -1])
    close(whole.softmax(-1), want.softmax(-1))
    close(torch.cat([whole, whole]), torch.cat([want, want]))
    close(whole.logits, want)
    assert type(whole + 1) is torch.Tensor
    assert whole.past_key_values.get_seq_length() == 5
    assert whole.numpy().shape == (1, 5, 64)


def test_the_output_still_has_its_loss_and_cache(folder):
    lm = LanguageModel(folder)  # transformers leaves hooks of its own on a model that is asked for hidden states
    with lm.trace(TEXT, labels=IDS, output_hidden_states=True):
        loss, cache = lm.output.loss.save(), lm.output.past_key_values.save()
        states, by_key = lm.output.hidden_states[1].save(), lm.output["logits"].save()
    with torch.no_grad():
        want = lm._model(IDS, labels=IDS, output_hidden_states=True)
    close(loss, want.loss)
    close(states, want.hidden_states[1])
    close(by_key, want.logits)
    assert cache.get_seq_length() == 5


def test_logits_can_be_assigned_and_changed_in_place():
    for change in (lambda m: setattr(m, "output", m.output * 0 + 3), lambda m: m.output.fill_(3)):
        model = LanguageModel(tiny.hf_model("gpt2"))
        with model.trace(IDS):
            change(model)
            out, logits = model.output.save(), model.output.logits.save()
            cache = model.output.past_key_values.save()
        assert float(out.min()) == float(out.max()) == float(logits.max()) == 3
        assert cache.get_seq_length() == 5


def test_saved_logits_can_be_copied_pickled_and_stored(lm, tmp_path):
    with lm.trace(TEXT):
        logits = lm.output.save()
    want = plain().logits
    close(pickle.loads(pickle.dumps(logits)), want)
    close(copy.deepcopy(logits), want)
    close(logits.clone().detach().cpu(), want)
    torch.save(logits, tmp_path / "logits.pt")
    close(torch.load(tmp_path / "logits.pt"), want)
    assert "tensor(" in repr(logits)
    assert f"{logits[0, 0, 0]:.3f}" == f"{float(want[0, 0, 0]):.3f}"


def test_a_logit_lens_by_the_models_own_modules_equals_the_plain_one(lm):
    module = tiny.hf_model("gpt2")
    seen, _ = tiny.outputs_of(module, ["transformer.h.0", "transformer.h.1"], IDS)
    lenses = []
    with lm.trace(TEXT):
        for place in range(2):
            lenses.append(lm.lm_head(lm.transformer.ln_f(lm.transformer.h[place].output[0])).save())
        logits = lm.output.save()
        last = lm.lm_head(lm.transformer.ln_f.output).save()
    for place, lens in enumerate(lenses):
        with torch.no_grad():
            close(lens, module.lm_head(module.transformer.ln_f(seen[f"transformer.h.{place}"])))
    close(last, logits.value.as_subclass(torch.Tensor))


def test_a_block_run_by_itself_starts_from_a_stored_activation(lm):
    with lm.trace(TEXT):
        before, after = lm.transformer.h[0].output[0].save(), lm.transformer.h[1].output[0].save()
        inside = lm.transformer.h[1].mlp.output.save()
    with lm.transformer.h[1].trace(before):
        mlp = lm.transformer.h[1].mlp.output.save()
        again = lm.transformer.h[1].output[0].save()
    close(again, after.value)
    close(mlp, inside.value)
    with lm.transformer.h[1].trace(before):
        lm.transformer.h[1].mlp.output[:] = 0
        without = lm.transformer.h[1].output[0].save()
    close(without, after.value - inside.value)
    with pytest.raises(LoupeError):
        with lm.transformer.h[1].trace(before):
            lm.transformer.h[2].output.save()


def test_the_pattern_of_a_block_run_by_itself_is_that_of_the_whole_run(lm):
    causal = torch.full((5, 5), float("-inf")).triu(1)[None, None]
    with lm.trace(TEXT):
        before, pattern = lm.transformer.h[0].output[0].save(), lm.transformer.h[1].attn.attn_dropout.input.save()
    with lm.transformer.h[1].trace(before, attention_mask=causal):
        again = lm.transformer.h[1].attn.attn_dropout.input.save()
    close(again, pattern.value)


def test_a_plain_call_takes_a_prompt_and_gives_the_models_output(lm):
    with torch.no_grad():
        out = lm(["w3 w9 w27 w17 w51", "w1"])
    assert isinstance(out, type(plain()))
    close(out.logits[0], plain().logits[0])
    close(out.logits[1, -1:], plain(ids=torch.tensor([[1]])).logits[0])


def test_an_open_block_and_generation_arguments_do_not_disturb_a_second_model(folder):
    one, two = LanguageModel(folder), LanguageModel(GPT2LMHeadModel(tiny.CONFIGS["gpt2"]()).eval())
    with one.trace(TEXT):
        first = one.output.save()
        with two.trace(IDS):
            second = two.output.save()
        mixed = (one.output + second.value.as_subclass(torch.Tensor)).save()
    close(first, plain().logits)
    close(mixed, plain().logits + second.value.as_subclass(torch.Tensor))


def traces(lm):
    with lm.trace(TEXT):
        lm.output.save()


def looks(lm):
    with lm.trace(TEXT):
        float(lm.output.sum())


def several(lm):
    with lm.trace() as tracer:
        for text in (TEXT, "w1"):
            with tracer.invoke(text):
                lm.output.save()


def runs_together(lm):
    with lm.session():
        for _block in range(2):
            traces(lm)


def goes_by_steps(lm):
    with lm.generate(TEXT, max_new_tokens=2) as tracer, tracer.iter[:]:
        lm.lm_head.output.save()


@pytest.mark.parametrize("block", [traces, looks, several, runs_together, goes_by_steps])
def test_token_ids_go_where_the_weights_are_that_a_block_loads(folder, monkeypatch, block):
    without_weights, real = [], transformers.input_device

    def device(module, table):
        without_weights.append(table.weight.is_meta)
        return real(module, table)

    monkeypatch.setattr(transformers, "input_device", device)
    block(LanguageModel(folder))
    assert without_weights[-1] is False
