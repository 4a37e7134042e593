"""Find modules by what a user may call them: paths, patterns of paths, aliases."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from keyword import iskeyword

from torch import nn

from loupe.errors import LoadError, UnknownModuleError, nearest

Key = str | type[nn.Module]
Rename = Mapping[Key, str | Iterable[str]]


def matches(pattern: str, path: str) -> bool:
    """Whether a path is meant by a pattern, in which `*` stands for (a part of) one name.

    >>> matches("transformer.h.*.mlp", "transformer.h.3.mlp")
    True
    """
    wanted, names = pattern.split("."), path.split(".")
    return len(wanted) == len(names) and all(map(fnmatchcase, names, wanted))


class Aliases:
    """Further names of modules: `{"transformer.h": "layers"}`; both names work.

    A key is a path, from the model or from any module on (`"attn.c_proj"`), a pattern of one, or a class of modules;
    a value is a name or several, put where the key's path begins. `reserved` gives the names that an envoy at a path
    uses itself. Raises UnknownModuleError for a key that matches no module, and LoadError for a name that is taken.
    """

    def __init__(
        self, rename: Rename, modules: Mapping[str, nn.Module], reserved: Callable[[str], Collection[str]]
    ) -> None:
        self._paths: dict[str, str] = {}
        pairs = [(key, alias) for key, value in rename.items() for alias in _names(key, value)]
        for key, alias in sorted(pairs, key=lambda pair: pair[1].count(".")):  # "model" before "model.layers"
            for start, path in _places(key, modules):
                self._add(f"{start}.{alias}" if start else alias, path, modules, reserved)

    def _add(
        self, alias: str, path: str, modules: Mapping[str, nn.Module], reserved: Callable[[str], Collection[str]]
    ) -> None:
        holder, _, name = alias.rpartition(".")
        holder = self.real(holder)
        alias = f"{holder}.{name}" if holder else name
        where = holder or "the model"
        other = self._paths.get(alias, path)
        fact, remedy = "", "choose a name that nothing has there"
        if holder not in modules:
            fact = f"there is no module {holder!r} to hold the name"
            remedy = "put the name beside the module, or beside one that holds it"
        elif not name.isidentifier() or iskeyword(name) or name.startswith("_"):
            fact, remedy = f"{name!r} cannot be a module's name", "choose a name of letters and digits, like 'layers'"
        elif name in reserved(holder) or alias in modules or hasattr(modules[holder], name):
            fact = f"{where} has a {name!r} already"
        elif other != path:
            fact = f"{other!r} would have the same name"
            remedy = "choose a key that is about one of them, or one that begins deeper in the path"
        if fact:
            raise LoadError(f"{path!r} cannot be renamed to {alias!r}: {fact}", remedy=remedy)
        self._paths[alias] = path

    def path_of(self, path: str) -> str | None:
        """The path behind an alias; None where there is none of this name."""
        return self._paths.get(path)

    def of(self, path: str) -> list[str]:
        """The names that stand for something directly under a module."""
        return [name for holder, _, name in (alias.rpartition(".") for alias in self._paths) if holder == path]

    def real(self, path: str) -> str:
        """A path with the model's own names in place of aliases."""
        names: list[str] = []
        for name in path.split(".") if path else ():
            step = ".".join((*names, name))
            names = self._paths.get(step, step).split(".")
        return ".".join(names)

    def find(self, pattern: str, modules: Iterable[str]) -> list[str]:
        """The paths that a pattern means, in which names may be aliases: `layers.*.mlp`."""
        children: dict[str, dict[str, str]] = {}
        for path in (each for each in modules if each):
            holder, _, name = path.rpartition(".")
            children.setdefault(holder, {})[name] = path
        for alias, path in self._paths.items():
            holder, _, name = alias.rpartition(".")
            children.setdefault(holder, {})[name] = path
        found = [""]
        for wanted in pattern.split("."):
            below = (item for path in found for item in children.get(path, {}).items())
            found = [path for name, path in below if fnmatchcase(name, wanted)]
        return list(dict.fromkeys(found))

    def lines(self, path: str) -> list[str]:
        """What the names below a module stand for, as text; numbers of modules that are alike are left out."""
        below = [(alias, real) for alias, real in self._paths.items() if not path or alias.startswith(f"{path}.")]
        shown = [(_without_numbers(alias), _without_numbers(real)) for alias, real in below]
        several = {pair for pair in shown if shown.count(pair) > 1}
        pairs = (both if (both := shown[place]) in several else pair for place, pair in enumerate(below))
        return list(dict.fromkeys(f"{alias} is another name of {real}" for alias, real in pairs))

    def items(self) -> Iterable[tuple[str, str]]:
        """Every alias with the path behind it."""
        return self._paths.items()


def _names(key: object, value: object) -> Iterator[str]:
    if not isinstance(key, str) and not (isinstance(key, type) and issubclass(key, nn.Module)):
        raise LoadError(
            f"{key!r} names no module that could be renamed", remedy="use a path, a pattern of one, or a class"
        )
    several = [value] if isinstance(value, str) else value if isinstance(value, Iterable) else [value]
    for alias in several:
        if not isinstance(alias, str):
            raise LoadError(f"{key!r} cannot be renamed to {alias!r}", remedy="give a name, or a list of names")
        yield alias


def _places(key: Key, modules: Mapping[str, nn.Module]) -> list[tuple[str, str]]:
    """Where the names of a key begin in each path that it matches, and the path."""
    found = [(start, path) for path in modules if path and (start := _start_of(key, path, modules[path])) is not None]
    if not found:
        named = key if isinstance(key, str) else key.__name__
        paths = [path for path in modules if path]
        short = [name for name in (path.rpartition(".")[2] for path in paths) if not name.isdigit()]
        classes: list[str] = [] if isinstance(key, str) else [type(module).__name__ for module in modules.values()]
        known = list(dict.fromkeys(classes or [*short, *paths]))
        raise UnknownModuleError(
            f"no module is called {named!r}, so it cannot be renamed", remedy=nearest(named, known)
        )
    return found


def _start_of(key: Key, path: str, module: nn.Module) -> str | None:
    """Where the names of a key begin in a path: the module that holds the first of them; None where it does not fit."""
    names = path.split(".")
    if not isinstance(key, str):
        return ".".join(names[:-1]) if isinstance(module, key) else None
    length = len(key.split("."))
    if length > len(names) or not matches(key, ".".join(names[-length:])):
        return None
    return ".".join(names[:-length])


def _without_numbers(path: str) -> str:
    return ".".join("*" if name.isdigit() else name for name in path.split("."))
