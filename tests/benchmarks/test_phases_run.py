"""Hold the parts of a block's time to adding up to the whole, and the watch to leaving no trace."""

import time

import pytest

from benchmarks.linear_stack import LinearStack
from benchmarks.phases import BODY, NAMES, PHASES, Clock, main, table


@pytest.fixture(scope="module")
def suite():
    return LinearStack()


def test_the_parts_of_a_block_add_up_to_it_and_nothing_stays_watched(suite):
    before = [vars(owner)[method] for _, owner, method in PHASES]
    clock = Clock()
    with clock.watching():
        suite.loupe_patch()
        start = time.perf_counter()
        spent = clock.timed(suite.loupe_patch)
        whole = (time.perf_counter() - start) * 1e6
    assert [vars(owner)[method] for _, owner, method in PHASES] == before
    assert set(spent) == set(NAMES)
    assert sum(spent.values()) == pytest.approx(whole, rel=0.1)
    assert all(spent[name] > 0 for name in NAMES)


def test_what_a_body_does_counts_as_the_body_and_what_the_model_does_as_the_model(suite):
    def slow_body():
        with suite.model.trace(suite.x):
            time.sleep(0.02)
            suite.model[3].output.save()

    handle = suite.module[2].register_forward_hook(lambda *_: time.sleep(0.03))
    clock = Clock()
    try:
        with clock.watching():
            spent = clock.timed(slow_body)
    finally:
        handle.remove()
    assert spent[BODY] > 20_000
    assert spent["the model"] > 30_000
    assert sum(spent.values()) < 120_000


def test_the_table_has_a_line_for_each_part_and_a_column_for_each_scenario(suite):
    head, *rows, whole, by_hand = table(suite, ("empty", "one_save"), 3)
    assert head == ("part", "empty block", "one save")
    assert [name for name, *_ in rows] == list(NAMES)
    assert float(whole[1]) == pytest.approx(sum(float(row[1]) for row in rows), abs=1)
    assert 0 < float(by_hand[1]) < float(whole[1])


def test_the_page_is_written(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("benchmarks.phases.SUITES", (LinearStack,))
    main(["--quick", "--markdown", str(tmp_path / "phases.md")])
    assert "the model" in capsys.readouterr().out
    assert "| the model |" in (tmp_path / "phases.md").read_text()
