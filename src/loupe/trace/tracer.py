"""Open and close blocks: `with model.trace(...) as tracer`, and the invokes inside."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

import torch

from loupe.errors import BlockError
from loupe.graph.graph import Graph
from loupe.graph.node import RESULT, Site, Steps
from loupe.trace.cache import Cache
from loupe.trace.mount import mount, unmount
from loupe.trace.proxy import Proxy
from loupe.trace.recorder import Recorder
from loupe.trace.source import user_line
from loupe.trace.steps import Iter, StepWise
from loupe.trace.whole_run import begin_generation, open_cache, stop


class Tracer:
    """A block. Its body runs once, at once, in the user's frame; the model runs when it ends.

    >>> with model.trace("The Eiffel Tower is in") as tracer:
    ...     logits = model.output.save()
    >>> print(tracer.graph)
    """

    def __init__(
        self,
        recorder: Recorder,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        generation: dict[str, Any] | None = None,
    ) -> None:
        self._recorder = recorder
        self._args = args
        self._kwargs = kwargs
        self._generation = generation

    @property
    def graph(self) -> Graph:
        """The graph that the block has written so far."""
        return self._recorder.with_origin()

    def invoke(self, *args: Any, **kwargs: Any) -> Invoke:
        """One prompt (or batch) of several that run in one pass; takes what `trace` takes, and sees its own rows only.

        >>> with model.trace() as tracer:
        ...     with tracer.invoke("The cat sat on the"):
        ...         cat = model.transformer.h[6].output[0]
        ...     with tracer.invoke("The dog ran through the"):
        ...         model.transformer.h[6].output[0][:] = cat
        ...         logits = model.output.save()

        Without arguments it sees the whole batch. Raises BlockError where the trace has an input of its own.
        """
        if (args or kwargs) and (self._args or self._kwargs):
            raise BlockError(
                "this trace has an input already, so an invoke cannot add one",
                remedy="open the block with model.trace() and give every prompt to an invoke",
                line=user_line(sys._getframe(1)),
            )
        return Invoke(self._recorder, args, kwargs)

    @property
    def iter(self) -> Iter:
        """Steps of a generation: `with tracer.iter[2:5]:` for each of them, `for step in tracer.iter[:5]:` by turns."""
        return Iter(self._recorder)

    def all(self) -> StepWise:
        """Every step of a generation: `with tracer.all():`."""
        return StepWise(self._recorder, Steps(0, 0, None))

    @property
    def result(self) -> Proxy:
        """What the run returns as a whole: token ids `[batch, seq]` of a generation, the model's output of a trace."""
        return self._recorder.read(Site(RESULT, "output"))

    def stop(self) -> None:
        """End the pass here: once every line above is done, the rest of the model does not run.

        >>> with model.trace("Hello") as tracer:
        ...     early = model.transformer.h[3].output[0].save()
        ...     tracer.stop()

        A pass that has nothing left to do ends by itself; a stop also ends one in which nothing is saved, and a
        generation: at a step of `tracer.iter`, in a loop too, once that step has begun and the lines above are done as
        far as they are about steps until then. A line below that names a later module raises NotReachedError.
        """
        stop(self._recorder)

    def cache(
        self,
        modules: Any = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        detach: bool = True,
        include_output: bool = True,
        include_inputs: bool = False,
        name: str | None = None,
    ) -> Cache:
        """Collect what passes at many modules: all of them, or those of a path, a pattern, a class, a list of these.

        >>> with model.trace("The Eiffel Tower is in") as tracer:
        ...     cache = tracer.cache(modules=["transformer.h.*.mlp", model.lm_head], dtype=torch.float16)
        >>> cache["transformer.h.3.mlp"].output.shape
        torch.Size([1, 5, 96])

        Values are as the model goes on with them, after the block's own writes; in an invoke those of its rows; in a
        generation those of each step, `cache[path][step]`. They are moved to `device` (each at once) and, where they
        are floating-point numbers, to `dtype`; `detach=False` keeps them in the autograd graph. Inside
        `with tracer.iter[2:5]:` only these steps are collected. Where nothing else is wanted the pass stops with the
        last of them. `name` is its key in a graph's results. Raises UnknownModuleError for a name that no module has.
        """
        options = {
            "device": None if device is None else str(device),
            "dtype": dtype,
            "detach": detach,
            "outputs": include_output,
            "inputs": include_inputs,
        }
        return open_cache(self._recorder, modules, options, name)

    def barrier(self, count: int) -> Barrier:
        """Accepted for programs that need one elsewhere: values cross invokes without it."""
        return Barrier(count)

    def collect_parameter_gradients(self, wanted: bool) -> None:
        """Whether backward passes, of the block and after it, also collect `.grad` on the model's own weights."""
        self._recorder.parameter_gradients = wanted
        if wanted:
            self._recorder.execution.collect_weights()

    def __enter__(self) -> Tracer:
        self._recorder.begin()
        mount()
        if self._args or self._kwargs or self._generation is not None:
            try:
                if self._generation is not None:
                    begin_generation(self._recorder, self._generation)
                if self._args or self._kwargs:
                    self._recorder.add_input(self._args, self._kwargs, self._recorder.line)
            except BaseException:
                self._close(failed=True)
                raise
        self._recorder.watch()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        recorder = self._recorder
        if kind is not None:
            self._close(failed=True)
            return
        try:
            recorder.save_containers()
            recorder.end()
            outcome = recorder.execution.finish() if recorder.session is None else None
        except BaseException:
            self._close(failed=True)
            raise
        self._close(failed=False)
        if outcome is None:
            assert recorder.session is not None
            recorder.session.add(recorder)
            return
        recorder.kept.fill(outcome.results)
        if outcome.error is not None:
            raise outcome.error

    def _close(self, *, failed: bool) -> None:
        if failed:
            self._recorder.end()
        unmount()
        if failed:
            self._recorder.failed = True
            self._recorder.execution.abandon()


class Invoke:
    """One prompt's part of a block."""

    def __init__(self, recorder: Recorder, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._recorder = recorder
        self._args = args
        self._kwargs = kwargs

    def __enter__(self) -> Invoke:
        recorder = self._recorder
        line = user_line(sys._getframe(1))
        if not recorder.open:
            raise BlockError(
                "an invoke stands outside its block", remedy="put it inside `with model.trace() as tracer:`", line=line
            )
        if recorder.scope.in_invoke:
            raise BlockError("an invoke stands inside another", remedy="put invokes one after the other", line=line)
        recorder.begin_invoke(self._args, self._kwargs, line)
        return self

    def __exit__(self, *error: object) -> None:
        self._recorder.scope.leave_invoke()


class Barrier:
    """Does nothing when called: the schedule knows which value needs which."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __call__(self) -> None:
        """Pass."""
