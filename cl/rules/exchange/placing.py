"""Where histories from elsewhere go in the log, and how they are known again.

In the log a conversation is a line: what a model is shown is what stands above. A history may part
from one that is there already, at its last answer (two answers to one question) or earlier (an
edited question). An exchange is known by everything said up to it, so that the same history is
there once, whatever came in between.
"""

import hashlib
from dataclasses import dataclass, field
from datetime import datetime

from cl.records import Feedback, Status

_SIGN, _ASKED = "import-", 24


@dataclass(frozen=True)
class Exchange:
    """A message of the user and its answer, as they took place elsewhere."""

    prompt: str
    answer: str
    feedback: Feedback = field(default_factory=Feedback)
    at: datetime | None = None
    status: Status = Status.COMPLETE
    mark: str = ""  # tells exchanges apart that did not end; nothing follows from them


@dataclass(frozen=True)
class History:
    """One way through a conversation, from its beginning to an answer."""

    user: str
    group: str
    exchanges: tuple[Exchange, ...]
    learn: bool = True  # whether it may be learned from

    @property
    def root(self) -> str:
        """What the conversation is known by."""
        return key(self.user, self.group)

    def keys(self) -> list[str]:
        """What each exchange is known by: first what was asked, then what was answered."""
        found, above = [], self.root
        for e in self.exchanges:
            ending = () if e.status is Status.COMPLETE else (e.status.value, e.mark)
            asked = _digest(above, e.prompt)[:_ASKED]
            above = f"{_SIGN}{asked}-{_digest(above, e.prompt, e.answer, *ending)[:32]}"
            found.append(above)
        return found


@dataclass(frozen=True)
class Place:
    """A row to be written: below all that is in `conversation` by then.

    With `regenerates` it is another answer in the place of the one known by that key.
    """

    key: str
    conversation: str
    user: str
    exchange: Exchange
    learn: bool = True
    regenerates: str | None = None


class Placing:
    """Gives every new exchange its place, in the order of the histories.

    `homes` tells the conversation of each known exchange, `ends` what stands last in one.
    """

    def __init__(self, homes: dict[str, str], ends: dict[str, str]) -> None:
        self._homes = homes
        self._ends = ends

    def place(self, history: History, keys: list[str]) -> list[Place]:
        """The rows this history with these keys adds; none when all of it is known."""
        start = next((i for i, k in enumerate(keys) if k not in self._homes), len(keys))
        if start == len(keys):
            return []
        above = keys[start - 1] if start else None
        conversation = self._homes[above] if above else history.root
        end = self._ends.get(conversation)
        if end == above:
            return self._written(history, keys, start, conversation)
        if end and _asked(end) == _asked(keys[start]):
            return self._written(history, keys, start, conversation, replaced=end)
        return self._branched(history, keys, start)

    def _branched(self, history: History, keys: list[str], start: int) -> list[Place]:
        """A conversation of its own, which begins with a copy of what both have in common."""
        conversation = key("branch", keys[start])
        copies = [
            Place(
                key(conversation, k),
                conversation,
                history.user,
                Exchange(e.prompt, e.answer),
                history.learn,
            )
            for k, e in zip(keys[:start], history.exchanges, strict=False)
        ]
        return copies + self._written(history, keys, start, conversation)

    def _written(
        self,
        history: History,
        keys: list[str],
        start: int,
        conversation: str,
        replaced: str | None = None,
    ) -> list[Place]:
        places = []
        for k, exchange in zip(keys[start:], history.exchanges[start:], strict=True):
            places.append(Place(k, conversation, history.user, exchange, history.learn, replaced))
            self._homes[k] = conversation
            if exchange.status is Status.COMPLETE:
                self._ends[conversation] = k
            replaced = None
        return places


def key(*parts: str) -> str:
    return _SIGN + _digest(*parts)[:40]


def _asked(key: str) -> str:
    """The part of an exchange's key that two answers to one question share."""
    return key[: len(_SIGN) + _ASKED]


def _digest(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()
