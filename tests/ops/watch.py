"""Run the samples of torch's own tests, and print as JSON where the opset says other things than plain torch does.

It is a program of its own because torch's test package changes global settings where it is imported.
"""

import json
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils._pytree import tree_leaves, tree_map

from loupe.graph.arguments import is_bounded, wrong_arguments
from loupe.graph.changes import changed_by
from loupe.graph.node import Const, Named
from loupe.graph.opset import operation_of
from loupe.ops.table import function_name

SAMPLES = 3  # of each function in torch's list
CALLS = 4  # looked at of each operation
NAMED = {
    torch.dtype: "dtype",
    torch.device: "device",
    torch.layout: "layout",
    torch.memory_format: "memory_format",
}


def as_leaf(value: Any) -> Any:
    """What a graph in a file has in place of a value of torch's."""
    kind = NAMED.get(type(value))
    return Named(kind, str(value)) if kind else Const(0) if isinstance(value, Tensor) else value


def as_argument(value: Any) -> Any:
    """An argument as a node in a file has it."""
    if isinstance(value, tuple):
        return tuple(as_argument(item) for item in value)
    if isinstance(value, list):
        return [as_argument(item) for item in value]
    if isinstance(value, slice):
        return slice(as_argument(value.start), as_argument(value.stop), as_argument(value.step))
    return as_leaf(value)


