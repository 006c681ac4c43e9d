"""Comparing two versions that answered at the same time: both arms in numbers, and the verdict.

Over all requests of an arm inside the experiment (one cancelled before its first word, or cut off
by a restart, is in neither arm; one that the champion answered because the challenger failed is an
error of the challenger):

    Q = mean quality; an error counts 0, an answer without a score is left out
    L = min(P95 of latency / budget, 1); P95 is numpy's linear quantile; an error takes at least
        the budget
    F = (positives + 10 m) / (rated + 10), the share of thumbs up among rated answers, shrunk to
        m = (positives + 1) / (rated + 2) over both arms: no rating is neutral
    S = 0.5 Q + 0.3 F - 0.2 L, in [-0.2, 0.8]
    D = S_challenger - S_champion;  lift = D / max(|S_champion|, 0.1)

The standard error of D is the delta method's, summed per conversation, which is the unit of
assignment. What follows from it is decided in verdicts.py.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cl.records import ArmScore, Comparison
from cl.rules import verdicts
from cl.rules.evidence import log_e_rate, log_e_share, multiplier
from cl.rules.verdicts import Verdict
from cl.settings import ExperimentLimits

PRIOR_RATINGS = 10.0
_SURE_SE = 1e-6  # below it nothing varied: there is no evidence, only coincidence
_WEIGHTS = (0.5, 0.3, 0.2)

Floats = NDArray[np.float64]
Columns = Mapping[str, Sequence[Any] | NDArray[Any]]


@dataclass(frozen=True)
class Observations:
    """One arm, a value per request, all of shape (n,). NaN: without a score, without a latency."""

    quality: Floats  # in [0, 1]; 0 for an error
    latency_s: Floats  # an error takes at least the budget
    thumb: NDArray[np.int64]  # +1, -1, or 0 for none; none for an error
    error: NDArray[np.bool_]
    conversation: NDArray[np.int64]  # the conversation's number, from 0

    def __len__(self) -> int:
        return len(self.quality)


def observe(columns: Columns, budget: float) -> Observations:
    """One arm's columns `quality, latency_s, feedback, error, conversation`, made fit to compare.

    A quality outside [0, 1] is clipped. A latency that is negative or no number (a broken clock)
    says nothing and is left out, like a missing score. Raises ValueError for columns of unlike
    length.
    """
    error = np.asarray(columns["error"], dtype=bool)
    quality, latency = _floats(columns["quality"]), _floats(columns["latency_s"])
    thumb = np.asarray([value or 0 for value in columns["feedback"]], dtype=np.int64)
    conversation = np.asarray(columns["conversation"])
    lengths = {len(column) for column in (error, quality, latency, thumb, conversation)}
    if len(lengths) > 1:
        raise ValueError(f"The columns of an arm have unlike lengths: {sorted(lengths)}.")
    usable = np.isfinite(latency) & (latency >= 0)
    quality = np.where(np.isfinite(quality), np.clip(quality, 0.0, 1.0), np.nan)
    latency = np.where(usable, latency, np.nan)
    return Observations(
        quality=np.where(error, 0.0, quality),
        latency_s=np.where(error, np.fmax(latency, budget), latency),
        thumb=np.where(error, 0, np.sign(thumb)),
        error=error,
        conversation=np.unique(conversation, return_inverse=True)[1].astype(np.int64),
    )


def analyze(
    arms: Mapping[str, Columns],
    hours: float,
    share: float,
    limits: ExperimentLimits | None = None,
) -> dict[str, Any]:
    """The verdict on `{"champion": columns, "challenger": columns}` after `hours` at this `share`.

    Returns decision, reason, text, lift, se, lower, upper (of D) and both arms; None where a number
    is not reached. Raises ValueError for a share outside (0, 1) or hours that are no number.
    """
    if not 0 < share < 1:
        raise ValueError(f"A share of traffic lies between 0 and 1, not at {share}.")
    limits = replace(limits or ExperimentLimits(), challenger_share=share)
    first, second = (
        observe(arms[arm], limits.latency_budget) for arm in ("champion", "challenger")
    )
    seen = compare(0, ("champion", "challenger"), first, second, hours, limits)
    return {
        "decision": seen.decision,
        "reason": seen.reason,
        "text": seen.text,
        "lift": seen.lift,
        "se": seen.se,
        "lower": seen.lower,
        "upper": seen.upper,
        "champion": seen.champion,
        "challenger": seen.challenger,
    }


def compare(
    experiment_id: int,
    names: tuple[str, str],
    champion: Observations,
    challenger: Observations,
    hours: float,
    limits: ExperimentLimits,
    judge: Callable[[Comparison, ExperimentLimits], Verdict] = verdicts.on_test,
) -> Comparison:
    """Both arms in numbers, and the verdict of `judge` on them."""
    if not math.isfinite(hours):
        raise ValueError(f"The hours of a test are a number, not {hours}.")
    hours = max(0.0, hours)  # the clock was set back
    rated = np.concatenate([champion.thumb, challenger.thumb])
    pooled = float((np.sum(rated > 0) + 1) / (np.sum(rated != 0) + 2))
    first = score_arm(names[0], champion, pooled, limits.latency_budget)
    second = score_arm(names[1], challenger, pooled, limits.latency_budget)
    seen = Comparison(
        experiment_id, "", "", "", hours, first, second, None, mode=limits.decision_mode
    )
    if first.score is not None and second.score is not None:
        seen = replace(seen, **_measured(first, second, limits))
    if len(champion) and len(challenger):
        seen = replace(seen, guards=_guards(champion, challenger, first, second, limits))
        split = log_e_share(second.conversations, first.conversations, limits.challenger_share)
        seen = replace(seen, split_log_e=split)
    decision, reason, text = judge(seen, limits)
    text += _left_out(champion, challenger)
    return replace(seen, decision=decision, reason=reason, text=text)


def from_numbers(numbers: Mapping[str, Any]) -> Comparison:
    """A look as it was stored; one from before a number was measured has none."""
    arms = {side: ArmScore(**numbers[side]) for side in ("champion", "challenger")}
    return Comparison(**{**numbers, **arms})


def score_arm(version: str, seen: Observations, pooled: float, budget: float) -> ArmScore:
    """One arm in numbers; the means are None where there is nothing to average."""
    positives, rated = int(np.sum(seen.thumb > 0)), int(np.sum(seen.thumb != 0))
    scored = ~np.isnan(seen.quality)
    conversations = int(seen.conversation.max()) + 1 if len(seen) else 0
    counts = (version, len(seen), conversations, int(scored.sum()), rated, positives)
    latencies = seen.latency_s[~np.isnan(seen.latency_s)]
    errors = int(seen.error.sum())
    if not scored.any() or not len(latencies):
        return ArmScore(*counts, errors, None, None, None, None, None)
    quality = float(seen.quality[scored].mean())
    thumbs = (positives + PRIOR_RATINGS * pooled) / (rated + PRIOR_RATINGS)
    p95 = float(np.quantile(latencies, 0.95))
    latency = min(p95 / budget, 1.0)
    by_quality, by_thumbs, by_latency = _WEIGHTS
    score = by_quality * quality + by_thumbs * thumbs - by_latency * latency
    variances = _variances(seen, quality, pooled, p95, budget)
    return ArmScore(*counts, errors, quality, thumbs, p95, latency, score, *variances)


def _variances(
    seen: Observations, quality: float, pooled: float, p95: float, budget: float
) -> tuple[float | None, float | None]:
    """Of the arm's S, by the delta method, and of its thumbs alone; None for one conversation."""
    n, groups = len(seen), int(seen.conversation.max()) + 1
    if groups < 2:
        return None, None
    by_quality, by_thumbs, by_latency = _WEIGHTS
    scored, rated = ~np.isnan(seen.quality), seen.thumb != 0
    timed = ~np.isnan(seen.latency_s)
    psi, psi_thumbs = np.zeros(n), np.zeros(n)
    psi[scored] += by_quality * (seen.quality[scored] - quality) * n / scored.sum()
    ups = (seen.thumb[rated] > 0) - pooled
    psi_thumbs[rated] = by_thumbs * ups * n / (rated.sum() + PRIOR_RATINGS)
    psi += psi_thumbs
    if p95 < budget:
        latencies = seen.latency_s[timed]
        near = min(0.04, 1.96 * math.sqrt(0.95 * 0.05 / len(latencies)))
        low, high = np.quantile(latencies, [0.95 - near, 0.95 + near])
        sparsity = (high - low) / (2 * near)
        is_within = latencies <= p95
        psi[timed] -= by_latency / budget * sparsity * (0.95 - is_within) * n / timed.sum()
    return _clustered(psi, seen.conversation), _clustered(psi_thumbs, seen.conversation)


