"""How often each rule decides rightly: simulated traffic, looked at again and again for two weeks.

    python -m tests.bench.decisions [--reps 200] [--every 6] [--jobs 2] [--json]

The traffic: conversations of geometric length by people who differ in taste, qualities and thumbs
that hang together within a conversation, thumbs on a tenth of the answers (rather on bad ones),
lognormal latencies. A true lift moves quality and thumbs so far that the overall score of the
challenger is that much higher.
"""

import argparse
import json
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from cl.records import Comparison
from cl.rules.comparison import Observations, compare
from cl.rules.verdicts import is_harmful
from cl.settings import ExperimentLimits

HOURS = 336.0
BUDGET = 10.0
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scenario:
    title: str
    figure: str  # promoted, retired_after, aborted, or requests_until_abort
    wanted: str
    rate: float = 100.0  # requests an hour, both arms
    lift: float = 0.0
    errors: float = 0.01
    challenger_errors: float | None = None
    share: float = 0.10
    people: int = 200
    turns: float = 6.0  # mean length of a conversation
    rated: float = 0.10


SCENARIOS = (
    Scenario("A/A, 100 an hour: promoted", "promoted", "<= 1 %"),
    Scenario("A/A, 20 an hour: promoted", "promoted", "<= 1 %", rate=20),
    Scenario("truly -5 %, 100 an hour: promoted", "promoted", "<= 0.1 %", lift=-0.05),
    Scenario("truly +10 %, 100 an hour: promoted", "promoted", ">= 80 %", lift=0.10),
    Scenario("truly +20 %, 20 an hour: promoted", "promoted", ">= 75 %", lift=0.20, rate=20),
    Scenario("truly -10 %, 100 an hour: median hours until retired", "hours", "<= 72", lift=-0.10),
    Scenario(
        "30 % errors: challenger's requests until aborted (median)",
        "requests",
        "<= 40",
        challenger_errors=0.30,
    ),
    Scenario("A/A, 100 an hour: aborted", "aborted", "<= 0.5 %"),
)


@dataclass(frozen=True)
class Traffic:
    """One arm's requests in order of time."""

    seen: Observations
    at: Floats

    def until(self, hour: float) -> Observations:
        cut = int(np.searchsorted(self.at, hour))
        s = self.seen
        return Observations(
            s.quality[:cut], s.latency_s[:cut], s.thumb[:cut], s.error[:cut], s.conversation[:cut]
        )


def _logistic(x: Floats) -> Floats:
    return 1 / (1 + np.exp(-x))


def _answers(
    dice: Generator,
    tastes: Floats,
    person: NDArray[np.int64],
    conversation: NDArray[np.int64],
    effect: Floats,
    errors: Floats,
    rated: float,
) -> dict[str, Any]:
    """Quality, thumb, latency and error of each request; `effect` moves quality and thumbs."""
    count = len(person)
    moods = dice.standard_normal((int(conversation.max()) + 1 if count else 0, 2))[conversation]
    taste = tastes[person]
    quality = _logistic(
        1.0 + effect + 0.25 * taste[:, 0] + 0.35 * moods[:, 0] + 0.95 * dice.standard_normal(count)
    )
    liking = 1.05 + 0.9 * effect + taste[:, 1] + 0.7 * moods[:, 1] + 2.0 * (quality - 0.7)
    speaks = rated * np.exp(0.5 * taste[:, 2]) * (1 + 0.7 - quality) / 1.13
    has_thumb = dice.random(count) < np.clip(speaks, 0, 0.95)
    thumb = np.where(has_thumb, np.where(dice.random(count) < _logistic(liking), 1, -1), 0)
    latency = 2.0 * np.exp(0.6 * dice.standard_normal(count))
    error = dice.random(count) < errors
    return {
        "quality": np.where(error, 0.0, quality),
        "latency_s": np.where(error, np.maximum(latency, BUDGET), latency),
        "thumb": np.where(error, 0, thumb),
        "error": error,
    }


@cache
def effect_of(lift: float, errors: float, rated: float) -> float:
    """The effect at which the overall score of many requests is (1 + lift) times that without."""
    if not lift:
        return 0.0
    count = 400_000

    def score(effect: float) -> float:
        dice = np.random.default_rng(7)
        tastes = dice.standard_normal((4000, 3))
        person = dice.integers(0, 4000, count)
        all_ = np.full(count, effect)
        found = _answers(
            dice, tastes, person, np.arange(count), all_, np.full(count, errors), rated
        )
        thumbs = np.sum(found["thumb"] > 0) / max(1, np.sum(found["thumb"] != 0))
        slowest = min(float(np.quantile(found["latency_s"], 0.95)) / BUDGET, 1.0)
        return float(0.5 * found["quality"].mean() + 0.3 * thumbs - 0.2 * slowest)

    wanted, low, high = score(0.0) * (1 + lift), -3.0, 3.0
    for _ in range(26):
        middle = (low + high) / 2
        low, high = (middle, high) if score(middle) < wanted else (low, middle)
    return (low + high) / 2


