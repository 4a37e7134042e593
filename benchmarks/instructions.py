"""Count the instructions of recording, of a tap and of an empty block: `python benchmarks/instructions.py`.

A busy machine changes times, and not these. They are those of one version of Python and of torch.
"""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script finds its neighbours under their package's name

from benchmarks.callgrind import Counter, Mark, between, counted, missing

FEW, MANY = 2, 12
WARM = 15  # runs in which Python learns what it is given, before any is counted
TIMES = 4


def figures() -> dict[str, int]:
    """The instructions of each part of a block, counted in a process of its own; raises CountFailed.

    >>> figures()["an operation: recording"]
    """
    found = {name: total / TIMES for name, total in counted(__file__).items()}

    def each(part: str) -> float:
        return (found[f"{part} {MANY}"] - found[f"{part} {FEW}"]) / (MANY - FEW)

    layer = found["the model"] / MANY  # a block that saves more layers runs further
    exact = {
        "an empty block, beside the model": found["an empty block"] - found["the model"],
        "an operation: recording": each("record operations"),
        "an operation: planning and running": each("run operations"),
        "a saved site: recording": each("record saves"),
        "a saved site: planning, tap and saving": each("run saves") - layer,
        "a written site: recording": each("record writes"),
        "a written site: planning and tap": each("run writes"),
    }
    return {name: round(number) for name, number in exact.items()}


def recording(block: Callable[[int, Mark], None], length: int) -> Callable[[Mark], None]:
    """A run that has a block's lines between its marks."""

    def run(mark: Mark) -> None:
        mark()
        block(length, mark)

    return run


def running(block: Callable[[int, Mark], None], length: int) -> Callable[[Mark], None]:
    """A run that has what happens at a block's end between its marks."""

    def run(mark: Mark) -> None:
        block(length, mark)
        mark()

    return run


def count_all(counter: Counter) -> None:
    """Count each part of blocks of two lengths, whose difference is that of one line more."""
    import torch  # not in the process that only starts valgrind

    from benchmarks.linear_stack import LinearStack
    from benchmarks.timing import no_garbage_collection

    torch.set_num_threads(1)
    suite = LinearStack()

    def operations(length: int, mark: Mark) -> None:
        with suite.model.trace(suite.x):
            value = suite.model[0].output
            for _ in range(length):
                value = value + 1
            value.save()
            mark()

    def saves(length: int, mark: Mark) -> None:
        with suite.model.trace(suite.x):
            for layer in range(length):
                suite.model[layer].output.save()
            mark()

    def writes(length: int, mark: Mark) -> None:
        with suite.model.trace(suite.x):
            for layer in range(length):
                suite.model[layer].output = suite.stored
            mark()

    runs = {"the model": between(suite.hooks_empty), "an empty block": between(suite.loupe_empty)}
    for block in (operations, saves, writes):
        for length in (FEW, MANY):
            runs[f"record {block.__name__} {length}"] = recording(block, length)
            runs[f"run {block.__name__} {length}"] = running(block, length)
    with no_garbage_collection():
        for run in runs.values():
            for _ in range(WARM):
                run(lambda: None)
        counter.start()
        for name, run in runs.items():
            counter.count(name, run, TIMES)


def main() -> None:
    """Print what was counted, as the lines of `COUNTED` in `tests/benchmarks/test_instructions.py`."""
    if reason := missing():
        raise SystemExit(f"{reason}: nothing was counted")
    counter = Counter()
    if counter.counts():
        count_all(counter)
        return
    valgrind = subprocess.run(["valgrind", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    print(f"# instructions, with Python {platform.python_version()}, torch {version('torch')} and {valgrind}")
    for name, number in figures().items():
        print(f'    "{name}": {number:_},')


if __name__ == "__main__":
    main()
