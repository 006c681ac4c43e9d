"""The gate: what a freshly trained version must show before it meets anyone.

Its parent is what it would replace: the champion, or the base model. Two kinds of checks:

    harm   integrity, drift, general questions, form, privacy: each must pass
    gain   held-out answers, likes and dislikes, taught corrections: none may fail, and at least
           one must pass: something got better, with evidence

A check without enough to judge by is inconclusive, and so is a gate in which nothing got better
for sure. Inconclusive is not passed.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cl.records import GateCheck, Verdict
from cl.rules import calibration, quality
from cl.rules.privacy import scrub
from cl.rules.probes import is_known
from cl.settings import GateLimits

HARM = ("integrity", "drift", "general questions", "form", "privacy")
GAIN = ("held-out answers", "likes and dislikes", "taught corrections")
_DRAWS = 2000
_LEAST_ASKED = 10  # answers under which their form says nothing
_LONGER, _SHORTER = 2.0, 0.1  # mean length against the parent's; people may like it brief

T = TypeVar("T")


@dataclass(frozen=True)
class HeldOut:
    """Loss of one held-out answer in nats a token; answers of one `group` are not independent."""

    group: str
    parent: float
    candidate: float


@dataclass(frozen=True)
class Vote:
    """A held-out answer people judged; `margin`: how much likelier the candidate finds it than its
    parent does, in nats a token."""

    group: str
    liked: bool
    margin: float


@dataclass(frozen=True)
class Asked:
    """A question with the parent's answer (before) and the candidate's (after).

    `kind`: `general` and `everyday` questions are shipped; `taught` ones were corrected,
    `held out` ones were corrected but not trained on, and `private` ones were learned from texts
    that held personal data or secrets before these were replaced. An answer is right when it holds the share
    `needed` of the keys, at least one.
    """

    kind: str
    question: str
    before: str
    after: str
    keys: tuple[str, ...] = ()
    needed: float = 0.0
    before_ended: bool = True  # by itself, not for want of room
    after_ended: bool = True
    reference: str = ""
    id: int | None = None  # the interaction it comes from

    @property
    def was_right(self) -> bool:
        return is_known(self.before, self.keys, self.needed)

    @property
    def is_right(self) -> bool:
        return is_known(self.after, self.keys, self.needed)


@dataclass(frozen=True)
class Measured:
    """What was measured of a candidate beside its parent."""

    parent: str
    problem: str | None = None  # why its files must not be loaded
    update_ratio: float = math.nan  # largest |update| / |weights| of a layer (Frobenius norms)
    held_out: tuple[HeldOut, ...] = ()
    votes: tuple[Vote, ...] = ()
    drift: tuple[float, ...] = ()  # KL(base || candidate) a rehearsal text, nats a token
    asked: tuple[Asked, ...] = field(default=(), repr=False)

    def of(self, *kinds: str) -> list[Asked]:
        return [one for one in self.asked if one.kind in kinds]


def checks(found: Measured, limits: GateLimits) -> tuple[GateCheck, ...]:
    """Every check with what it measured, its limit and its verdict."""
    integrity = _integrity(found, limits)
    if integrity.verdict is Verdict.FAILED:
        return (integrity,)
    return (
        integrity,
        _held_out(found, limits),
        _likes(found, limits),
        _taught(found, limits),
        _drift(found, limits),
        _general(found, limits),
        _form(found, limits),
        _privacy(found),
    )


def verdict(made: Sequence[GateCheck]) -> Verdict:
    """The gate's word on all checks together."""
    by_name = {check.name: check.verdict for check in made}
    if Verdict.FAILED in by_name.values():
        return Verdict.FAILED
    harmless = all(by_name.get(name) is Verdict.PASSED for name in HARM)
    better = any(by_name.get(name) is Verdict.PASSED for name in GAIN)
    return Verdict.PASSED if harmless and better else Verdict.INCONCLUSIVE


def sentence(made: Sequence[GateCheck]) -> str:
    """Why the gate said what it said."""
    said = verdict(made)
    if said is Verdict.FAILED:
        wanted = [c for c in made if c.verdict is Verdict.FAILED]
    elif said is Verdict.PASSED:
        wanted = [c for c in made if c.verdict is Verdict.PASSED and c.name in GAIN]
    else:
        wanted = [c for c in made if c.verdict is Verdict.INCONCLUSIVE]
    return "; ".join(f"{check.name}: {check.text}" for check in wanted)


