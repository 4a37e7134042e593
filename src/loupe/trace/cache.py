"""Hold what the cache of a block has collected: outputs and inputs of many modules, by the modules' names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from loupe.errors import BlockError, Line, NotReachedError, UnknownModuleError, nearest
from loupe.ops.views import block_output, logits

Collected = Mapping[str, Sequence[Mapping[str, Any]]]


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
        return self._values[name]

    def __repr__(self) -> str:
        return f"<cached {', '.join(self._values)} of {self._path or 'the model'}>"


class CachedModule(CachedCall):
    """What passed at one module: the first call's values as attributes, every call by its number.

    In a generation the calls are its steps: `cache["transformer.h.3"][2].output` is that of step 2.
    """

    def __init__(self, path: str, calls: Sequence[Mapping[str, Any]], view: str | None) -> None:
        super().__init__(path, calls[0], view)
        self._calls = [CachedCall(path, call, view) for call in calls]

    def __getitem__(self, call: int) -> CachedCall:
        return self._calls[call]

    def __len__(self) -> int:
        return len(self._calls)

    def __iter__(self) -> Iterator[CachedCall]:
        return iter(self._calls)


class Cache(Mapping[str, CachedModule]):
    """The activations of many modules, by path; filled when its block ends.

    >>> with model.trace("The Eiffel Tower is in") as tracer:
    ...     cache = tracer.cache()
    >>> cache["transformer.h.3.mlp"].output.shape
    torch.Size([1, 5, 96])

    A mapping from the paths of the modules that ran, in the order in which they did. Paths may also be walked:
    `cache.transformer.h[3].mlp.output`. Raises UnknownModuleError for a module that was not collected.
    """

    def __init__(
        self,
        name: str,
        line: Line,
        path_of: Callable[[str], str],
        view: Callable[[str], str | None],
        run: Callable[[], object] | None = None,
    ) -> None:
        self._name = name
        self._line = line
        self._path_of = path_of
        self._view = view
        self._run = run
        self._collected: Collected | None = None

    def fill(self, collected: Collected) -> None:
        """Take what a run has collected."""
        self._collected, self._run = collected, None

    def _found(self) -> Collected:
        if self._collected is None and self._run is not None:
            self._run()
        if self._collected is None:
            raise BlockError(
                "this cache is filled when its block has run",
                remedy="read it after the block; in the block, name the module: module.output",
                line=self._line,
            )
        return self._collected

    def __getitem__(self, path: str) -> CachedModule:
        found = self._found()
        real = self._path_of(path)
        if real not in found:
            raise UnknownModuleError(
                f"the cache holds nothing of {path or 'the model'!r}",
                remedy=nearest(real, list(found)),
                line=self._line,
            )
        return CachedModule(real, found[real], self._view(real))

    def __contains__(self, path: object) -> bool:
        return isinstance(path, str) and self._path_of(path) in self._found()

    def __iter__(self) -> Iterator[str]:
        return iter(self._found())

    def __len__(self) -> int:
        return len(self._found())

    def __getattr__(self, name: str) -> CachedPart:
        if name.startswith("_"):
            raise AttributeError(name)
        return CachedPart(self, name)

    def __repr__(self) -> str:
        if self._collected is None:
            return "<cache, filled when its block has run>"
        return f"<cache of {len(self)} modules: {', '.join(list(self)[:4])}{', …' if len(self) > 4 else ''}>"


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
        return CachedPart(self._cache, f"{self._path}.{name}")

    def __getitem__(self, place: int | str) -> CachedPart:
        return CachedPart(self._cache, f"{self._path}.{place}")

    def __repr__(self) -> str:
        return repr(self._cache[self._path]) if self._path in self._cache else f"<cache at {self._path}>"
