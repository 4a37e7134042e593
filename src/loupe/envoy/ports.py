"""Make sites: what `.output`, `.input`, `.inputs`, `.calls[k]` and `.ops` of a module mean inside a block."""

from __future__ import annotations

import abc
import sys
from typing import TYPE_CHECKING, Any

import torch

from loupe.errors import BlockError, WriteError
from loupe.graph.node import Port, Site
from loupe.trace.source import user_line

if TYPE_CHECKING:
    from loupe.envoy.model import Root


class Ports(abc.ABC):
    """Something with an output and inputs that a block reads and writes: a module, one of its calls or operations.

    `_home` is the model that it is in.
    """

    _home: Root

    @abc.abstractmethod
    def _site(self, port: Port) -> Site:
        """The site of a port."""

    @property
    def output(self) -> Any:
        """What the module returned.

        >>> with model.trace("Hello"):
        ...     hidden = model.transformer.h[5].output[0].save()

        Raises BlockError outside a block. Assigning replaces what the model goes on with.
        """
        return self._read("output")

    @output.setter
    def output(self, value: Any) -> None:
        self._write("output", value)

    @property
    def input(self) -> Any:
        """The first positional argument, or the first keyword argument where there is no positional one."""
        return self._read("input")

    @input.setter
    def input(self, value: Any) -> None:
        self._write("input", value)

    @property
    def inputs(self) -> Any:
        """All arguments, `(args, kwargs)`."""
        return self._read("inputs")

    @inputs.setter
    def inputs(self, value: Any) -> None:
        self._write("inputs", value)

    def _read(self, port: Port) -> Any:
        site, home = self._site(port), self._home
        recorder = home.open_recorder() or home.recorder(f"{site}")
        scope = recorder.scope
        if scope.step or scope.shifts:
            site = scope.at_step(site)
        return recorder.read(site, home.view(site))

    def _write(self, port: Port, value: Any) -> None:
        site = self._site(port)
        recorder = self._home.open_recorder() or self._home.recorder(f"{site}")
        if value is None and port == "output" and site.op is None:
            raise WriteError(
                f"{site} cannot be replaced by None, for a module's hook cannot return it",
                remedy="write a value like the one that is read there",
                line=user_line(sys._getframe(2)),
            )
        site = recorder.scope.at_step(site)
        if self._home.view(site) == "logits":
            value = recorder.apply("loupe.with_logits", (recorder.read(site), value))
        recorder.write(site, value)


class Call(Ports):
    """One call of a module that is called several times in a pass."""

    def __init__(self, home: Root, path: str, call: int) -> None:
        self._home = home
        self._path = path
        self._call = call

    def _site(self, port: Port) -> Site:
        return Site(self._path, port, self._call)

    @property
    def ops(self) -> Operations:
        """The torch operations of this call."""
        return Operations(self._home, self._path, self._call)

    def skip(self, value: Any) -> None:
        """Do not run the module at this call: its output is `value`, of the form that the module returns."""
        output = self._site("output")
        recorder = self._home.recorder(f"{output.module}.skip()")
        view = self._home.view(output)
        if view != "logits" and not recorder.execution.is_tensor(output) and isinstance(value, torch.Tensor):
            if view != "hidden_states":
                raise WriteError(
                    f"{output.module} does not return a tensor, and is skipped with one",
                    remedy="give a value of the form that the module returns: a tuple of what its output has",
                    line=user_line(sys._getframe(1)),
                )
            value = (value,)
        recorder.write(recorder.scope.at_step(self._site("skip")), value)

    def __repr__(self) -> str:
        return f"<call {self._call} of {self._path or 'the model'}>"


class Calls:
    """The calls of one module in a pass, counted from 0: `module.calls[1].output`."""

    def __init__(self, home: Root, path: str) -> None:
        self._home = home
        self._path = path

    def __getitem__(self, call: int) -> Call:
        if type(call) is not int or call < 0:
            raise BlockError(
                f"calls[{call!r}] is no call of {self._path or 'the model'}",
                remedy="calls count from 0: calls[0], calls[1]",
            )
        return Call(self._home, self._path, call)

    def __repr__(self) -> str:
        return f"<calls of {self._path or 'the model'}>"


class Operations:
    """The torch operations of one call of a module, in order: `module.ops.softmax[0].output`; print lists them."""

    def __init__(self, home: Root, path: str, call: int) -> None:
        self._home = home
        self._path = path
        self._call = call

    def __getattr__(self, name: str) -> NamedOperation:
        if name.startswith("_"):
            raise AttributeError(name)
        return NamedOperation(self._home, self._path, self._call, name)

    def _listed(self) -> list[Any]:
        return self._home.recorder(f"{self._path or 'model'}.ops").execution.operations(self._path, self._call)

    def __len__(self) -> int:
        return len(self._listed())

    def __dir__(self) -> list[str]:
        return sorted({operation.name for operation in self._listed()})

    def __repr__(self) -> str:
        return f"<operations of {self._path or 'the model'}>"

    def __str__(self) -> str:
        from loupe.runtime.tensors import summary

        rows = []
        for each in self._listed():
            left = f"{each.name}[{each.index}]"
            rows.append(f"{left:<28} {summary(each.output):<28} {each.line.number}: {each.line.text}".rstrip())
        return "\n".join(rows) or "(no operations)"


class NamedOperation:
    """The operations of one name in a call of a module; an index picks one."""

    def __init__(self, home: Root, path: str, call: int, name: str) -> None:
        self._home = home
        self._path = path
        self._call = call
        self._name = name

    def __getitem__(self, index: int) -> Operation:
        if type(index) is not int or index < 0:
            raise BlockError(
                f"{self._name}[{index!r}] is no operation", remedy=f"operations count from 0: ops.{self._name}[0]"
            )
        return Operation(self._home, self._path, self._call, self._name, index)

    def __getattr__(self, name: str) -> Any:
        if name in ("output", "input", "inputs"):
            raise BlockError(
                f"ops.{self._name}.{name} does not say which of the operations is meant",
                remedy=f"write ops.{self._name}[0].{name}",
            )
        raise AttributeError(name)

    def __repr__(self) -> str:
        return f"<operations {self._name} of {self._path or 'the model'}>"


class Operation(Ports):
    """One torch operation inside a module's forward pass."""

    def __init__(self, home: Root, path: str, call: int, name: str, index: int) -> None:
        self._home = home
        self._path = path
        self._call = call
        self._name = name
        self._index = index

    def _site(self, port: Port) -> Site:
        return Site(self._path, port, self._call, self._name, self._index)

    def __repr__(self) -> str:
        return f"<operation {self._name}[{self._index}] of {self._path or 'the model'}>"
