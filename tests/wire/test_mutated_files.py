"""Whatever the bytes are, a reader gives a graph or raises WireError, and nothing else."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loupe.errors import WireError
from loupe.wire.file import read_file
from tests.wire.by_hand import container, packed
from tests.wire.mutations import mutated, outcome, seeds

SEEDS = seeds()


@settings(max_examples=200, deadline=2000)
@given(data=st.binary(max_size=400))
def test_random_bytes_are_refused(data):
    with pytest.raises(WireError):
        read_file(data)


@settings(max_examples=100, deadline=2000)
@given(header=st.binary(max_size=300), data=st.binary(max_size=64))
def test_random_bytes_as_a_header_are_refused(header, data):
    with pytest.raises(WireError):
        read_file(packed(header, data))


@settings(max_examples=100, deadline=2000)
@given(text=st.text(max_size=300))
def test_random_text_as_a_graph_is_refused(text):
    with pytest.raises(WireError):
        read_file(container(text.encode("utf-8", "replace").decode(), {}))


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=100, deadline=2000)
@given(value=PLAIN)
def test_random_data_as_a_header_are_refused(value):
    from tests.wire.by_hand import dumps

    with pytest.raises(WireError):
        read_file(packed(dumps(value).encode()))


@pytest.mark.parametrize("seed", range(len(SEEDS)))
def test_the_seeds_are_read_as_they_are(seed):
    assert outcome(SEEDS[seed]) == "read"


def test_a_file_that_is_changed_at_random_is_read_or_refused_and_nothing_else():
    source = random.Random(0)
    found = Counter(outcome(mutated(source.choice(SEEDS), source)) for _ in range(1500))
    assert found["refused"] > 300
    assert found["read"] > 50
