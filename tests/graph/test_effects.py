"""What the opset says that operations do to memory is what torch does."""

import inspect
import warnings

import pytest
import torch

from loupe.errors import GraphError
from loupe.graph.changes import DEMANDS, changed_by, switch_of
from loupe.graph.opset import OPSET, operation_of
from loupe.ops.table import function_of
from loupe.runtime.tensors import storage_of, storages_of

DEMANDING = ("inplace", "out", "max_norm", "use_input_stats")


def functions():
    """The operations that the installed torch has."""
    for name in OPSET:
        try:
            yield name, function_of(name)
        except GraphError:
            continue


def test_the_arguments_that_demand_a_change_stand_where_torch_has_them():
    found = {}
    for name, function in functions():
        try:
            parameters = inspect.signature(function).parameters
        except (TypeError, ValueError):
            continue
        for place, (called, parameter) in enumerate(parameters.items()):
            if called in DEMANDING and parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
                found[name] = (place, called)
    known = {name: (demand.place, demand.name) for name, demand in DEMANDS.items() if name in dict(functions())}
    known |= {name: (place, "inplace") for name in OPSET if (place := switch_of(name)) is not None}
    assert known.pop("torch.instance_norm") == (5, "use_input_stats")  # it has no signature, and says so in its errors
    assert found == known


FURTHER = [(), (1,), (0,), (1.0,), (1, 1), (0, 1), ((0, 0),), ([1],), (0.5, False), (torch.float32,)]


@pytest.mark.parametrize("kind", ["floats", "integers", "one dimension"])
def test_what_is_said_to_be_pure_gives_no_memory_of_its_argument_and_changes_nothing(kind):
    value = {
        "floats": torch.rand(3, 3, generator=torch.Generator().manual_seed(0)) + 0.1,
        "integers": torch.ones(3, 3, dtype=torch.long),
        "one dimension": torch.arange(1.0, 4.0),
    }[kind]
    wrong, tried = [], set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, function in functions():
            if (
                operation_of(name).shares != "nothing"
                or operation_of(name).draws
                or not name.startswith(("torch.", "nn.", "linalg.", "fft.", "special.", "Tensor."))
            ):
                continue
            for further in FURTHER:
                given = value.clone()
                if changed_by(name, (given, *further), {}):
                    continue
                try:
                    result = function(given, *further)
                except Exception:
                    continue
                tried.add(name)
                if storage_of(given) in storages_of(result) or not torch.equal(given, value):
                    wrong.append((name, further))
    assert wrong == []
    assert len(tried) > 300


def test_an_argument_in_any_of_its_places_demands_a_change():
    w, x = object(), object()
    assert changed_by("nn.functional.dropout", (w, 0.5, False, True), {}) == [w]
    assert changed_by("nn.functional.dropout", (w, 0.5), {"inplace": True}) == [w]
    assert changed_by("nn.functional.dropout", (), {"input": w, "inplace": x}) == [w]
    assert changed_by("nn.functional.dropout", (w, 0.5, True, False), {}) == []
    assert changed_by("nn.functional.dropout", (w,), {"inplace": False}) == []
    assert changed_by("nn.functional.embedding", (x, w, None, 1.0), {}) == [w]
    assert changed_by("nn.functional.embedding", (x,), {"weight": w, "max_norm": 0.5}) == [w]
    assert changed_by("nn.functional.embedding", (x, w), {"max_norm": None}) == []
    assert changed_by("nn.functional.instance_norm", (x, w, w), {}) == [w, w]
    assert changed_by("nn.functional.instance_norm", (x, w, w, None, None, False), {}) == []
    assert changed_by("torch.norm", (x, 2, None, False, w), {}) == [w]
    assert changed_by("torch.add", (x, x), {"out": w}) == [w]
    assert changed_by("Tensor.add_", (w, x), {}) == [w]
    assert changed_by("Tensor.add", (w, x), {}) == []
    assert changed_by("local.mine", (w,), {"inplace": True}) == [w]
