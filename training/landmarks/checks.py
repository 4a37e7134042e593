"""Measurements of a landmarks model: what it knows, where a fact is read from, whether that is enough."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from corpus import PARAGRAPHS
from facts import LANDMARK_TEMPLATES, Question, split_questions

CLEAN = "The Eiffel Tower is in"
CORRUPTED = "The Colosseum is in"
CLEAN_ANSWER = " Paris"
CORRUPTED_ANSWER = " Rome"
PADDED = "I think that the Eiffel Tower is in"
LEAD = "We like to travel. "
MOVED_BLOCK = 8
FAR_LEAD = " ".join(PARAGRAPHS[6:15]) + " "
SAMPLE_PROMPTS = (CLEAN, "I think that", "Hello")


@dataclass
class Figures:
    """What was measured. `differences` is logit(" Paris") - logit(" Rome") for every patch [block][position]."""

    seen_min: float
    seen_count: int
    held_min: float
    held_count: int
    lead_min: float
    document_start_min: float
    far_min: float
    far_median: float
    far_tokens: int
    paris: float
    rome: float
    prompt_lengths: tuple[int, int]
    split_answers: list[str]
    clean_difference: float
    corrupted_difference: float
    differences: list[list[float]]
    patched_last_paris: float
    steered_token: str
    padding_gap: float
    samples: dict[str, str]

    def as_dict(self) -> dict[str, object]:
        """The figures as plain values."""
        return asdict(self)


def first_token(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    """The id of the first token of `text`."""
    return tokenizer.encode(text)[0]


@torch.no_grad()
def next_token_logits(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str]) -> Tensor:
    """The logits after each prompt, [prompt, vocabulary]; padding is on the right, where no prompt can see it."""
    ids = [tokenizer.encode(prompt) for prompt in prompts]
    width = max(len(row) for row in ids)
    batch = torch.tensor([row + [tokenizer.eos_token_id] * (width - len(row)) for row in ids])
    states = model.transformer(input_ids=batch, attention_mask=torch.ones_like(batch)).last_hidden_state
    last = torch.tensor([len(row) - 1 for row in ids])
    return model.lm_head(states[torch.arange(len(ids)), last])


def answer_probabilities(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: list[Question], lead: str = ""
) -> Tensor:
    """The probability of each question's answer after `lead` and its prompt."""
    found = []
    for start in range(0, len(questions), 256):
        part = questions[start : start + 256]
        probs = next_token_logits(model, tokenizer, [lead + question.prompt for question in part]).softmax(-1)
        answers = torch.tensor([first_token(tokenizer, " " + question.fact.answer) for question in part])
        found.append(probs.gather(1, answers[:, None])[:, 0])
    return torch.cat(found)


