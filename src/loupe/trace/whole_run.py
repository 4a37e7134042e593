"""Record what is about the run of a block as a whole: where it stops, what caches collect, that it is a generation."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from loupe.errors import BlockError
from loupe.graph.node import RESULT, Site, Steps
from loupe.trace.backward import without_autograd
from loupe.trace.cache import Cache
from loupe.trace.kept import named_twice
from loupe.trace.source import user_line

if TYPE_CHECKING:
    from loupe.trace.proxy import Proxy
    from loupe.trace.recorder import Recorder


def stop(recorder: Recorder) -> None:
    """Record that the pass ends once all above is done; in a generation, where its step has begun."""
    step = recorder.scope.step
    if recorder.generates and (recorder.scope.steps is not None or step is not None) and not _names_step(recorder):
        recorder.read(recorder.scope.at_step(Site("", "input")))
    kwargs = {} if step is None else {"step": step}
    recorder.append("stop", None, (), kwargs, line=user_line(sys._getframe(2)))


def _names_step(recorder: Recorder) -> bool:
    """Whether a line above is about the step, or the steps, at which the block stands."""
    sites = [
        node.site
        for node in recorder.graph
        if node.kind in ("read", "write") and node.steps == recorder.scope.steps and node.gradient_of is None
    ]
    step = recorder.scope.step or 0
    return any(not step or site.call >= step * recorder.execution.calls_each(site.path) for site in sites)


def open_cache(recorder: Recorder, modules: Any, options: dict[str, Any], name: str | None = None) -> Cache:
    """Record that what passes at these modules is collected."""
    line = user_line(sys._getframe(2))
    if not options["outputs"] and not options["inputs"]:
        raise BlockError(
            "a cache without outputs and inputs collects nothing",
            remedy="leave include_output as it is, or ask for include_inputs=True",
            line=line,
        )
    if name is None:
        name = f"cache{len(recorder.graph.nodes)}"
    elif recorder.kept.has(name):
        raise named_twice(name, line)
    paths = recorder.owner.paths_of(modules)
    recorder.append("cache", name, (paths,), options, line=line)
    step = recorder.scope.step
    if step is not None:
        recorder.graph.nodes[-1].steps = Steps(0, step, step + 1)
    cache = recorder.kept.caches[name] = Cache(
        line, paths, recorder.owner.real_path, lambda path: recorder.owner.view(Site(path, "output")), recorder.settle
    )
    return cache


def generate(recorder: Recorder, options: dict[str, Any]) -> Proxy:
    """Turn the run into a generation with these options; its result is the generation's."""
    line = user_line(sys._getframe(2))
    if recorder.generates:
        raise BlockError(
            "the run of this block is a generation already",
            remedy="give all options to the first generate(...); its ids are tracer.result",
            line=line,
        )
    if recorder.scope.counted:
        raise BlockError(
            "the run becomes a generation after its steps were counted",
            remedy="put generate(...) above `for step in tracer.iter[...]`, or give the loop an end",
            line=line,
        )
    if recorder.graph.backwards:
        raise without_autograd(line)
    begin_generation(recorder, options)
    return recorder.read(Site(RESULT, "output"))


def begin_generation(recorder: Recorder, options: dict[str, Any]) -> None:
    """The run is a generation."""
    recorder.execution.generate(options)
    recorder.generates = True
    recorder.graph.generation = {name: recorder.encode(value) for name, value in options.items()}