def tensors_in(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def fresh(value: Any) -> Any:
    return tree_map(lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, value)


def places(tensors: list[Tensor]) -> set[int]:
    """The memory of tensors that have any."""
    return {tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.numel()}


def equal(one: Any, other: Any) -> bool:
    pairs = zip(tensors_in(one), tensors_in(other), strict=True)
    return all(a.shape == b.shape and torch.allclose(a, b, equal_nan=True) for a, b in pairs)


class Watch(TorchFunctionMode):
    """Compares each call of an operation with what the opset says of it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.found: dict[str, set[str]] = defaultdict(set)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = function_name(func)
        if name is None or name == "python.getattr" or self.calls[name] >= CALLS:
            return func(*args, **kwargs)
        self.calls[name] += 1
        node = [as_argument(arg) for arg in args], {key: as_argument(arg) for key, arg in kwargs.items()}
        problem = wrong_arguments(name, *node)
        if problem:
            self.found["takes"].add(problem)
        before = fresh((args, kwargs))
        args, kwargs = fresh((args, kwargs))
        torch.default_generator.manual_seed(0)
        versions = [tensor._version for tensor in tensors_in((args, kwargs))]
        result = func(*args, **kwargs)
        self.look_at_memory(name, node, args, kwargs, result, versions)
        self.look_at_chance(name, func, before, result)
        self.look_at_size(name, func, before, node, result)
        return result

    def look_at_memory(self, name: str, node: Any, args: Any, kwargs: Any, result: Any, versions: list[int]) -> None:
        """Which arguments a call has changed, and whose memory its result shares."""
        operation = operation_of(name)
        tensors = tensors_in((args, kwargs))
        first = tensors_in(args[:1]) or tensors[:1]
        told = tensors_in(changed_by(name, args, kwargs))
        changed = [tensor for tensor, version in zip(tensors, versions, strict=True) if tensor._version != version]
        if changed:
            self.found["did change"].add(name)
            if not all(any(each is own for own in told) for each in changed):
                self.found["changes"].add(name)
        own, others = places(first), places(tensors) - places(first)
        shared = places(tensors_in(result))
        if shared & (own | others):
            self.found["did share"].add(name)
        if shared & own and operation.shares == "nothing" and not told:
            self.found["shares"].add(f"{name}: first")
        if shared & others and operation.shares != "all":
            self.found["shares"].add(f"{name}: others")

    def look_at_chance(self, name: str, func: Any, before: Any, result: Any) -> None:
        """Whether another seed gives another result."""
        torch.default_generator.manual_seed(1)
        args, kwargs = fresh(before)
        if not equal(result, func(*args, **kwargs)):
            self.found["drew" if operation_of(name).draws else "random"].add(name)

    def look_at_size(self, name: str, func: Any, before: Any, node: Any, result: Any) -> None:
        """Whether a run on meta tensors gives the shapes of the result."""
        args, kwargs = tree_map(lambda leaf: leaf.to("meta") if isinstance(leaf, Tensor) else leaf, before)
        sizes = [tensor.shape for tensor in tensors_in(result)]
        with suppress(NotImplementedError, RuntimeError):  # many have no kernel for meta tensors
            told = [tensor.shape for tensor in tensors_in(func(*args, **kwargs))] == sizes
            if told != is_bounded(name, *node):
                self.found["size"].add(name)


def samples() -> Iterator[tuple[Any, tuple[Any, ...], dict[str, Any]]]:
    """Functions with arguments, from torch's own tests."""
    for info in op_db:
        if not info.dtypes or info.name.startswith("jiterator"):
            continue
        dtype = torch.float32 if torch.float32 in info.dtypes else min(info.dtypes, key=str)
        forms = [
            form for each in (info, *info.aliases) for form in (each.op, each.method_variant, each.inplace_variant)
        ]
        for number, sample in enumerate(info.sample_inputs("cpu", dtype)):
            if number >= SAMPLES:
                break
            for form in forms:
                if form is not None:
                    yield form, (sample.input, *sample.args), sample.kwargs


def further_samples() -> Iterator[tuple[Any, tuple[Any, ...], dict[str, Any]]]:
    """Calls of functions for which torch's tests have no samples."""
    x, cells = torch.rand(3, 4), [torch.rand(8, 4), torch.rand(8, 8), torch.rand(8), torch.rand(8)]
    gates = {1: cells, 3: [torch.cat([w] * 3) for w in cells], 4: [torch.cat([w] * 4) for w in cells]}
    h, sequence, state = torch.rand(3, 8), torch.rand(5, 3, 4), torch.rand(1, 3, 8)
    options = (True, 1, 0.5, True, False, False)
    yield torch.rnn_tanh, (sequence, state, gates[1], *options), {}
    yield torch.rnn_relu, (sequence, state, gates[1], *options), {}
    yield torch.gru, (sequence, state, gates[3], *options), {}
    yield torch.lstm, (sequence, (state, state), gates[4], *options), {}
    yield torch.lstm_cell, (x, (h, h), *gates[4]), {}
    yield torch.gru_cell, (x, h, *gates[3]), {}
    yield torch.rnn_tanh_cell, (x, h, *gates[1]), {}
    yield torch.rnn_relu_cell, (x, h, *gates[1]), {}
    for dropout in (torch.dropout, torch.alpha_dropout, torch.feature_dropout, torch.feature_alpha_dropout):
        yield dropout, (x, 0.5, True), {}
        yield dropout, (x, 0.5, False), {}
    for dropout in (F.dropout2d, F.dropout3d, F.alpha_dropout):
        yield dropout, (torch.rand(2, 16, 4, 4), 0.5, True), {}
    for activation in (F.celu_, F.elu_, F.hardtanh_, F.leaky_relu_, F.selu_, F.rrelu_):
        yield activation, (-x,), {}
    yield F.rrelu_, (-x,), {"training": True}
    yield F.threshold_, (x, 0.5, 0.0), {}
    yield F.relu, (-x, True), {}
    yield F.dropout, (x, 0.5, True, True), {}
    yield F.dropout1d, (x,), {}
    yield F.gumbel_softmax, (x,), {}
    yield torch.rrelu, (-x, 0.1, 0.3, True), {}
    yield torch.poisson, (x * 9,), {}
    yield torch.binomial, (x.mul(9).round(), x), {}
    yield torch.pca_lowrank, (torch.rand(9, 9),), {"q": 3}
    yield torch.svd_lowrank, (torch.rand(9, 9),), {"q": 3}
    yield torch.rand_like, (x,), {"dtype": torch.float64, "memory_format": torch.preserve_format}
    yield torch.cartesian_prod, (x[0],), {}
    yield torch.einsum, ("ij->ji", x), {}
    yield torch.conj_physical, (x,), {}
    yield Tensor.copy_, (x, torch.rand(4)), {"non_blocking": True}
    yield Tensor.bernoulli_, (x, 0.5), {}
    yield Tensor.random_, (x, 0, 9), {}
    yield Tensor.fill_diagonal_, (x, 0.0), {}
    yield Tensor.type_as, (x, x), {}
    yield Tensor.type, (x, torch.float64), {}
    yield Tensor.to, (x, "cpu", torch.float64), {"copy": True}
    yield Tensor.new_tensor, (x, [[1.0, 2.0], [3.0, 4.0]]), {"dtype": torch.float16}
    yield Tensor.detach, (x,), {}


def main() -> None:
    watch = Watch()
    for function, args, kwargs in (*further_samples(), *samples()):
        with suppress(RuntimeError, TypeError), watch:  # some samples are no arguments of some forms
            function(*args, **kwargs)
    print(json.dumps({"calls": sorted(watch.calls), **{key: sorted(found) for key, found in watch.found.items()}}))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
