"""Share what several test files need: no network, one thread a worker, and a check that models are left clean."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from hypothesis import settings

from tests import tiny

torch.set_num_threads(1)

# The same random programs in every run, so that a run fails for what has changed; LOUPE_RANDOM=1 tries others.
settings.register_profile("same", derandomize=True)
if not os.environ.get("LOUPE_RANDOM"):
    settings.load_profile("same")


@pytest.fixture(autouse=True)
def models_are_left_clean():
    """After every test: no hook and no replaced forward on the shared models, and `list` has no method of ours."""
    yield
    for model in (
        tiny.net(),
        tiny.stack(),
        *(tiny.hf_model(f) for f in tiny.CONFIGS if tiny.hf_model.cache_info().currsize),
    ):
        assert tiny.hooks_on(model) == 0
    assert not hasattr(list, "save")
    assert not hasattr(dict, "save")