def interval(values: Sequence[float], groups: Sequence[str], level: float) -> tuple[float, float]:
    """Bounds of the mean, each exceeded with probability 1 - level (percentile bootstrap over
    groups, Efron & Tibshirani 1993, ch. 13)."""
    return _bounds(np.asarray(values, float), groups, level, _mean)


def _mean(values: NDArray[np.float64], counts: NDArray[np.float64]) -> float:
    return float(values @ counts / counts.sum()) if counts.sum() else math.nan


def _bounds(
    rows: T,
    groups: Sequence[str],
    level: float,
    figure: Callable[[T, NDArray[np.float64]], float],
) -> tuple[float, float]:
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    dice = np.random.default_rng(0)  # the same evidence must give the same verdict
    drawn = dice.multinomial(len(names), np.full(len(names), 1 / len(names)), _DRAWS)
    values = [figure(rows, counts[member].astype(float)) for counts in drawn]
    low, high = np.nanquantile(values, [1 - level, level])
    return float(low), float(high)


# -- harm ------------------------------------------------------------------------------------


def _integrity(found: Measured, limits: GateLimits) -> GateCheck:
    ratio, limit = found.update_ratio, limits.max_update
    if found.problem is not None:
        return GateCheck("integrity", Verdict.FAILED, found.problem)
    fits = ratio <= limit  # false for nan
    text = f"files whole, weights finite; the largest update is {ratio:.2f} of its weights, at most {limit:g}"
    return GateCheck("integrity", _passed(fits), text, ratio, limit)


def _drift(found: Measured, limits: GateLimits) -> GateCheck:
    limit = limits.max_drift
    if not found.drift:
        return GateCheck(
            "drift", Verdict.INCONCLUSIVE, "there are no rehearsal texts to measure it on"
        )
    value = float(np.mean(found.drift))
    text = (
        f"{value:.3f} nats a token away from the base model on {len(found.drift)} rehearsal texts, "
        f"at most {limit:g}"
    )
    return GateCheck("drift", _passed(value <= limit), text, value, limit)


def _general(found: Measured, limits: GateLimits) -> GateCheck:
    asked = found.of("general")
    limit = int(limits.max_general_loss * len(asked))
    if len(asked) < _LEAST_ASKED:
        return GateCheck("general questions", Verdict.INCONCLUSIVE, f"only {len(asked)} were asked")
    before, after = sum(a.was_right for a in asked), sum(a.is_right for a in asked)
    text = f"{after} of {len(asked)} right, {found.parent} has {before}; at most {limit} fewer"
    return GateCheck(
        "general questions", _passed(before - after <= limit), text, after, before - limit
    )


def _form(found: Measured, limits: GateLimits) -> GateCheck:
    asked = found.asked
    if len(asked) < _LEAST_ASKED:
        return GateCheck("form", Verdict.INCONCLUSIVE, f"only {len(asked)} questions were asked")
    faults = [fault for a in asked if (fault := quality.malformed(a.after))]
    before = [fault for a in asked if (fault := quality.malformed(a.before))]
    endless = sum(not a.after_ended for a in asked) - sum(not a.before_ended for a in asked)
    everyday = found.of("everyday") or found.of("general")
    length = _length([a.after for a in everyday]) / max(1.0, _length([a.before for a in everyday]))
    limit = math.ceil(limits.max_malformed * len(asked))
    wrong = []
    if len(faults) > len(before) + limit:
        wrong.append(f"{len(faults)} of {len(asked)} answers are malformed ({faults[0]})")
    if endless > limit:
        wrong.append(f"{endless} more of {len(asked)} answers do not end by themselves")
    if not _SHORTER <= length <= _LONGER:
        wrong.append(f"answers are {length:.1f} times as long as before")
    text = "; ".join(wrong) or (
        f"{len(faults)} of {len(asked)} answers malformed, {found.parent} has {len(before)}; "
        f"{length:.1f} times as long as before"
    )
    return GateCheck("form", _passed(not wrong), text, len(faults), len(before) + limit)


