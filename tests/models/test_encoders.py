"""Encoders take prompts padded on the right, and are read and changed as decoders are."""

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from loupe import LanguageModel
from loupe.errors import InputError
from tests import tiny
from tests.models import kinds
from tests.models.kinds import changed, close, ids_of, states

PROMPTS = ["w5 w9 w12 w3", "w7", "w11 w22 w33 w44 w55 w6 w7 w8 w9", "w40 w50"]
BLOCKS = {"bert": "bert.encoder.layer", "roberta": "roberta.encoder.layer", "modernbert": "model.layers"}
MASKED = {"bert": "BertForMaskedLM", "roberta": "RobertaForMaskedLM", "modernbert": "ModernBertForMaskedLM"}


def masked(family):
    return kinds.model(MASKED[family], family)


def bert(class_name="BertForMaskedLM"):
    return LanguageModel(kinds.model(class_name, "bert"), tokenizer=tiny.tokenizer())


def typing_tokenizer(kind):
    """A tokenizer that says of the tokens of a lone text that they are of a type, and of those of a second that 1."""
    tokenizer = tiny.tokenizer()
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"<eos>:0 $A:{kind}", pair="<eos>:0 $A:0 $B:1", special_tokens=[("<eos>", 0)]
    )
    return tokenizer


@pytest.mark.parametrize("family", MASKED)
def test_each_prompt_of_a_batch_gives_an_encoder_what_it_gives_alone(family):
    module = masked(family)
    model = LanguageModel(module, tokenizer=tiny.tokenizer())
    block = f"{BLOCKS[family]}.1"
    found = []
    with model.trace() as tracer:
        for text in PROMPTS:
            with tracer.invoke(text):
                found.append((model.get(block).output[0].save(), model.output.save()))
    for text, (hidden, logits) in zip(PROMPTS, found, strict=True):
        length = len(text.split())
        seen, want = tiny.outputs_of(module, [block], ids_of(text))
        assert logits.shape == (1, 9, 64)
        close(hidden[:, :length], states(seen[block]))
        close(logits[:, :length], want.logits)


@pytest.mark.parametrize("family", MASKED)
def test_a_change_in_one_prompt_of_an_encoders_batch_is_that_prompts_alone(family):
    module = masked(family)
    model = LanguageModel(module, tokenizer=tiny.tokenizer())
    block = f"{BLOCKS[family]}.0"
    with model.trace() as tracer:
        with tracer.invoke(PROMPTS[0]):
            model.get(block).output[0][:, 1] = 0.5
            first = model.output.save()
        with tracer.invoke(PROMPTS[2]):
            second = model.output.save()
        with tracer.invoke(PROMPTS[3]):
            model.get(block).output[0] = model.get(block).output[0] * 2
            third = model.output.save()

    def fill(hidden):
        hidden[:, 1] = 0.5
        return hidden

    with tiny.hooked(module, {block: changed(fill)}):
        close(first[:, :4], module(ids_of(PROMPTS[0])).logits)
    with torch.no_grad():
        close(second, module(ids_of(PROMPTS[2])).logits)
    with tiny.hooked(module, {block: changed(lambda hidden: hidden * 2)}):
        close(third[:, :2], module(ids_of(PROMPTS[3])).logits)