def traffic(scenario: Scenario, seed: tuple[int, int]) -> tuple[Traffic, Traffic]:
    """Two weeks of requests to both arms, split by conversation."""
    effect = effect_of(scenario.lift, scenario.errors, scenario.rated)
    dice = np.random.default_rng(seed)
    count = int(dice.poisson(scenario.rate * HOURS))
    at = np.sort(dice.random(count)) * HOURS
    conversation = np.cumsum(dice.random(count) < 1 / scenario.turns)
    chats = int(conversation[-1]) + 1
    person = dice.integers(0, scenario.people, chats)[conversation]
    tastes = dice.standard_normal((scenario.people, 3))
    is_new = (dice.random(chats) < scenario.share)[conversation]
    failing = scenario.challenger_errors
    errors = np.where(
        is_new, scenario.errors if failing is None else failing, scenario.errors
    ).astype(float)
    found = _answers(dice, tastes, person, conversation, is_new * effect, errors, scenario.rated)
    arms = []
    for side in (~is_new, is_new):
        numbers = np.unique(conversation[side], return_inverse=True)[1]
        columns = {name: values[side] for name, values in found.items()}
        arms.append(Traffic(Observations(**columns, conversation=numbers), at[side]))
    return arms[0], arms[1]


def story(
    scenario: Scenario, limits: ExperimentLimits, every: float, seed: tuple[int, int]
) -> tuple[str, float, int]:
    """(how the test ended, after how many hours, after how many requests to the challenger)."""
    champion, challenger = traffic(scenario, seed)
    hour = every
    while hour <= HOURS:
        seen: Comparison = compare(
            0, ("a", "b"), champion.until(hour), challenger.until(hour), hour, limits
        )
        if seen.decision != "continue":
            end = "aborted" if is_harmful(seen) else f"{seen.decision}d"
            return end, hour, seen.challenger.requests
        hour += every
    return "undecided", HOURS, 0


def stories(
    scenario: Scenario, rule: str, every: float, reps: int, seed: int, pool: Any
) -> dict[str, float]:
    limits = replace(ExperimentLimits(), decision_rule=rule, challenger_share=scenario.share)
    if rule == "plain":  # as it is often used: without guardrails
        limits = replace(limits, guard_alpha=1e-300, harm=1e9)
    effect_of(scenario.lift, scenario.errors, scenario.rated)
    # Errors are looked at after every few requests, as the guard does, not once an hour.
    step = 0.02 if scenario.figure == "requests" and rule == "evidence" else every
    run: Callable[[tuple[int, int]], tuple[str, float, int]] = partial(
        story, scenario, limits, step
    )
    ends = list(pool.map(run, [(seed, rep) for rep in range(reps)], chunksize=4))
    gone = [hours for end, hours, _ in ends if end in ("aborted", "retired")]
    return {
        "promoted": sum(end == "promoted" for end, *_ in ends) / reps,
        "aborted": sum(end == "aborted" for end, *_ in ends) / reps,
        "hours": float(np.median(gone)) if gone else float("nan"),
        "requests": float(np.median([requests for *_, requests in ends])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--reps", type=int, default=200)
    parser.add_argument("--every", type=float, default=6.0, help="hours between two looks")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = []
    with ProcessPoolExecutor(args.jobs) as pool:
        for scenario in SCENARIOS:
            rules = {
                rule: stories(scenario, rule, args.every, args.reps, args.seed, pool)
                for rule in ("plain", "evidence")
            }
            row = {rule: rules[rule][scenario.figure] for rule in rules}
            found.append({"scenario": scenario.title, "wanted": scenario.wanted, **row})
            if not args.json:
                plain, ours = (_told(row[rule], scenario.figure) for rule in row)
                title = f"{scenario.title:<58}"
                print(f"{title} plain {plain:>7}  ours {ours:>7}  {scenario.wanted}", flush=True)
    if args.json:
        print(json.dumps(found))


def _told(value: float, figure: str) -> str:
    return f"{value:.1%}" if figure in ("promoted", "aborted") else f"{value:.0f}"


if __name__ == "__main__":
    main()
