"""Compare the torch modes of a line with those in which its block was opened."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from loupe.graph.node import Modes
from loupe.ops.modes import current_modes, in_modes


class BlockModes:
    """The torch modes in which a block was opened: those in which its model runs."""

    def __init__(self) -> None:
        self.opened = Modes(True)

    def open(self) -> None:
        """The block is opened here."""
        self.opened = current_modes()

    def of_line(self) -> Modes | None:
        """The modes in which a line stands; None where they are those of its block."""
        opened = self.opened
        if torch.is_grad_enabled() is opened.grad and not opened.autocast and not torch._C._is_any_autocast_enabled():
            return None
        modes = current_modes()
        return None if modes == opened else modes

    def as_opened(self) -> AbstractContextManager[None]:
        """The modes of the block, wherever a line stands."""
        return nullcontext() if self.of_line() is None else in_modes(self.opened)
