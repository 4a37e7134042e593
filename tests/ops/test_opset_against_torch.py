"""The table of operations agrees with plain torch, on the samples of torch's own tests."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from loupe.graph.opset import operations

pytestmark = [
    pytest.mark.skipif(
        not torch.__version__.startswith("2.13."), reason="the table of operations is that of torch 2.13"
    ),
    pytest.mark.skipif(find_spec("expecttest") is None, reason="torch's own samples need the package expecttest"),
]
# Casts to the type that the samples have share memory, those to another do not; no sample has the very same size.
SHARE_WITH_OTHER_SAMPLES = {"Tensor.sum_to_size", "Tensor.to", "Tensor.type"} | {
    f"Tensor.{name}" for name in "bfloat16 bool byte cdouble cfloat chalf char double half int long short".split()
}
# One layer drops nothing out, and a pool over a grid that fits leaves nothing to chance.
DRAW_WITH_OTHER_SAMPLES = {"torch.gru", "torch.lstm", "torch.rnn_relu", "torch.rnn_tanh"} | {
    f"nn.functional.fractional_max_pool{name}" for name in ("2d", "2d_with_indices", "3d", "3d_with_indices")
}


@pytest.fixture(scope="module")
def seen() -> dict[str, set[str]]:
    """What a program of its own has seen of each operation, and where the table says something else."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.ops.watch"],
        cwd=Path(__file__).resolve().parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return {key: set(found) for key, found in json.loads(done.stdout).items()}


def test_nearly_every_function_of_torch_is_looked_at(seen):
    ours = ("operator.", "python.", "loupe.")
    functions = {name for name in operations() if not name.startswith(ours)}
    assert len(seen["calls"] & functions) > 0.9 * len(functions)
    unseen = {name for name in functions - seen["calls"] if operations()[name].effect != "pure"}
    assert len(unseen) < 15, unseen


def test_operations_take_what_torchs_own_tests_give_them(seen):
    refused = {
        "nn.functional.embedding takes no number as max_norm",
        "nn.functional.embedding_bag takes no number as max_norm",
        "nn.functional.instance_norm takes no tensor as running_mean",
        "nn.functional.linear_cross_entropy takes no keyword 'options'",
    }
    assert seen["takes"] <= refused


def test_no_operation_changes_an_argument_that_the_table_leaves_as_it_is(seen):
    assert seen.get("changes", set()) == set()
    changing = {name for name in seen["calls"] if operations()[name].effect == "inplace"}
    assert changing - seen["did change"] <= {"Tensor.float_power_"}  # it takes float64 alone


def test_no_result_shares_memory_that_the_table_keeps_apart(seen):
    assert seen.get("shares", set()) == set()
    views = {name for name in seen["calls"] if operations()[name].effect == "view"}
    assert views - seen["did share"] <= SHARE_WITH_OTHER_SAMPLES


def test_only_what_draws_random_numbers_differs_between_seeds(seen):
    assert seen.get("random", set()) == set()
    drawing = {name for name in seen["calls"] if operations()[name].draws}
    assert drawing - seen["drew"] <= DRAW_WITH_OTHER_SAMPLES


def test_a_run_on_meta_tensors_tells_the_size_of_what_is_bounded_and_of_nothing_else(seen):
    assert seen.get("size", set()) == set()
