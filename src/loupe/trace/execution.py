"""Say what a recorder needs of the side that runs graphs; the model's front door brings the two together."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from typing import Any, Protocol

import torch

from loupe.errors import Line, LoupeError
from loupe.graph.graph import Origin
from loupe.graph.node import Site


class Outcome(Protocol):
    """What a run gives back."""

    @property
    def results(self) -> dict[str, Any]:
        """The saved values by name."""
        ...

    @property
    def error(self) -> LoupeError | None:
        """What kept a value from being reached."""
        ...


class Owner(Protocol):
    """The model that a block is open on, as far as recording asks about it."""

    def paths_of(self, modules: Any) -> tuple[str, ...]:
        """The paths of modules that a user names: by path, pattern, alias, envoy, class, or several of these."""
        ...

    def real_path(self, path: str) -> str:
        """A path with the model's own names in place of aliases."""
        ...

    def origin(self, modules: Collection[str]) -> Origin:
        """What a graph that names these modules says about its model."""
        ...

    def view(self, site: Site) -> str | None:
        """How the value at a site is to be seen: "logits", "hidden_states", or None."""
        ...


class Execution(Protocol):
    """Runs the graph of one block: piece by piece while it is being written, and to its end."""

    @property
    def describes(self) -> bool:
        """Whether values can be described before they are there; they cannot where there is no input."""
        ...

    def begun(self) -> bool:
        """Whether a pass stands still, and keeps the model, until the run goes on."""
        ...

    def add_input(self, args: tuple[Any, ...], kwargs: dict[str, Any], line: Line) -> int:
        """Take one prompt (or batch) into the run; returns its number."""
        ...

    def peek(self, node: int) -> Any:
        """The real value of a node, now: the run proceeds to the point where it is known."""
        ...

    def describe(self, node: int) -> Any:
        """The value of a node as tensors without data (shape and dtype), or a peek where that cannot be known."""
        ...

    def collect_weights(self) -> None:
        """Let the model's own weights collect gradients, in backward passes after the block too."""
        ...

    def generate(self, options: dict[str, Any]) -> None:
        """Turn the run into a generation with these options."""
        ...

    def steps(self) -> int:
        """The most steps that the run can have."""
        ...

    def calls_each(self, path: str) -> int:
        """How often one step of a generation calls a module."""
        ...

    def is_tensor(self, site: Site) -> bool:
        """Whether the value at a site is a tensor; true where that is not known."""
        ...

    def device(self, node: int) -> torch.device:
        """Where the value of a node will be."""
        ...

    def operations(self, path: str, call: int) -> list[Any]:
        """The torch operations of one call of a module, in order."""
        ...

    def finish(self) -> Outcome:
        """Run the graph to its end."""
        ...

    def kind(self) -> Hashable:
        """What this run has to have in common with others to be run with them; None where it has to run alone."""
        ...

    def together(self, runs: Sequence[Any], most: int | None) -> tuple[Sequence[Outcome | None], str | None]:
        """What runs of one kind give when they are run as batches of at most so many rows.

        None stands for a run that has to be done alone; the text says why.
        """
        ...

    def abandon(self) -> None:
        """End a run that was begun, and leave the model clean."""
        ...
