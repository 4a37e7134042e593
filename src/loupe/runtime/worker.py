"""Pause a function in the middle: it goes on in one worker thread, strictly alternating with its caller."""

from __future__ import annotations

import _thread
import contextvars
import os
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import torch


class Cancelled(BaseException):
    """Raised inside a paused function that nobody will resume; no model code catches it."""


class _Worker:
    """A thread that does one job after the other, and waits in between.

    A new thread has to make anew what torch, MKL and the allocator keep for each; one that waits has it.
    """

    def __init__(self) -> None:
        self._wake = _thread.allocate_lock()
        self._wake.acquire()
        self._job: Callable[[_Worker], None] | None = None
        # `threading.Thread` waits until the thread has begun, which is one switch there and back more
        _thread.start_new_thread(self._work, ())

    def do(self, job: Callable[[_Worker], None]) -> None:
        """Do a job as soon as the last one is done."""
        self._job = job
        self._wake.release()

    def _work(self) -> None:
        torch.get_num_threads()  # MKL would build its team of threads here before torch has set how many: slow for good
        while True:
            self._wake.acquire()
            job, self._job = self._job, None
            assert job is not None
            job(self)
            del job


_idle: list[_Worker] = []


def _worker() -> _Worker:
    """A thread that waits, or a new one."""
    try:
        return _idle.pop()
    except IndexError:
        _forget_in_forks()
        return _Worker()


@cache
def _forget_in_forks() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_idle.clear)  # threads stay behind


class PausedCall:
    """A call that can pause itself and be resumed: `body` gets this object and calls `pause()`.

    Grad mode, autocast, default device, CUDA stream and context variables of the creating thread hold in the worker
    thread too.
    """

    def __init__(self, body: Callable[[PausedCall], None]) -> None:
        self._go = _thread.allocate_lock()
        self._back = _thread.allocate_lock()
        self._ended = _thread.allocate_lock()
        self._go.acquire()
        self._back.acquire()
        self._ended.acquire()
        self._cancelled = False
        self.error: BaseException | None = None
        self.finished = False
        restore = _torch_state()
        context = contextvars.copy_context()
        _worker().do(lambda worker: context.run(self._run, body, restore, worker))

    def resume(self) -> None:
        """Let the call go on until it pauses, ends or fails; an interrupt here cancels it."""
        try:
            self._go.release()
            self._back.acquire()
        except BaseException:
            self.cancel()
            raise
        if self.error is not None:
            error, self.error = self.error, None
            raise error

    def pause(self) -> None:
        """Called by the body: give the turn back, and wait for it."""
        self._back.release()
        self._go.acquire()
        self.check()

    def check(self) -> None:
        """Called by the body wherever it can end: raises Cancelled once the caller has given up."""
        if self._cancelled:
            raise Cancelled

    def cancel(self) -> None:
        """End the call from outside, and wait until it has cleaned up after itself."""
        self._cancelled = True
        if self._go.locked():
            self._go.release()
        with self._ended:
            self.error = None

    def _run(self, body: Callable[[PausedCall], None], restore: Callable[[], Any], worker: _Worker) -> None:
        self._go.acquire()
        try:
            with restore():
                self.check()
                body(self)
        except Cancelled:
            pass
        except BaseException as error:
            self.error = error
        finally:
            self.finished = True
            _idle.append(worker)
            self._ended.release()
            if self._back.locked():
                self._back.release()


def _torch_state() -> Callable[[], Any]:
    """Take down what torch keeps per thread; the result sets it in another one."""
    grad = torch.is_grad_enabled()
    inference = torch.is_inference_mode_enabled()
    autocast = [(kind, torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
    device = torch.get_default_device()
    stream = torch.cuda.current_stream() if torch.cuda.is_initialized() else None

    @contextmanager
    def restored() -> Generator[None]:
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(inference))
            stack.enter_context(torch.set_grad_enabled(grad))
            for kind, dtype in autocast:
                stack.enter_context(torch.autocast(kind, dtype=dtype))
            if device.type != "cpu":
                stack.enter_context(device)
            if stream is not None:
                stack.enter_context(torch.cuda.stream(stream))
            yield

    return restored
