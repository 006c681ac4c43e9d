"""Overview: what the loop does, why, and the few things a person may decide about traffic."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from html import escape
from typing import Any

import gradio as gr

from cl.ab_test import TEST
from cl.db import digests, reports
from cl.db.digests import Numbers
from cl.db.reports import Point
from cl.records import BASE, Status, Version
from cl.rules import side_by_side
from cl.rules.comparison import from_numbers
from cl.rules.lifelines import lifelines
from cl.rules.side_by_side import Line
from cl.settings import ExperimentLimits
from cl.status import status_of
from cl.web import look, plots, rights
from cl.web.admin.dialog import NOTHING_TO_DO, Deed, Offer
from cl.web.admin.standing import Service, comparison, gauges, overview_cards, sentence
from cl.web.admin.tab import Tab, box, plot

_ONLINE = timedelta(minutes=15)
_WINDOW = 500  # answers the service card looks at


class Overview(Tab):
    name = "Overview"

    # -- showing ---------------------------------------------------------------------------

    def show(self, request: gr.Request) -> tuple[Any, ...]:
        """Where everything stands, and what may be done: there before anything is drawn."""
        self.who(request)
        books = self._books
        found, numbers = status_of(books), digests.by_version(books.database)
        test, looks, limits = self._test()
        is_running = test is not None and test["ended_at"] is None
        return (
            sentence(found, self._alerts(), _since(found, self._last_look()), books.clock()),
            overview_cards(
                found,
                self._champion(numbers),
                from_numbers(looks[0]["numbers"]) if is_running and looks else None,
                limits,
                books.ab_test.plan(),
                self._service(reports.recent_points(_WINDOW)),
            ),
            *self._buttons(found),
            gauges(found["triggers"]),
            gr.Timer(active=found["job"] is not None),
        )

    def draw(self, request: gr.Request) -> tuple[Any, ...]:
        """The test and the versions in drawings."""
        self.who(request)
        test, looks, limits = self._test()
        points = reports.recent_points()
        seen = from_numbers(looks[0]["numbers"]) if looks else None
        return (
            plots.lift(looks, limits),
            comparison(seen, self._lines(test), test is not None and test["ended_at"] is None),
            plots.liked(digests.by_version(self._books.database)),
            plots.lives(lifelines(reports.lives()), self._books.clock()),
            plots.quality(points),
            plots.thumbs(points),
        )

    def _test(self) -> tuple[dict[str, Any] | None, list[dict[str, Any]], ExperimentLimits]:
        """The latest test, the looks at it, the newest first, and what decides it."""
        test = next((e for e in reports.experiments() if e["kind"] == TEST), None)
        if test is None:
            return None, [], self._books.thresholds.experiment()
        return test, reports.checks(test["id"]), self._books.ab_test.limits_of(test["id"])

    def _champion(self, numbers: Mapping[str, Numbers]) -> tuple[Version | None, Numbers]:
        champion = self._books.ab_test.champion()
        return champion, numbers.get(champion.name if champion else BASE, Numbers())

    def _lines(self, test: Mapping[str, Any] | None) -> list[Line]:
        if test is None:
            return []
        seen = reports.answers_of(test["id"])
        sides = (
            side_by_side.side([one for one in seen if one.arm == arm])
            for arm in ("champion", "challenger")
        )
        return side_by_side.lines(*sides)

    def _service(self, points: Sequence[Point]) -> Service:
        firsts = sorted(p.first_token_s for p in points if p.first_token_s is not None)
        failed = [p.at for p in points if p.status == Status.ERROR]
        engine = self._house.engine.status()
        return Service(
            online=reports.online(self._books.clock() - _ONLINE),
            waiting=int(engine.get("waiting", 0)),
            first_p95=side_by_side.percentile(firsts, 0.95),
            errors=len(failed),
            of=len(points),
            last_error=failed[-1] if failed else None,
            trouble=str(engine["why"]) if not engine["loaded"] else "",
        )

    def _alerts(self) -> list[str]:
        """What is wrong, in words."""
        problem, unscored = self._house.worker.problem, self._books.scoring.problem
        lost = self._house.assistant.lost_rows
        found = [f"Background work failed: {problem.text}"] if problem else []
        found += [f"Answers are not scored at the moment: {unscored}"] if unscored else []
        found += [f"{lost} answers could not be logged since the start."] if lost else []
        return found + self._books.thresholds.problems() + self._books.ab_test.notes()

    def _last_look(self) -> tuple[datetime | None, datetime | None]:
        """When the loop looked last, and when it will look again."""
        last = reports.last_due("iterate")
        minutes = self._books.settings.check_minutes
        return last, last + timedelta(minutes=minutes) if last else None

    def _buttons(self, found: Mapping[str, Any]) -> tuple[Any, ...]:
        """The four buttons, and why some of them cannot be pressed."""
        target = self._books.ab_test.rollback_target()
        testing, working = found["challenger"], found["job"] is not None
        why = []
        if not testing:
            why.append("Promote and Retire need a running test.")
        if testing or working:
            why.append("A training begins after the test." if testing else "A training is at work.")
        if target is None:
            why.append("There is no champion to roll back from.")
        return (
            gr.Button(f"Promote {testing}" if testing else "Promote", interactive=bool(testing)),
            gr.Button(f"Retire {testing}" if testing else "Retire", interactive=bool(testing)),
            gr.Button(interactive=not (testing or working)),
            gr.Button(
                f"Roll back to {target}" if target else "Roll back", interactive=target is not None
            ),
            f"<p class='mut small'>{escape(' '.join(why))}</p>" if why else "",
        )

    # -- deciding --------------------------------------------------------------------------

    def offers(self) -> dict[str, Offer]:
        return {
            "promote": self._promote,
            "retire": self._retire,
            "rollback": self._roll_back,
            "retrain": self._retrain,
        }

    def _promote(self, subject: str) -> Deed:
        ab_test = self._books.ab_test
        name = _needed(ab_test.challenger())
        return Deed(
            f"Promote {name}?",
            "It answers everybody from now on, but for the share that stays with the present "
            "champion for a while, to compare with. You can roll back.",
            lambda who, why: ab_test.promote(actor=who, reason=why, expected=name),
            typed=name,
        )

    def _retire(self, subject: str) -> Deed:
        ab_test = self._books.ab_test
        name = _needed(ab_test.challenger())
        return Deed(
            f"Retire {name}?",
            "The test ends, and it answers nobody any more. The champion answers everybody.",
            lambda who, why: ab_test.retire(actor=who, reason=why, expected=name),
            typed=name,
        )

    def _roll_back(self, subject: str) -> Deed:
        ab_test = self._books.ab_test
        name, target = _needed(ab_test.champion()), str(ab_test.rollback_target())
        challenger = ab_test.challenger()
        ends = f" The test of {challenger.name} ends." if challenger else ""
        return Deed(
            f"Roll back from {name} to {target}?{ends}",
            f"{target} answers everybody from now on, and {name} nobody.",
            lambda who, why: ab_test.rollback(actor=who, reason=why, expected=name),
            typed=target,
        )

    def _retrain(self, subject: str) -> Deed:
        if self._books.ab_test.challenger() or reports.open_run():
            raise rights.problem(NOTHING_TO_DO)
        return Deed(
            "Start a training now?",
            "Whatever the triggers say. The chat goes on; the training takes idle time only.",
            self._house.loop.request_training,
        )

    # -- parts -----------------------------------------------------------------------------

    def build(self) -> tuple[list[Any], list[Any]]:
        sentence_ = look.html(elem_id="status")
        cards = look.html(elem_id="cards")
        with gr.Row(elem_classes="actions"):
            small: dict[str, Any] = {"size": "md", "scale": 0, "min_width": 170}
            small["interactive"] = False
            buttons = [
                gr.Button("Promote", variant="primary", elem_id="promote", **small),
                gr.Button("Retire", elem_id="retire", **small),
                gr.Button("Retrain now", elem_id="retrain", **small),
                gr.Button("Roll back", elem_id="rollback", elem_classes="danger apart", **small),
            ]
        why = look.html(elem_id="why-not")
        gauges_ = look.html(elem_id="gauges")
        with gr.Row(equal_height=True):
            lift = plot("Lift over the test", "plot-lift")
            table = box("Side by side", "comparison")
        with gr.Row(equal_height=True):
            liked = plot("Liked, by version", "plot-liked")
            lives = plot("Versions", "plot-lives")
        with gr.Row(equal_height=True):
            quality = plot("Quality", "plot-quality", "latest answers")
            thumbs = plot("Share of thumbs up", "plot-thumbs", "latest answers")
        self.timer = gr.Timer(2.0, active=False)
        self.drawn = [lift, table, liked, lives, quality, thumbs]
        self.also = [("drawings", self.draw, None, self.drawn)]
        self.buttons = dict(zip(("promote", "retire", "retrain", "rollback"), buttons, strict=True))
        return [], [sentence_, cards, *buttons, why, gauges_, self.timer]


def _needed(version: Version | None) -> str:
    if version is None:
        raise rights.problem(NOTHING_TO_DO)
    return version.name


def _since(
    found: Mapping[str, Any], looks: tuple[datetime | None, datetime | None]
) -> tuple[datetime | None, datetime | None]:
    """When the present phase began, and when the loop looks again."""
    if found["job"]:
        return found["job"]["started_at"], None
    if found["experiment"]:
        return found["experiment"]["started_at"], looks[1]
    return reports.last_ended(), looks[1]
