"""The plots of the admin page: numbers in, plotly figures out."""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from statistics import mean, median
from typing import Any

import plotly.graph_objects as go
from gradio.components.plot import PlotData

from cl.db.digests import Numbers
from cl.db.reports import Point
from cl.records import BASE, IMPORTED, Comparison, Status
from cl.rules.comparison import from_numbers
from cl.rules.lifelines import SERVICE, TEST, Span
from cl.rules.planning import needs
from cl.rules.side_by_side import wilson
from cl.rules.verdicts import base
from cl.settings import ExperimentLimits

_COLOURS = ("#0d9488", "#6366f1", "#d97706", "#db2777", "#64748b", "#0284c7")
_GRID = "rgba(128,140,160,.18)"
_BUCKETS = 24
_MOST_VERSIONS, _MOST_LINES = 12, 4  # in one drawing


def quality(points: Sequence[Point]) -> PlotData:
    """Mean quality over time, a line a version."""
    scored = [p for p in points if p.quality is not None and p.status == Status.COMPLETE]
    figure = _lines(scored, lambda ps: mean(p.quality or 0.0 for p in ps))
    figure.update_yaxes(range=[0, 1.02])
    return _data(figure)


def thumbs(points: Sequence[Point]) -> PlotData:
    """Share of thumbs up among rated answers over time, a line a version."""
    figure = _lines([p for p in points if p.thumb], lambda ps: mean(p.thumb > 0 for p in ps))
    figure.update_yaxes(range=[0, 1.02], tickformat=".0%")
    return _data(figure)


def liked(numbers: Mapping[str, Numbers]) -> PlotData:
    """Share of thumbs up of each version, with the interval its true share lies in."""
    rated = {name: n for name, n in sorted(numbers.items()) if n.rated and name != IMPORTED}
    names = list(rated)[-_MOST_VERSIONS:]
    shares = [rated[name].liked or 0.0 for name in names]
    bounds = [wilson(rated[name].ups, rated[name].rated) for name in names]
    figure = go.Figure(
        go.Bar(
            x=names,
            y=shares,
            marker={"color": [_COLOURS[4] if n == BASE else _COLOURS[0] for n in names]},
            width=0.55,
            error_y={
                "array": [high - share for share, (_, high) in zip(shares, bounds, strict=True)],
                "arrayminus": [share - low for share, (low, _) in zip(shares, bounds, strict=True)],
                "color": "#94a3b8",
                "thickness": 1.5,
                "width": 5,
            },
            customdata=[rated[name].rated for name in names],
            hovertemplate="%{x}: %{y:.0%} of %{customdata:,} ratings<extra></extra>",
        )
    )
    figure.update_xaxes(type="category")
    figure.update_yaxes(range=[0, 1.05], tickformat=".0%")
    return _data(figure)


def lift(looks: Sequence[Mapping[str, Any]], limits: ExperimentLimits) -> PlotData:
    """The lift at each look with its bounds; shaded as long as it is too early to conclude."""
    seen = [from_numbers(check["numbers"]) for check in reversed(looks)]
    seen = [one for one in seen if one.lift is not None]
    figure = go.Figure()
    bounded = [one for one in seen if one.lower is not None and one.upper is not None]
    if bounded:
        x = [one.hours for one in bounded]
        for name, bound in (("", "upper"), ("interval", "lower")):
            figure.add_scatter(
                x=x,
                y=[getattr(one, bound) / base(one.champion) for one in bounded],
                name=name,
                showlegend=bool(name),
                mode="lines",
                line={"width": 0},
                fill="tonexty" if name else None,
                fillcolor="rgba(13,148,136,.2)",
                hoverinfo="skip",
            )
    figure.add_scatter(
        x=[one.hours for one in seen],
        y=[one.lift for one in seen],
        name="lift",
        mode="lines+markers",
        line={"color": _COLOURS[2]},
        marker={"size": 4},
    )
    if seen:
        _shade(figure, seen, limits)
        figure.add_hline(y=0, line={"color": "#94a3b8", "dash": "dot", "width": 1})
    figure.update_xaxes(title="hours of the test", rangemode="tozero")
    figure.update_yaxes(tickformat="+.0%", range=_range(seen))
    return _data(figure, height=380)


def _range(seen: Sequence[Comparison]) -> list[float] | None:
    """What the lift needs and some of the interval: the first bounds are endless."""
    if not seen:
        return None
    known = [0.0, *(one.lift or 0.0 for one in seen)]
    for one in seen[len(seen) // 2 :]:
        known += [b / base(one.champion) for b in (one.lower, one.upper) if b is not None]
    low, high = min(known), max(known)
    margin = 0.1 * (high - low) or 0.1
    return [low - margin, high + margin]


def _shade(figure: go.Figure, seen: Sequence[Comparison], limits: ExperimentLimits) -> None:
    early = [one.hours for one in seen if any(need.share < 1 for need in needs(one, limits))]
    if not early:
        return
    is_over = len(early) < len(seen)
    end = early[-1] if is_over else max(limits.min_test_hours, early[-1])
    figure.add_vrect(x0=0, x1=end, fillcolor="rgba(148,163,184,.16)", line_width=0, layer="below")
    figure.add_annotation(
        x=0,
        y=1,
        xref="x",
        yref="y domain",
        xanchor="left",
        yanchor="top",
        text="minimum not reached: do not conclude",
        showarrow=False,
        font={"size": 11},
    )


def lives(spans: Sequence[Span], now: datetime) -> PlotData:
    """Who was under test and in service when, and how that ended."""
    names = list(dict.fromkeys(span.version for span in spans))[-_MOST_VERSIONS:]
    figure = go.Figure()
    kinds = ((SERVICE, "in service", _COLOURS[0]), (TEST, "under test", _COLOURS[1]))
    for role, name, colour in kinds:
        x: list[datetime | None] = []
        y: list[str | None] = []
        for span in spans:
            if span.role == role and span.version in names:
                x += [span.start, span.end or now, None]
                y += [span.version, span.version, None]
        line = {"color": colour, "width": 13}
        if x:
            figure.add_scatter(x=x, y=y, name=name, mode="lines", line=line, hoverinfo="x+y+name")
    for mark, symbol, colour in (
        ("promoted", "diamond", _COLOURS[2]),
        ("rolled back", "x", "#dc2626"),
    ):
        ended = [s for s in spans if s.mark == mark and s.version in names]
        if ended:
            figure.add_scatter(
                x=[span.end for span in ended],
                y=[span.version for span in ended],
                name=mark,
                mode="markers",
                marker={"symbol": symbol, "size": 10, "color": colour},
                hoverinfo="x+y+name",
            )
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=names)
    return _data(figure, height=max(260, 90 + 30 * len(names)))


