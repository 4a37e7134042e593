"""Print what a graph saves by itself, and what long runs cost: `python benchmarks/savings.py [--quick]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script finds its neighbours under their package's name

from benchmarks.harvest import Harvests, HarvestsSmall
from benchmarks.long_gpt2 import LongContext, LongGeneration, LongGenerationSmall
from benchmarks.run import machine, plain_table, row
from benchmarks.saving_work import Memory, SavedWork, SavedWorkSmall, memory_of
from benchmarks.suite import Scenario, Suite, check
from benchmarks.timing import compare

HEADER = ("scenario", "beside us", "loupe us", "added us", "CPU ratio (quartiles)", "wall ratio (quartiles)")
TIMED: tuple[type[Suite], ...] = (
    SavedWork,
    SavedWorkSmall,
    LongContext,
    LongGeneration,
    LongGenerationSmall,
    Harvests,
    HarvestsSmall,
)
QUICK_ROUNDS = 2


def checked_scenarios(suite: Suite) -> list[Scenario]:
    """The scenarios of a suite, each once both ways gave the same result; a harvest has checked its own."""
    scenarios = suite.scenarios()
    for scenario in scenarios if not isinstance(suite, Harvests) else ():
        check(suite, scenario)
    return [*scenarios, suite.against_bare()] if isinstance(suite, LongGeneration) else scenarios


def memory_rows(found: list[Memory]) -> list[tuple[str, ...]]:
    """What is there at once at most, beside the first, which keeps nothing."""
    bare, *others = found
    rows = [("memory of tensors", "peak KiB", "over the bare pass", "kept KiB")]
    rows.append((bare.name, f"{bare.peak / 1024:.0f}", "", ""))
    rows += [
        (each.name, f"{each.peak / 1024:.0f}", f"{(each.peak - bare.peak) / 1024:.0f}", f"{each.kept / 1024:.0f}")
        for each in others
    ]
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Check every scenario, time it, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few rounds only: shows that everything runs")
    parser.add_argument("--only", metavar="NAME", help="the suites whose class has this in its name")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print(*machine(), sep="\n")
    for kind in TIMED:
        if options.only and options.only.lower() not in kind.__name__.lower():
            continue
        suite = kind()
        rows = [HEADER]
        for scenario in checked_scenarios(suite):
            rounds = QUICK_ROUNDS if options.quick else suite.rounds
            rows.append(row(scenario.name, compare(scenario.hooks, scenario.loupe, rounds=rounds, calls=1)))
        print(f"\n{suite.name}\n{plain_table(rows)}", flush=True)
        if isinstance(suite, SavedWork):
            print(f"\n{plain_table(memory_rows(memory_of(suite)))}", flush=True)


if __name__ == "__main__":
    main()
