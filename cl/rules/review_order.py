"""What a reviewer looks at first.

Mostly the example about which the scorer is least sure, or which will move the model most: votes
that contradict each other, corrections, questions asked often, long answers. Every tenth place is
drawn at random from all that wait, so that what a reviewer finds there stands for the rest.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from hashlib import sha256
from math import log2

from cl.records import Status
from cl.rules.examples import Example
from cl.rules.quality import SCORER as PRIOR

CONFLICT = "conflicting votes"
CORRECTION = "correction"
UNCERTAIN = "uncertain"
OFTEN = "asked often"
LIKED = "liked"  # nothing else to say of it
DRAWN = "drawn at random"

EVERY = 10  # one place in ten is drawn
_UNSURE, _REACH = 0.5, 0.25  # a score is uncertain this near to a coin's
_OFTEN = 16  # times asked that make a question as influential as a correction
_LEAST = 0.05  # what is less than this is no reason
_LENGTH = 0.25  # long answers only decide between equals


@dataclass(frozen=True)
class ReviewItem:
    """One example that waits for a decision."""

    example: Example
    why: str
    weight: float
    propensity: float = 1.0  # the chance of standing in its place, given the places before it
    times: int = 1  # its question was asked, among the examples


@dataclass(frozen=True)
class Draw:
    """What decides the drawn places: the same all day, so that a page does not jump about."""

    seed: int
    day: date
    before: int = 0  # places already taken today, by what was decided


def learnable(example: Example) -> str:
    """Why this can never become an example; empty when it can."""
    if not example.learn:
        return "The person asked not to learn from this chat."
    if example.is_correction:
        return ""
    if example.thumb <= 0:
        return "Only an answer that was liked or corrected can be learned."
    if example.status is not Status.COMPLETE:
        return f"This answer is not complete: {example.status.value}."
    return ""


def waiting(examples: Iterable[Example], decided: Collection[str]) -> list[ReviewItem]:
    """The undecided among these rated interactions, each content once, the weightiest first.

    Give the newest first: of the same content the newest is shown.
    """
    rated = [e for e in examples if e.learn]
    disliked = {_given(e).key for e in rated if e.thumb < 0}
    found: dict[str, Example] = {}
    for example in rated:
        if not learnable(example):
            found.setdefault(example.key, example)
    times = Counter(e.prompt_key for e in rated if not learnable(e))
    longest = max((len(e.answer) for e in found.values()), default=1) or 1
    items = [
        _item(example, key in disliked, times[example.prompt_key], len(example.answer) / longest)
        for key, example in found.items()
        if key not in decided
    ]
    return sorted(items, key=lambda item: (-item.weight, -item.example.interaction_id))


def _given(example: Example) -> Example:
    """As it was answered, before anybody corrected it."""
    if example.rejected is None:
        return example
    return replace(example, answer=example.rejected, rejected=None)


def _item(example: Example, is_disliked: bool, times: int, length: float) -> ReviewItem:
    is_conflict = is_disliked and not example.is_correction
    parts = {
        CONFLICT: 1.0 if is_conflict else 0.0,
        CORRECTION: 1.0 if example.is_correction else 0.0,
        UNCERTAIN: 0.0 if is_conflict else uncertainty(example),
        OFTEN: min(1.0, log2(times) / log2(_OFTEN)),
    }
    why = max(parts, key=lambda name: parts[name])
    weight = sum(parts.values()) + _LENGTH * length
    return ReviewItem(
        example, why if parts[why] >= _LEAST else LIKED, round(weight, 4), times=times
    )


def uncertainty(example: Example) -> float:
    """How unsure the scorer is of a liked answer, in [0, 1]; 0 where none has looked.

    The rules that stand in for a scorer are no chances: a liked answer in which they see faults is
    what they are unsure of. A correction was written by a person: the score is that of the answer
    it replaces.
    """
    if example.quality is None or example.scorer is None or example.is_correction:
        return 0.0
    if example.scorer == PRIOR:
        return 1.0 - example.quality
    return max(0.0, 1.0 - abs(example.quality - _UNSURE) / _REACH)


def in_order(items: Sequence[ReviewItem], limit: int, draw: Draw) -> list[ReviewItem]:
    """The first `limit` places: the weightiest, and at every tenth one that is drawn.

    Draws are without replacement from all that have no place yet, each with the same chance.
    """
    lots = sorted(range(len(items)), key=lambda i: _lot(items[i].example.key, draw))
    by_weight, by_lot = iter(range(len(items))), iter(lots)
    placed: set[int] = set()
    found: list[ReviewItem] = []
    for place in range(draw.before + 1, draw.before + 1 + min(limit, len(items))):
        is_drawn = place % EVERY == 0
        index = next(i for i in (by_lot if is_drawn else by_weight) if i not in placed)
        item = items[index]
        if is_drawn:
            chance = 1 / (len(items) - len(placed))
            item = ReviewItem(item.example, DRAWN, item.weight, chance, item.times)
        placed.add(index)
        found.append(item)
    return found


def _lot(key: str, draw: Draw) -> bytes:
    return sha256(f"{draw.seed}:{draw.day.isoformat()}:{key}".encode()).digest()
