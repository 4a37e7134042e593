"""Hold both sides of the benchmarks of savings, long runs and harvests to the same results."""

import pytest
import torch

from benchmarks import savings
from benchmarks.harvest import Harvests
from benchmarks.long_gpt2 import LongContext, LongGeneration
from benchmarks.saving_work import SavedWork, memory_of
from benchmarks.savings import memory_rows
from benchmarks.suite import Unequal, check


class ShortGeneration(LongGeneration):
    new_tokens = 4


class ShortWork(SavedWork):
    tokens = 6


@pytest.mark.parametrize("make", [ShortWork, ShortGeneration, lambda: LongContext(32)])
def test_both_ways_of_a_scenario_give_the_same(make):
    suite = make()
    for scenario in suite.scenarios():
        check(suite, scenario)


def test_steering_changes_what_is_generated():
    scenario = ShortGeneration().against_bare()
    assert not torch.equal(scenario.hooks(), scenario.loupe().value)


def test_means_of_layers_need_next_to_nothing_beside_a_bare_pass():
    bare, everything, means = memory_of(ShortWork())
    assert means.kept == 12 * 96 * 4
    assert everything.kept == 6 * means.kept
    assert means.peak - bare.peak <= 2 * means.kept
    assert everything.peak - bare.peak <= 1.1 * everything.kept
    assert memory_rows([bare, everything, means])[1][0] == "a bare pass"


def test_the_page_of_savings_has_times_and_memory_of_each_suite(monkeypatch, tmp_path):
    monkeypatch.setattr(savings, "TIMED", (ShortWork,))
    savings.main(["--quick", "--markdown", str(tmp_path / "savings.md")])
    page = (tmp_path / "savings.md").read_text()
    assert page.startswith("# Savings\n")
    (section,) = page.split("\n## ")[1:]
    assert section.startswith(f"{ShortWork.name}\n\n| {' | '.join(savings.HEADER)} |\n")
    assert "\n| memory of tensors | peak KiB | over the bare pass | kept KiB |\n" in section
    names = [line.split(" | ")[0].removeprefix("| ") for line in section.splitlines() if line.startswith("| ")]
    assert set(names) > {each.name for each in ShortWork().scenarios()} | {"a bare pass", "save 12 layers"}


def test_a_harvest_is_held_against_hooks(monkeypatch):
    suite = Harvests(20)
    suite.check()
    monkeypatch.setattr(suite, "batches", suite.batches[::-1])
    with pytest.raises(Unequal):
        suite.check()
