"""The drawings: they always are valid JSON for the browser, with nothing to draw, too."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from gradio.components.plot import PlotData

from cl.db.digests import Numbers
from cl.db.reports import Point
from cl.rules.lifelines import Span
from cl.settings import ExperimentLimits
from cl.web import plots

START = datetime(2026, 1, 5, 9, tzinfo=UTC)


def figure(drawn: PlotData) -> dict[str, Any]:
    """As a browser reads it: NaN is no JSON there."""

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no JSON")

    found: dict[str, Any] = json.loads(drawn.plot, parse_constant=refuse)
    return found


def points(count: int, version: str = "v0001", hours: float = 1.0) -> list[Point]:
    return [
        Point(START + timedelta(hours=hours * i), version, "complete", 0.8, 2.0, 0.5, 30, 1)
        for i in range(count)
    ]


ALL: list[Callable[[Any], PlotData]] = [
    plots.quality,
    plots.thumbs,
    plots.latency,
    plots.speed,
    plots.errors,
    plots.losses,
    plots.funnel,
    plots.score_history,
    lambda nothing: plots.liked({}),
    lambda nothing: plots.lift([], ExperimentLimits()),
    lambda nothing: plots.lives([], START),
    lambda nothing: plots.scores([], 0.7),
]


@pytest.mark.parametrize("draw", ALL)
def test_without_data_the_plot_says_so(draw: Callable[..., PlotData]) -> None:
    drawn = figure(draw([]))
    assert [a["text"] for a in drawn["layout"]["annotations"]] == ["No data yet"]


@pytest.mark.parametrize("draw", [plots.latency, plots.funnel, plots.score_history])
def test_without_data_nothing_is_drawn(draw: Callable[..., PlotData]) -> None:
    assert not any(trace.get("x") for trace in figure(draw([]))["data"])


def test_points_that_were_never_rated_or_scored_are_left_out() -> None:
    bare = [Point(START, "v0001", "complete", None, None, None, None, 0)]
    for draw in (plots.quality, plots.thumbs, plots.latency, plots.speed):
        assert not any(trace.get("x") for trace in figure(draw(bare))["data"])


@pytest.mark.parametrize("draw", [plots.quality, plots.thumbs, plots.latency])
@pytest.mark.parametrize("hours", [0.0, 1.0])
def test_thousands_of_points_become_a_few(draw: Callable[..., PlotData], hours: float) -> None:
    for trace in figure(draw(points(5000, hours=hours)))["data"]:
        assert 1 <= len(trace["x"]) <= 24
        assert len(set(trace["y"])) == 1  # all points are alike, and so is every mean


def test_each_version_has_a_line_of_its_own_name() -> None:
    mixed = points(3, "base") + points(3, "v0001")
    assert {t["name"] for t in figure(plots.quality(mixed))["data"]} == {"base", "v0001"}


def test_the_share_of_thumbs_counts_the_rated_only() -> None:
    votes = [
        Point(START, "base", "complete", None, None, None, None, thumb)
        for thumb in (1, 1, 1, -1, 0, 0)
    ]
    assert figure(plots.thumbs(votes))["data"][0]["y"] == [0.75]


def test_a_long_training_is_drawn_to_its_last_step() -> None:
    rows: list[dict[str, float]] = [{"step": i, "train": 1 / i} for i in range(1, 3001)]
    rows.append({"step": 3000, "val": 0.5})
    training, validation = figure(plots.losses(rows))["data"]
    assert (training["x"][-1], validation["x"], validation["y"]) == (3000, [3000], [0.5])


def test_a_loss_that_is_no_number_leaves_a_gap() -> None:
    rows = [{"step": i, "train": loss} for i, loss in enumerate((1.0, float("nan"), float("inf")))]
    assert figure(plots.losses(rows))["data"][0]["y"] == [1.0, None, None]


def test_the_funnel_tells_what_was_dropped_and_why() -> None:
    steps = [
        {"name": "raw", "kept": 9, "dropped": {}},
        {"name": "rated", "kept": 4, "dropped": {"no thumb": 5}},
    ]
    drawn = figure(plots.funnel(steps))["data"][0]
    assert (drawn["y"], drawn["x"]) == (["raw", "rated"], [9, 4])
    assert drawn["hovertext"] == ["nothing dropped", "5 no thumb"]


def test_the_speed_of_an_answer_is_that_of_its_writing() -> None:
    (trace,) = figure(plots.speed(points(3)))["data"]  # 30 tokens in 2.0 - 0.5 seconds
    assert set(trace["y"]) == {20.0}


def test_errors_are_a_share_of_all_answers() -> None:
    statuses = ("complete", "error", "complete", "complete")
    some = [Point(START, "base", status, None, None, None, None, 0) for status in statuses]
    assert figure(plots.errors(some))["data"][0]["y"] == [0.25]


def test_each_version_is_liked_by_a_share_with_its_interval() -> None:
    numbers = {
        "v0001": Numbers(ups=3, downs=1),
        "base": Numbers(ups=1, downs=1),
        "v0002": Numbers(),
    }
    (bars,) = figure(plots.liked({**numbers, "imported": Numbers(ups=9)}))["data"]
    assert (bars["x"], bars["y"]) == (["base", "v0001"], [0.5, 0.75])
    reach = zip(bars["error_y"]["arrayminus"], bars["error_y"]["array"], strict=True)
    assert all(below > 0 and above > 0 for below, above in reach)


def test_a_life_ends_now_or_when_it_ended() -> None:
    now, later = START + timedelta(days=3), START + timedelta(days=1)
    spans = [
        Span("v0001", "service", START, later, "replaced"),
        Span("v0002", "test", START, later, "promoted"),
        Span("v0002", "service", later),
    ]
    found = {trace["name"]: trace for trace in figure(plots.lives(spans, now))["data"]}
    assert [x and x[:10] for x in found["in service"]["x"]] == [
        "2026-01-05",
        "2026-01-06",
        None,
        "2026-01-06",
        "2026-01-08",
        None,
    ]
    assert found["promoted"]["y"] == ["v0002"]
    assert "rolled back" not in found


def test_the_threshold_stands_in_the_scores() -> None:
    drawn = figure(plots.scores(points(9), 0.7))
    assert drawn["layout"]["shapes"][0]["x0"] == 0.7
    assert [trace["name"] for trace in drawn["data"]] == ["thumb up"]