def _clustered(psi: Floats, conversation: NDArray[np.int64]) -> float:
    """The variance of the mean of psi, whose values are alike within a conversation."""
    sums = np.bincount(conversation, weights=psi)
    return float(len(sums) / (len(sums) - 1) * np.sum(sums**2) / len(psi) ** 2)


def _measured(first: ArmScore, second: ArmScore, limits: ExperimentLimits) -> dict[str, Any]:
    """lift, se, and the bounds of D as far as the data has any."""
    assert first.score is not None
    assert second.score is not None
    difference = second.score - first.score
    found: dict[str, Any] = {"lift": difference / verdicts.base(first)}
    if first.variance is None or second.variance is None:
        return found
    se = found["se"] = math.sqrt(first.variance + second.variance)
    if se > _SURE_SE:
        sigma = limits.evidence_sigma
        found["lower"] = difference - multiplier(se, limits.promote_alpha, sigma) * se
        found["upper"] = difference + multiplier(se, limits.retire_alpha, sigma) * se
        found["harm_upper"] = difference + multiplier(se, limits.guard_alpha, sigma) * se
    return found


def _guards(
    champion: Observations,
    challenger: Observations,
    first: ArmScore,
    second: ArmScore,
    limits: ExperimentLimits,
) -> dict[str, float]:
    """Log e-values against "the challenger does no more harm than is tolerable", by name."""
    budget = limits.latency_budget
    slow = max(budget, 2 * first.p95_latency_s) if first.p95_latency_s is not None else budget
    sums = [_thumbs_by_conversation(arm) for arm in (champion, challenger)]
    seen = {
        # name: (events and trials of the challenger, of the champion, floor, factor)
        "error": (second.errors, len(challenger), first.errors, len(champion), 0.03, 2.0),
        "latency": (
            int(np.sum(challenger.latency_s > slow)),
            len(challenger),
            int(np.sum(champion.latency_s > slow)),
            len(champion),
            0.05,
            2.0,
        ),
        "thumbs_down": (
            int(np.sum(sums[1] < 0)),
            len(sums[1]),
            int(np.sum(sums[0] < 0)),
            len(sums[0]),
            0.30,
            1.5,
        ),
    }
    return {
        name: log_e_rate(events, trials, min(0.9, max(floor, factor * (before + 1) / (of + 2))))
        for name, (events, trials, before, of, floor, factor) in seen.items()
    }


def _thumbs_by_conversation(seen: Observations) -> Floats:
    """The sum of the thumbs of each conversation that has any."""
    rated = seen.thumb != 0
    number, place = np.unique(seen.conversation[rated], return_inverse=True)
    return np.bincount(place, seen.thumb[rated], len(number)).astype(np.float64)


def _left_out(*arms: Observations) -> str:
    timeless = sum(int(np.isnan(arm.latency_s).sum()) for arm in arms)
    return f" {timeless} answers without a usable latency are left out of it." if timeless else ""


def _floats(values: Sequence[Any] | NDArray[Any]) -> Floats:
    if isinstance(values, np.ndarray) and values.dtype == np.float64:
        return values
    return np.asarray([math.nan if v is None else v for v in values], dtype=np.float64)
