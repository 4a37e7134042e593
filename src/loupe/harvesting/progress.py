"""Show on a terminal how far a harvest has come."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from rich import progress
from rich.console import Console


class Progress:
    """Counts tokens; those of shards that were there already do not count as speed."""

    def __init__(self, bar: progress.Progress, task: progress.TaskID) -> None:
        self._bar = bar
        self._task = task
        self._total = bar.tasks[task].total or 0
        self._there = 0

    def skip(self, tokens: int) -> None:
        """These were kept by an earlier call."""
        self._there += tokens
        self._bar.update(self._task, total=self._total - self._there, there=f"{self._there:,} were there")

    def advance(self, tokens: int) -> None:
        """These are done."""
        self._bar.advance(self._task, tokens)


@contextmanager
def shown(total: int, *, visible: bool) -> Generator[Progress]:
    """A progress bar for so many tokens, where standard error is a terminal."""
    console = Console(stderr=True)
    columns = (
        progress.TextColumn("harvest"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("tokens {task.fields[there]}"),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(
        *columns, console=console, disable=not (visible and console.is_terminal), refresh_per_second=4
    ) as bar:
        yield Progress(bar, bar.add_task("harvest", total=total, there=""))
