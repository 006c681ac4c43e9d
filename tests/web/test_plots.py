"""The drawings: they always are valid JSON for the browser, with nothing to draw, too."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from gradio.components.plot import PlotData

from cl.db.reports import Point
from cl.web import plots

START = datetime(2026, 1, 5, 9, tzinfo=UTC)


def figure(drawn: PlotData) -> dict[str, Any]:
    """As a browser reads it: NaN is no JSON there."""

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no JSON")

    found: dict[str, Any] = json.loads(drawn.plot, parse_constant=refuse)
    return found


def points(count: int, version: str = "v0001", hours: float = 1.0) -> list[Point]:
    return [Point(START + timedelta(hours=hours * i), version, 0.8, 2.0, 1) for i in range(count)]


ALL = [plots.quality, plots.thumbs, plots.latency, plots.losses, plots.funnel, plots.score_history]


@pytest.mark.parametrize("draw", ALL)
def test_without_data_the_plot_says_so(draw: Callable[..., PlotData]) -> None:
    drawn = figure(draw([]))
    assert [a["text"] for a in drawn["layout"]["annotations"]] == ["No data yet"]


@pytest.mark.parametrize("draw", [plots.latency, plots.funnel, plots.score_history])
def test_without_data_nothing_is_drawn(draw: Callable[..., PlotData]) -> None:
    assert not any(trace.get("x") for trace in figure(draw([]))["data"])


def test_points_that_were_never_rated_or_scored_are_left_out() -> None:
    bare = [Point(START, "v0001", None, None, 0)]
    for draw in (plots.quality, plots.thumbs, plots.latency):
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
    votes = [Point(START, "base", None, None, thumb) for thumb in (1, 1, 1, -1, 0, 0)]
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
