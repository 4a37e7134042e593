"""Take down the torch modes in which a line stands (gradients tracked or not, autocast), and set them again."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager

import torch

from loupe.graph.node import Modes

_DEVICES = ("cpu", "cuda", "mps", "xpu")


def current_modes() -> Modes:
    """The modes of this thread, now."""
    autocast: tuple[tuple[str, str], ...] = ()
    if torch._C._is_any_autocast_enabled():
        autocast = tuple(
            (kind, str(torch.get_autocast_dtype(kind)).removeprefix("torch."))
            for kind in _DEVICES
            if torch.is_autocast_enabled(kind)
        )
    return Modes(torch.is_grad_enabled(), autocast)


@contextmanager
def in_modes(modes: Modes) -> Generator[None]:
    """Set modes for a while."""
    wanted = dict(modes.autocast)
    with ExitStack() as stack:
        stack.enter_context(torch.set_grad_enabled(modes.grad))
        for kind in _DEVICES:
            if kind in wanted:
                stack.enter_context(torch.autocast(kind, dtype=getattr(torch, wanted[kind])))
            elif torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield
