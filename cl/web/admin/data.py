"""Data: how interactions became training examples, and why others did not."""

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from cl.db import reports
from cl.web import look, markup, plots
from cl.web.admin.review import Review
from cl.web.admin.tab import Tab, box, plot
from cl.web.markup import card


class Data(Tab):
    name = "Data"

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.review = Review(*parts)

    def show(self, request: gr.Request) -> tuple[Any, ...]:
        self.who(request)
        made = next((r for r in reports.runs() if r["data"]), None)
        steps = made["data"]["funnel"] if made else []
        text = "No training set has been made yet."
        if made:
            data = made["data"]
            text = f"Run {made['id']}: {data['train']:,} to train on, {data['val']:,} to validate."
        threshold = self._books.thresholds.data().min_quality
        return (
            f"<p class='mut small'>{text}</p>",
            plots.funnel(steps),
            plots.scores(reports.recent_points(), threshold),
            reasons(steps),
            scorer(self._books.scoring.report()),
            self.review.ratings.known_versions(),
        )

    def build(self) -> tuple[list[Any], list[Any]]:
        with gr.Row(equal_height=True):
            with gr.Column(elem_classes="box", min_width=320):
                look.html(markup.title("From interactions to training examples"))
                text = look.html()
                funnel = gr.Plot(show_label=False, container=False, elem_id="plot-funnel")
            scores = plot("Scores of the latest answers", "plot-scores-now")
        review = self.review.build()
        reasons_ = box("What was dropped, and why", "funnel")
        scorer_ = box("The scorer", "scorer")
        self.also = [("review", self.review.show, *review), *self.review.also]
        return [], [text, funnel, scores, reasons_, scorer_, self.review.ratings.filters[-1]]


# -- markup ----------------------------------------------------------------------------------


def reasons(steps: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (s["name"], s["kept"], ", ".join(f"{n:,} {why}" for why, n in s["dropped"].items()) or "-")
        for s in steps
    ]
    headers = ("Step", "Left", "Dropped, and why")
    return markup.table(headers, rows, "No training set has been made yet.")


def scorer(info: Mapping[str, Any]) -> str:
    """The scorer that looks at every example: how good it is, and whether it decides anything."""
    auc, low, high = info.get("auc"), info.get("auc_low"), info.get("auc_high")
    between = "" if None in (low, high) else f"; 90% interval {low:.2f} to {high:.2f}"
    decides = "decides what is learned" if info.get("may_select") else "decides nothing"
    if info.get("stage"):
        decides += f"; stage: {info['stage']}"
    ups, downs = (_count(info.get(name)) for name in ("ups", "downs"))
    found = [
        card("Scorer", info.get("name") or "none", decides),
        card("Learned from", _count(info.get("labels")), f"ratings: {ups} up, {downs} down"),
        card("Tells good from bad", _figure(auc), f"AUC; 0.5 is chance, 1 perfect{between}"),
        card("Brier score", _figure(info.get("brier")), "0 is perfect, 0.25 knows nothing"),
        card(
            "Calibration error",
            _figure(info.get("calibration_error")),
            "how far its scores are from the share of thumbs up",
        ),
    ]
    return markup.stack(markup.note(info.get("text") or ""), markup.cards(*found))


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"
