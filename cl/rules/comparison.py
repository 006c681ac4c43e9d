"""Comparing two versions that answered at the same time, and the plain promotion rule.

Over all requests of an arm inside the experiment (a request cancelled before its first word, or
cut off by a restart, is in neither arm):

    Q = mean quality; an error counts 0, an answer without a score is left out
    L = min(P95 of latency / budget, 1); P95 is numpy's linear quantile; an error takes at least
        the budget
    F = (positives + 10 m) / (rated + 10), the share of thumbs up among rated answers, shrunk to
        m = (positives + 1) / (rated + 2) over both arms: no rating is neutral
    S = 0.5 Q + 0.3 F - 0.2 L, in [-0.2, 0.8]
    lift = (S_challenger - S_champion) / max(|S_champion|, 0.1)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cl.records import ArmScore, Comparison
from cl.settings import ExperimentLimits

PRIOR_RATINGS = 10.0
SMALLEST_BASE = 0.1


@dataclass(frozen=True)
class Request:
    """One answer as the comparison sees it."""

    conversation_id: int
    quality: float | None
    latency_s: float
    thumb: int  # +1, -1 or 0
    is_error: bool = False


def compare(
    experiment_id: int,
    names: tuple[str, str],
    champion: Sequence[Request],
    challenger: Sequence[Request],
    hours: float,
    limits: ExperimentLimits,
) -> Comparison:
    """Both arms in numbers, and the verdict of the plain rule on them."""
    rated = [r for r in (*champion, *challenger) if r.thumb and not r.is_error]
    pooled = (sum(r.thumb > 0 for r in rated) + 1) / (len(rated) + 2)
    first = score_arm(names[0], champion, pooled, limits.latency_budget)
    second = score_arm(names[1], challenger, pooled, limits.latency_budget)
    lift = None
    if first.score is not None and second.score is not None:
        lift = (second.score - first.score) / max(abs(first.score), SMALLEST_BASE)
    decision, reason, text = _verdict(first, second, lift, hours, limits)
    return Comparison(experiment_id, decision, reason, text, hours, first, second, lift)


def score_arm(version: str, requests: Sequence[Request], pooled: float, budget: float) -> ArmScore:
    """One arm in numbers; the means are None where there is nothing to average."""
    errors = sum(r.is_error for r in requests)
    qualities = [
        0.0 if r.is_error else min(1.0, max(0.0, r.quality or 0.0))
        for r in requests
        if _has_score(r)
    ]
    rated = [r.thumb for r in requests if r.thumb and not r.is_error]
    positives = sum(thumb > 0 for thumb in rated)
    conversations = len({r.conversation_id for r in requests})
    counts = (version, len(requests), conversations, len(qualities), len(rated), positives, errors)
    if not qualities:
        return ArmScore(*counts, None, None, None, None, None)
    quality = float(np.mean(qualities))
    thumbs = (positives + PRIOR_RATINGS * pooled) / (len(rated) + PRIOR_RATINGS)
    p95 = float(
        np.quantile(
            [max(r.latency_s, budget) if r.is_error else r.latency_s for r in requests], 0.95
        )
    )
    latency = min(p95 / budget, 1.0)
    return ArmScore(
        *counts, quality, thumbs, p95, latency, 0.5 * quality + 0.3 * thumbs - 0.2 * latency
    )


def _has_score(request: Request) -> bool:
    return request.is_error or request.quality is not None


def _verdict(
    champion: ArmScore,
    challenger: ArmScore,
    lift: float | None,
    hours: float,
    limits: ExperimentLimits,
) -> tuple[str, str, str]:
    """(decision, reason, the reason in a sentence)."""
    fewest = min(champion.requests, challenger.requests)
    so_far = "one side has no scored answer" if lift is None else f"so far {lift:+.1%}"
    is_ready = hours >= limits.min_test_hours and fewest >= limits.min_test_samples
    if hours >= limits.max_test_hours and (lift is None or not is_ready):
        text = f"No result after {hours:.0f} hours: {fewest} answers on the smaller side; {so_far}."
        return "retire", "max_duration", text
    if lift is None:
        return "continue", "no_data", "One side has no scored answer yet."
    if not is_ready:
        text = (
            f"{hours:.1f} of {limits.min_test_hours:g} hours and {fewest} of {limits.min_test_samples} "
            f"answers on the smaller side; {so_far}, too early to judge."
        )
        return "continue", "collecting", text
    if lift >= limits.min_lift:
        return (
            "promote",
            "better",
            f"{lift:+.1%} after {hours:.1f} hours: at least {limits.min_lift:.0%} better.",
        )
    if lift < 0:
        return "retire", "worse", f"{lift:+.1%} after {hours:.1f} hours: worse than the champion."
    if hours >= limits.max_test_hours:
        return (
            "retire",
            "max_duration",
            f"Not {limits.min_lift:.0%} better after {hours:.0f} hours; {so_far}.",
        )
    return (
        "continue",
        "undecided",
        f"Better by less than {limits.min_lift:.0%}: {so_far}; the test goes on.",
    )
