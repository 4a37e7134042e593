"""Print what a graph saves, and what long runs cost: `python benchmarks/savings.py [--quick] [--markdown FILE]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script finds its neighbours under their package's name

from benchmarks.harvest import Harvests, HarvestsSmall
from benchmarks.long_gpt2 import LongContext, LongGeneration, LongGenerationSmall
from benchmarks.page import Page, Row, machine
from benchmarks.run import row
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
PAGE_HEAD = """# Savings

What a graph makes cheaper by itself, and what long runs cost, as `make bench` measured it last. Each line says what
stands beside loupe; both first gave the same results, but for a steered generation beside one that is not. A ratio of 1
is no cost; below 1, loupe is the faster one.
"""


def checked_scenarios(suite: Suite) -> list[Scenario]:
    """The scenarios of a suite, each once both ways gave the same result; a harvest has checked its own."""
    scenarios = suite.scenarios()
    for scenario in scenarios if not isinstance(suite, Harvests) else ():
        check(suite, scenario)
    return [*scenarios, suite.against_bare()] if isinstance(suite, LongGeneration) else scenarios


def memory_rows(found: list[Memory]) -> list[Row]:
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
    parser.add_argument("--markdown", metavar="FILE", help="write the tables to this file too")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    page = Page(PAGE_HEAD, machine())
    for kind in TIMED:
        if options.only and options.only.lower() not in kind.__name__.lower():
            continue
        suite = kind()
        rows = [HEADER]
        for scenario in checked_scenarios(suite):
            rounds = QUICK_ROUNDS if options.quick else suite.rounds
            (found,) = compare(scenario.hooks, scenario.loupe, rounds=rounds, calls=1)
            rows.append(row(scenario.name, found))
        page.add(suite.name, rows)
        if isinstance(suite, SavedWork):
            page.add("", memory_rows(memory_of(suite)))
    page.write(options.markdown)


if __name__ == "__main__":
    main()
