"""Feed changed files of graphs to the reader: `python scripts/fuzz_wire.py 150000`, or `--atheris` for guided ones.

What the reader makes of a file has to be a WireError or a graph that prints, hashes, and can be written and read again;
an input that gives anything else is kept as `crash-….loupe`, and the run ends with an error. With `--atheris`, the
atheris library changes the bytes and watches which lines of `loupe.wire` they reach; the rest of the arguments is its
own, as `-max_total_time=900`.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script finds its neighbours under their package's name


def by_ourselves(count: int, seed: int) -> int:
    """Run changed files through the reader; returns how many gave what none may give."""
    from tests.wire.mutations import mutated, outcome, seeds

    starts, source = seeds(), random.Random(seed)
    found: Counter[str] = Counter()
    slowest, began = 0.0, time.perf_counter()
    for _ in range(count):
        data = mutated(source.choice(starts), source)
        started = time.perf_counter()
        try:
            found[outcome(data)] += 1
        except Exception:
            found["crashed"] += 1
            keep(data)
            traceback.print_exc()
        slowest = max(slowest, time.perf_counter() - started)
    spent = time.perf_counter() - began
    print(f"{count} inputs (seed {seed}) in {spent:.0f} s, the slowest {slowest:.2f} s: {dict(found)}")
    return found["crashed"]


def with_atheris(arguments: list[str], corpus: Path) -> None:
    """Let atheris change files, guided by the lines of the reader that they reach."""
    import atheris  # pyrefly: ignore[missing-import]  (it is installed by who wants it)

    with atheris.instrument_imports(include=["loupe.wire"]):
        import loupe.wire.file  # noqa: F401
    from tests.wire.mutations import mutated, outcome, seeds

    corpus.mkdir(exist_ok=True)
    for data in seeds():
        (corpus / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)

    def change(data: bytes, most: int, seed: int) -> bytes:
        """A change of ours, or where the file is none any more, of bytes."""
        try:
            return mutated(data, random.Random(seed))[:most]
        except Exception:  # it is no JSON any more, so that nothing but its bytes can be changed
            return atheris.Mutate(data, most)

    atheris.Setup([sys.argv[0], *arguments, str(corpus)], outcome, custom_mutator=change)
    atheris.Fuzz()


def keep(data: bytes) -> None:
    """Write down an input, to be looked at."""
    Path(f"crash-{hashlib.sha256(data).hexdigest()[:12]}.loupe").write_bytes(data)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int, nargs="?", default=10_000, help="how many inputs (without --atheris)")
    parser.add_argument("--seed", type=int, default=0, help="of the random changes")
    parser.add_argument("--atheris", action="store_true", help="let atheris change the files")
    parser.add_argument(
        "--corpus", type=Path, default=Path("fuzz-corpus"), help="a folder in which atheris keeps files"
    )
    options, others = parser.parse_known_args()
    if options.atheris:
        with_atheris(others, options.corpus)
    else:
        sys.exit(1 if by_ourselves(options.count, options.seed) else 0)


if __name__ == "__main__":
    main()
