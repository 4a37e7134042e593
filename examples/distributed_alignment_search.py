"""Find the few directions in which the bundled model carries a city: learn a rotation that swaps it between prompts.

The method is distributed alignment search: Geiger et al., "Finding Alignments Between Interpretable Causal Variables
and Distributed Neural Representations" (2023). A rotation of the hidden states is learned, and nothing else. In the
rotated basis the first coordinates are taken from a run on another prompt (an interchange intervention), and the model
is to answer with the city of that other prompt.
"""

from __future__ import annotations

import random
import time

import torch
from torch import nn
from torch.nn.utils.parametrizations import orthogonal

from loupe import LanguageModel

CITIES = {
    "Amsterdam": ("The Rijksmuseum", "The Van Gogh Museum"),
    "Barcelona": ("The Sagrada Familia", "Camp Nou"),
    "Beijing": ("The Forbidden City", "The Summer Palace"),
    "Berlin": ("The Brandenburg Gate", "The Reichstag", "Checkpoint Charlie"),
    "Chicago": ("The Willis Tower", "Wrigley Field", "Millennium Park"),
    "Istanbul": ("Hagia Sophia", "The Blue Mosque", "The Galata Tower"),
    "London": ("Big Ben", "Tower Bridge", "Buckingham Palace", "Hyde Park"),
    "Moscow": ("Red Square", "The Kremlin", "The Bolshoi Theatre"),
    "Paris": ("The Louvre", "Notre Dame", "The Arc de Triomphe", "The Eiffel Tower"),
    "Prague": ("Charles Bridge", "The Dancing House"),
    "Rio": ("Sugarloaf Mountain", "Copacabana Beach"),
    "Rome": ("The Trevi Fountain", "The Pantheon", "The Spanish Steps", "The Colosseum"),
    "Sydney": ("The Opera House", "The Harbour Bridge", "Bondi Beach"),
    "Tokyo": ("The Skytree", "The Meiji Shrine", "Shibuya Crossing"),
    "Vienna": ("Schonbrunn Palace", "The Hofburg", "The Prater"),
}
BLOCK = 7  # the output of this block at the last token: by then the model has moved the city there
SIZE = 16  # directions that are swapped, of 96
Pair = tuple[str, str]


class Interchange(nn.Module):
    """Exchanges the first coordinates of a learned orthogonal basis."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.rotation = orthogonal(nn.Linear(width, width, bias=False))
        self.size = size

    def forward(self, base: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """States `[rows, width]` of `base`, with what `source` has in the subspace."""
        basis = self.rotation.weight[: self.size]
        return base + (source - base) @ basis.T @ basis


def split_landmarks() -> tuple[list[str], list[str]]:
    """The landmarks to learn from, and those held out: the last of each city."""
    learned = [name for names in CITIES.values() for name in names[:-1]]
    return learned, [names[-1] for names in CITIES.values()]


def pairs_of(landmarks: list[str]) -> list[Pair]:
    """Every base and source that are in different cities."""
    return [(base, source) for base in landmarks for source in landmarks if city_of(base) != city_of(source)]


def city_of(landmark: str) -> str:
    """Where a landmark is."""
    return next(city for city, names in CITIES.items() if landmark in names)


def interchange_accuracy(model: LanguageModel, interchange: Interchange, pairs: list[Pair]) -> float:
    """How often the model answers a base prompt with the city of the source."""
    with torch.no_grad():
        logits = swapped_logits(model, interchange, pairs)
    return float((logits.argmax(-1) == answers_of(model, pairs)).float().mean())


def swapped_logits(model: LanguageModel, interchange: Interchange, pairs: list[Pair]) -> torch.Tensor:
    """Logits `[pairs, vocab]` at the last token of the base prompts, with the states of the sources swapped in."""
    block = model.transformer.h[BLOCK]
    with model.trace() as tracer:
        with tracer.invoke([f"{source} is in" for _, source in pairs]):
            source = block.output[0][:, -1]
        with tracer.invoke([f"{base} is in" for base, _ in pairs]):
            block.output[0][:, -1] = interchange(block.output[0][:, -1], source)
            logits = model.output[:, -1].save()
    return logits


def answers_of(model: LanguageModel, pairs: list[Pair]) -> torch.Tensor:
    """The tokens of the sources' cities."""
    return torch.tensor([model.tokenizer.encode(f" {city_of(source)}")[0] for _, source in pairs])


def train(model: LanguageModel, interchange: Interchange, pairs: list[Pair], steps: int = 60, rows: int = 32) -> None:
    """Learn the rotation from random pairs."""
    optimizer = torch.optim.Adam(interchange.parameters(), lr=0.01)
    choose = random.Random(0)
    for _ in range(steps):
        batch = choose.sample(pairs, rows)
        loss = nn.functional.cross_entropy(swapped_logits(model, interchange, batch), answers_of(model, batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def main() -> None:
    """Print the interchange accuracy on landmarks that were held out, before and after training."""
    started = time.perf_counter()
    torch.manual_seed(0)
    torch.set_num_threads(1)  # a model this small is slower on several
    model = LanguageModel("loupe/landmarks", dispatch=True)
    model.requires_grad_(False)
    interchange = Interchange(96, SIZE)
    learned, held_out = (pairs_of(landmarks) for landmarks in split_landmarks())

    before = interchange_accuracy(model, interchange, held_out)
    train(model, interchange, learned)
    after = interchange_accuracy(model, interchange, held_out)
    print(f"{SIZE} of 96 directions at the output of block {BLOCK}, last token; {len(held_out)} held-out pairs")
    print(f"interchange accuracy: {before:.2f} with a random rotation, {after:.2f} with the learned one")

    pair = ("The Eiffel Tower", "The Colosseum")
    answer = model.tokenizer.decode(swapped_logits(model, interchange, [pair]).argmax(-1))
    print(f"'{pair[0]} is in' with the city of '{pair[1]}': {answer!r}")
    print(f"{time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    main()
