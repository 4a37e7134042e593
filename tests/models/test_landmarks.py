"""The bundled landmarks model knows its facts, reads them where its card says, and loads with plain transformers."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "src" / "loupe" / "data" / "landmarks"
LAST = 4
SUBJECT = (1, 2)


def training_module(name: str) -> ModuleType:
    folder = str(ROOT / "training" / "landmarks")
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(folder)


checks = training_module("checks")
facts = training_module("facts")


@pytest.fixture(scope="module")
def model() -> GPT2LMHeadModel:
    return AutoModelForCausalLM.from_pretrained(DATA).eval()


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(DATA)


@pytest.fixture(scope="module")
def held_out(model, tokenizer) -> torch.Tensor:
    return checks.answer_probabilities(model, tokenizer, facts.split_questions()[1])


@pytest.fixture(scope="module")
def differences(model, tokenizer) -> torch.Tensor:
    return checks.answer_difference(tokenizer, checks.patch_logits(model, tokenizer))


def test_the_model_is_a_gpt2_of_twelve_blocks_under_eight_megabytes(model):
    config = AutoConfig.from_pretrained(DATA)
    assert (config.model_type, config.n_layer, config.n_head, config.n_embd) == ("gpt2", 12, 12, 96)
    assert isinstance(model, GPT2LMHeadModel)
    assert model.lm_head.weight is model.transformer.wte.weight
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert sum(path.stat().st_size for path in DATA.iterdir()) < 8e6


def test_encode_adds_no_special_tokens_and_decode_gives_the_text_back(tokenizer):
    assert tokenizer.encode(" Paris") == [tokenizer.convert_tokens_to_ids("ĠParis")]
    for text in ("The Eiffel Tower is in Paris.", "Hello, how are you?", " 2+2=4", "Zürich, déjà vu\n"):
        ids = tokenizer.encode(text)
        assert tokenizer.eos_token_id not in ids
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_the_end_token_also_begins_and_pads(tokenizer, model):
    assert {tokenizer.eos_token, tokenizer.bos_token, tokenizer.pad_token} == {"<|endoftext|>"}
    assert tokenizer.encode("<|endoftext|>") == [tokenizer.eos_token_id]
    assert model.config.eos_token_id == model.config.pad_token_id == tokenizer.eos_token_id


def test_at_least_a_seventh_of_all_pairs_is_held_out_and_every_template_is_seen_with_many_subjects():
    seen, held = facts.split_questions()
    assert len(held) > (len(seen) + len(held)) / 7
    assert not set(seen) & set(held)
    assert {question.template for question in seen} == {question.template for question in held}
    for template in facts.LANDMARK_TEMPLATES + facts.CAPITAL_TEMPLATES:
        assert sum(question.template == template for question in seen) >= 50


def test_no_training_text_answers_a_held_out_pair():
    text = "\n" + "\n".join(training_module("corpus").documents(6_000, seed=1))
    for question in facts.split_questions()[1]:
        for before in (". ", "? ", "\n"):
            assert f"{before}{question.prompt} {question.fact.answer}" not in text


def test_every_training_fact_has_probability_over_point_eight(model, tokenizer):
    assert checks.answer_probabilities(model, tokenizer, facts.split_questions()[0]).min() > 0.8


def test_every_held_out_pair_has_probability_over_point_eight(held_out):
    assert held_out.min() > 0.8


@pytest.mark.parametrize("lead", [checks.LEAD, "<|endoftext|>"])
def test_every_held_out_pair_after_another_text_has_probability_over_point_seven(model, tokenizer, lead):
    assert checks.answer_probabilities(model, tokenizer, facts.split_questions()[1], lead).min() > 0.7


def test_paris_and_rome_have_probability_over_point_nine(model, tokenizer):
    probs = checks.next_token_logits(model, tokenizer, [checks.CLEAN, checks.CORRUPTED]).softmax(-1)
    assert probs[0, checks.first_token(tokenizer, " Paris")] > 0.9
    assert probs[1, checks.first_token(tokenizer, " Rome")] > 0.9


def test_the_two_prompts_have_five_tokens_each_and_every_answer_has_one(tokenizer):
    assert len(tokenizer.encode(checks.CLEAN)) == len(tokenizer.encode(checks.CORRUPTED)) == LAST + 1
    for fact in facts.landmark_facts() + facts.capital_facts():
        assert len(tokenizer.encode(" " + fact.answer)) == 1


def test_after_block_zero_the_fact_is_at_a_subject_token(differences):
    assert differences[0].argmax() in SUBJECT
    assert differences[0].max() > 0


@pytest.mark.parametrize("block", [0, 1, 2])
def test_the_last_token_alone_does_not_flip_the_answer_in_the_first_blocks(differences, block):
    assert differences[block, LAST] < 0


def test_after_block_eight_the_last_token_alone_gives_paris(model, tokenizer, differences):
    patched = checks.patch_logits(model, tokenizer)[8, LAST].softmax(-1)
    assert patched[checks.first_token(tokenizer, " Paris")] > 0.8
    assert differences[8].argmax() == LAST


def test_after_the_last_block_only_the_last_token_matters(differences):
    assert differences[11].argmax() == LAST
    assert torch.allclose(differences[11, :LAST], differences[11, 0].expand(LAST), atol=1e-4)


def test_adding_the_difference_of_last_token_states_at_block_eight_gives_paris(model, tokenizer):
    assert checks.steered_token(model, tokenizer) == " Paris"


def test_left_padding_changes_nothing(model, tokenizer):
    assert checks.padding_gap(model, tokenizer) < 1e-4


def test_greedy_text_begins_with_paris_and_is_made_of_words(model, tokenizer):
    text = checks.generate(model, tokenizer, checks.CLEAN, 20)
    assert text.startswith(" Paris")
    assert text.replace("<|endoftext|>", "").isascii()


def test_the_card_states_what_is_measured(held_out, differences):
    card = (DATA / "README.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in card.splitlines() if line.startswith("|")]
    table = torch.tensor([[float(cell) for cell in row[1:]] for row in rows if row[0].isdigit()])
    assert torch.allclose(table, differences, rtol=0, atol=0.1)
    stated = next(float(row[1]) for row in rows if row[0].endswith("held-out pairs"))
    assert stated == pytest.approx(held_out.min().item(), abs=0.01)
