"""Files that were made to do harm, and files with mistakes: each is refused, with a message that says what is wrong."""

import time

import pytest

import loupe
from loupe.errors import WireError
from loupe.wire.file import read_file
from tests.wire.by_hand import session, valid
from tests.wire.hostile import HOSTILE


@pytest.mark.parametrize("start", [valid, session])
def test_the_files_that_the_others_are_made_of_are_right(start):
    assert len(read_file(start().bytes).blocks) == len(start().blocks)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_with_its_own_message_at_once(name):
    make, fragment = HOSTILE[name]
    data = make()
    started = time.process_time()
    with pytest.raises(WireError) as caught:
        read_file(data)
    assert time.process_time() - started < 5
    assert fragment.replace("\\\\", "\\") in str(caught.value)
    assert caught.value.remedy
    assert len(str(caught.value)) < 12_000


def test_there_are_more_than_sixty_of_them():
    assert len(HOSTILE) > 240


@pytest.mark.parametrize("name", list(HOSTILE)[::9])
def test_loading_a_hostile_file_from_a_path_says_the_same(name, tmp_path):
    make, fragment = HOSTILE[name]
    (tmp_path / "hostile.loupe").write_bytes(make())
    with pytest.raises(WireError) as caught:
        loupe.load(tmp_path / "hostile.loupe")
    assert fragment.replace("\\\\", "\\") in str(caught.value)
