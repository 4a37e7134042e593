"""Write JSON in the one form that a value has, and read no other."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from loupe.errors import WireError
from loupe.wire.limits import Limits

_NOT_BRACKETS = re.compile(  # a string without an end is taken to the end, so that nothing is looked at twice
    r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|[^\[\]{}"]+', re.DOTALL
)
_CANONICAL = (
    "write objects with their keys in order of code points, no spaces, no escapes but those that JSON demands, and "
    "numbers as Python prints them"
)


def write_json(value: Any) -> str:
    """The canonical text of plain data: keys in order, no spaces, numbers in their shortest form that is exact.

    >>> write_json({"b": [1.0, None], "a": "é"})
    '{"a":"é","b":[1.0,null]}'

    Raises ValueError for nan and infinity, which JSON does not have.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def encodes(text: str) -> bool:
    """Whether UTF-8 can hold a text: half a surrogate pair it cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_json(text: str, what: str, limits: Limits, *, canonical: bool) -> Any:
    """Plain data from JSON; raises WireError for text that is none, that says a thing twice, or is in another form."""
    if not text.isascii() and not encodes(text):  # as an escape in the container's header can have it
        raise WireError(f"{what} is a text with half a surrogate pair in it", remedy="write UTF-8")
    _check_depth(text, what, limits)
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
    except WireError as error:
        raise WireError(f"{what}: {error.fact}", remedy=error.remedy) from None
    except (ValueError, RecursionError) as error:
        raise WireError(f"{what} is not JSON: {error}", remedy="write the file anew with graph.save(path)") from None
    if canonical:
        try:
            same = write_json(value) == text
        except ValueError:  # a number too large for a float
            same = False
        if not same:
            raise WireError(f"{what} is JSON in another form than the one that this format has", remedy=_CANONICAL)
    return value


def _check_depth(text: str, what: str, limits: Limits) -> None:
    """Count brackets before a parser recurses into them."""
    depth = 0
    most = limits.depth + 16  # the containers of arguments stand inside some of the format's own
    for bracket in _NOT_BRACKETS.sub("", text):
        depth += 1 if bracket in "[{" else -1 if bracket in "]}" else 0
        if depth > most:
            raise WireError(f"{what} has containers more than {most} deep", remedy="nest fewer containers")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise WireError(f"the key {twice!r} stands twice in one object", remedy="write each key once")
    return found


def _constant(name: str) -> NoReturn:
    raise WireError(f"{name} is no number of JSON", remedy='write {"float": "nan"}, "inf" or "-inf"')
