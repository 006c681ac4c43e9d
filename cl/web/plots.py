"""The plots of the admin page: numbers in, plotly figures out."""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import datetime
from statistics import mean, median
from typing import Any

import plotly.graph_objects as go
from gradio.components.plot import PlotData

from cl.db.reports import Point

_COLOURS = ("#0d9488", "#6366f1", "#d97706", "#db2777", "#64748b", "#0284c7")
_GRID = "rgba(128,140,160,.18)"
_BUCKETS = 24


def quality(points: Sequence[Point]) -> PlotData:
    """Mean quality over time, a line a version."""
    figure = _lines(
        [p for p in points if p.quality is not None], lambda ps: mean(p.quality or 0.0 for p in ps)
    )
    figure.update_yaxes(range=[0, 1.02])
    return _data(figure)


def thumbs(points: Sequence[Point]) -> PlotData:
    """Share of thumbs up among rated answers over time, a line a version."""
    figure = _lines([p for p in points if p.thumb], lambda ps: mean(p.thumb > 0 for p in ps))
    figure.update_yaxes(range=[0, 1.02], tickformat=".0%")
    return _data(figure)


def latency(points: Sequence[Point]) -> PlotData:
    """Median and P95 of seconds until an answer was complete, over time."""
    timed = [p for p in points if p.latency_s is not None]
    figure = go.Figure()
    measures: tuple[tuple[str, Callable[[list[float]], float]], ...] = (
        ("median", median),
        ("P95", _p95),
    )
    for colour, (name, measure) in zip(_COLOURS, measures, strict=False):
        buckets = _bucketed(timed)
        x = [at for at, _ in buckets]
        y = [measure([p.latency_s or 0.0 for p in ps]) for _, ps in buckets]
        figure.add_scatter(x=x, y=y, name=name, mode="lines+markers", line={"color": colour})
    figure.update_yaxes(ticksuffix=" s", rangemode="tozero")
    return _data(figure)


def losses(rows: Sequence[dict[str, float]]) -> PlotData:
    """The loss of a training by step: on training examples, on validation, and the KL to the base."""
    figure = go.Figure()
    curves = (
        ("train", "training", "lines"),
        ("kl", "distance to base (KL)", "lines"),
        ("val", "validation", "lines+markers"),
    )
    for colour, (key, name, mode) in zip(_COLOURS, curves, strict=False):
        found = [(row["step"], row[key]) for row in rows if key in row]
        if found:
            x, y = zip(*found, strict=True)
            figure.add_scatter(x=x, y=y, name=name, mode=mode, line={"color": colour})
    figure.update_xaxes(title="step")
    figure.update_yaxes(title="nats a token", rangemode="tozero")
    figure.update_layout(uirevision="losses")
    return _data(figure)


def funnel(steps: Sequence[dict[str, Any]]) -> PlotData:
    """How many examples are left after each step."""
    figure = go.Figure(
        go.Funnel(
            y=[step["name"] for step in steps],
            x=[step["kept"] for step in steps],
            textinfo="value",
            marker={"color": _COLOURS[0]},
            hovertext=[_dropped(step) for step in steps],
            hoverinfo="y+x+text",
        )
    )
    figure.update_layout(funnelgap=0.18)
    return _data(figure, height=max(220, 34 * len(steps)), left=130)


def score_history(checks: Sequence[tuple[datetime, float, float]]) -> PlotData:
    """Overall score of both sides at each look: (when, champion, challenger)."""
    figure = go.Figure()
    for index, name in enumerate(("champion", "challenger")):
        figure.add_scatter(
            x=[c[0] for c in checks],
            y=[c[index + 1] for c in checks],
            name=name,
            mode="lines+markers",
            line={"color": _COLOURS[index]},
        )
    return _data(figure)


def _lines(points: Sequence[Point], measure: Callable[[list[Point]], float]) -> go.Figure:
    figure = go.Figure()
    by_version: dict[str, list[tuple[datetime, float]]] = defaultdict(list)
    for at, members in _bucketed(points):
        of_bucket: dict[str, list[Point]] = defaultdict(list)
        for point in members:
            of_bucket[point.version].append(point)
        for version, mine in of_bucket.items():
            by_version[version].append((at, measure(mine)))
    for colour, (version, values) in zip(_COLOURS * 20, sorted(by_version.items()), strict=False):
        x, y = zip(*values, strict=True)
        figure.add_scatter(x=x, y=y, name=version, mode="lines+markers", line={"color": colour})
    return figure


def _bucketed(points: Sequence[Point]) -> list[tuple[datetime, list[Point]]]:
    """Points in at most _BUCKETS equal stretches of time; empty stretches are left out."""
    if not points:
        return []
    start, end = points[0].at, points[-1].at
    width = max((end - start).total_seconds() / _BUCKETS, 1.0)
    buckets: dict[int, list[Point]] = defaultdict(list)
    for point in points:
        buckets[min(_BUCKETS - 1, int((point.at - start).total_seconds() / width))].append(point)
    return [(members[len(members) // 2].at, members) for _, members in sorted(buckets.items())]


def _p95(values: list[float]) -> float:
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(0.95 * len(ranked)))]


def _dropped(step: dict[str, Any]) -> str:
    return (
        "<br>".join(f"{count} {reason}" for reason, count in step["dropped"].items())
        or "nothing dropped"
    )


def _data(figure: go.Figure, height: int = 260, left: int = 52) -> PlotData:
    """The figure in the page's look: transparent, grey text for light and dark, no tool bar."""
    figure.update_layout(
        height=height,
        margin={"l": left, "r": 14, "t": 10, "b": 38},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": "#7c8aa0", "size": 12, "family": "system-ui, sans-serif"},
        legend={"orientation": "h", "y": 1.14, "x": 0},
        hovermode="closest",
        showlegend=len(figure.data) > 1 or bool(figure.data and figure.data[0].name),
    )
    for axis in (figure.update_xaxes, figure.update_yaxes):
        axis(gridcolor=_GRID, zeroline=False, automargin=True)
    if not any(len(trace.x or ()) for trace in figure.data):
        figure.update_xaxes(visible=False)
        figure.update_yaxes(visible=False)
        figure.add_annotation(text="No data yet", showarrow=False, font={"size": 14})
    plot = json.loads(figure.to_json())
    plot["config"] = {"displayModeBar": False, "displaylogo": False}
    return PlotData(type="plotly", plot=json.dumps(plot))
