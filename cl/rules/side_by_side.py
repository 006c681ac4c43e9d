"""Both sides of a test in the figures people ask for, beside the scores that decide."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple


class Seen(NamedTuple):
    """One answer of a test."""

    arm: str
    thumb: int
    reasons: tuple[str, ...]
    first_token_s: float | None
    tokens: int | None
    regenerated: bool


@dataclass(frozen=True)
class Side:
    """One side in figures; None where there is nothing to count."""

    answers: int
    rated: int
    liked: float | None
    regenerated: float | None
    dislikes: dict[str, int]
    first_p50: float | None
    first_p95: float | None
    tokens: float | None


@dataclass(frozen=True)
class Line:
    """One figure of both sides. `is_better` is None where neither direction is good or bad."""

    name: str
    first: float | None
    second: float | None
    unit: str  # share, seconds, tokens, count
    is_better: bool | None = None


def side(seen: Sequence[Seen]) -> Side:
    thumbs = [one.thumb for one in seen if one.thumb]
    firsts = sorted(one.first_token_s for one in seen if one.first_token_s is not None)
    tokens = [one.tokens for one in seen if one.tokens]
    reasons = Counter(reason for one in seen if one.thumb < 0 for reason in one.reasons)
    return Side(
        answers=len(seen),
        rated=len(thumbs),
        liked=sum(t > 0 for t in thumbs) / len(thumbs) if thumbs else None,
        regenerated=sum(one.regenerated for one in seen) / len(seen) if seen else None,
        dislikes=dict(reasons.most_common()),
        first_p50=percentile(firsts, 0.5),
        first_p95=percentile(firsts, 0.95),
        tokens=median(tokens) if tokens else None,
    )


def lines(first: Side, second: Side) -> list[Line]:
    """The table, champion first."""
    found = [
        Line("Answers", first.answers, second.answers, "count"),
        Line("Ratings", first.rated, second.rated, "count"),
        _judged("Liked", first.liked, second.liked, "share", more_is_better=True),
        _judged("Asked again", first.regenerated, second.regenerated, "share"),
        _judged("First word, median", first.first_p50, second.first_p50, "seconds"),
        _judged("First word, 95th percentile", first.first_p95, second.first_p95, "seconds"),
        Line("Length, median", first.tokens, second.tokens, "tokens"),
    ]
    reasons = dict.fromkeys((*first.dislikes, *second.dislikes))
    for reason in reasons:
        one, other = _disliked(first, reason), _disliked(second, reason)
        found.append(_judged(f"Disliked: {reason}", one, other, "share"))
    return found


def _disliked(side: Side, reason: str) -> float | None:
    return side.dislikes.get(reason, 0) / side.answers if side.answers else None


def percentile(ranked: Sequence[float], share: float) -> float | None:
    """Of numbers in order; None of none."""
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))] if ranked else None


def wilson(positives: int, of: int, z: float = 1.96) -> tuple[float, float]:
    """The interval of a share (Wilson 1927), by default at 95 %."""
    share, over = positives / of, z * z / of
    centre = (share + over / 2) / (1 + over)
    reach = z / (1 + over) * math.sqrt(share * (1 - share) / of + over / (4 * of))
    return max(0.0, centre - reach), min(1.0, centre + reach)


def _judged(
    name: str,
    first: float | None,
    second: float | None,
    unit: str,
    *,
    more_is_better: bool = False,
) -> Line:
    if first is None or second is None or first == second:
        return Line(name, first, second, unit)
    return Line(name, first, second, unit, (second > first) == more_is_better)
