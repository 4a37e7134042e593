"""Bound the instructions of recording, of a tap and of an empty block, where valgrind can count them.

A change that needs a fifth more than was counted has made every block slower. `make bench-instructions` prints the
lines of COUNTED as they are now.
"""

import sys

import pytest

from benchmarks.callgrind import CountFailed, counted, missing
from benchmarks.instructions import figures

COUNTED = {  # with Python 3.11 and torch 2.13
    "an empty block, beside the model": 198_201,
    "an operation: recording": 45_213,
    "an operation: planning and running": 47_263,
    "a saved site: recording": 75_780,
    "a saved site: planning, tap and saving": 65_955,
    "a written site: recording": 85_424,
    "a written site: planning and tap": 99_332,
}
MARGIN = 1.2
SUMS = """
import sys
sys.path.insert(0, {root!r})
from benchmarks.callgrind import Counter, between
counter = Counter()
assert counter.counts()
for _ in range(3):
    sum(range(3000))
counter.start()
for length in (1000, 2000, 3000):
    counter.count(f"sum to {{length}}", between(lambda: sum(range(length))), times=5)
    counter.count(f"beside a sum to {{length}}", lambda mark: (mark(), mark(), sum(range(length))), times=5)
"""

pytestmark = pytest.mark.skipif(missing() is not None, reason=missing() or "")


@pytest.fixture
def script(tmp_path):
    return tmp_path / "script.py"


def test_what_is_counted_stands_between_the_marks_and_is_the_same_each_time(script, request):
    script.write_text(SUMS.format(root=str(request.config.rootpath)))
    found = counted(script)
    steps = [found[f"sum to {length}"] for length in (1000, 2000, 3000)]
    assert steps[1] - steps[0] == pytest.approx(steps[2] - steps[1], rel=0.01)
    assert 10 < (steps[1] - steps[0]) / 5000 < 200  # for each number that is added
    assert found["beside a sum to 3000"] == pytest.approx(found["beside a sum to 1000"], rel=0.1)
    assert counted(script) == found


def test_a_script_that_fails_is_no_count(script):
    script.write_text("raise SystemExit('it stops here')")
    with pytest.raises(CountFailed, match=r"ended with 1 under valgrind:\n(.|\n)*it stops here"):
        counted(script)


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the bounds are of Python 3.11")
def test_no_part_of_a_block_takes_a_fifth_more_instructions_than_were_counted():
    found = figures()
    assert found.keys() == COUNTED.keys()
    assert not {name: number for name, number in found.items() if number > MARGIN * COUNTED[name]}
