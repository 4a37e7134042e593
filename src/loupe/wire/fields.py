"""Take objects of a document apart, and refuse what is missing, of another kind, or unknown."""

from __future__ import annotations

from typing import Any, TypeVar

from loupe.errors import WireError, nearest

T = TypeVar("T")
_WORDS: dict[type, str] = {
    dict: "an object",
    list: "a list",
    str: "a string",
    int: "a whole number",
    float: "a number with a point",
    bool: "true or false",
    type(None): "null",
}


class Fields:
    """The fields of one JSON object; each is taken once, and `end` refuses those that nobody has asked for.

    >>> fields = Fields({"kind": "read"}, "node 0")
    >>> fields.take("kind", str)
    'read'
    >>> fields.end()
    """

    __slots__ = ("_asked", "_left", "where")

    def __init__(self, value: object, where: str) -> None:
        self.where = where
        self._left: dict[str, Any] = dict(expect(value, dict, where))
        self._asked: list[str] = []

    def take(self, name: str, kind: type[T]) -> T:
        """A field that has to be there, and of this kind."""
        self._asked.append(name)
        if name not in self._left:
            raise WireError(f"{self.where} has no {name!r}", remedy=f"give it {name!r}, {_WORDS[kind]}")
        return expect(self._left.pop(name), kind, f"{name!r} of {self.where}")

    def get(self, name: str, kind: type[T], default: T) -> T:
        """A field that may be left out, and is where it would say no more than that."""
        self._asked.append(name)
        if name not in self._left:
            return default
        value = expect(self._left.pop(name), kind, f"{name!r} of {self.where}")
        if value == default:
            raise WireError(
                f"{name!r} of {self.where} says what it is without it", remedy="leave fields out that have no news"
            )
        return value

    def any(self, name: str) -> Any:
        """A field that may be left out, of any kind; None without it."""
        self._asked.append(name)
        return self._left.pop(name, None)

    def has(self, name: str) -> bool:
        """Whether a field is there."""
        return name in self._left

    def end(self) -> None:
        """Refuse what is left over."""
        if self._left:
            name = next(iter(self._left))
            raise WireError(
                f"{self.where} has the unknown field {name!r:.60}", remedy=nearest(name, sorted(self._asked))
            )


def expect(value: object, kind: type[T], where: str) -> T:
    """A value that is exactly of a kind of JSON; raises WireError."""
    if type(value) is not kind:
        word = _WORDS.get(type(value), type(value).__name__)
        raise WireError(f"{where} is {word}, not {_WORDS[kind]}", remedy=f"write {_WORDS[kind]} there")
    return value


def number(value: int, where: str, least: int, most: int) -> int:
    """A whole number within bounds; raises WireError."""
    if not least <= value <= most:
        raise WireError(f"{where} is {value}", remedy=f"it goes from {least} to {most}")
    return value
