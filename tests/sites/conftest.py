"""Share what tests of attention need: a count of the calls of the fast kernel."""

import pytest
from torch.nn import functional as F


@pytest.fixture
def fast_kernel(monkeypatch):
    """Counts the calls of the fast kernel."""
    calls, plain = [], F.scaled_dot_product_attention

    def counted(query, *args, **kwargs):
        if not query.is_meta:  # a scan without data is no pass
            calls.append(1)
        args = (query, *args)
        return plain(*args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    return calls
