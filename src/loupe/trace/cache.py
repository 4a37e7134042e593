"""Hold what the cache of a block has collected: outputs and inputs of many modules, by the modules' names."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from loupe.errors import BlockError, Line, LoupeError, NotReachedError, UnknownModuleError, nearest
from loupe.ops.views import block_output, logits

Collected = Mapping[str, Mapping[int, Mapping[str, Any]]]


class CachedCall:
    """What passed in one call of a module."""

    def __init__(self, path: str, values: Mapping[str, Any], view: str | None) -> None:
        self._path = path
        self._values = values
        self._view = view

    @property
    def output(self) -> Any:
        """What the module returned; `[0]` of a decoder block's is its hidden states `[batch, seq, hidden]`."""
        value = self._get("output", "include_output")
        if self._view == "logits":
            return logits(value)
        return block_output(value) if self._view == "hidden_states" else value

    @property
    def input(self) -> Any:
        """The first argument."""
        return self._get("input", "include_inputs")

    @property
    def inputs(self) -> Any:
        """All arguments, `(args, kwargs)`."""
        return self._get("inputs", "include_inputs")

    def _get(self, name: str, option: str) -> Any:
        if name not in self._values:
            raise NotReachedError(
                f"the cache holds no {name} of {self._path or 'the model'}",
                remedy=f"collect it with tracer.cache({option}=True), at a call that comes to its end",
            )
        value = self._values[name]
        if isinstance(value, LoupeError):
            raise value
        return value

    def __repr__(self) -> str:
        return f"<cached {', '.join(self._values)} of {self._path or 'the model'}>"


class CachedModule(CachedCall):
    """What passed at one module: the first collected call's values as attributes, every call by its number.

    In a generation the calls are its steps: `cache["transformer.h.3"][2].output` is that of step 2. A negative number
    counts from the last call that was collected.
    """

    def __init__(self, path: str, calls: Mapping[int, Mapping[str, Any]], view: str | None) -> None:
        numbers = sorted(calls)
        super().__init__(path, calls[numbers[0]], view)
        self._calls = {number: CachedCall(path, calls[number], view) for number in numbers}

    def __getitem__(self, call: int) -> CachedCall:
        numbers = list(self._calls)
        if call not in self._calls and not -len(numbers) <= call < 0:
            raise NotReachedError(
                f"the cache holds no call {call} of {self._path or 'the model'}",
                remedy=f"it holds {', '.join(map(str, numbers[:12]))}{', …' if len(numbers) > 12 else ''}",
            )
        return self._calls[call if call >= 0 else numbers[call]]

    def __len__(self) -> int:
        return len(self._calls)

    def __iter__(self) -> Iterator[CachedCall]:
        return iter(self._calls.values())


class Cache(Mapping[str, CachedModule]):
    """The activations of many modules, by path; filled when its block ends.

    >>> with model.trace("The Eiffel Tower is in") as tracer:
    ...     cache = tracer.cache()
    >>> cache["transformer.h.3.mlp"].output.shape
    torch.Size([1, 5, 96])

    A mapping from the paths of the modules that ran, in the order in which they did. Paths may also be walked:
    `cache.transformer.h[3].mlp.output`; the model itself has the path ''. It can be pickled, and stored with
    `torch.save`. In a session, reading it lets a block that waits run. Raises NotReachedError for a module that did not
    run, and UnknownModuleError for one that was not asked for.
    """

    def __init__(
        self,
        line: Line,
        asked: Collection[str],
        path_of: Callable[[str], str],
        view: Callable[[str], str | None],
        settle: Callable[[], None],
    ) -> None:
        self._line: Line | None = line
        self._asked = asked
        self._path_of = path_of
        self._view = view
        self._settle = settle
        self._collected: Collected | None = None

    def fill(self, collected: Collected) -> None:
        """Take what a run has collected."""
        self._collected = collected

    def _found(self) -> Collected:
        if self._collected is None:
            self._settle()
        if self._collected is None:
            raise BlockError(
                "this cache is filled when its block has run, if that ends without an error",
                remedy="read it after the block; in the block, name the module: module.output",
                line=self._line,
            )
        return self._collected

    def _walk(self, path: str) -> CachedPart:
        """A step of a path on the way to a module that was collected."""
        found, real = self._found(), self._path_of(path)
        if real not in found and not any(each.startswith(f"{real}.") for each in found):
            raise self._unknown(path, real)
        return CachedPart(self, path)

    def _unknown(self, path: str, real: str) -> LoupeError:
        if real in self._asked:
            return NotReachedError(
                f"{path or 'the model'} did not run in this pass, so the cache holds nothing of it",
                remedy=f"name a module that ran: {nearest(real, list(self._found()))}",
                line=self._line,
            )
        return UnknownModuleError(
            f"the cache holds nothing of {path or 'the model'!r}",
            remedy=nearest(real, list(self._found())),
            line=self._line,
        )

    def __getitem__(self, path: str) -> CachedModule:
        found, real = self._found(), self._path_of(path)
        if real not in found:
            raise self._unknown(path, real)
        return CachedModule(real, found[real], self._view(real))

    def get(self, path: str, default: Any = None) -> Any:
        """What was collected of a module, or the default."""
        try:
            return self[path]
        except (UnknownModuleError, NotReachedError):
            return default

    def __contains__(self, path: object) -> bool:
        return isinstance(path, str) and self._path_of(path) in self._found()

    def __iter__(self) -> Iterator[str]:
        return iter(self._found())

    def __len__(self) -> int:
        return len(self._found())

    def __getattr__(self, name: str) -> CachedPart:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._walk(name)

    def __getstate__(self) -> dict[str, Any]:
        return {"collected": self._found(), "views": {path: self._view(path) for path in self._found()}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(
            _line=None, _asked=(), _path_of=str, _view=state["views"].get, _collected=state["collected"]
        )

    def __repr__(self) -> str:
        if self._collected is None:
            return "<cache, filled when its block has run>"
        shown = [path or "the model" for path in list(self)[:4]]
        return f"<cache of {len(self)} modules: {', '.join(shown)}{', …' if len(self) > 4 else ''}>"


class CachedPart:
    """A path into a cache, on the way to one of its modules: `cache.transformer.h[3]`."""

    def __init__(self, cache: Cache, path: str) -> None:
        self._cache = cache
        self._path = path

    def __getattr__(self, name: str) -> Any:
        if name in ("output", "input", "inputs"):
            return getattr(self._cache[self._path], name)
        if name.startswith("_"):
            raise AttributeError(name)
        return self._cache._walk(f"{self._path}.{name}")

    def __getitem__(self, place: int | str) -> Any:
        try:
            return self._cache._walk(f"{self._path}.{place}")
        except (UnknownModuleError, NotReachedError):
            if type(place) is not int or self._path not in self._cache:
                raise
            return self._cache[self._path][place]

    def __repr__(self) -> str:
        return repr(self._cache[self._path]) if self._path in self._cache else f"<cache at {self._path}>"
