"""Find the modules of a model by what a user calls them, and attach further ones."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from typing import Any

from torch import nn

from loupe.envoy.envoy import Envoy
from loupe.envoy.names import Aliases, Rename
from loupe.errors import BlockError, UnknownModuleError, nearest
from loupe.runtime.host import Host
from loupe.runtime.plain import named_parts, submodule
from loupe.trace.source import user_line


class Parts:
    """The modules of a model, which may change: weights are loaded, adapters put in.

    `aliases` are further names; `attached` are the paths of modules that the user has attached.
    """

    def __init__(self, host: Host, rename: Rename, taken: Callable[[str], Collection[str]]) -> None:
        self._host = host
        self.attached: set[str] = set()
        self.aliases = Aliases(rename, self._known(), taken)

    def _known(self) -> dict[str, nn.Module]:
        return dict(named_parts(self._host.module))

    def real_path(self, path: str) -> str:
        """A path with the model's own names in place of aliases; a `model.` in front that is no module is left out."""
        real = self.aliases.real(path)
        shorter = self.aliases.real(path.removeprefix("model").lstrip("."))
        return shorter if path.split(".")[0] == "model" and not self._has(real) and self._has(shorter) else real

    def _has(self, path: str) -> bool:
        try:
            submodule(self._host.module, path)
        except KeyError:
            return False
        return True

    def paths_of(self, modules: Any) -> tuple[str, ...]:
        """The paths of modules: all for None; a path, a pattern (`h.*.mlp`), an envoy, a module, a class, several."""
        return self._paths_among(modules, self._known())

    def _paths_among(self, modules: Any, known: dict[str, nn.Module]) -> tuple[str, ...]:
        if modules is None:
            return tuple(known)
        if isinstance(modules, Envoy):
            return _callable_parts(modules.path, known)
        if isinstance(modules, type):
            return tuple(path for path, module in known.items() if isinstance(module, modules))
        if isinstance(modules, nn.Module):
            found = tuple(path for path, module in known.items() if module is modules)
            found = tuple(part for path in found for part in _callable_parts(path, known))
        elif isinstance(modules, str):
            real = self.real_path(modules)
            found = _callable_parts(real, known) if self._has(real) else tuple(self.aliases.find(modules, known))
        else:
            return tuple(dict.fromkeys(path for each in modules for path in self._paths_among(each, known)))
        if not found:
            named = modules if isinstance(modules, str) else type(modules).__name__
            raise UnknownModuleError(
                f"no module {named!r} in the model",
                remedy=nearest(named, [path for path in known if path]),
                line=user_line(sys._getframe(1)),
            )
        return found

    def tied_to(self, path: str) -> list[str]:
        """The paths under which the model holds one parameter, the given one first."""
        owner, _, name = path.rpartition(".")
        own = submodule(self._host.module, owner)._parameters.get(name)
        named = self._host.module.named_parameters(remove_duplicate=False)
        return [path, *(other for other, each in named if each is own and other != path)]

    def attach(self, path: str, name: str, module: nn.Module) -> None:
        """Give the model a further submodule; its calls in a block have sites.

        Raises BlockError where the name is taken by something that was not attached, and at a Sequential or a list of
        modules, which would run it as one of their own.
        """
        parent, place = submodule(self._host.module, path), f"{path}.{name}" if path else name
        if isinstance(parent, (nn.Sequential, nn.ModuleList)):
            raise BlockError(
                f"{path or 'the model'} is a {type(parent).__name__}, which would run {name!r} as one of its own",
                remedy="attach it further up; or call it as it is, for an outside module on values is recorded too",
                line=user_line(sys._getframe(2)),
            )
        taken = hasattr(parent, name) or self.aliases.path_of(place) is not None
        if taken and place not in self.attached:
            raise BlockError(
                f"{name!r} of {path or 'the model'} is there already",
                remedy="attach the module under a new name",
                line=user_line(sys._getframe(2)),
            )
        self.attached.add(place)
        parent.add_module(name, module)


def _callable_parts(path: str, known: dict[str, nn.Module]) -> tuple[str, ...]:
    """A path; where it names a list of modules, which nobody calls, the paths of those."""
    if not isinstance(known.get(path), (nn.ModuleList, nn.ModuleDict)):
        return (path,)
    return tuple(other for other in known if other and other.rpartition(".")[0] == path)
