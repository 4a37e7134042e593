"""A path loads as the class that its config names, before and after its weights are there."""

import json

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from loupe import LanguageModel
from loupe.errors import LoadError
from tests import tiny
from tests.models import kinds
from tests.models.kinds import close, ids_of

TEXT = "w5 w9 w12 w3"
SAVED = {
    "BertForMaskedLM": "bert",
    "BertModel": "bert",
    "BertForSequenceClassification": "bert",
    "BertForTokenClassification": "bert",
    "BertForQuestionAnswering": "bert",
    "BertForPreTraining": "bert",
    "ModernBertForMaskedLM": "modernbert",
    "T5ForConditionalGeneration": "t5",
    "T5EncoderModel": "t5",
    "BartForConditionalGeneration": "bart",
    "BartModel": "bart",
    "MixtralModel": "mixtral",
    "MixtralForCausalLM": "mixtral",
    "JambaForCausalLM": "jamba",
}


def save(module, folder, **changes):
    """Save a model and the small tokenizer in a folder, with its config changed."""
    module.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    file = folder / "config.json"
    fields = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in fields.items() if value is not None}))
    return str(folder)


@pytest.mark.parametrize("class_name", SAVED)
def test_a_path_loads_as_the_class_that_was_saved(class_name, tmp_path):
    module = kinds.build(class_name, SAVED[class_name])
    model = LanguageModel(save(module, tmp_path))
    assert type(model._model) is type(module)
    assert all(parameter.is_meta for parameter in model._model.parameters())
    model.dispatch()
    assert type(model._model) is type(module)
    want = module.state_dict()
    assert model._model.state_dict().keys() == want.keys()
    for name, tensor in model._model.state_dict().items():
        assert torch.equal(tensor, want[name]), name


def test_a_block_of_an_encoder_that_is_not_loaded_yet_has_shapes_and_then_values(tmp_path):
    module = kinds.build("BertForSequenceClassification", "bert")
    model = LanguageModel(save(module, tmp_path))
    with model.trace() as tracer:
        with tracer.invoke(TEXT):
            assert model.get("bert.encoder.layer.1").output[0].shape == (1, 4, 32)
            assert model.output.shape == (1, 2)
            assert not model.dispatched
            logits = model.output.save()
        with tracer.invoke("w1 w2 w3 w4 w5 w6"):
            pass
    with torch.no_grad():
        close(logits, module(ids_of(TEXT)).logits)


def test_a_generation_of_a_path_starts_and_ends_as_its_generation_config_says(tmp_path):
    module = kinds.build("T5ForConditionalGeneration", "t5")
    module.generation_config.update(max_new_tokens=3, decoder_start_token_id=7, eos_token_id=None)
    model = LanguageModel(save(module, tmp_path))
    with model.generate(TEXT) as tracer:
        taken = list(tracer.iter[:])
        assert not model.dispatched
        ids = tracer.result.save()
    assert taken == [0, 1, 2]
    assert torch.equal(ids.value, module.generate(ids_of(TEXT)))
    fresh = LanguageModel(str(tmp_path))
    with fresh.trace(TEXT):
        logits = fresh.output.save()
    with torch.no_grad():
        close(logits, module(ids_of(TEXT), decoder_input_ids=torch.tensor([[7]])).logits)


@pytest.mark.parametrize(("class_name", "side"), [("BertForMaskedLM", "right"), ("MixtralForCausalLM", "left")])
def test_the_tokenizer_of_a_path_pads_where_the_models_prompts_are_padded(class_name, side, tmp_path):
    model = LanguageModel(save(kinds.build(class_name, SAVED[class_name]), tmp_path))
    batch = model.tokenizer(["w5 w9", "w7"], padding=True, return_tensors="pt")
    row = [7, 0] if side == "right" else [0, 7]
    assert batch["input_ids"].tolist() == [[5, 9], row]
    with model.trace(batch):
        logits = model.output.save()
    with torch.no_grad():
        close(logits[1, row.index(7)], model._model(torch.tensor([[7]])).logits[0, 0])


# -- configs that do not say it ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("class_name", ["BertForMaskedLM", "T5ForConditionalGeneration", "MixtralForCausalLM"])
@pytest.mark.parametrize("architectures", [None, ["NameOfAnOldRelease"]])
def test_a_config_that_does_not_name_its_class_gets_its_familys_language_model(class_name, architectures, tmp_path):
    path = save(kinds.build(class_name, SAVED[class_name]), tmp_path, architectures=architectures)
    assert type(LanguageModel(path)._model).__name__ == class_name


def test_a_decoder_saved_without_its_head_gets_the_head_that_is_its_embeddings(tmp_path):
    tied = kinds.build("MixtralForCausalLM", "mixtral", tie_word_embeddings=True)
    model = LanguageModel(save(tied.model, tmp_path))
    with model.trace(TEXT):
        logits = model.output.save()
    with torch.no_grad():
        close(logits, tied(ids_of(TEXT)).logits)


def test_a_class_that_the_user_registered_is_loaded(tmp_path):
    class OwnConfig(PreTrainedConfig):
        model_type = "loupe-own"
        hidden_size = 8

    class OwnModel(transformers.PreTrainedModel):
        config_class = OwnConfig

        def __init__(self, config):
            super().__init__(config)
            self.table, self.head = torch.nn.Embedding(64, config.hidden_size), torch.nn.Linear(config.hidden_size, 64)
            self.post_init()

        def get_input_embeddings(self):
            return self.table

        def forward(self, input_ids, attention_mask=None):
            return transformers.modeling_outputs.CausalLMOutput(logits=self.head(self.table(input_ids)))

    AutoConfig.register("loupe-own", OwnConfig)
    AutoModelForCausalLM.register(OwnConfig, OwnModel)
    module = OwnModel(OwnConfig()).eval()
    model = LanguageModel(save(module, tmp_path), tokenizer=tiny.tokenizer())
    assert type(model._model) is OwnModel
    with model.trace(TEXT):
        logits = model.output.logits.save()
    with torch.no_grad():
        close(logits, module(ids_of(TEXT)).logits)


def test_a_family_without_a_language_model_is_a_load_error(tmp_path):
    config = transformers.ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    config.architectures = ["ViTForImageClassification"]
    config.save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    with pytest.raises(LoadError, match="'ViTForImageClassification' is no language model") as caught:
        LanguageModel(str(tmp_path))
    assert "LanguageModel(model, tokenizer=…)" in caught.value.remedy
