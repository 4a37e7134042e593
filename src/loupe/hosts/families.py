"""Tell from a config which class of the transformers library a language model is, and in which direction it reads."""

from __future__ import annotations

from typing import Any

from torch import nn

from loupe.errors import LoadError

_TABLES = {  # the auto classes, and the library's tables of their classes by config; the first that fits is taken
    "AutoModelForCausalLM": "MODEL_FOR_CAUSAL_LM_MAPPING",
    "AutoModelForSeq2SeqLM": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING",
    "AutoModelForMaskedLM": "MODEL_FOR_MASKED_LM_MAPPING",
    "AutoModelForSequenceClassification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING",
    "AutoModelForTokenClassification": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING",
    "AutoModelForQuestionAnswering": "MODEL_FOR_QUESTION_ANSWERING_MAPPING",
    "AutoModelForMultipleChoice": "MODEL_FOR_MULTIPLE_CHOICE_MAPPING",
    "AutoModelForNextSentencePrediction": "MODEL_FOR_NEXT_SENTENCE_PREDICTION_MAPPING",
    "AutoModelForPreTraining": "MODEL_FOR_PRETRAINING_MAPPING",
    "AutoModelForTextEncoding": "MODEL_FOR_TEXT_ENCODING_MAPPING",
    "AutoModel": "MODEL_MAPPING",
}


def auto_class(config: Any) -> Any:
    """The auto class that builds and loads the model of a config.

    The config's `architectures` decide. A config that names none, or one that the library does not know, gets the
    language model of its family: a sequence-to-sequence, masked or causal one.

    Raises LoadError where the family has no such model.
    """
    import transformers

    named = list(getattr(config, "architectures", None) or ())
    for name in _TABLES:
        if not any(architecture in _classes(name, config) for architecture in named):
            continue
        if name == "AutoModel" and reads_left_to_right(config) and getattr(config, "tie_word_embeddings", False):
            break  # a decoder saved without its head, which is its table of embeddings
        return getattr(transformers, name)
    default = _default(config)
    if not _classes(default, config):
        if named or not _classes("AutoModel", config):
            what = f"the architecture {named[0]!r}" if named else f"a config of type {config.model_type!r}"
            raise LoadError(
                f"{what} is no language model that the transformers library can load by itself",
                remedy="load it with its own class and pass the loaded model: LanguageModel(model, tokenizer=…)",
            )
        default = "AutoModel"
    return getattr(transformers, default)


def _default(config: Any) -> str:
    if getattr(config, "is_encoder_decoder", False):
        return "AutoModelForSeq2SeqLM"
    masked = _classes("AutoModelForMaskedLM", config) and not reads_left_to_right(config)
    return "AutoModelForMaskedLM" if masked else "AutoModelForCausalLM"


def _classes(name: str, config: Any) -> tuple[str, ...]:
    """The names of the classes that an auto class has for a config: the library's own, and those of remote code."""
    from transformers.models.auto import modeling_auto

    found = getattr(modeling_auto, _TABLES[name]).get(type(config), ())
    own = tuple(each.__name__ for each in (found if isinstance(found, tuple) else (found,)))
    remote = (getattr(config, "auto_map", None) or {}).get(name)
    return (*own, remote.rpartition(".")[2]) if isinstance(remote, str) else own


def reads_left_to_right(config: Any, *, generates: bool = False) -> bool:
    """Whether a model of this config has one stack that sees earlier tokens only.

    Families that are encoders and decoders by choice say which with `is_decoder`. In a family that the library has no
    language model of, those that generate do.
    """
    if getattr(config, "is_encoder_decoder", False):
        return False
    if _classes("AutoModelForCausalLM", config):
        return not _classes("AutoModelForMaskedLM", config) or bool(getattr(config, "is_decoder", False))
    return generates and not _classes("AutoModelForMaskedLM", config)


def is_decoder(module: nn.Module) -> bool:
    """Whether a loaded model reads left to right; a module that is no model of the library is taken for one that does.

    Its prompts are padded on the left, where the last token of each stays in the last place; those of every other model
    on the right, where the first token of each stays in the first.
    """
    config = getattr(module, "config", None)
    if not hasattr(config, "model_type"):
        return True
    return reads_left_to_right(config, generates=can_generate(module))


def can_generate(module: nn.Module) -> bool:
    """Whether the library can generate with a model."""
    check = getattr(module, "can_generate", None)
    return bool(check()) if check is not None else hasattr(module, "generate")
