"""Print what loupe costs beside hooks written by hand: `python benchmarks/run.py [--quick] [--markdown FILE]`."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from pathlib import Path

import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script finds its neighbours under their package's name

from benchmarks.linear_stack import LinearStack
from benchmarks.recording import OperationCosts, measure
from benchmarks.small_gpt2 import SmallGPT2, SmallGPT2Long
from benchmarks.storing import StorageCosts, measure_storage
from benchmarks.suite import Suite, check
from benchmarks.sweeps import SweepSmallGPT2, SweepTinyGPT2, SweepTinyLlama
from benchmarks.timing import Comparison, compare, nothing_to_wait_for
from benchmarks.tiny_gpt2 import TinyGPT2

SUITES: tuple[type[Suite], ...] = (
    LinearStack,
    TinyGPT2,
    SmallGPT2,
    SmallGPT2Long,
    SweepTinyGPT2,
    SweepTinyLlama,
    SweepSmallGPT2,
)
HEADER = ("scenario", "hooks us", "loupe us", "added us", "CPU ratio (quartiles)", "wall ratio (quartiles)")
QUICK_ROUNDS = 5
PAGE_HEAD = """# Benchmarks

What loupe costs beside hooks written by hand for the same work, as `make bench` measured it last: each scenario
first gave the same results both ways, then both were timed in turn, in one process. A ratio of 1 is no cost; below 1,
loupe is the faster one.
"""


def machine() -> list[str]:
    """What the numbers were measured with."""
    return [
        f"machine: {processor()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        f"python {platform.python_version()}, torch {torch.__version__} ({torch.get_num_threads()} thread), "
        f"transformers {transformers.__version__}",
        "time is CPU time unless it says wall; one process, hooks and loupe in turn, no garbage collection while timed",
    ]


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown processor"


def checked(suite: Suite, device: str) -> Suite:
    """The suite on a device, once each of its scenarios gave the same results both ways."""
    if device != "cpu":
        suite.move(device)
        suite.tolerance = max(suite.tolerance, 1e-3)
    for scenario in suite.scenarios():
        check(suite, scenario)
    return suite


def row(name: str, found: Comparison) -> tuple[str, ...]:
    """One line of the table of a suite."""
    hooks, loupe = found.hooks.median, found.loupe.median
    return (
        name,
        f"{hooks:.0f}",
        f"{loupe:.0f}",
        f"{loupe - hooks:.0f}",
        found.cpu_ratio.text(),
        found.wall_ratio.text(),
    )


def cost_rows(costs: OperationCosts) -> list[tuple[str, ...]]:
    """What one recorded operation costs, one line a phase."""
    return [
        ("recording alone", costs.record.text()),
        (f"planning alone, per node of {costs.nodes}", costs.plan.text()),
        ("recording, planning and running", costs.everything.text()),
        ("the same additions without loupe", costs.by_hand.text()),
    ]


def storage_rows(costs: StorageCosts) -> list[tuple[str, ...]]:
    """What it costs to keep a graph in a file, one line a phase."""
    return [
        ("save", costs.save.text(0)),
        ("load", costs.load.text(0)),
        ("hash", costs.hash.text(0)),
    ]


def plain_table(rows: list[tuple[str, ...]]) -> str:
    """Columns lined up with blanks: names to the left, numbers to the right."""
    first, *others = [max(len(each[place]) for each in rows) for place in range(len(rows[0]))]
    lines = []
    for name, *numbers in rows:
        cells = [number.rjust(width) for number, width in zip(numbers, others, strict=True)]
        lines.append("  ".join([name.ljust(first), *cells]))
    return "\n".join(lines)


def markdown_table(rows: list[tuple[str, ...]]) -> str:
    """The same rows for a Markdown page."""
    head, *body = rows
    rule = ("---", *("---:" for _ in head[1:]))
    return "\n".join(f"| {' | '.join(each)} |" for each in (head, rule, *body))


def main(arguments: list[str] | None = None) -> None:
    """Check every scenario, time it, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="a few rounds only: shows that everything runs, not how fast"
    )
    parser.add_argument("--only", metavar="TEXT", default="", help="the models in whose names this text stands")
    parser.add_argument("--device", default="cpu", help="where the models are: cpu, or cuda where there is one")
    parser.add_argument("--markdown", metavar="FILE", help="write the tables to this file too")
    options = parser.parse_args(arguments)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device here: nothing was measured")
    wait = torch.cuda.synchronize if options.device.startswith("cuda") else nothing_to_wait_for
    torch.set_num_threads(1)
    page = [PAGE_HEAD, *(f"- {line}" for line in machine())]
    print(*machine(), sep="\n")
    for suite in (checked(kind(), options.device) for kind in SUITES if options.only in kind.name):
        rows = [HEADER]
        for scenario in suite.scenarios():
            rounds = QUICK_ROUNDS if options.quick else suite.rounds
            found = compare(scenario.hooks, scenario.loupe, rounds=rounds, calls=suite.calls, wait=wait)
            rows.append(row(scenario.name, found))
        print(f"\n{suite.name}\n{plain_table(rows)}", flush=True)
        page.append(f"\n## {suite.name}\n\n{markdown_table(rows)}")
    costs = measure(operations=100 if options.quick else 2000, rounds=QUICK_ROUNDS if options.quick else 15)
    rows = [(f"one operation of {costs.operations} in a block", "CPU us (quartiles)"), *cost_rows(costs)]
    print(f"\n{plain_table(rows)}")
    page.append(f"\n## One recorded operation\n\n{markdown_table(rows)}")
    stored = measure_storage(operations=100 if options.quick else 10_000, rounds=QUICK_ROUNDS)
    head = (f"graph save and load: {stored.nodes} nodes, {stored.size / 1e6:.1f} MB", "CPU ms (quartiles)")
    rows = [head, *storage_rows(stored)]
    print(f"\n{plain_table(rows)}")
    page.append(f"\n## A graph as a file\n\n{markdown_table(rows)}")
    if options.markdown:
        Path(options.markdown).write_text("\n".join(page) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