def _privacy(found: Measured) -> GateCheck:
    """No answer may hold personal data or a secret that the question, or the parent, did not say."""
    leaks = [
        kind
        for a in found.asked
        for kind in scrub(a.after)[1]
        if kind not in (*scrub(a.before)[1], *scrub(a.question)[1])
    ]
    if not found.asked:
        return GateCheck("privacy", Verdict.INCONCLUSIVE, "no questions were asked")
    text = (
        f"{len(leaks)} answers hold what looks like {', '.join(sorted(set(leaks)))}"
        if leaks
        else f"nothing that looks personal or secret in {len(found.asked)} answers"
    )
    return GateCheck("privacy", _passed(not leaks), text, len(leaks), 0)


# -- gain ------------------------------------------------------------------------------------


def _held_out(found: Measured, limits: GateLimits) -> GateCheck:
    name, rows = "held-out answers", found.held_out
    changes = [row.candidate - row.parent for row in rows]
    if any(not math.isfinite(change) for change in changes):
        return GateCheck(name, Verdict.FAILED, "the loss is not a finite number")
    if len({row.group for row in rows}) < limits.min_evidence:
        return _too_few(name, f"{len(rows)} answers are held out", limits)
    low, high = interval(changes, [row.group for row in rows], limits.gate_confidence)
    loss, parent = (float(np.mean([getattr(r, n) for r in rows])) for n in ("candidate", "parent"))
    text = (
        f"loss {loss:.3f} nats a token, {found.parent} has {parent:.3f} on {len(rows)} answers; "
        f"the difference lies between {low:+.3f} and {high:+.3f}"
    )
    return GateCheck(name, _sure(-high, -low), text, loss, parent)


def _likes(found: Measured, limits: GateLimits) -> GateCheck:
    name, rows = "likes and dislikes", found.votes
    liked = np.array([row.liked for row in rows], bool)
    fewest = min(int(liked.sum()), int((~liked).sum())) if len(rows) else 0
    if fewest < limits.min_evidence:
        text = f"{int(liked.sum())} liked and {int((~liked).sum())} disliked answers are held out"
        return _too_few(name, text, limits)
    margins = np.array([row.margin for row in rows])
    if not np.isfinite(margins).all():
        return GateCheck(name, Verdict.FAILED, "the likelihoods are not finite numbers")
    low, high = _bounds(
        margins,
        [row.group for row in rows],
        limits.gate_confidence,
        lambda m, counts: calibration.auc(m, liked, counts),
    )
    value = calibration.auc(margins, liked)
    text = (
        f"it tells {value:.0%} of held-out liked answers from disliked ones by what it finds likelier "
        f"than {found.parent} does (chance: 50%), between {low:.0%} and {high:.0%}"
    )
    return GateCheck(name, _sure(low - 0.5, high - 0.5), text, value, 0.5)


def _taught(found: Measured, limits: GateLimits) -> GateCheck:
    """What is known by heart. Fewer may be lost than `max_forgotten` of what the parent knew."""
    name, asked = "taught corrections", [a for a in found.of("taught") if a.keys]
    if not asked:
        return _too_few(name, "no corrections were taught", limits)
    knew = sum(a.was_right for a in asked)
    lost = sum(a.was_right and not a.is_right for a in asked)
    won = sum(a.is_right and not a.was_right for a in asked)
    text = (
        f"{sum(a.is_right for a in asked)} of {len(asked)} are known, {found.parent} knows {knew}; "
        f"{won} new, {lost} lost"
    )
    if lost > max(1, math.floor(limits.max_forgotten * knew)) and lost >= won:
        return GateCheck(name, Verdict.FAILED, text, lost, limits.max_forgotten * knew)
    # Sign test: had nothing changed, each difference would be as likely a loss as a gain.
    chance = sum(math.comb(won + lost, k) for k in range(won, won + lost + 1)) / 2 ** (won + lost)
    enough = won + lost > 0 and chance <= 1 - limits.gate_confidence
    return GateCheck(name, Verdict.PASSED if enough else Verdict.INCONCLUSIVE, text, won, None)


def _too_few(name: str, text: str, limits: GateLimits) -> GateCheck:
    return GateCheck(
        name, Verdict.INCONCLUSIVE, f"{text}, at least {limits.min_evidence} are needed"
    )


def _sure(low: float, high: float) -> Verdict:
    """Of a gain between these bounds."""
    if low > 0:
        return Verdict.PASSED
    return Verdict.FAILED if high < 0 else Verdict.INCONCLUSIVE


def _passed(fits: bool) -> Verdict:
    return Verdict.PASSED if fits else Verdict.FAILED


def _length(answers: Sequence[str]) -> float:
    return float(np.mean([len(answer) for answer in answers])) if answers else 0.0