def test_rows_are_filled_on_the_right_with_the_models_own_padding():
    model = LanguageModel(masked("roberta"), tokenizer=tiny.tokenizer())
    with model.trace() as tracer:
        with tracer.invoke("w5 w9 w12"):
            pass
        with tracer.invoke([[7], [8, 6]]):
            pass
        with tracer.invoke():
            inputs = model.inputs.save()
    given = inputs.value[1]
    assert given["input_ids"].tolist() == [[5, 9, 12], [7, 1, 1], [8, 6, 1]]
    assert given["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0]]
    assert "position_ids" not in given


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_rows_that_the_user_padded_on_the_left_get_the_positions_that_they_have_alone(family):
    module = masked(family)
    model = LanguageModel(module)
    batch = {"input_ids": [[0, 0, 5, 9], [4, 8, 15, 16]], "attention_mask": [[0, 0, 1, 1], [1, 1, 1, 1]]}
    with model.trace({name: torch.tensor(rows) for name, rows in batch.items()}):
        logits = model.output.save()
    with torch.no_grad():
        close(logits[:1, 2:], module(torch.tensor([[5, 9]])).logits)
        close(logits[1:], module(torch.tensor([[4, 8, 15, 16]])).logits)


# -- token types -------------------------------------------------------------------------------------------------------


def test_the_token_types_of_a_text_reach_an_encoder():
    model = LanguageModel(kinds.model("BertForMaskedLM", "bert"), tokenizer=typing_tokenizer(1))
    with model.trace("w5 w9"):
        logits = model.output.save()
    with model.trace() as tracer:
        with tracer.invoke("w5 w9"):
            joined = model.output.save()
        with tracer.invoke([[1, 2, 3, 4, 5]]):  # ids come without types
            plain = model.output.save()
    with torch.no_grad():
        want = model._model(torch.tensor([[0, 5, 9]]), token_type_ids=torch.tensor([[0, 1, 1]])).logits
        other = model._model(torch.tensor([[1, 2, 3, 4, 5]])).logits
    close(logits, want)
    close(joined[:, :3], want)
    close(plain, other)


def test_a_pair_of_texts_is_a_prompt_as_the_tokenizer_gives_it():
    model = LanguageModel(kinds.model("BertForMaskedLM", "bert"), tokenizer=typing_tokenizer(0))
    pair = model.tokenizer("w5 w9", "w30 w31 w32", return_tensors="pt")
    assert pair["token_type_ids"].tolist() == [[0, 0, 0, 1, 1, 1]]
    with torch.no_grad():
        want = model._model(**pair).logits
    with model.trace(pair):
        alone = model.output.save()
    with model.trace() as tracer:
        with tracer.invoke(pair):
            joined = model.output.save()
        with tracer.invoke("w1 w2 w3 w4 w5 w6 w7"):
            pass
    close(alone, want)
    close(joined[:, :6], want)


def test_the_token_types_of_a_text_do_not_reach_a_decoder():
    model = LanguageModel(tiny.hf_model("gpt2"), tokenizer=typing_tokenizer(1))
    assert "token_type_ids" in model.tokenizer("w5")
    with model.trace("w5"):
        inputs = model.inputs.save()
    assert sorted(inputs.value[1]) == ["attention_mask", "input_ids"]


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_a_model_that_cannot_generate_says_so():
    for class_name in ("BertForMaskedLM", "BertModel", "BertForSequenceClassification"):
        with pytest.raises(InputError, match=f"{class_name} cannot generate") as caught:
            with bert(class_name).generate("w1", max_new_tokens=2) as tracer:
                tracer.result.save()
        assert caught.value.line.filename == __file__
        with pytest.raises(InputError, match="cannot generate"):
            bert(class_name).generate("w1", max_new_tokens=2).sum()


@pytest.mark.parametrize(("family", "most"), [("bert", 24), ("roberta", 22)])
def test_too_many_tokens_for_an_encoder_are_refused(family, most):
    model = LanguageModel(masked(family))
    with model.trace([3] * most):
        assert model.output.save().shape == (1, most, 64)
    with pytest.raises(InputError, match=f"{most + 1} tokens, and the model has positions for {most}"):
        with model.trace([3] * (most + 1)):
            model.output.save()


def test_texts_need_a_tokenizer_and_ids_do_not():
    model = LanguageModel(kinds.model("BertForMaskedLM", "bert"))
    with pytest.raises(InputError, match="no tokenizer") as caught:
        with model.trace(["w1", "w2"]):
            model.output.save()
    assert "tokenizer=" in caught.value.remedy
    with model.trace([[5, 9], [7]]):
        logits = model.output.save()
    with torch.no_grad():
        close(logits[1:, :1], model._model(torch.tensor([[7]])).logits)


def test_prompts_of_several_lengths_are_refused_by_a_model_that_takes_no_mask():
    module = kinds.model("FNetForMaskedLM", "fnet")
    model = LanguageModel(module, tokenizer=tiny.tokenizer())
    with pytest.raises(InputError, match="FNetForMaskedLM takes no attention_mask") as caught:
        with model.trace() as tracer:
            with tracer.invoke("w1 w2"):
                pass
            with tracer.invoke("w3"):
                model.output.save()
    assert caught.value.line.filename == __file__
    with model.trace() as tracer:
        with tracer.invoke("w1 w2"):
            pass
        with tracer.invoke("w3 w4"):
            logits = model.output.save()
    with torch.no_grad():
        close(logits, module(ids_of("w3 w4")).logits)
