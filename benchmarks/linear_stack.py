"""Do each scenario on twelve small linear layers: a model so fast that what is timed is the work around it."""

# ruff: noqa: D102 (what each pair of methods does stands in `benchmarks.suite.TITLES`)

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from benchmarks.suite import Stop, Suite
from loupe import Model


class LinearStack(Suite):
    """Twelve `Linear(64, 64)` in a row, eight rows of input."""

    name = "12 x Linear(64, 64), batch 8"
    rounds = 300
    calls = 5

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.module = nn.Sequential(*(nn.Linear(64, 64) for _ in range(12))).eval()
        self.model = Model(self.module)
        self.x = torch.randn(8, 64)
        self.other = torch.randn(8, 64)
        self.stored = torch.randn(8, 64)

    def hooks_idle(self) -> Any:
        with torch.no_grad():
            return self.module(self.x)

    def loupe_idle(self) -> Any:
        with torch.no_grad():
            return self.model(self.x)

    def hooks_empty(self) -> None:
        with torch.no_grad():
            self.module(self.x)

    def loupe_empty(self) -> None:
        with self.model.trace(self.x):
            pass

    def hooks_one_save(self) -> Any:
        saved = {}

        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            saved[11] = output

        handle = self.module[11].register_forward_hook(keep)
        try:
            with torch.no_grad():
                self.module(self.x)
        finally:
            handle.remove()
        return saved[11]

    def loupe_one_save(self) -> Any:
        with self.model.trace(self.x):
            saved = self.model[11].output.save()
        return saved

    def hooks_twelve_saves(self) -> Any:
        saved = {}

        def keeper(layer: int) -> Any:
            def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
                saved[layer] = output

            return keep

        handles = [layer.register_forward_hook(keeper(place)) for place, layer in enumerate(self.module)]
        try:
            with torch.no_grad():
                self.module(self.x)
        finally:
            for handle in handles:
                handle.remove()
        return [saved[place] for place in range(12)]

    def loupe_twelve_saves(self) -> Any:
        with self.model.trace(self.x):
            saved = [layer.output.save() for layer in self.model]
        return saved

    def hooks_zero(self) -> Any:
        def zero(_module: nn.Module, _inputs: Any, output: Any) -> None:
            output[:] = 0

        handle = self.module[5].register_forward_hook(zero)
        try:
            with torch.no_grad():
                return self.module(self.x)
        finally:
            handle.remove()

    def loupe_zero(self) -> Any:
        with self.model.trace(self.x):
            self.model[5].output[:] = 0
            out = self.model.output.save()
        return out

    def hooks_patch(self) -> Any:
        handle = self.module[5].register_forward_hook(lambda _module, _inputs, _output: self.stored)
        try:
            with torch.no_grad():
                return self.module(self.x)
        finally:
            handle.remove()

    def loupe_patch(self) -> Any:
        with self.model.trace(self.x):
            self.model[5].output = self.stored
            out = self.model.output.save()
        return out

    def hooks_early_stop(self) -> Any:
        saved = {}

        def keep_and_stop(_module: nn.Module, _inputs: Any, output: Any) -> None:
            saved[3] = output
            raise Stop

        handle = self.module[3].register_forward_hook(keep_and_stop)
        try:
            with torch.no_grad():
                self.module(self.x)
        except Stop:
            pass
        finally:
            handle.remove()
        return saved[3]

    def loupe_early_stop(self) -> Any:
        with self.model.trace(self.x):
            saved = self.model[3].output.save()
        return saved

    def hooks_peek(self) -> Any:
        size = 1.0

        def look(_module: nn.Module, _inputs: Any, output: Any) -> None:
            nonlocal size
            size = float(output.norm())

        def shrink(_module: nn.Module, _inputs: Any, output: Any) -> Any:
            return output / size

        handles = [self.module[5].register_forward_hook(look), self.module[8].register_forward_hook(shrink)]
        try:
            with torch.no_grad():
                return self.module(self.x)
        finally:
            for handle in handles:
                handle.remove()

    def loupe_peek(self) -> Any:
        with self.model.trace(self.x):
            size = float(self.model[5].output.norm())
            self.model[8].output = self.model[8].output / size
            out = self.model.output.save()
        return out

    def hooks_peek_each(self) -> list[float]:
        sizes: list[float] = []

        def look(_module: nn.Module, _inputs: Any, output: Any) -> None:
            sizes.append(float(output.norm()))

        handles = [layer.register_forward_hook(look) for layer in self.module]
        try:
            with torch.no_grad():
                self.module(self.x)
        finally:
            for handle in handles:
                handle.remove()
        return sizes

    def loupe_peek_each(self) -> list[float]:
        with self.model.trace(self.x):
            sizes = [float(layer.output.norm()) for layer in self.model]
        return sizes

    def hooks_cross_prompt(self) -> Any:
        def copy(_module: nn.Module, _inputs: Any, output: Any) -> None:
            output[8:] = output[:8]

        handle = self.module[5].register_forward_hook(copy)
        try:
            with torch.no_grad():
                return self.module(torch.cat([self.x, self.other]))[8:]
        finally:
            handle.remove()

    def loupe_cross_prompt(self) -> Any:
        with self.model.trace() as tracer:
            with tracer.invoke(self.x):
                hidden = self.model[5].output
            with tracer.invoke(self.other):
                self.model[5].output[:] = hidden
                out = self.model.output.save()
        return out

    def hooks_cache_all(self) -> Any:
        saved = {}

        def keeper(name: str) -> Any:
            def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
                saved[name] = output.detach()

            return keep

        handles = [module.register_forward_hook(keeper(name)) for name, module in self.module.named_modules()]
        try:
            with torch.no_grad():
                self.module(self.x)
        finally:
            for handle in handles:
                handle.remove()
        return [saved[str(place)] for place in range(12)]

    def loupe_cache_all(self) -> Any:
        with self.model.trace(self.x) as tracer:
            cache = tracer.cache()
        return [cache[str(place)].output for place in range(12)]

    def hooks_gradient(self) -> Any:
        saved = {}

        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            saved["hidden"] = output

        handle = self.module[5].register_forward_hook(keep)
        try:
            out = self.module(self.x)
        finally:
            handle.remove()
        return torch.autograd.grad(out.sum(), saved["hidden"])[0]

    def loupe_gradient(self) -> Any:
        with self.model.trace(self.x):
            hidden = self.model[5].output
            self.model.output.sum().backward()
            gradient = hidden.grad.save()
        return gradient

    def hooks_loss(self) -> Any:
        self.module.zero_grad(set_to_none=True)
        torch.autograd.backward(((self.module(self.x) - self.stored) ** 2).mean())  # a peer may replace Tensor.backward
        return [weight.grad for weight in self.module.parameters()]

    def loupe_loss(self) -> Any:
        self.module.zero_grad(set_to_none=True)
        with self.model.trace(self.x, parameter_gradients=True):
            ((self.model.output - self.stored) ** 2).mean().backward()
        return [weight.grad for weight in self.module.parameters()]
