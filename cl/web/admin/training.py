"""Training: the run that is at work or was looked at, live, and all runs with what they were made of."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from cl.db import reports
from cl.lineage import MANIFEST
from cl.model.training.measured import read_answers
from cl.model.training_job import read_log, read_losses
from cl.rules.gating import Asked
from cl.status import status_of
from cl.web import look, markup, plots, rights
from cl.web.admin.dialog import NOTHING_TO_DO, Deed, Offer
from cl.web.admin.tab import SMALL, Tab, box
from cl.web.markup import Markup, pill

_COLOURS = {
    "deployed": "good",
    "rejected": "bad",
    "failed": "bad",
    "cancelled": "mut",
    "not_enough_data": "mut",
}
_VERDICTS = {"passed": "good", "failed": "bad", "inconclusive": "warn"}
_LOG_LINES = 200
_MOST_ANSWERS = 150


class Training(Tab):
    name = "Training"

    def show(self, chosen: Any, request: gr.Request) -> tuple[Any, ...]:
        """The run that is at work, else the one that was chosen, else the latest."""
        self.who(request)
        found, runs = status_of(self._books), reports.runs()
        run = next((r for r in runs if str(r["id"]) == str(chosen)), runs[0] if runs else None)
        if found["job"]:
            run = next((r for r in runs if r["id"] == found["job"]["id"]), run)
        folder = self._folder(run)
        name = f"run {run['id']}" if run else ""
        return (
            job(found["job"], self._house.loop.doing, runs[0] if runs else None),
            gr.Button(interactive=bool(found["job"]) and not found["job"]["cancelling"]),
            markup.title("Loss", name),
            plots.losses(read_losses(folder) if folder else []),
            log(read_log(folder, _LOG_LINES) if folder else []),
            facts(run, _settings(folder)),
            gate(run),
            answers(read_answers(folder) if folder else [], run),
            run_list(runs, run),
        )

    def pick(self, chosen: Any, event: gr.EventData, request: gr.Request) -> Any:
        """Another run of the list."""
        self.who(request)
        return str(getattr(event, "name", "") or chosen or "")

    def _folder(self, run: Mapping[str, Any] | None) -> Path | None:
        return self._books.runs / f"{run['id']:04d}" if run else None

    def offers(self) -> dict[str, Offer]:
        return {"cancel": self._cancel}

    def _cancel(self, subject: str) -> Deed:
        run = reports.open_run()
        if run is None or run["cancel"]:
            raise rights.problem(NOTHING_TO_DO)
        return Deed(
            f"Cancel training run {run['id']}?",
            "What it did so far is lost. The chat is not touched.",
            lambda who, why: self._house.loop.cancel_training(who, why, expected=run["id"]),
        )

    def build(self) -> tuple[list[Any], list[Any]]:
        chosen = gr.Textbox(visible=False)
        job_ = look.html(elem_id="job")
        self.cancel = gr.Button(
            "Cancel training", elem_id="cancel", elem_classes="danger", interactive=False, **SMALL
        )
        with gr.Row(equal_height=True):
            with gr.Column(elem_classes="box", min_width=320):
                heading = look.html()
                losses = gr.Plot(show_label=False, container=False, elem_id="plot-losses")
            log_ = box("Log", "training-log")
        runs = box("Training runs", "runs", acts=True)
        facts_ = box("What it was made of", "run-facts")
        gate_ = box("The gate", "gate")
        answers_ = box("Answers before and after", "answers")
        outputs = [job_, self.cancel, heading, losses, log_, facts_, gate_, answers_, runs]
        runs.select(self.pick, chosen, chosen, **look.QUIET).success(
            self.show, chosen, outputs, **look.QUIET
        )
        return [chosen], outputs


def _settings(folder: Path | None) -> dict[str, Any]:
    """What the set was made with and how it was trained, as the run's own files say."""
    found: dict[str, Any] = {}
    if folder is None:
        return found
    for name, key in ((f"data/{MANIFEST}", "settings"), ("job.json", "options")):
        try:
            written = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        found |= written.get(key) or {}
    return found


# -- markup ----------------------------------------------------------------------------------


def job(found: Mapping[str, Any] | None, doing: str, last: Mapping[str, Any] | None) -> str:
    """The training that is going on, or how the last one ended."""
    if found is None:
        if last is None:
            text = "A training starts by itself when a trigger fires."
            return markup.cards(markup.card("Training", "None yet", text))
        status = str(last["status"]).replace("_", " ")
        colour = _COLOURS.get(last["status"], "warn")
        name = f"Last training, run {last['id']}"
        return markup.cards(markup.card(name, status, last["outcome"], colour=colour))
    progress = found["progress"] or {}
    share = progress["step"] / progress["steps"] if progress.get("steps") else None
    value = found["status"] if share is None else f"step {progress['step']} of {progress['steps']}"
    if share is not None:
        value += f", {share:.0%}"
    text = f"{doing or found['reason']}; it stands still while an answer is written"
    tag = "being cancelled" if found["cancelling"] else "running"
    return markup.cards(
        markup.card(f"Training run {found['id']}", value, text, share=share, tag=tag)
    )


