"""Pair each thing that a block does with hooks that do the same, and hold the two against each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from loupe.trace.proxy import isinstance_proxy


class Stop(Exception):
    """What a hook raises to end a forward pass."""


class Unequal(Exception):
    """The two ways of a scenario do not give the same result, so their times say nothing."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One thing to do, by hand and with loupe; both return what they read."""

    name: str
    hooks: Callable[[], Any]
    loupe: Callable[[], Any]


class Suite:
    """A model, its wrapper, and for each scenario a method `hooks_…` and a method `loupe_…`."""

    name: str
    rounds: int
    calls: int
    module: nn.Module
    tolerance = 0.0  # by which results may differ; equal bit by bit where it is 0

    def move(self, device: str) -> None:
        """Bring the model and what it is given to a device."""
        self.module.to(device)
        for name, value in vars(self).items():
            if isinstance(value, torch.Tensor):
                setattr(self, name, value.to(device))

    def scenarios(self) -> list[Scenario]:
        """The scenarios in the order in which they are printed; those that the model has no use for are left out."""
        return [
            Scenario(title, getattr(self, f"hooks_{method}"), getattr(self, f"loupe_{method}"))
            for method, title in TITLES.items()
            if method in self.methods()
        ]

    @classmethod
    def methods(cls) -> list[str]:
        """The names in `TITLES` for which this suite has both ways."""
        return [method for method in TITLES if f"hooks_{method}" in dir(cls) and f"loupe_{method}" in dir(cls)]


TITLES = {
    "idle": "idle: a call outside any block",
    "empty": "empty block",
    "one_save": "one save",
    "twelve_saves": "twelve saves",
    "zero": "zero a layer, save the output",
    "patch": "patch a layer, save the output",
    "early_stop": "read layer 3 of 12 and stop",
    "peek": "a peek in the middle",
    "peek_each": "a peek in each of 12 layers",
    "cross_prompt": "from one prompt into another",
    "cache_all": "cache the outputs of all modules",
    "gradient": "gradient of a hidden state",
    "loss": "loss backward, gradients of all weights",
    "generate": "generate 5 tokens and steer each",
    "sweep": "patch 12 layers by 10 positions, in a session",
    "sweep_gradients": "gradients of 12 layers, in a session",
}


def check(suite: Suite, scenario: Scenario) -> None:
    """Run a scenario both ways; raises Unequal where a bit of what they read differs.

    Where nothing is read, what the model returned is compared.

    >>> for scenario in suite.scenarios():
    ...     check(suite, scenario)
    """
    hold(suite, scenario, "loupe", scenario.loupe, suite.module)


def hold(suite: Suite, scenario: Scenario, who: str, way: Callable[[], Any], module: nn.Module) -> None:
    """Hold another way of a scenario, on a module of its own, against the hooks; raises Unequal as `check` does.

    >>> hold(suite, scenario, "nnsight", ways.nnsight_patch, ways.module)
    """
    with returned_by(suite.module) as by_hand:
        want = scenario.hooks()
    with returned_by(module) as returned:
        found = way()
    if not same(want, found, suite.tolerance):
        raise Unequal(f"{suite.name}, {scenario.name}: {who} and hooks read different values")
    if want is None and not same(by_hand, returned, suite.tolerance):
        raise Unequal(f"{suite.name}, {scenario.name}: the model returned different values")


@contextmanager
def returned_by(module: nn.Module) -> Iterator[list[Any]]:
    """Watch what a module returns, beside whatever else is attached to it."""
    seen: list[Any] = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    try:
        yield seen
    finally:
        handle.remove()


def same(one: Any, other: Any, tolerance: float = 0.0) -> bool:
    """Whether two results have equal tensors in the same places; a saved value counts as what it holds.

    They are equal bit by bit, or within a tolerance.
    """
    one, other = plain(one), plain(other)
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other) or bool(tolerance and torch.allclose(one, other, rtol=0, atol=tolerance))
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(same(a, b, tolerance) for a, b in zip(one, other, strict=True))
    return type(one) is type(other) and bool(one == other)


def plain(value: Any) -> Any:
    """The bare object behind a saved value, and the logits of a language model's output."""
    value = value.value if isinstance_proxy(value) else value
    return value.logits if hasattr(value, "logits") and not isinstance(value, torch.Tensor) else value
