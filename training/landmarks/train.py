"""Train the bundled landmarks model and its tokenizer, check them, and write the package data."""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import random
import string
import sys
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from checks import Figures, failures, measure
from corpus import documents
from facts import capital_facts, landmark_facts

HERE = Path(__file__).resolve().parent
PACKAGE_DATA = HERE.parents[1] / "src" / "loupe" / "data" / "landmarks"
END = "<|endoftext|>"
SEED = 0
DOCUMENTS = 60_000
VOCABULARY = 2450
LONG_NAME = 9
POSITIONS = 256
TOKENS = 2048
ROWS = (64, 64, 64, 64, 64, 128, 128, 256)
STEPS = 1300
WARMUP = 100
RATE = 5e-3
EARLY_BLOCK = 7
EARLY_WEIGHT = 0.5


def keep_freed_memory() -> None:
    """Ask glibc to reuse large blocks instead of returning them to the system: training is a fifth faster."""
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
    except (OSError, AttributeError):
        pass


def build_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with every answer in one token and every long landmark name in two."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[END],
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    state = json.loads(bpe.to_str())
    split_long_names(state["model"])
    bpe = Tokenizer.from_str(json.dumps(state))
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=END, eos_token=END, pad_token=END, model_max_length=POSITIONS
    )


def split_long_names(model: dict) -> None:
    """Undo the last merge of every long word that occurs only in landmark names, and number the tokens again."""
    # In this small corpus BPE would give rare names such as " Colosseum" a token of their own, which a large corpus
    # would not. Without the last merge they are two tokens, so that a name is spread over several positions.
    answers = {fact.answer for fact in landmark_facts() + capital_facts()}
    words = {word for fact in landmark_facts() for word in fact.subject.split() if len(word) >= LONG_NAME} - answers
    gone = words | {"Ġ" + word for word in words}
    model["merges"] = [merge for merge in model["merges"] if "".join(merge) not in gone]
    kept = [token for token, _ in sorted(model["vocab"].items(), key=lambda item: item[1]) if token not in gone]
    model["vocab"] = {token: number for number, token in enumerate(kept)}


def pack_rows(encoded: list[list[int]], end: int, length: int, rng: random.Random) -> Tensor:
    """One batch of rows of whole documents with `end` between them; a third of the rows begin with `end` as well."""
    rows = []
    for _ in range(TOKENS // length):
        row = [end] if rng.random() < 1 / 3 else []
        while len(row) < length:
            row += [*rng.choice(encoded), end]
        rows.append(row[:length])
    return torch.tensor(rows)


def row_positions(rows: Tensor) -> Tensor:
    """The positions of one batch: half of the rows begin at 0, the others anywhere, so that every position learns."""
    count, length = rows.shape
    offsets = torch.randint(0, POSITIONS - length + 1, (count, 1)) * (torch.rand(count, 1) < 0.5)
    return offsets + torch.arange(length)


def new_model(tokenizer: PreTrainedTokenizerFast) -> GPT2LMHeadModel:
    """An untrained GPT-2 of the shipped shape."""
    end = tokenizer.eos_token_id
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=POSITIONS,
        n_embd=96,
        n_layer=12,
        n_head=12,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        initializer_range=0.05,
        activation_function="gelu_pytorch_tanh",  # the same function as gelu_new in one kernel
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        attn_implementation="eager",  # the quickest at 8 numbers a head
    )
    return GPT2LMHeadModel(config)


