"""Versions: what became of each, what taught it, and the tests."""

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from cl.db import digests, reports
from cl.db.digests import Numbers
from cl.records import Comparison, Version
from cl.rules import verdicts
from cl.rules.comparison import from_numbers
from cl.web import look, markup, plots, rights
from cl.web.admin.lineage import Lineage
from cl.web.admin.tab import SMALL, Tab, box, plot
from cl.web.markup import card, pill

_STAGES = {"champion": "good", "challenger": "warn", "candidate": "acc", "retired": "mut"}


class Versions(Tab):
    name = "Versions"

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._lineage = Lineage(*parts)

    def show(self, request: gr.Request) -> tuple[Any, ...]:
        self.who(request)
        found = self._books.ab_test.versions()
        latest = next(iter(reports.experiments(1)), None)
        looks = reports.checks(latest["id"], 100) if latest else []
        return (
            version_list(found, digests.by_version(self._books.database)),
            plots.score_history(reports.scores()),
            experiments(reports.experiments()),
            checks(looks),
            str(latest["id"]) if latest else "",
            str(looks[0]["number"]) if looks else "",
        )

    # -- looks of the past -----------------------------------------------------------------

    def recompute(self, experiment: Any, check: Any, request: gr.Request) -> str:
        """Work a look of the past out anew from the log."""
        self.who(request)
        test, number = rights.place(experiment), rights.place(check)
        if not test or not number:
            raise rights.problem("Enter the number of a test and of one of its checks.")
        try:
            return recomputed(*self._books.ab_test.recompute(test, number))
        except LookupError as problem:
            raise rights.problem(problem) from None

    def build(self) -> tuple[list[Any], list[Any]]:
        table = box("Versions", "versions", acts=True)
        self._lineage.build()
        scores = plot("Overall score in the tests", "plot-scores")
        tests = box("Tests", "tests")
        with gr.Column(elem_classes="box"):
            look.html(markup.title("Looks at the latest test"))
            looks = look.html(elem_id="checks")
            with gr.Row(elem_classes="fields"):
                field: dict[str, Any] = {"max_lines": 1, "min_width": 90, "scale": 0}
                experiment = gr.Textbox(label="Test", elem_id="recompute-test", **field)
                check = gr.Textbox(label="Check", elem_id="recompute-check", **field)
                again = gr.Button("Work out anew", elem_id="recompute", **SMALL)
            outcome = look.html(elem_id="recomputed")
        table.select(self._lineage.taught, None, self._lineage.lessons, **look.QUIET).success(
            None, None, None, js="() => cl.toTop('#lineage')"
        )
        again.click(self.recompute, [experiment, check], outcome, **look.QUIET)
        return [], [table, scores, tests, looks, experiment, check]


# -- markup ----------------------------------------------------------------------------------


def version_list(found: Sequence[Version], numbers: Mapping[str, Numbers]) -> str:
    """Every version with what it had to beat and what people made of it."""
    rows = []
    for version in found:
        seen = numbers.get(version.name, Numbers())
        rows.append(
            (
                version.name,
                pill(version.stage.value, _STAGES[version.stage.value]),
                markup.button(
                    "Lessons", "taught", f"What taught {version.name}", name=version.name
                ),
                version.parent,
                version.val_loss,
                version.parent_val_loss,
                seen.answers,
                seen.quality,
                f"{seen.ups:,} / {seen.downs:,}",
                version.created_at,
                version.champion_since,
            )
        )
    headers = (
        "Version",
        "Stage",
        "Taught by",
        "Had to beat",
        "Validation loss",
        "Parent's loss",
        "Answers",
        "Quality",
        "Up / down",
        "Made",
        "In service since",
    )
    return markup.table(headers, rows, "No version has been trained yet.")


def experiments(found: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (
            e["id"],
            "watch" if e["kind"] == "watch" else "test",
            e["champion"],
            e["challenger"],
            f"{e['share']:.0%}",
            e["started_at"],
            e["ended_at"],
            e["outcome"] or "running",
            e["reason"],
        )
        for e in found
    ]
    headers = (
        "No.",
        "Kind",
        "Champion",
        "Challenger",
        "Share",
        "Started",
        "Ended",
        "Outcome",
        "Why",
    )
    return markup.table(headers, rows, "No test has been run yet.")


def checks(found: Sequence[Mapping[str, Any]]) -> str:
    """The looks at an experiment."""
    rows = []
    for check in found:
        seen = from_numbers(check["numbers"])
        rows.append(
            (
                check["number"],
                check["at"],
                f"{seen.champion.requests} / {seen.challenger.requests}",
                verdicts.told(seen),
                check["decision"],
                check["reason"].replace("_", " "),
                check["acted"],
            )
        )
    headers = ("Check", "At", "Answers", "Lift", "Verdict", "Because", "Done")
    return markup.table(headers, rows, "Nobody has looked yet.")


def recomputed(then: Comparison, now: Comparison) -> str:
    """A look of the past beside the same worked out anew."""
    is_same = verdicts.is_same(then, now)
    title = "The same verdict" if is_same else "Not the same verdict"
    text = f"Then: {then.decision}, {then.text} Worked out anew from the log: {now.decision}, {now.text}"
    return card(title, now.decision, text, colour="good" if is_same else "bad")
