"""Count instructions with valgrind's callgrind, between two marks that the counted program makes itself.

Valgrind is told by a few instructions that do nothing anywhere else (`valgrind/valgrind.h` documents them). What is not
between the marks, above all the import of torch, runs without being counted, and so several times as fast.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

Mark = Callable[[], None]

# What a compiler makes of VALGRIND_DO_CLIENT_REQUEST_EXPR(0, ...) as a function of one pointer, on x86-64.
_REQUEST = bytes.fromhex(
    "48 89 f8"  # mov rax, rdi: the request and its arguments
    "31 d2"  # xor edx, edx: the answer where there is no valgrind
    "48 c1 c7 03 48 c1 c7 0d 48 c1 c7 3d 48 c1 c7 33"  # rol rdi by 3, 13, 61 and 51: twice around
    "48 87 db"  # xchg rbx, rbx: behind those four, what valgrind waits for
    "48 89 d0"  # mov rax, rdx
    "c3"  # ret
)
_RUNNING_ON_VALGRIND = 0x1001
_CALLGRIND = ord("C") << 24 | ord("T") << 16
_ZERO, _TOGGLE, _DUMP_AS, _START = (_CALLGRIND + number for number in (1, 2, 3, 4))
_ALIKE = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


class CountFailed(Exception):
    """The program that was to be counted did not come to its end."""


def missing() -> str | None:
    """Why no instructions can be counted here, or None where they can."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return f"instructions are counted on Linux with an x86-64 processor, and this is {platform.platform()}"
    return None if shutil.which("valgrind") else "valgrind is not installed"


class Counter:
    """Tells valgrind what to count; where `missing` has no reason against it. Without valgrind nothing happens.

    >>> counter = Counter()
    >>> counter.start()
    >>> counter.count("an empty block", between(suite.loupe_empty), times=10)
    """

    def __init__(self) -> None:
        code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        code.write(_REQUEST)
        self._code = ctypes.c_char.from_buffer(code)
        self._request = ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_void_p)(ctypes.addressof(self._code))

    def counts(self) -> bool:
        """Whether this process runs under valgrind."""
        return bool(self._request(_message(_RUNNING_ON_VALGRIND)))

    def start(self) -> None:
        """Make what comes countable, and slower."""
        self._request(_message(_START))

    def count(self, name: str, run: Callable[[Mark], object], times: int) -> None:
        """Count what several runs do between the first and the second time that each calls the mark."""
        request, toggle = self._request, _message(_TOGGLE)
        called = ctypes.create_string_buffer(name.encode())

        def mark() -> None:
            request(toggle)

        request(_message(_ZERO))
        for _ in range(times):
            run(mark)
        request(_message(_DUMP_AS, ctypes.addressof(called)))


def between(call: Callable[[], object]) -> Callable[[Mark], None]:
    """A run that has a whole call between its marks."""

    def run(mark: Mark) -> None:
        mark()
        call()
        mark()

    return run


def _message(request: int, argument: int = 0) -> ctypes.Array[ctypes.c_size_t]:
    return (ctypes.c_size_t * 6)(request, argument)


def counted(script: str | Path) -> dict[str, int]:
    """Run a script that counts, and give back the instructions under each name; raises CountFailed where it fails.

    >>> counted("benchmarks/instructions.py")
    """
    with tempfile.TemporaryDirectory() as folder:
        command = ["valgrind", "--tool=callgrind", "--instr-atstart=no", "--collect-atstart=no"]
        command += [f"--callgrind-out-file={folder}/out", sys.executable, str(script)]
        done = subprocess.run(command, env={**os.environ, **_ALIKE}, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CountFailed(f"{script} ended with {done.returncode} under valgrind:\n{done.stderr}")
        return dict(_parts(Path(folder)))


def _parts(folder: Path) -> Iterator[tuple[str, int]]:
    """The name and the count of each part in what callgrind has written."""
    for file in folder.glob("out.*"):
        text = file.read_text()
        name = re.search(r"^desc: Trigger: Client Request: (.+)$", text, re.MULTILINE)
        count = re.search(r"^summary: (\d+)$", text, re.MULTILINE)
        if name and count:
            yield name[1], int(count[1])