def log(lines: Sequence[str]) -> str:
    if not lines:
        return markup.nothing("Nothing has been written yet.")
    text = escape("\n".join(lines))
    return f"<div class='log' tabindex='0' role='log' aria-label='Log of the training'><pre>{text}</pre></div>"


def run_list(found: Sequence[Mapping[str, Any]], chosen: Mapping[str, Any] | None) -> str:
    rows = [
        (
            r["id"]
            if r is chosen
            else markup.button(str(r["id"]), "run", f"Show run {r['id']}", name=r["id"]),
            r["started_at"],
            r["trigger"],
            r["requested_by"],
            pill(str(r["status"]).replace("_", " "), _COLOURS.get(r["status"], "warn")),
            r["version"],
            ((r["data"] or {}).get("sha256") or "")[:10],
            (r["data"] or {}).get("train"),
            r["outcome"] or r["reason"],
        )
        for r in found
    ]
    headers = (
        "Run",
        "Started (UTC)",
        "Trigger",
        "By",
        "Status",
        "Version",
        "Data",
        "Examples",
        "Outcome",
    )
    return markup.table(headers, rows, "No training has been run yet.")


def facts(run: Mapping[str, Any] | None, settings: Mapping[str, Any]) -> str:
    """Data, seed and settings of a run."""
    if run is None:
        return markup.nothing("No training has been run yet.")
    data, result = run["data"] or {}, run["result"] or {}
    counts = f"{data['train']:,} to train on, {data['val']:,} to validate" if data else ""
    found: dict[str, object] = {
        "Run": f"{run['id']}, asked for by {run['requested_by']}: {run['reason']}",
        "Data": counts,
        "Corrections": data.get("corrections"),
        "sha256 of the data": data.get("sha256"),
        "Scorer": data.get("scorer"),
        "Had to beat": result.get("parent"),
        "Methods": ", ".join(result.get("methods", ())),
        "Steps": result.get("steps"),
        "Seconds": f"{result['seconds']:.0f}" if result.get("seconds") else "",
    }
    rest = {f"CL_{name.upper()}": value for name, value in sorted(settings.items())}
    more = (
        f"<details><summary>Seed and settings</summary>{markup.facts(rest)}</details>"
        if rest
        else ""
    )
    return markup.facts(found) + more


def gate(run: Mapping[str, Any] | None) -> str:
    """The checks of this run's version."""
    checks = ((run or {}).get("result") or {}).get("gate", [])
    rows = [(c["name"], _verdict(c), c["text"]) for c in checks]
    empty = "The version of this run has not stood at the gate."
    return markup.table(("Check", "Verdict", "Measured"), rows, empty)


def _verdict(check: Mapping[str, Any]) -> Markup:
    # Runs of earlier releases knew two verdicts only.
    text = check.get("verdict") or ("passed" if check["passed"] else "failed")
    return pill(text, _VERDICTS[text])


def answers(found: Sequence[Asked], run: Mapping[str, Any] | None) -> str:
    """What the parent and the candidate said to the gate's questions, what changed first."""
    before = ((run or {}).get("result") or {}).get("parent", "before")
    after = (run or {}).get("version") or "after"
    order = {(True, False): 0, (False, True): 1}
    shown = sorted(
        found, key=lambda a: (order.get((a.was_right, a.is_right), 2) if a.keys else 3, a.kind)
    )
    rows = [
        (
            a.kind,
            a.question,
            a.reference or (", ".join(a.keys) if a.keys else "-"),
            _said(a.before, a.was_right if a.keys else None),
            _said(a.after, a.is_right if a.keys else None),
        )
        for a in shown[:_MOST_ANSWERS]
    ]
    headers = ("Kind", "Question", "Should hold", f"{before} said", f"{after} said")
    more = f"{len(shown) - _MOST_ANSWERS:,} more are in answers.jsonl of the run."
    table = markup.table(headers, rows, "The version of this run has not been asked anything.")
    return table + (markup.note(more) if len(shown) > _MOST_ANSWERS else "")


def _said(text: str, right: bool | None) -> Markup:
    mark = "" if right is None else pill("right" if right else "wrong", "good" if right else "bad")
    return Markup(f"{mark} {markup.shortened(text)}")
