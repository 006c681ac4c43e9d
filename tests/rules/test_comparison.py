"""Two versions in numbers, worked out by hand from the formulas, and the verdict of either rule."""

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import pytest

from cl.records import ArmScore, Comparison
from cl.rules.comparison import Observations, compare, observe, score_arm
from cl.settings import ExperimentLimits

LIMITS = ExperimentLimits(
    decision_rule="plain",
    min_test_hours=48.0,
    min_test_samples=100,
    min_lift=0.05,
    latency_budget=10.0,
    max_test_hours=336.0,
)


class Request(NamedTuple):
    conversation: int
    quality: float | None
    latency_s: float
    thumb: int
    is_error: bool = False


def observed(requests: Sequence[Request], budget: float = 10.0) -> Observations:
    names = ("conversation", "quality", "latency_s", "feedback", "error")
    columns = zip(*requests, strict=True) if requests else ([] for _ in names)
    return observe(dict(zip(names, map(list, columns), strict=True)), budget)


def answers(
    count: int,
    quality: float | None = 0.7,
    latency_s: float = 2.0,
    *,
    thumbs: Sequence[int] = (),
    is_error: bool = False,
) -> list[Request]:
    """So many answers alike, each in a conversation of its own; the first are rated."""
    rated = [*thumbs, *[0] * count]
    return [Request(i, quality, latency_s, rated[i], is_error) for i in range(count)]


def arm(requests: Sequence[Request], pooled: float = 0.5, budget: float = 10.0) -> ArmScore:
    return score_arm("v0001", observed(requests, budget), pooled, budget)


def verdict(
    champion: Sequence[Request],
    challenger: Sequence[Request],
    hours: float = 48.0,
    limits: ExperimentLimits = LIMITS,
) -> Comparison:
    names = ("v0001", "v0002")
    return compare(3, names, observed(champion), observed(challenger), hours, limits)


def test_the_score_weighs_quality_thumbs_and_latency() -> None:
    # 0.5 * 0.7 + 0.3 * 0.5 - 0.2 * 0.2, and 0.9 instead of 0.7 for the better one.
    found = verdict(answers(120), answers(120, 0.9))
    assert found.champion.score == pytest.approx(0.46)
    assert found.challenger.score == pytest.approx(0.56)
    assert found.lift == pytest.approx(0.217391304348)


def test_thumbs_are_shrunk_towards_the_rate_of_both_sides() -> None:
    # 20 of 29 and 11 of 13; together (31 + 1) / (42 + 2) = 0.727...
    found = verdict(
        answers(40, thumbs=[1] * 20 + [-1] * 9), answers(40, thumbs=[1] * 11 + [-1] * 2)
    )
    assert found.champion.thumbs == pytest.approx(0.699300699301)
    assert found.challenger.thumbs == pytest.approx(0.794466403162)
    assert (found.champion.rated, found.champion.positives) == (29, 20)


def test_answers_nobody_rated_are_neutral() -> None:
    assert verdict(answers(100), answers(100)).champion.thumbs == 0.5
    assert arm(answers(3), pooled=0.8).thumbs == pytest.approx(0.8)
    failed = answers(9, None, thumbs=[-1] * 9, is_error=True)
    assert verdict([*answers(100), *failed], answers(100)).challenger.thumbs == 0.5


def test_latency_is_the_linear_95th_percentile_in_shares_of_the_budget() -> None:
    # Of 1..10 seconds it lies 0.55 of the way from the ninth to the tenth.
    found = arm([Request(i, 0.5, float(i), 0) for i in range(1, 11)], budget=20.0)
    assert found.p95_latency_s == pytest.approx(9.55)
    assert found.latency == pytest.approx(0.4775)


def test_slower_than_the_budget_is_no_worse_than_slowest() -> None:
    assert arm(answers(5, latency_s=25.0)).latency == 1.0
    assert arm(answers(5, latency_s=10.0)).latency == 1.0


@pytest.mark.parametrize(("latency_s", "counted"), [(0.1, 10.0), (10.0, 10.0), (60.0, 60.0)])
def test_an_error_counts_nothing_and_takes_at_least_the_budget(
    latency_s: float, counted: float
) -> None:
    found = arm(
        [
            *answers(3, None, latency_s, thumbs=[1, 1], is_error=True),
            *answers(1, 0.9, latency_s, is_error=True),
        ]
    )
    assert (found.quality, found.p95_latency_s) == (0.0, counted)
    assert (found.errors, found.scored, found.rated) == (4, 4, 0)


def test_an_answer_without_a_score_counts_in_everything_but_quality() -> None:
    found = arm([*answers(1, 0.8, 1.0), *answers(1, None, 5.0, thumbs=[1])])
    assert (found.quality, found.scored, found.requests, found.rated) == (0.8, 1, 2, 1)
    assert found.p95_latency_s == pytest.approx(4.8)


