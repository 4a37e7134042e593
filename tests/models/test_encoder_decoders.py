"""Encoder-decoders take a prompt for the encoder and ids for the decoder, alone and in batches."""

import pytest
import torch

from loupe import LanguageModel
from loupe.errors import InputError, RowsError
from tests import tiny
from tests.models import kinds
from tests.models.kinds import changed, close, ids_of, states

PROMPTS = ["w5 w9 w12 w3", "w7", "w11 w22 w33 w44 w55 w6 w7 w8 w9", "w40 w50"]
CLASSES = {"t5": "T5ForConditionalGeneration", "bart": "BartForConditionalGeneration"}
ENCODER = {"t5": "encoder.block.1", "bart": "model.encoder.layers.1"}
DECODER = {"t5": "decoder.block.0", "bart": "model.decoder.layers.0"}
CROSS = {"t5": "decoder.block.1.layer.1.EncDecAttention", "bart": "model.decoder.layers.1.encoder_attn"}
START = {"t5": 0, "bart": 2}
FAMILIES = list(CLASSES)
TARGET = [[4, 8, 15], [16], [23, 42, 30, 31, 32], [33]]


def both(family):
    module = kinds.model(CLASSES[family], family)
    return module, LanguageModel(module, tokenizer=tiny.tokenizer())


def plain(module, text, **kwargs):
    with torch.no_grad():
        return module(ids_of(text), **kwargs)


# -- what the decoder reads --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_without_decoder_inputs_the_decoder_reads_the_token_at_which_a_generation_starts(family):
    module, model = both(family)
    with model.trace(PROMPTS[0]):
        assert model.output.shape == (1, 1, 64)
        logits = model.output.save()
        read = model.get("decoder" if family == "t5" else "model.decoder").inputs.save()
    want = plain(module, PROMPTS[0], decoder_input_ids=torch.tensor([[START[family]]]))
    close(logits, want.logits)
    assert read.value[1]["input_ids"].tolist() == [[START[family]]]
    generated = module.generate(
        ids_of(PROMPTS[0]), max_new_tokens=1, output_logits=True, return_dict_in_generate=True, eos_token_id=None
    )
    close(logits[:, -1], generated.logits[0])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("given", [torch.tensor([[2, 4, 8]]), torch.tensor([2, 4, 8]), [2, 4, 8], [[2, 4, 8]]])
