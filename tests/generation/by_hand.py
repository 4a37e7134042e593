"""Run the library's own generation with plain hooks, and keep what passed at every step."""

import torch

from loupe import LanguageModel
from tests import tiny

IDS = torch.tensor([[5, 9, 2, 7]])
OPTIONS = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
FAMILY = "llama"  # gives another token at each step, so that an end of text can be chosen
BLOCK = "model.layers.1"


def wrapped() -> LanguageModel:
    return LanguageModel(tiny.hf_model(FAMILY), tokenizer=tiny.tokenizer())


def generated(path=BLOCK, ids=IDS, change=None, **options):
    """What `generate` gives, and copies of what the module at `path` returns at each step.

    `change(step, output)` gives what the model goes on with.
    """
    hf, seen = tiny.hf_model(FAMILY), []

    def hook(output):
        new = output if change is None else change(len(seen), output)
        seen.append(new.clone())
        return new

    with tiny.hooked(hf, {path: hook}):
        return hf.generate(ids, **{**OPTIONS, **options}), seen


def end_of_text(steps: int) -> dict[str, int]:
    """The option with which the generation from IDS ends after so many steps."""
    ids, _ = generated()
    new = ids[0, IDS.shape[1] :].tolist()
    assert len(set(new)) == len(new)
    return {"eos_token_id": new[steps - 1]}


def same(found, want) -> None:
    """Two lists of tensors are equal, one by one."""
    assert len(found) == len(want)
    for one, other in zip(found, want, strict=True):
        torch.testing.assert_close(one.value if hasattr(one, "value") else one, other)
