"""Hold the columns of a peer to what it did: times where its results are the hooks', and words where they are not."""

import sys
import types

import pytest
import torch

from benchmarks import peers, run
from benchmarks.linear_stack import LinearStack
from benchmarks.peers import Columns, Peer, Ways, installed
from benchmarks.run import HEADER, table
from benchmarks.suite import TITLES

SHOWN = ("empty", "one_save", "zero", "patch", "peek", "gradient")


class Few(LinearStack):
    def scenarios(self):
        return [each for each in super().scenarios() if each.name in {TITLES[name] for name in SHOWN}]


class FakeWays(Ways):
    """Two ways that are right, one that is wrong, one that fails, and one that fails on its second call."""

    def __init__(self, suite):
        super().__init__(suite)
        self.peeks = 0

    def fake_empty(self):
        with torch.no_grad():
            self.module(self.suite.x)

    def fake_one_save(self):
        with torch.no_grad():
            return self.module(self.suite.x)

    def fake_zero(self):
        return self.fake_one_save()

    def fake_patch(self):
        raise ValueError("no patches here\nnor elsewhere")

    def fake_peek(self):
        self.peeks += 1
        if self.peeks > 1:
            raise RuntimeError("seen already")
        return self.suite.loupe_peek()


class BrokenWays(Ways):
    def __init__(self, suite):
        raise OSError("no model")


FAKE = Peer("fake", "1.0", {LinearStack: FakeWays})


@pytest.fixture(scope="module")
def suite():
    return Few()


def column(rows, place):
    return {name: row[place] for name, row in zip(("", *SHOWN), rows, strict=True)}


def test_a_peer_has_times_where_it_is_right_and_a_word_where_it_is_not(suite):
    rows, remarks = table(suite, [FAKE], rounds=2)
    times, ratios = column(rows, -2), column(rows, -1)
    assert (times.pop(""), ratios.pop("")) == ("fake us", "fake CPU ratio (quartiles)")
    for name in ("empty", "one_save"):
        assert float(times.pop(name)) > 0
        assert float(ratios.pop(name).split()[0]) > 0
    assert times == ratios == {"zero": "differs", "patch": "raises", "peek": "raises", "gradient": "-"}
    assert remarks == [
        f"{suite.name}, {TITLES['zero']}: fake and hooks read different values",
        f"{suite.name}, {TITLES['patch']}: fake raises ValueError: no patches here",
        f"{suite.name}, {TITLES['peek']}: fake raises RuntimeError: seen already",
    ]


def test_two_peers_have_their_own_columns(suite):
    rows, _ = table(suite, [FAKE, Peer("other", "2", {})], rounds=2)
    assert rows[0] == (*HEADER, "fake us", "fake CPU ratio (quartiles)", "other us", "other CPU ratio (quartiles)")
    assert all(row[-2:] == ("-", "-") for row in rows[1:])
    assert float(rows[1][len(HEADER)]) > 0


def test_without_peers_the_table_is_that_of_hooks_and_loupe(suite):
    rows, remarks = table(suite, [], rounds=2)
    assert rows[0] == HEADER
    assert all(len(row) == len(HEADER) for row in rows)
    assert not remarks


def test_a_peer_that_cannot_wrap_the_model_raises_in_every_line(suite):
    columns = Columns(Peer("broken", "1", {LinearStack: BrokenWays}), suite)
    assert [columns.call(each) for each in suite.scenarios()] == ["raises"] * len(SHOWN)
    assert len(columns.remarks) == len(SHOWN)
    assert columns.remarks[0].endswith("broken raises OSError: no model")


def test_a_peer_has_a_module_of_its_own(suite):
    ways = FAKE.ways(suite)
    assert ways.module is not suite.module
    assert not any(mine is theirs for mine, theirs in zip(ways.module, suite.module, strict=True))


def test_the_peers_are_those_whose_library_is_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "home_of_fake", types.SimpleNamespace(PEER=FAKE))
    monkeypatch.setattr(peers, "MODULES", {"no_such_library": "nowhere", "json": "home_of_fake"})
    assert installed() == [FAKE]


def test_the_page_says_which_peers_were_measured_and_what_their_words_mean(monkeypatch, tmp_path):
    monkeypatch.setattr(run, "SUITES", (Few,))
    pages = []
    for found in ([FAKE], []):
        monkeypatch.setattr(run, "installed", lambda found=found: found)
        run.main(["--quick", "--markdown", str(tmp_path / "page.md")])
        pages.append((tmp_path / "page.md").read_text())
    with_peer, without = pages
    assert "The columns of fake are of the same work" in with_peer
    assert "\n- beside them: fake 1.0\n" in with_peer
    assert f"\n- `{Few.name}, {TITLES['patch']}: fake raises ValueError: no patches here`\n" in with_peer
    assert "fake" not in without
    assert "beside them" not in without
