"""Measure what one recorded operation costs: its recording alone, its planning, and all of it with the run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.linear_stack import LinearStack
from benchmarks.timing import Spread, no_garbage_collection
from loupe.graph.graph import Graph
from loupe.runtime.plan import make_plan


class LeaveBlock(Exception):
    """Ends a block without a run."""


@dataclass(frozen=True, slots=True)
class OperationCosts:
    """CPU microseconds for one operation among `operations`, and for one node of the `nodes` that are planned."""

    operations: int
    nodes: int
    record: Spread
    plan: Spread
    everything: Spread
    by_hand: Spread


def measure(*, operations: int, rounds: int) -> OperationCosts:
    """Record a chain of additions on one proxy; a block without them is subtracted from the block that runs."""
    suite = LinearStack()
    graph = recorded_graph(suite, operations)
    record, plan, everything, by_hand = [], [], [], []
    with no_garbage_collection():
        for _ in range(rounds):
            record.append(record_only(suite, operations) / operations)
            plan.append(_cpu(lambda: make_plan(graph)) / len(graph))
            with_them = _cpu(lambda: block_of(suite, operations))
            everything.append((with_them - _cpu(lambda: block_of(suite, 0))) / operations)
            by_hand.append(_cpu(lambda: _additions(suite.stored, operations)) / operations)
    spreads = [Spread.of(samples) for samples in (record, plan, everything, by_hand)]
    return OperationCosts(operations, len(graph), *spreads)


def _cpu(call: Callable[[], Any]) -> float:
    started = time.process_time()
    call()
    return (time.process_time() - started) * 1e6


def block_of(suite: LinearStack, operations: int) -> Any:
    """A block with a chain of additions on a layer's output; returns the saved end of it."""
    with suite.model.trace(suite.x):
        value = suite.model[0].output
        for _ in range(operations):
            value = value + 1
        saved = value.save()
    return saved


def record_only(suite: LinearStack, operations: int) -> float:
    """Microseconds of recording the chain in a block that is left before it runs."""
    spent = 0.0
    try:
        with suite.model.trace(suite.x):
            value = suite.model[0].output
            started = time.process_time()
            for _ in range(operations):
                value = value + 1
            spent = time.process_time() - started
            raise LeaveBlock
    except LeaveBlock:
        return spent * 1e6


def recorded_graph(suite: LinearStack, operations: int) -> Graph:
    """The graph of such a block."""
    with suite.model.trace(suite.x) as tracer:
        value = suite.model[0].output
        for _ in range(operations):
            value = value + 1
        value.save()
    return tracer.graph


def _additions(value: torch.Tensor, operations: int) -> torch.Tensor:
    with torch.no_grad():
        for _ in range(operations):
            value = value + 1
    return value
