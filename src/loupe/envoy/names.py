"""Find modules by what a user may call them: paths, patterns of paths, aliases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from torch import nn

from loupe.errors import LoadError, UnknownModuleError, nearest

Rename = Mapping[str | type[nn.Module], str | Iterable[str]]


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
    a value is a name or several, put where the key's path begins. Raises UnknownModuleError for a key that matches
    no module, and LoadError for a name that is taken.
    """

    def __init__(self, rename: Rename, modules: Mapping[str, nn.Module]) -> None:
        self._paths: dict[str, str] = {}
        for key, value in rename.items():
            found = [path for path in modules if path and _start_of(key, path, modules[path]) is not None]
            if not found:
                named = key if isinstance(key, str) else key.__name__
                raise UnknownModuleError(
                    f"no module is called {named!r}, so it cannot be renamed", remedy=nearest(named, list(modules))
                )
            for path in found:
                start = _start_of(key, path, modules[path])
                for alias in (value,) if isinstance(value, str) else value:
                    self._add(f"{start}.{alias}" if start else alias, path, modules)

    def _add(self, alias: str, path: str, modules: Mapping[str, nn.Module]) -> None:
        parent, _, name = alias.rpartition(".")
        taken = self._paths.get(alias, path) != path or alias in modules
        if taken or parent not in modules or hasattr(modules[parent], name) or not name.isidentifier():
            raise LoadError(
                f"{path!r} cannot be renamed to {alias!r}: "
                + (
                    "the name is taken"
                    if parent in modules and name.isidentifier()
                    else "no module could hold the name"
                ),
                remedy="choose a name that no module of the model has, beside or above the module",
            )
        self._paths[alias] = path

    def path_of(self, path: str) -> str | None:
        """The path behind an alias; None where there is none of this name."""
        return self._paths.get(path)

    def of(self, path: str) -> list[str]:
        """The names that stand for something directly under a module."""
        return [alias.rpartition(".")[2] for alias in self._paths if alias.rpartition(".")[0] == path]

    def items(self) -> Iterable[tuple[str, str]]:
        """Every alias with the path behind it."""
        return self._paths.items()


def _start_of(key: str | type[nn.Module], path: str, module: nn.Module) -> str | None:
    """Where the names of a key begin in a path: the module that holds the first of them; None where it does not fit."""
    names = path.split(".")
    if not isinstance(key, str):
        return ".".join(names[:-1]) if isinstance(module, key) else None
    length = len(key.split("."))
    if length > len(names) or not matches(key, ".".join(names[-length:])):
        return None
    return ".".join(names[:-length])
