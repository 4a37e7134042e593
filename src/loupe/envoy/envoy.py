"""Mirror a module: its submodules by name, its sites inside a block, and itself to call or to trace."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from loupe.envoy.ports import Calls, Operations, Ports
from loupe.envoy.running import run_edited
from loupe.errors import BlockError, Line, UnknownModuleError, WriteError, nearest
from loupe.graph.node import Port, Site
from loupe.runtime.offloaded import devices_of
from loupe.runtime.plain import named_parts
from loupe.runtime.tensors import summary
from loupe.trace.handles import isinstance_proxy
from loupe.trace.source import user_line
from loupe.trace.tracer import Tracer

if TYPE_CHECKING:
    from loupe.envoy.model import Root
    from loupe.trace.recorder import Recorder


class Envoy(Ports):
    """The user's mirror of one module.

    Submodules are attributes and indices, by the model's own names: `model.transformer.h[5].mlp`. A submodule whose
    name an envoy uses itself (`output`) is reached by index: `layer["output"]`.
    """

    def __init__(self, root: Root, path: str) -> None:
        self._home = root
        self._path = path
        self._sites: dict[Port, Site] = {}

    @property
    def _module(self) -> nn.Module:
        return self._home.module_at(self._path)

    def _site(self, port: Port) -> Site:
        site = self._sites.get(port)
        if site is None:
            site = self._sites[port] = Site(self._path, port)
        return site

    # -- the tree ------------------------------------------------------------------------------------------------------

    @property
    def path(self) -> str:
        """Where the module is in the model: `transformer.h.3`; '' for the model itself."""
        return self._path

    @property
    def parent(self) -> Envoy | None:
        """The envoy of the module that holds this one; None for the model itself."""
        return self._home.envoy_at(self._path.rpartition(".")[0]) if self._path else None

    @property
    def device(self) -> torch.device:
        """Where the module's first parameter is while the module runs; the CPU where it has none."""
        return next(devices_of(self._module), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the module's first floating-point parameter; torch's default where it has none."""
        found = next((p for p in self._module.parameters() if p.is_floating_point()), None)
        return found.dtype if found is not None else torch.get_default_dtype()

    def named_modules(self) -> Iterator[tuple[str, Envoy]]:
        """Every module from here down, with its path in the model."""
        for name, _ in named_parts(self._module):
            path = ".".join(part for part in (self._path, name) if part)
            yield path, self._home.envoy_at(path)

    def get(self, path: str) -> Envoy:
        """The envoy at a path from here: `model.get("transformer.h.3")`; raises UnknownModuleError."""
        found: Envoy = self
        for name in path.split(".") if path else ():
            found = found[name]
        return found

    @property
    def calls(self) -> Calls:
        """The calls of a module that is called several times in a pass: `model.shared.calls[1].output`."""
        return Calls(self._home, self._path)

    @property
    def ops(self) -> Operations:
        """The torch operations of the module's forward pass: `model.ops.relu[0].output`; printed, it lists them."""
        return Operations(self._home, self._path, 0)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("_home", "_path", "_host"):
            raise AttributeError(name)
        home, path = self._home, self._path
        module = home.module_at(path)
        if module._modules.get(name) is not None:
            return home.envoy_at(f"{path}.{name}" if path else name)
        alias = self._alias(name)
        if alias is not None:
            return self._home.envoy_at(alias)
        if name in module._parameters or name in module._buffers:
            return self._parameter(name)
        try:
            return getattr(module, name)
        except AttributeError:
            raise self._unknown(name) from None

    def _alias(self, name: str) -> str | None:
        return self._home.aliases.path_of(f"{self._path}.{name}" if self._path else name)

    def _parameter(self, name: str) -> Any:
        recorder, own = self._home.open_recorder(), getattr(self._module, name)
        if recorder is None or own is None:
            return own
        return recorder.parameter(f"{self._path}.{name}" if self._path else name)

    def __setattr__(self, name: str, value: Any) -> None:
        own = getattr(type(self), name, None)
        recorder = None if name.startswith("_") else self._home.open_recorder()
        if recorder is not None and (name in self._module._parameters or name in self._module._buffers):
            self._set_parameter(recorder, name, value, user_line(sys._getframe(1)))
        elif name.startswith("_") or (isinstance(own, property) and own.fset is not None):
            object.__setattr__(self, name, value)
        elif own is None and type(value) is not Envoy and not isinstance_proxy(value) and isinstance(value, nn.Module):
            self._home.attach(self._path, name, value)
        else:
            raise BlockError(
                f"{name!r} of {self._path or 'the model'} cannot be set to {type(value).__name__}",
                remedy="assign to .output, .input or .inputs; a module can be attached under a new name",
                line=user_line(sys._getframe(1)),
            )

    def _set_parameter(self, recorder: Recorder, name: str, value: Any, line: Line) -> None:
        if recorder.parameters is None:
            raise WriteError(
                f"{name!r} of {self._path or 'the model'} is set in a block that would not undo it",
                remedy="change parameters in `with model.edit() as edited:`, and trace the edited model",
                line=line,
            )
        own = getattr(self._module, name)
        if not isinstance_proxy(value) and getattr(value, "shape", None) != getattr(own, "shape", None):
            raise WriteError(
                f"{name!r} of {self._path or 'the model'} is set to {summary(value)}, where it is {summary(own)}",
                remedy="set it to a tensor of its own shape"
                if own is not None
                else "write the module's output instead",
                line=line,
            )
        recorder.parameters.set(f"{self._path}.{name}" if self._path else name, value, line)

    def __getitem__(self, key: int | slice | str) -> Any:
        home, path = self._home, self._path
        module = home.module_at(path)
        parts = module._modules
        if isinstance(key, slice):
            return [self[place] for place in range(*key.indices(len(parts)))]
        if isinstance(key, str):
            if key not in parts:
                alias = self._alias(key)
                if alias is None:
                    raise self._unknown(key)
                return home.envoy_at(alias)
            name = key
        else:
            place = key.__index__()
            if not isinstance(module, (nn.ModuleList, nn.Sequential)) or not -len(parts) <= place < len(parts):
                raise self._unknown(str(place))
            name = list(parts)[place]
        return home.envoy_at(f"{path}.{name}" if path else name)

    def __len__(self) -> int:
        return len(self._module._modules)

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[Any]:
        prefix = f"{self._path}." if self._path else ""
        return iter([self._home.envoy_at(f"{prefix}{name}") for name in self._module._modules])

    def __dir__(self) -> list[str]:
        aliases = self._home.aliases.of(self._path)
        return sorted({*object.__dir__(self), *self._module._modules, *self._module._parameters, *aliases})

    def _unknown(self, name: str) -> UnknownModuleError:
        module = self._module
        known = [*module._modules, *module._parameters, *module._buffers, *self._home.aliases.of(self._path)]
        if isinstance(module, (nn.ModuleList, nn.Sequential)) and known:
            hint = f"its indices go from 0 to {len(known) - 1}" if name.lstrip("-").isdigit() else nearest(name, known)
        else:
            hint = nearest(name, known)
        where = self._path or "the model"
        return UnknownModuleError(f"no module {name!r} under {where}", remedy=hint, line=user_line(sys._getframe(2)))

    # -- running -------------------------------------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Inside a block: the module applied to values of the block, as a recorded step. Outside: the plain call."""
        recorder = self._home.open_recorder()
        if recorder is not None:
            return recorder.call_module(self._path, args, kwargs)
        return self._plain_call(args, kwargs)

    def _plain_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._home.edits:
            return run_edited(self._home, self._path, args, kwargs, user_line(sys._getframe(1)))
        args = tuple(arg.value if isinstance_proxy(arg) else arg for arg in args)
        return self._module(*args, **kwargs)

    def skip(self, value: Any) -> None:
        """Do not run the module: its output is `value`, of the form that the module returns.

        >>> with model.trace("The Eiffel Tower is in"):
        ...     model.transformer.h[6].skip(model.transformer.h[5].output)
        ...     logits = model.output.save()

        In an invoke only this prompt's rows skip it. A decoder block that returns a tuple takes hidden states
        `[batch, seq, hidden]` too. What lies inside a module that is skipped does not run. Raises BlockError outside a
        block.
        """
        self.calls[0].skip(value)

    def next(self) -> Envoy:
        """Go on to the module's next call: `module.next().output` is what it returns at the following step."""
        shifts = self._home.recorder(f"{self._path or 'model'}.next()").scope.shifts
        shifts[self._path] = shifts.get(self._path, 0) + 1
        return self

    def trace(self, *args: Any, **kwargs: Any) -> Tracer:
        """Open a block on this module alone: it runs by itself on the given arguments.

        >>> with model.transformer.h[3].trace(hidden):
        ...     out = model.transformer.h[3].mlp.output.save()
        """
        parameter_gradients = bool(kwargs.pop("parameter_gradients", False))
        tracer = self._home.open_block(self._path, args, kwargs, user_line(sys._getframe(1)))
        tracer.collect_parameter_gradients(parameter_gradients)
        return tracer

    def scan(self, *args: Any, **kwargs: Any) -> Tracer:
        """Open a block on tensors without data: every value has its shape and dtype, and no weights are loaded.

        >>> with model.scan("The Eiffel Tower is in"):
        ...     shape = model.transformer.h[5].output[0].shape.save()
        >>> shape
        torch.Size([1, 5, 96])

        On a submodule it runs that module alone. What is saved are tensors on the meta device; tensors of your own that
        the block changes stay as they are. Every line is tried, whether or not something comes of it: those that would
        fail in a trace for shape or dtype fail here. Raises BlockError where a line, or the model, needs a value.
        """
        parameter_gradients = bool(kwargs.pop("parameter_gradients", False))
        tracer = self._home.open_scan(self._path, args, kwargs, user_line(sys._getframe(1)))
        tracer.collect_parameter_gradients(parameter_gradients)
        return tracer

    def __repr__(self) -> str:
        conflicts = [name for name in self._module._modules if hasattr(type(self), name)]
        text = repr(self._module)
        for name in conflicts:
            text += f'\n# the submodule {name!r} is reached by index: ["{name}"]'
        return "\n# ".join([text, *self._home.aliases.lines(self._path)])