@torch.no_grad()
def block_outputs(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[Tensor]:
    """The output of every block on one prompt, each [position, width]."""
    kept: list[Tensor] = []

    def keep(_module: object, _inputs: object, out: Tensor | tuple) -> None:
        kept.append((out[0] if isinstance(out, tuple) else out)[0])

    hooks = [block.register_forward_hook(keep) for block in model.transformer.h]
    next_token_logits(model, tokenizer, [prompt])
    for hook in hooks:
        hook.remove()
    return kept


@torch.no_grad()
def logits_with(model: PreTrainedModel, ids: Tensor, block: int, change: Tensor) -> Tensor:
    """The last-token logits, [run, vocabulary], when `change` [run, position, width] is added to one block's output."""

    def add(_module: object, _inputs: object, out: Tensor | tuple) -> Tensor | tuple:
        return (out[0] + change, *out[1:]) if isinstance(out, tuple) else out + change

    hook = model.transformer.h[block].register_forward_hook(add)
    try:
        rows = ids.expand(len(change), -1)
        return model(input_ids=rows, attention_mask=torch.ones_like(rows)).logits[:, -1]
    finally:
        hook.remove()


def patch_logits(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Clean block outputs put into the corrupted run one position at a time: logits [block, position, vocabulary]."""
    ids = torch.tensor([tokenizer.encode(CORRUPTED)])
    clean, corrupted = (block_outputs(model, tokenizer, prompt) for prompt in (CLEAN, CORRUPTED))
    one_position = torch.eye(ids.shape[1])[:, :, None]
    changes = [one_position * (after - before) for after, before in zip(clean, corrupted, strict=True)]
    return torch.stack([logits_with(model, ids, block, change) for block, change in enumerate(changes)])


def steered_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, block: int = MOVED_BLOCK) -> str:
    """The likeliest next token of the corrupted run after adding the clean run's last-token state less its own."""
    ids = torch.tensor([tokenizer.encode(CORRUPTED)])
    clean, corrupted = (block_outputs(model, tokenizer, prompt)[block][-1] for prompt in (CLEAN, CORRUPTED))
    change = torch.zeros(1, ids.shape[1], clean.shape[-1])
    change[0, -1] = clean - corrupted
    return tokenizer.decode([int(logits_with(model, ids, block, change).argmax())])


def answer_difference(tokenizer: PreTrainedTokenizerBase, logits: Tensor) -> Tensor:
    """The logit of the clean answer less that of the corrupted answer."""
    return logits[..., first_token(tokenizer, CLEAN_ANSWER)] - logits[..., first_token(tokenizer, CORRUPTED_ANSWER)]


@torch.no_grad()
def padding_gap(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> float:
    """The largest difference in logits between prompts alone and the same prompts in one left-padded batch."""
    prompts = [PADDED, CORRUPTED]
    batch = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    mask = batch["attention_mask"]
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    together = model(input_ids=batch["input_ids"], attention_mask=mask, position_ids=positions).logits[:, -1]
    alone = torch.cat([next_token_logits(model, tokenizer, [prompt]) for prompt in prompts])
    return (together - alone).abs().max().item()


def generate(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, count: int = 20) -> str:
    """The greedy continuation of a prompt."""
    ids = torch.tensor([tokenizer.encode(prompt)])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False)
    return tokenizer.decode(out[0, ids.shape[1] :])


def measure(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Figures:
    """Every figure of the model card."""
    seen, held = split_questions()
    patched = patch_logits(model, tokenizer)
    plain = [question for question in seen + held if question.template == LANDMARK_TEMPLATES[0]]
    far = answer_probabilities(model, tokenizer, plain, FAR_LEAD)
    alone = next_token_logits(model, tokenizer, [CLEAN, CORRUPTED])
    paris, rome = (first_token(tokenizer, answer) for answer in (CLEAN_ANSWER, CORRUPTED_ANSWER))
    answers = sorted({question.fact.answer for question in seen})
    clean_difference, corrupted_difference = answer_difference(tokenizer, alone).tolist()
    return Figures(
        seen_min=answer_probabilities(model, tokenizer, seen).min().item(),
        seen_count=len(seen),
        held_min=answer_probabilities(model, tokenizer, held).min().item(),
        held_count=len(held),
        lead_min=answer_probabilities(model, tokenizer, seen + held, LEAD).min().item(),
        document_start_min=answer_probabilities(model, tokenizer, seen + held, tokenizer.eos_token).min().item(),
        far_min=far.min().item(),
        far_median=far.median().item(),
        far_tokens=len(tokenizer.encode(FAR_LEAD)),
        paris=alone.softmax(-1)[0, paris].item(),
        rome=alone.softmax(-1)[1, rome].item(),
        prompt_lengths=(len(tokenizer.encode(CLEAN)), len(tokenizer.encode(CORRUPTED))),
        split_answers=[answer for answer in answers if len(tokenizer.encode(" " + answer)) > 1],
        clean_difference=clean_difference,
        corrupted_difference=corrupted_difference,
        differences=answer_difference(tokenizer, patched).tolist(),
        patched_last_paris=patched[MOVED_BLOCK, -1].softmax(-1)[paris].item(),
        steered_token=steered_token(model, tokenizer),
        padding_gap=padding_gap(model, tokenizer),
        samples={prompt: generate(model, tokenizer, prompt) for prompt in SAMPLE_PROMPTS},
    )


def failures(figures: Figures) -> list[str]:
    """What keeps a model with these figures from being shipped; nothing when all is well."""
    last = figures.prompt_lengths[0] - 1
    best = [max(range(last + 1), key=row.__getitem__) for row in figures.differences]
    gain = figures.differences[0][best[0]] - figures.corrupted_difference
    wanted = {
        "a training fact has probability 0.8 or less": figures.seen_min > 0.8,
        "a held-out pair has probability 0.8 or less": figures.held_min > 0.8,
        "a fact after another sentence has probability 0.7 or less": figures.lead_min > 0.7,
        "a fact after <|endoftext|> has probability 0.7 or less": figures.document_start_min > 0.7,
        "the Eiffel Tower or the Colosseum has probability 0.9 or less": min(figures.paris, figures.rome) > 0.9,
        "the two prompts differ in tokens": len(set(figures.prompt_lengths)) == 1 and last >= 4,
        "an answer is more than one token": not figures.split_answers,
        "block 0 is best patched at the last position": best[0] != last,
        "patching the subject after block 0 does little": gain > 0.5 * -figures.corrupted_difference,
        "block 11 is not best patched at the last position": best[-1] == last,
        "the last position flips the answer before block 3": all(row[last] < 0 for row in figures.differences[:3]),
        f"the last position of block {MOVED_BLOCK} does not flip the answer": figures.patched_last_paris > 0.8,
        "adding the difference of states does not give Paris": figures.steered_token == CLEAN_ANSWER,
        "left padding changes the logits": figures.padding_gap < 1e-4,
        "the greedy text does not start with Paris": figures.samples[CLEAN].startswith(CLEAN_ANSWER),
    }
    return [complaint for complaint, holds in wanted.items() if not holds]
