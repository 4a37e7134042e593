"""Give the programs that go on from an earlier one its model, and check that they leave it clean."""

from collections.abc import Iterator
from functools import cache

import pytest

from loupe import LanguageModel
from tests import tiny


@cache
def landmarks() -> LanguageModel:
    return LanguageModel("loupe/landmarks", device_map="auto", dispatch=True)


@pytest.fixture
def model() -> Iterator[LanguageModel]:
    """The bundled model, loaded once; after the test it has no hook and no gradient on it."""
    yield landmarks()
    assert tiny.hooks_on(landmarks()._model) == 0
    assert all(parameter.grad is None for parameter in landmarks()._model.parameters())
