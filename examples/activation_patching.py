"""Find where the bundled model keeps a fact: patch every layer and position between two prompts, and draw what it does.

The method is activation patching (causal tracing):
Meng et al., "Locating and Editing Factual Associations in GPT" (2022).
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

import loupe
from loupe import LanguageModel
from loupe.plots.heatmap import heatmap

CLEAN, CORRUPTED = "The Eiffel Tower is in", "The Colosseum is in"


def main(picture: str = "patching.png") -> None:
    """Print what the model predicts with and without a patch, and write the patch's graph and the heat map."""
    started = time.perf_counter()
    torch.set_num_threads(1)  # a model this small is slower on several
    model = LanguageModel("loupe/landmarks")
    paris, rome = model.tokenizer.encode(" Paris")[0], model.tokenizer.encode(" Rome")[0]
    blocks = model.transformer.h

    with model.trace(CLEAN):
        clean = [block.output[0].save() for block in blocks]
        clean_logits = model.output.save()
    with model.trace(CORRUPTED):
        corrupted_logits = model.output.save()
    with model.trace(CORRUPTED) as tracer:
        blocks[8].output[0][:] = clean[8]
        patched_logits = model.output.save("logits")
    file = Path(picture).with_suffix(".loupe")
    tracer.graph.save(file)
    from_file = model.run(loupe.load(file), CORRUPTED)["logits"]

    print("A block, as the graph that it was recorded to:\n")
    print(tracer.graph, "\n")
    for name, logits in (
        (CLEAN, clean_logits),
        (CORRUPTED, corrupted_logits),
        (f"{CORRUPTED}, block 8 patched", patched_logits),
        (f"{CORRUPTED}, the graph from {file.name}", from_file),
    ):
        print(f"{name!r:52} -> {top_predictions(model, logits)}")

    tokens = model.tokenizer.encode(CORRUPTED)
    difference = torch.zeros(len(blocks), len(tokens))
    for layer, block in enumerate(blocks):
        for position in range(len(tokens)):
            with model.trace(CORRUPTED):
                block.output[0][:, position] = clean[layer][:, position]
                logits = model.output.save()
            difference[layer, position] = logits[0, -1, paris] - logits[0, -1, rome]

    pairs = zip(model.tokenizer.encode(CLEAN), tokens, strict=True)
    names = [[model.tokenizer.decode([token]) for token in pair] for pair in pairs]
    heatmap(
        difference,
        columns=[old if old == new else f"{old}→{new}" for new, old in names],
        title=f"Patching one state of “{CLEAN}”\ninto “{CORRUPTED}”",
        quantity="logit of “Paris” − logit of “Rome”",
        column_title="patched position (corrupted → clean token)",
        row_title="patched block",
        file=picture,
    )
    seconds = time.perf_counter() - started
    print(f"\n{difference.numel()} patched runs in {seconds:.1f} s; the heat map is in {picture}")


def top_predictions(model: LanguageModel, logits: torch.Tensor, count: int = 3) -> str:
    """The likeliest next tokens with their probabilities."""
    best = torch.softmax(logits[0, -1], dim=-1).topk(count)
    pairs = zip(best.indices, best.values, strict=True)
    return ", ".join(f"{model.tokenizer.decode([int(token)])!r} {float(p):.3f}" for token, p in pairs)


if __name__ == "__main__":
    main(*sys.argv[1:])
