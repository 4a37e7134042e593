"""Hold the two sides of every benchmark to the same results, and the benchmark to noticing where they are not."""

import warnings
from functools import cache

import pytest
import torch

from benchmarks.linear_stack import LinearStack
from benchmarks.page import Page, markdown_table, plain_table
from benchmarks.recording import block_of, record_only
from benchmarks.storing import measure_storage
from benchmarks.suite import TITLES, Scenario, Unequal, check
from benchmarks.sweeps import SweepTinyGPT2, SweepTinyLlama
from benchmarks.timing import Spread, compare
from benchmarks.tiny_gpt2 import TinyGPT2

SUITES = (LinearStack, TinyGPT2)  # the larger ones inherit what they do from these
CASES = [(kind, name) for kind in (*SUITES, SweepTinyGPT2, SweepTinyLlama) for name in kind.methods()]


@cache
def suite_of(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return kind()


@pytest.mark.parametrize(("kind", "name"), CASES, ids=[f"{kind.__name__}-{name}" for kind, name in CASES])
def test_a_block_and_its_hooks_give_the_same_results_and_leave_no_hook(kind, name):
    suite = suite_of(kind)
    scenario = next(each for each in suite.scenarios() if each.name == TITLES[name])
    check(suite, scenario)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in suite.module.modules())


@pytest.mark.parametrize("kind", SUITES)
@pytest.mark.parametrize("change", ["zero", "patch", "peek"])
def test_the_hooks_of_a_change_really_change_what_the_model_returns(kind, change):
    suite = suite_of(kind)
    untouched = suite.hooks_one_save()
    changed = getattr(suite, f"hooks_{change}")()
    assert changed.shape == untouched.shape
    assert not torch.allclose(changed, untouched, atol=1e-4)


def test_results_that_differ_in_one_bit_are_refused():
    suite = suite_of(SUITES[0])
    value = torch.ones(3)
    off_by_one_bit = torch.nextafter(value, torch.zeros(3))
    check(suite, Scenario("equal", lambda: value, lambda: value.clone()))
    with pytest.raises(Unequal, match=r"wrong: .* read different values"):
        check(suite, Scenario("wrong", lambda: value, lambda: off_by_one_bit))


def test_a_block_that_never_runs_the_model_is_refused():
    suite = suite_of(SUITES[0])
    with pytest.raises(Unequal, match="the model returned different values"):
        check(suite, Scenario("lazy", suite.hooks_empty, lambda: None))


def test_the_chain_of_recorded_additions_is_the_sum_and_recording_alone_runs_nothing():
    suite = suite_of(SUITES[0])
    expected = torch.nn.functional.linear(suite.x, suite.module[0].weight, suite.module[0].bias).detach()
    for _ in range(20):
        expected = expected + 1
    torch.testing.assert_close(block_of(suite, 20).value, expected)
    runs = []
    handle = suite.module.register_forward_pre_hook(lambda *_: runs.append(1))
    try:
        assert record_only(suite, 20) > 0
    finally:
        handle.remove()
    assert not runs


def test_quartiles_and_tables_are_those_of_the_samples():
    spread = Spread.of([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (spread.low, spread.median, spread.high) == (2.0, 3.0, 4.0)
    rows = [("name", "us"), ("one save", spread.text())]
    assert plain_table(rows).splitlines() == ["name                    us", "one save  3.00 (2.00-4.00)"]
    assert markdown_table(rows).splitlines() == ["| name | us |", "| --- | ---: |", "| one save | 3.00 (2.00-4.00) |"]


def test_a_page_has_the_tables_that_are_printed_and_remarks_that_no_sphinx_reads(tmp_path, capsys):
    page = Page("# Title", ["machine: one"])
    page.add("GPT-2", [("name", "us"), ("one save", "3")], ["it `raises` *this*"])
    page.add("", [("memory", "KiB"), ("peak", "4")])
    page.write(None)
    page.write(tmp_path / "page.md")
    tables = "| name | us |\n| --- | ---: |\n| one save | 3 |\n\n- `it 'raises' *this*`\n"
    more = "\n| memory | KiB |\n| --- | ---: |\n| peak | 4 |\n"
    assert (tmp_path / "page.md").read_text() == f"# Title\n- machine: one\n\n## GPT-2\n\n{tables}{more}"
    printed = "machine: one\n\nGPT-2\nname      us\none save   3\nit `raises` *this*\n\nmemory  KiB\npeak      4\n"
    assert capsys.readouterr().out == printed


def test_every_way_is_timed_in_each_round_beside_the_hooks():
    called = []
    ways = [lambda name=name: called.append(name) for name in "abc"]
    found = compare(*ways, rounds=4, calls=2)
    assert "".join(called) == "aaaaaabbbbbbcccccc" + "aabbcc" * 4  # three times as many before the clock starts
    assert len(found) == 2
    assert found[0].hooks == found[1].hooks


def test_a_graph_that_is_saved_and_loaded_has_a_file_that_grows_with_it():
    small, large = (measure_storage(operations=count, rounds=2) for count in (10, 100))
    assert (small.nodes, large.nodes) == (12, 102)  # and a read and a save
    assert large.size > 3 * small.size
    assert min(large.save.low, large.load.low, large.hash.low) > 0
