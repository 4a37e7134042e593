"""Ask a host about the graph of a plan, once for as long as the plan is kept."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

from torch import nn

from loupe.graph.node import RESULT, Event, Node
from loupe.runtime.host import Host
from loupe.runtime.plan import Plan

_NOTHING_TO_SET: AbstractContextManager[None] = nullcontext()


def settings_key(host: Host, plan: Plan) -> str:
    """Names what a run of the plan sets on the model."""
    answers = plan.answers
    if answers.settings_key is None:
        answers.settings_key = host.settings_key(plan.graph)
    return answers.settings_key


def settings(host: Host, plan: Plan, model: nn.Module) -> AbstractContextManager[None]:
    """What a run of the plan sets on the model."""
    if plan.answers.sets_nothing:
        return _NOTHING_TO_SET
    found = host.settings(plan.graph, model)
    plan.answers.sets_nothing = type(found) is nullcontext
    return found


def stand_ins(host: Host, plan: Plan, nodes: Iterable[Node]) -> dict[Event, Event]:
    """The moments at which what these nodes name may pass instead."""
    known = plan.answers.stand_ins
    if known is None:
        sites = dict.fromkeys(n.site for n in nodes if n.kind in ("read", "write") and n.gradient_of is None)
        others = [(s.event, host.stand_in(s)) for s in sites if s.path != RESULT]
        known = plan.answers.stand_ins = {event: other.event for event, other in others if other is not None}
    return known