def latency(points: Sequence[Point]) -> PlotData:
    """Seconds until the first word, median and P95, a line a version."""
    timed = [p for p in points if p.first_token_s is not None]

    def measured(measure: Callable[[list[float]], float]) -> Callable[[list[Point]], float]:
        return lambda ps: measure([p.first_token_s or 0.0 for p in ps])

    figure = _lines(timed, measured(median))
    for trace in _lines(timed, measured(_p95), " p95").data:
        trace.line.dash = "dot"
        figure.add_trace(trace)
    figure.update_yaxes(ticksuffix=" s", rangemode="tozero")
    return _data(figure)


def speed(points: Sequence[Point]) -> PlotData:
    """Tokens a second of an answer, from its first word to its last."""
    found = [p for p in points if p.tokens and p.latency_s and p.first_token_s is not None]
    found = [p for p in found if (p.latency_s or 0.0) > (p.first_token_s or 0.0)]

    def rate(members: list[Point]) -> float:
        return median(
            (p.tokens or 0) / ((p.latency_s or 0) - (p.first_token_s or 0)) for p in members
        )

    figure = _lines(found, rate)
    figure.update_yaxes(title="tokens a second", rangemode="tozero")
    return _data(figure)


def errors(points: Sequence[Point]) -> PlotData:
    """Share of answers that failed, over time."""
    figure = _lines(points, lambda ps: mean(p.status == Status.ERROR for p in ps))
    figure.update_yaxes(tickformat=".0%", rangemode="tozero")
    return _data(figure)


def scores(points: Sequence[Point], threshold: float) -> PlotData:
    """How the scorer judges answers people liked, disliked and did not rate, and what is used."""
    figure = go.Figure()
    kinds = (
        (1, "thumb up", _COLOURS[0]),
        (-1, "thumb down", "#dc2626"),
        (0, "not rated", "#94a3b8"),
    )
    for thumb, name, colour in kinds:
        x = [p.quality for p in points if p.quality is not None and p.thumb == thumb]
        if x:
            figure.add_histogram(
                x=x,
                name=name,
                xbins={"start": 0, "end": 1.0001, "size": 0.05},
                marker={"color": colour},
                opacity=0.8,
            )
    if figure.data:
        line = {"color": _COLOURS[2], "dash": "dash", "width": 2}
        figure.add_vline(
            x=threshold,
            line=line,
            annotation_text=f"used from {threshold:g}",
            annotation_position="top left",
        )
    figure.update_layout(barmode="stack", bargap=0.05)
    figure.update_xaxes(range=[0, 1], title="score")
    figure.update_yaxes(title="answers")
    return _data(figure, height=440)


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


def _lines(
    points: Sequence[Point], measure: Callable[[list[Point]], float], suffix: str = ""
) -> go.Figure:
    """A line for each of the versions that answered last, over equal stretches of time."""
    figure = go.Figure()
    names = list(dict.fromkeys(point.version for point in reversed(points)))[:_MOST_LINES]
    by_version: dict[str, list[tuple[datetime, float]]] = {name: [] for name in sorted(names)}
    for at, members in _bucketed([point for point in points if point.version in by_version]):
        of_bucket: dict[str, list[Point]] = defaultdict(list)
        for point in members:
            of_bucket[point.version].append(point)
        for version, mine in of_bucket.items():
            by_version[version].append((at, measure(mine)))
    for colour, (version, values) in zip(_COLOURS, by_version.items(), strict=False):
        x, y = zip(*values, strict=True)
        line = {"color": colour}
        figure.add_scatter(x=x, y=y, name=version + suffix, mode="lines+markers", line=line)
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
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        hovermode="closest",
        showlegend=len(figure.data) > 1 or bool(figure.data and figure.data[0].name),
    )
    for axis in (figure.update_xaxes, figure.update_yaxes):
        axis(gridcolor=_GRID, zeroline=False, automargin=True)
    if not any(len(trace.x if trace.x is not None else ()) for trace in figure.data):
        figure.layout.shapes = figure.layout.annotations = ()
        figure.update_xaxes(visible=False)
        figure.update_yaxes(visible=False)
        middle = {"x": 0.5, "y": 0.5, "xref": "paper", "yref": "paper"}
        figure.add_annotation(text="No data yet", showarrow=False, font={"size": 14}, **middle)
    plot = json.loads(figure.to_json())
    plot["config"] = {"displayModeBar": False, "displaylogo": False}
    return PlotData(type="plotly", plot=json.dumps(plot))