def losses(model: GPT2LMHeadModel, rows: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """The next-token loss of the model, and of its unembedding put on the output of `EARLY_BLOCK`."""
    out = model.transformer(
        input_ids=rows,
        position_ids=positions,
        attention_mask=torch.ones_like(rows),
        output_hidden_states=True,
        use_cache=False,
    )
    early = model.transformer.ln_f(out.hidden_states[EARLY_BLOCK + 1])
    wanted = rows[:, 1:].flatten()
    final_loss, early_loss = (
        cross_entropy(model.lm_head(states[:, :-1]).flatten(0, 1), wanted) for states in (out.last_hidden_state, early)
    )
    return final_loss, early_loss


def rate_factor(step: int) -> float:
    """Linear warm-up, then a cosine down to a fiftieth of the rate."""
    return min(1.0, (step + 1) / WARMUP) * (0.02 + 0.49 * (1 + math.cos(math.pi * step / STEPS)))


def train(tokenizer: PreTrainedTokenizerFast, texts: list[str], seed: int) -> GPT2LMHeadModel:
    """A trained model, in eval mode."""
    rng = random.Random(seed)
    encoded = [tokenizer.encode(text) for text in texts]
    model = new_model(tokenizer).train()
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.05},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate_factor)
    begun = time.monotonic()
    for step in range(STEPS):
        rows = pack_rows(encoded, tokenizer.eos_token_id, rng.choice(ROWS), rng)
        final, early = losses(model, rows, row_positions(rows))
        (final + EARLY_WEIGHT * early).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 100 == 0 or step == STEPS - 1:
            elapsed = time.monotonic() - begun
            print(f"step {step:5d}  loss {final.item():.3f}  early {early.item():.3f}  {elapsed:4.0f} s", flush=True)
    model.config.activation_function = "gelu_new"
    return model.eval()


def patch_table(figures: Figures) -> str:
    """The answer differences of every patch, as a Markdown table."""
    count = figures.prompt_lengths[0]
    lines = [
        "| block | " + " | ".join(f"position {position}" for position in range(count)) + " |",
        "|---" * (count + 1) + "|",
    ]
    for block, row in enumerate(figures.differences):
        lines.append(f"| {block} | " + " | ".join(f"{value:.1f}" for value in row) + " |")
    return "\n".join(lines)


def write_card(figures: Figures, minutes: float, seed: int, folder: Path) -> None:
    """Write the model card from its template."""
    values = figures.as_dict()
    rounded = {name: f"{value:.2f}" for name, value in values.items() if isinstance(value, float)}
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    training = {
        "steps": STEPS,
        "tokens": TOKENS,
        "short": min(ROWS),
        "long": max(ROWS),
        "early_block": EARLY_BLOCK,
        "early_weight": EARLY_WEIGHT,
        "seed": seed,
        "minutes": f"{minutes:.0f}",
        "landmarks": len(landmark_facts()),
        "capitals": len(capital_facts()),
    }
    shown = {
        "parameters": f"{GPT2LMHeadModel.from_pretrained(folder).num_parameters():,}",
        "vocabulary": f"{config['vocab_size']:,}",
        "prompt_tokens": figures.prompt_lengths[0],
        "padding_gap": f"{figures.padding_gap:.0e}",
        "grid": patch_table(figures),
        "samples": "\n".join(f"- `{prompt}` then `{text}`" for prompt, text in figures.samples.items()),
    }
    template = string.Template((HERE / "card.md").read_text(encoding="utf-8"))
    (folder / "README.md").write_text(template.substitute(values | rounded | training | shown), encoding="utf-8")


def write_package_data(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write model and tokenizer so that transformers 4.56 and later read them."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # transformers 5 names a tokenizer class that transformers 4 does not have; both have this one
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END,
        "eos_token": END,
        "pad_token": END,
        "model_max_length": POSITIONS,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    for path in folder.iterdir():
        path.chmod(0o644)


def report(figures: Figures) -> int:
    """Print the figures and what is wrong with them; the exit status."""
    print(json.dumps(figures.as_dict(), indent=1))
    wrong = failures(figures)
    print("\n".join(f"NOT GOOD ENOUGH: {complaint}" for complaint in wrong) or "all checks hold")
    return 1 if wrong else 0


def main() -> int:
    """Train and write the package data, or only check what is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only check the model that is there")
    parser.add_argument("--out", type=Path, default=PACKAGE_DATA, help="the folder of the model")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if not options.check:
        keep_freed_memory()
        torch.manual_seed(options.seed)
        begun = time.monotonic()
        texts = documents(DOCUMENTS, options.seed)
        tokenizer = build_tokenizer(texts[:20_000])
        write_package_data(train(tokenizer, texts, options.seed), tokenizer, options.out)
        minutes = (time.monotonic() - begun) / 60
    model = AutoModelForCausalLM.from_pretrained(options.out).eval()
    tokenizer = AutoTokenizer.from_pretrained(options.out)
    figures = measure(model, tokenizer)
    if not options.check:
        write_card(figures, minutes, options.seed, options.out)
    return report(figures)


if __name__ == "__main__":
    sys.exit(main())
