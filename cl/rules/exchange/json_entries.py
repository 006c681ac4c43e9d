"""JSON as it comes from elsewhere, an entry at a time: strict where a mistake would go unseen.

A list of any length is read without being held: its entries are cut out by their brackets, and a
wrong one does not touch the next.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

_OUTSIDE = re.compile(rb'["\[\]{},]')
_INSIDE = re.compile(rb'["\\]')
_SPACE = b" \t\r\n"


def decode(raw: bytes) -> dict[str, Any]:
    """The JSON object in these bytes. Raises ValueError with what is wrong with them."""
    try:
        found = _DECODER.decode(raw.decode("utf-8").lstrip("\ufeff"))
    except UnicodeDecodeError as problem:
        raise ValueError(f"not UTF-8: byte {problem.start + 1} cannot be read") from None
    except json.JSONDecodeError as problem:
        raise ValueError(f"not JSON: {problem.msg}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("a line must be a JSON object")
    return found


def list_entries(chunks: Iterable[bytes], longest: int) -> Iterator[bytes | None]:
    """The entries of a JSON list that arrives in pieces; None for one longer than `longest`.

    What follows the end of the list is one more entry, and no JSON.
    """
    cutter = _Cutter(longest)
    for chunk in chunks:
        yield from cutter.feed(chunk)
    yield from cutter.end()


class _Cutter:
    """Follows brackets and texts; UTF-8 hides no ASCII in longer characters, so bytes will do."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._depth = 0
        self._in_text = False
        self._skip = 0  # bytes at the beginning of the next chunk that were escaped
        self._held: list[bytes] = []
        self._length = 0

    def feed(self, chunk: bytes) -> Iterator[bytes | None]:
        at, start = self._skip, 0
        while found := (_INSIDE if self._in_text else _OUTSIDE).search(chunk, at):
            at = found.end()
            sign = found[0]
            if sign == b"\\":
                at += 1
            elif sign == b'"':
                self._in_text = not self._in_text
            elif sign in b"[{":
                self._depth += 1
                if self._depth == 1:
                    start = at
            elif sign in b"]}":
                self._depth -= 1
            if self._depth == (1 if sign == b"," else 0) and sign in b",]}":
                self._hold(chunk[start : found.start()])
                yield from self._cut()
                start = at
        self._skip = max(0, at - len(chunk))
        self._hold(chunk[start:])

    def end(self) -> Iterator[bytes | None]:
        yield from self._cut()

    def _hold(self, piece: bytes) -> None:
        self._length += len(piece)
        if self._length <= self._longest:
            self._held.append(piece)
        else:
            self._held.clear()

    def _cut(self) -> Iterator[bytes | None]:
        entry = b"".join(self._held).strip(_SPACE)
        if entry or self._length > self._longest:
            yield entry if self._length <= self._longest else None
        self._held.clear()
        self._length = 0


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, many in Counter(name for name, _ in pairs).items() if many > 1)
        raise ValueError(f"{twice[:40]!r} is there twice")
    return found


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# Raw tabs and NULs in texts are let in, to be cleaned like those that are written properly.
_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_number, strict=False)
