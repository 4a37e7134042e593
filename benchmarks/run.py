"""Print what loupe costs beside hooks written by hand: `python benchmarks/run.py [--quick] [--markdown FILE]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script finds its neighbours under their package's name

from benchmarks.linear_stack import LinearStack
from benchmarks.page import Page, Row, machine
from benchmarks.peers import Columns, Peer, cells, installed
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
PEERS_HEAD = """
The columns of {names} are of the same work in the same rounds; their ratios too are to the hooks. A cell says "-" for
what there is no way to do, "raises" where the way fails, and "differs" where the results are not the hooks'.
"""


def checked(suite: Suite, device: str) -> Suite:
    """The suite on a device, once each of its scenarios gave the same results both ways."""
    if device != "cpu":
        suite.move(device)
        suite.tolerance = max(suite.tolerance, 1e-3)
    for scenario in suite.scenarios():
        check(suite, scenario)
    return suite


def row(name: str, found: Comparison) -> Row:
    """One line of the table of a suite."""
    hooks, loupe = found.hooks.median, found.other.median
    return (
        name,
        f"{hooks:.0f}",
        f"{loupe:.0f}",
        f"{loupe - hooks:.0f}",
        found.cpu_ratio.text(),
        found.wall_ratio.text(),
    )


def table(
    suite: Suite, peers: Sequence[Peer], rounds: int, wait: Callable[[], None] = nothing_to_wait_for
) -> tuple[list[Row], list[str]]:
    """The rows of a suite with the columns of its peers, and the peers' remarks."""
    columns = [Columns(peer, suite) for peer in peers]
    rows = [(*HEADER, *(name for each in columns for name in each.header))]
    for scenario in suite.scenarios():
        calls = [each.call(scenario) for each in columns]
        timed = [call for call in calls if callable(call)]
        found, *others = compare(scenario.hooks, scenario.loupe, *timed, rounds=rounds, calls=suite.calls, wait=wait)
        rows.append((*row(scenario.name, found), *cells(calls, others)))
    return rows, [remark for each in columns for remark in each.remarks]


def cost_rows(costs: OperationCosts) -> list[Row]:
    """What one recorded operation costs, one line a phase."""
    return [
        ("recording alone", costs.record.text()),
        (f"planning alone, per node of {costs.nodes}", costs.plan.text()),
        ("recording, planning and running", costs.everything.text()),
        ("the same additions without loupe", costs.by_hand.text()),
    ]


def storage_rows(costs: StorageCosts) -> list[Row]:
    """What it costs to keep a graph in a file, one line a phase."""
    return [
        ("save", costs.save.text(0)),
        ("load", costs.load.text(0)),
        ("hash", costs.hash.text(0)),
    ]


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
    peers = installed()
    torch.set_num_threads(1)
    head = PAGE_HEAD + PEERS_HEAD.format(names=" and ".join(peer.name for peer in peers)) if peers else PAGE_HEAD
    page = Page(head, [*machine(), *(f"beside them: {peer.name} {peer.version}" for peer in peers)])
    for suite in (checked(kind(), options.device) for kind in SUITES if options.only in kind.name):
        rows, remarks = table(suite, peers, QUICK_ROUNDS if options.quick else suite.rounds, wait)
        page.add(suite.name, rows, remarks)
    costs = measure(operations=100 if options.quick else 2000, rounds=QUICK_ROUNDS if options.quick else 15)
    head = (f"one operation of {costs.operations} in a block", "CPU us (quartiles)")
    page.add("One recorded operation", [head, *cost_rows(costs)])
    stored = measure_storage(operations=100 if options.quick else 10_000, rounds=QUICK_ROUNDS)
    head = (f"graph save and load: {stored.nodes} nodes, {stored.size / 1e6:.1f} MB", "CPU ms (quartiles)")
    page.add("A graph as a file", [head, *storage_rows(stored)])
    page.write(options.markdown)


if __name__ == "__main__":
    main()
