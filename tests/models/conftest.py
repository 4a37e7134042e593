"""Check after every test here that the models which tests share are left as they were."""

import pytest

from tests import tiny
from tests.models import kinds


@pytest.fixture(autouse=True)
def shared_kinds_are_left_clean():
    """No hook and no replaced forward on a model of `kinds`, and the attention that it was built with."""
    yield
    for model, attention in kinds.SHARED:
        assert tiny.hooks_on(model) == 0
        assert model.config._attn_implementation == attention