def test_decoder_inputs_are_ids_of_every_kind(family, given):
    module, model = both(family)
    with model.trace(PROMPTS[0], decoder_input_ids=given):
        logits = model.output.save()
    close(logits, plain(module, PROMPTS[0], decoder_input_ids=torch.tensor([[2, 4, 8]])).logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_labels_are_what_the_decoder_is_to_write(family):
    module, model = both(family)
    with model.trace(PROMPTS[0], labels=TARGET[0]):
        logits, loss = model.output.save(), model.output.loss.save()
    want = plain(module, PROMPTS[0], labels=torch.tensor([TARGET[0]]))
    close(logits, want.logits)
    close(loss, want.loss)
    with model.trace({"input_ids": ids_of(PROMPTS[0]), "labels": torch.tensor([TARGET[0]])}):
        again = model.output.loss.save()
    close(again, want.loss)


@pytest.mark.parametrize("family", FAMILIES)
def test_labels_in_every_invoke_make_one_loss(family):
    module, model = both(family)
    with model.trace() as tracer:
        for text, target in zip(PROMPTS, TARGET, strict=True):
            with tracer.invoke(text, labels=target):
                pass
        with tracer.invoke():
            loss = model.output.loss.save()
    rows = [plain(module, text, labels=torch.tensor([t])) for text, t in zip(PROMPTS, TARGET, strict=True)]
    sizes = [len(target) for target in TARGET]
    close(loss, sum(row.loss * size for row, size in zip(rows, sizes, strict=True)) / sum(sizes))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("fault", ["text", "texts", "rows", "empty", "words"])
def test_decoder_inputs_that_cannot_be_used_are_refused_on_their_line(family, fault):
    _, model = both(family)
    given = {"text": "w1", "texts": ["w1"], "rows": [[1], [2]], "empty": torch.zeros(1, 0).long(), "words": [[64]]}
    with pytest.raises(InputError) as caught:
        with model.trace("w5 w9", decoder_input_ids=given[fault]):
            model.output.save()
    assert caught.value.line.filename == __file__
    expected = {"text": "as text", "texts": "as text", "rows": "shape [2, 1] for 1 prompt", "words": "vocabulary of 64"}
    assert expected.get(fault, "shape [1, 0]") in caught.value.fact


def test_a_config_without_a_start_token_asks_for_decoder_inputs():
    module = kinds.build("T5ForConditionalGeneration", "t5", decoder_start_token_id=None)
    module.generation_config.decoder_start_token_id = None
    model = LanguageModel(module)
    with pytest.raises(InputError, match="no token at which its decoder starts") as caught:
        with model.trace([[5, 9]]):
            model.output.save()
    assert "decoder_input_ids=" in caught.value.remedy
    with model.trace([[5, 9]], decoder_input_ids=[7]):
        assert model.output.save().shape == (1, 1, 64)


# -- several prompts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("given", [False, True])
def test_each_prompt_of_a_batch_gives_an_encoder_decoder_what_it_gives_alone(family, given):
    module, model = both(family)
    paths = [ENCODER[family], DECODER[family]]
    found = []
    with model.trace() as tracer:
        for text, target in zip(PROMPTS, TARGET, strict=True):
            with tracer.invoke(text, **({"decoder_input_ids": target} if given else {})):
                found.append([model.get(path).output[0].save() for path in paths] + [model.output.save()])
    for text, target, (encoded, decoded, logits) in zip(PROMPTS, TARGET, found, strict=True):
        read = torch.tensor([target if given else [START[family]]])
        seen, want = tiny.outputs_of(module, paths, ids_of(text), decoder_input_ids=read)
        length = read.shape[1]
        assert logits.shape[1] == (5 if given else 1)
        close(encoded[:, : len(text.split())], states(seen[paths[0]]))
        close(decoded[:, :length], states(seen[paths[1]]))
        close(logits[:, :length], want.logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_one_input_may_have_decoder_inputs_of_several_lengths(family):
    module, model = both(family)
    with model.trace(PROMPTS[:2], decoder_input_ids=TARGET[:2]):
        logits = model.output.save()
        inputs = model.inputs.save()
    assert inputs.value[1]["decoder_attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    for row, (text, target) in enumerate(zip(PROMPTS[:2], TARGET[:2], strict=True)):
        want = plain(module, text, decoder_input_ids=torch.tensor([target])).logits
        close(logits[row, : len(target)], want[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_change_in_encoder_or_decoder_is_that_prompts_alone(family):
    module, model = both(family)

    def first_token(hidden):
        hidden[:, 0] = 0.5
        return hidden

    with model.trace() as tracer:
        with tracer.invoke(PROMPTS[0]):
            model.get(ENCODER[family]).output[0][:, 0] = 0.5
            first = model.output.save()
        with tracer.invoke(PROMPTS[2]):
            untouched = model.output.save()
        with tracer.invoke(PROMPTS[3], decoder_input_ids=[5, 6]):
            model.get(DECODER[family]).output[0] = model.get(DECODER[family]).output[0] * -2
            third = model.output.save()
    start = torch.tensor([[START[family]]])
    with tiny.hooked(module, {ENCODER[family]: changed(first_token)}):
        close(first[:, :1], module(ids_of(PROMPTS[0]), decoder_input_ids=start).logits)
    close(untouched[:, :1], plain(module, PROMPTS[2], decoder_input_ids=start).logits)
    with tiny.hooked(module, {DECODER[family]: changed(lambda hidden: hidden * -2)}):
        close(third, module(ids_of(PROMPTS[3]), decoder_input_ids=torch.tensor([[5, 6]])).logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_prompts_encoding_can_be_read_by_anothers_decoder(family):
    module, model = both(family)
    with model.trace() as tracer:
        with tracer.invoke("w9 w8 w7"):
            encoded = model.get(ENCODER[family]).output[0]
        with tracer.invoke("w1 w2 w3"):
            model.get(ENCODER[family]).output[0][:] = encoded
            logits = model.output.save()
    start = torch.tensor([[START[family]]])
    close(logits, plain(module, "w9 w8 w7", decoder_input_ids=start).logits)


def test_a_table_of_relative_positions_is_shared_by_the_prompts():
    module, model = both("t5")
    path = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias"
    with model.trace() as tracer:
        for text in PROMPTS[:2]:
            with tracer.invoke(text):
                table = model.get(path).output.save()
    seen, _ = tiny.outputs_of(module, [path], ids_of(PROMPTS[0]), decoder_input_ids=torch.tensor([[0]]))
    assert torch.equal(table.value, seen[path])
    with pytest.raises(RowsError, match="relative_attention_bias"):
        with model.trace() as tracer:
            for text in PROMPTS[:2]:
                with tracer.invoke(text):
                    model.get(path).output[:] = 0


# -- inside ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cross_attention_pattern_is_read_and_written(family):
    _, model = both(family)
    eager = kinds.build(CLASSES[family], family, attn_implementation="eager")
    read = torch.tensor([TARGET[0]])
    with torch.no_grad():
        want = eager(ids_of(PROMPTS[0]), decoder_input_ids=read, output_attentions=True).cross_attentions[1]
    cross = model.get(CROSS[family])
    with model.trace(PROMPTS[0], decoder_input_ids=TARGET[0]):
        pattern = cross.ops.softmax[0].output.save()
    with model.trace(PROMPTS[0], decoder_input_ids=TARGET[0]):
        returned = cross.output[-1].save()
    assert pattern.shape == (1, 4, 3, 4)
    close(pattern, want)
    close(returned, want)
    with model.trace(PROMPTS[0], decoder_input_ids=TARGET[0]):
        cross.ops.softmax[0].output = torch.nn.functional.one_hot(torch.tensor(2), 4).expand(1, 4, 3, 4).float()
        mixed, values = cross.output[0].save(), cross.get("v" if family == "t5" else "v_proj").output.save()
    projection = eager.get_submodule(f"{CROSS[family]}.{'o' if family == 't5' else 'out_proj'}")
    close(mixed, projection(values.value[:, 2:3]).detach().expand(1, 3, 32))


def test_other_heads_on_an_encoder_decoder_make_the_decoders_ids_themselves():
    module = kinds.build("BartForSequenceClassification", "bart", num_labels=3)
    model = LanguageModel(module)
    prompts = [[5, 9, 12, 2], [7, 2]]  # the class is read at the end of the text
    with model.trace() as tracer:
        found = []
        for prompt in prompts:
            with tracer.invoke(prompt):
                found.append(model.output.save())
    with torch.no_grad():
        for prompt, logits in zip(prompts, found, strict=True):
            close(logits, module(torch.tensor([prompt])).logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_encoder_decoder_without_a_head_gives_what_it_returns(family):
    module = kinds.build("T5Model" if family == "t5" else "BartModel", family)
    model = LanguageModel(module, tokenizer=tiny.tokenizer())
    with model.trace() as tracer:
        with tracer.invoke(PROMPTS[2]):
            pass
        with tracer.invoke(PROMPTS[0], decoder_input_ids=[3, 4]):
            hidden = model.output.last_hidden_state.save()
    close(hidden, plain(module, PROMPTS[0], decoder_input_ids=torch.tensor([[3, 4]])).last_hidden_state)
    with model.trace(PROMPTS[0]):
        assert model.output.last_hidden_state.shape == (1, 1, 32)
        model.output.save()


def test_the_encoder_of_a_t5_is_a_model_of_its_own():
    module = kinds.build("T5EncoderModel", "t5")
    model = LanguageModel(module, tokenizer=tiny.tokenizer())
    with model.trace() as tracer:
        found = []
        for text in PROMPTS:
            with tracer.invoke(text):
                found.append(model.output.last_hidden_state.save())
    for text, hidden in zip(PROMPTS, found, strict=True):
        close(hidden[:, : len(text.split())], plain(module, text).last_hidden_state)


def test_a_plain_call_reads_as_a_block_does():
    module, model = both("t5")
    with torch.no_grad():
        close(model("w5 w9").logits, module(ids_of("w5 w9"), decoder_input_ids=torch.tensor([[0]])).logits)