@pytest.mark.parametrize(("quality", "counted"), [(-0.3, 0.0), (1.7, 1.0), (0.0, 0.0)])
def test_a_quality_outside_its_range_is_brought_back(quality: float, counted: float) -> None:
    assert arm(answers(2, quality)).quality == counted


def test_conversations_are_counted_once() -> None:
    assert arm([Request(i // 4, 0.5, 1.0, 0) for i in range(10)]).conversations == 3


def test_a_base_near_zero_does_not_blow_up_the_lift() -> None:
    # 0.05 + 0.15 - 0.2 = 0 against 0.1 + 0.15 - 0.2; divided by 0.1, not by 0.
    found = verdict(answers(100, 0.1, 10.0), answers(100, 0.2, 10.0))
    assert found.champion.score == pytest.approx(0.0)
    assert found.lift == pytest.approx(0.5)


def test_against_a_negative_score_better_is_still_positive() -> None:
    # Ten thumbs down: pooled 1/12, F = 1/18 on both sides; S = 1/60 - 0.2 against 1/15 - 0.2.
    down = [-1] * 5
    found = verdict(answers(100, 0.0, 10.0, thumbs=down), answers(100, 0.1, 10.0, thumbs=down))
    assert found.champion.score == pytest.approx(-11 / 60)
    assert found.lift == pytest.approx(3 / 11)


@pytest.mark.parametrize("nothing", [[], answers(200, None)])
@pytest.mark.parametrize("hours", [1.0, 48.0])
def test_without_a_scored_answer_on_each_side_there_is_no_verdict(
    nothing: list[Request], hours: float
) -> None:
    for pair in ((nothing, answers(200)), (answers(200), nothing), (nothing, nothing)):
        found = verdict(*pair, hours)
        assert (found.decision, found.reason, found.lift) == ("continue", "no_data", None)


@pytest.mark.parametrize(
    ("quality", "count", "hours", "decision", "reason"),
    [  # the champion scores 0.46: 0.05 of it is a quality of 0.746
        (0.90, 100, 47.9, "continue", "collecting"),
        (0.90, 99, 335.9, "continue", "collecting"),
        (0.90, 99, 336.0, "retire", "max_duration"),
        (0.10, 99, 48.0, "continue", "collecting"),
        (0.90, 100, 48.0, "promote", "better"),
        (0.747, 100, 48.0, "promote", "better"),
        (0.745, 100, 48.0, "continue", "undecided"),
        (0.70, 100, 48.0, "continue", "undecided"),
        (0.699, 100, 48.0, "retire", "worse"),
        (0.70, 100, 335.9, "continue", "undecided"),
        (0.70, 100, 336.0, "retire", "max_duration"),
        (0.699, 100, 336.0, "retire", "worse"),
        (0.90, 100, 400.0, "promote", "better"),
    ],
)
def test_the_verdict_follows_hours_samples_and_lift(
    quality: float, count: int, hours: float, decision: str, reason: str
) -> None:
    found = verdict(answers(500), answers(count, quality), hours)
    assert (found.decision, found.reason) == (decision, reason)


def test_the_smaller_side_decides_whether_there_are_enough_answers() -> None:
    found = verdict(answers(99), answers(500, 0.9))
    assert found.reason == "collecting"
    assert "99 of 100" in found.text


def test_as_good_as_the_champion_is_not_worse() -> None:
    found = verdict(answers(100), answers(100))
    assert (found.lift, found.reason) == (0.0, "undecided")


def test_exactly_the_lift_that_is_asked_is_enough() -> None:
    limits = replace(LIMITS, min_lift=0.0)
    assert verdict(answers(100), answers(100), 48.0, limits).decision == "promote"


def test_the_sides_are_named_and_counted() -> None:
    found = verdict(answers(7), answers(5))
    assert found.experiment_id == 3
    assert (found.champion.version, found.champion.requests) == ("v0001", 7)
    assert (found.challenger.version, found.challenger.requests) == ("v0002", 5)


def test_scores_stay_in_their_range_and_do_not_depend_on_order_or_side() -> None:
    dice = random.Random(4)
    for _ in range(100):
        first, second = (
            [
                Request(
                    dice.randrange(5),
                    dice.choice([None, math.nan, dice.uniform(-1, 2)]),
                    dice.expovariate(0.2),
                    dice.choice([-1, 0, 1]),
                    dice.random() < 0.2,
                )
                for _ in range(dice.randrange(1, 12))
            ]
            for _ in range(2)
        )
        found, turned = verdict(first, second), verdict(second[::-1], first[::-1])
        for one, other in (
            (found.champion.score, turned.challenger.score),
            (found.challenger.score, turned.champion.score),
        ):
            assert one == pytest.approx(other)
            assert one is None or -0.2 <= one <= 0.8
