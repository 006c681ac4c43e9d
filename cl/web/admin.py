"""The admin page: what the loop does, why, and the few things a person may decide.

Hidden or disabled buttons protect nothing, and this app being mounted for admins only is one lock;
the other is that every handler asks the database for the role before it does anything.
"""

from collections.abc import Callable
from html import escape
from typing import Any, cast

import gradio as gr

from cl.ab_test import Refused
from cl.db import digests, reports
from cl.house import House
from cl.model.training.measured import read_answers
from cl.model.training_job import read_losses
from cl.records import Role, User
from cl.rules.gating import Asked
from cl.status import status_of
from cl.web import look, panels, plots, review, rights

_TICK_SECONDS = 2.0
_LEAST_REASON, _MOST_REASON = 3, 300


class AdminPage:
    """The page's handlers."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._books = house.books

    # -- showing ---------------------------------------------------------------------------

    def load(self, request: gr.Request) -> tuple[Any, ...]:
        user = self._admin(request)
        found = status_of(self._books)
        top = look.header(self._books.settings, user, user.name, "admin")
        return (
            top,
            *self._overview(found),
            *self._plots(),
            gr.Timer(active=found["job"] is not None),
        )

    def tick(self, request: gr.Request) -> tuple[Any, ...]:
        """While a training runs: the overview and the training tab, until it has ended."""
        self._admin(request)
        found = status_of(self._books)
        return (
            *self._overview(found),
            *self._training(found),
            gr.Timer(active=found["job"] is not None),
        )

    def refresh(self, request: gr.Request) -> tuple[Any, ...]:
        self._admin(request)
        found = status_of(self._books)
        return *self._overview(found), *self._plots(), gr.Timer(active=found["job"] is not None)

    def data(self, request: gr.Request) -> tuple[Any, ...]:
        self._admin(request)
        made = next((r for r in reports.runs() if r["data"]), None)
        steps = made["data"]["funnel"] if made else []
        title = (
            f"Run {made['id']}: {made['data']['train']} to train on, {made['data']['val']} to validate"
            if made
            else ""
        )
        heading = f"<div class='title'>From interactions to training examples <span class='mut'>{title}</span></div>"
        return (
            heading,
            plots.funnel(steps),
            panels.funnel_reasons(steps),
            panels.scorer(self._books.scoring.report()),
            panels.feedback(reports.latest_feedback(50)),
        )

    def training(self, request: gr.Request) -> tuple[Any, ...]:
        self._admin(request)
        return self._training(status_of(self._books))

    def versions(self, request: gr.Request) -> tuple[Any, ...]:
        self._admin(request)
        found = self._books.ab_test.versions()
        numbers = digests.by_version(self._books.database)
        return (
            panels.versions(found, numbers),
            plots.score_history(reports.scores()),
            panels.experiments(reports.experiments()),
            *self._checks(),
        )

    def recompute(self, experiment: float | None, check: float | None, request: gr.Request) -> str:
        """Work a look of the past out anew from the log."""
        self._admin(request)
        if experiment is None or check is None:
            raise rights.problem("Enter the number of a test and of one of its checks.")
        try:
            return panels.recomputed(*self._books.ab_test.recompute(int(experiment), int(check)))
        except (LookupError, ValueError) as problem:
            raise rights.problem(problem) from None

    def service(self, request: gr.Request) -> tuple[str, gr.Timer]:
        """How the engine runs; asked again every few seconds while it writes answers."""
        self._admin(request)
        found = self._house.engine.status()
        busy = bool(found.get("rows") or found.get("waiting"))
        return panels.service(found), gr.Timer(active=busy)

    def log(self, request: gr.Request) -> tuple[str, str]:
        self._admin(request)
        return panels.iterations(reports.iterations()), panels.audit(reports.audit_trail())

    def people(self, request: gr.Request) -> str:
        self._admin(request)
        return self._people()

    # -- deciding --------------------------------------------------------------------------

    def ask(self, action: str) -> Callable[..., tuple[Any, ...]]:
        """The handler behind an action's button: says what it would do, and wants a reason."""

        def handler(request: gr.Request) -> tuple[Any, ...]:
            self._admin(request)
            question, _ = self._effect(action)
            text = f"<div class='title'>{escape(question)}</div><div class='mut'>It is written to the log with your name and reason.</div>"
            return gr.Column(visible=True), action, question, text, ""

        return handler

    def confirm(
        self, action: str, question: str, reason: str, request: gr.Request
    ) -> tuple[Any, ...]:
        """Do it, if the same question would be asked now: the state is what the admin saw."""
        user = self._admin(request)
        reason = (reason or "").strip()
        if not _LEAST_REASON <= len(reason) <= _MOST_REASON:
            raise rights.problem(f"Please write a reason, of at most {_MOST_REASON} characters.")
        asked_now, act = self._effect(action)
        if asked_now != question:
            raise rights.problem(f"The state has changed. Now the question is: {asked_now}")
        try:
            act(user.name, reason)
        except (Refused, LookupError) as problem:
            raise rights.problem(problem) from None
        self._house.worker.wake()
        gr.Success("Done.", duration=3)
        return gr.Column(visible=False), "", *self.refresh(request)

    def _effect(self, action: str) -> tuple[str, Callable[[str, str], object]]:
        """(what would happen, as a question; what does it, given a name and a reason)."""
        ab_test, loop = self._books.ab_test, self._house.loop
        champion, challenger, run = ab_test.champion(), ab_test.challenger(), reports.open_run()
        if action == "promote" and challenger:
            return f"Promote {challenger.name}? It answers everybody from now on.", (
                lambda who, why: ab_test.promote(actor=who, reason=why, expected=challenger.name)
            )
        if action == "retire" and challenger:
            return f"Retire {challenger.name}? It answers nobody any more.", (
                lambda who, why: ab_test.retire(actor=who, reason=why, expected=challenger.name)
            )
        if action == "rollback" and champion:
            ends = f" The test of {challenger.name} ends." if challenger else ""
            question = f"Roll back from {champion.name} to {ab_test.rollback_target()}?{ends}"
            return question, (
                lambda who, why: ab_test.rollback(actor=who, reason=why, expected=champion.name)
            )
        if action == "retrain" and not (challenger or run):
            return "Start a training now, whatever the triggers say?", loop.request_training
        if action == "cancel" and run:
            return f"Cancel training run {run['id']}? What it did so far is lost.", (
                lambda who, why: loop.cancel_training(who, why, expected=run["id"])
            )
        raise rights.problem("There is nothing to do that with at the moment.")

    # -- people ----------------------------------------------------------------------------

    def add_person(self, name: str, role: str, request: gr.Request) -> tuple[str, str]:
        user = self._admin(request)
        try:
            token = self._books.accounts.add((name or "").strip(), Role(role), user.name)
        except ValueError as problem:
            raise rights.problem(problem) from None
        return self._people(), _link(name.strip(), token)

    def new_link(self, name: str, request: gr.Request) -> tuple[str, str]:
        user = self._admin(request)
        name = (name or "").strip()
        try:
            return self._people(), _link(name, self._books.accounts.new_link(name, user.name))
        except ValueError as problem:
            raise rights.problem(problem) from None

    def switch_person(self, name: str, request: gr.Request) -> tuple[str, str]:
        """Deactivate an active person, activate a deactivated one."""
        user = self._admin(request)
        found = self._books.accounts.find((name or "").strip())
        if found is None:
            raise rights.problem(f"There is no user {name}.")
        try:
            self._books.accounts.set_active(found.name, not found.active, user.name)
        except ValueError as problem:
            raise rights.problem(problem) from None
        return self._people(), ""

    # -- inside ----------------------------------------------------------------------------

    def _admin(self, request: gr.Request) -> User:
        return rights.admin(self._books.accounts, request)

    def _overview(self, found: dict[str, Any]) -> tuple[Any, ...]:
        target = self._books.ab_test.rollback_target()
        testing, working = found["challenger"], found["job"] is not None
        doing = self._house.loop.doing
        return (
            panels.overview(found, doing, self._alerts()),
            panels.gauges(found["triggers"]),
            gr.Button(f"Promote {testing}" if testing else "Promote", interactive=bool(testing)),
            gr.Button(f"Retire {testing}" if testing else "Retire", interactive=bool(testing)),
            gr.Button("Retrain now", interactive=not (testing or working)),
            gr.Button(
                f"Roll back to {target}" if target else "Roll back", interactive=target is not None
            ),
        )

    def _alerts(self) -> list[str]:
        """What is wrong, in words."""
        problem, unscored = self._house.worker.problem, self._books.scoring.problem
        lost = self._house.assistant.lost_rows
        found = [f"Background work failed: {problem.text}"] if problem else []
        found += [f"Answers are not scored at the moment: {unscored}"] if unscored else []
        found += [f"{lost} answers could not be logged since the start."] if lost else []
        return found + self._books.ab_test.notes()

    def _plots(self) -> tuple[Any, ...]:
        points = reports.recent_points()
        return plots.quality(points), plots.thumbs(points), plots.latency(points)

    def _training(self, found: dict[str, Any]) -> tuple[Any, ...]:
        runs = reports.runs()
        trained = next(
            (r for r in runs if (self._books.runs / f"{r['id']:04d}" / "losses.jsonl").exists()),
            None,
        )
        losses = read_losses(self._books.runs / f"{trained['id']:04d}") if trained else []
        card = panels.job(found["job"], self._house.loop.doing, runs[0] if runs else None)
        stop = gr.Button(interactive=found["job"] is not None)
        judged = next((r for r in runs if (r["result"] or {}).get("gate")), None)
        return (
            f"<div class='cards'>{card}</div>",
            plots.losses(losses),
            panels.gate(judged),
            panels.answers(self._answers(judged), judged),
            panels.runs(runs),
            stop,
        )

    def _checks(self) -> tuple[Any, ...]:
        """The looks at the latest experiment, and the numbers of the latest one."""
        latest = next(iter(reports.experiments(1)), None)
        made = reports.checks(latest["id"], 100) if latest else []
        newest = made[0]["number"] if made else None
        return panels.checks(made), gr.Number(latest["id"] if latest else None), gr.Number(newest)

    def _answers(self, run: dict[str, Any] | None) -> list[Asked]:
        return read_answers(self._books.runs / f"{run['id']:04d}") if run else []

    def _people(self) -> str:
        rows = [(u.name, u.role.value, u.active) for u in self._books.accounts.users()]
        return panels.table(("Name", "Role", "Active"), rows, "There are no users.")


def build(house: House) -> gr.Blocks:
    """The page and its wires."""
    page = AdminPage(house)
    with gr.Blocks(
        title=f"Admin - {look.NAME}", fill_width=True, analytics_enabled=False
    ) as blocks:
        top = look.html(elem_id="header")
        timer = gr.Timer(_TICK_SECONDS, active=False)
        pulse = gr.Timer(_TICK_SECONDS, active=False)
        with gr.Column(elem_id="admin"):
            question = _question_panel()
            with gr.Tabs(elem_id="tabs"):
                with gr.Tab("Overview", id="overview"):
                    overview, drawings, buttons = _overview_tab()
                with gr.Tab("Data", id="data") as data_tab:
                    data = _data_tab(house, data_tab)
                with gr.Tab("Training", id="training") as training_tab:
                    training = _training_tab()
                with gr.Tab("Versions", id="versions") as versions_tab:
                    versions = _versions_tab(page)
                with gr.Tab("Service", id="service") as service_tab:
                    service = [look.html(elem_id="service"), pulse]
                with gr.Tab("People", id="people") as people_tab:
                    people = _people_tab(page)
                with gr.Tab("Log", id="log") as log_tab:
                    log = _log_tab()
        shown = [*overview, *drawings, timer]
        blocks.load(page.load, None, [top, *shown], **look.QUIET)
        timer.tick(
            page.tick, None, [*overview, *training, timer], concurrency_limit=None, **look.QUIET
        )
        pulse.tick(page.service, None, service, concurrency_limit=None, **look.QUIET)
        for tab, handler, outputs in (
            (data_tab, page.data, data),
            (training_tab, page.training, training),
            (versions_tab, page.versions, versions),
            (service_tab, page.service, service),
            (people_tab, page.people, people),
            (log_tab, page.log, log),
        ):
            tab.select(handler, None, outputs, **look.QUIET)
        _wire_actions(page, question, [*buttons, ("cancel", training[-1])], shown)
    return cast(gr.Blocks, blocks)  # its context manager is untyped


def _overview_tab() -> tuple[list[Any], list[Any], list[tuple[str, gr.Button]]]:
    status = look.html(elem_id="status")
    with gr.Row(elem_classes="actions"):
        small: dict[str, Any] = {"size": "md", "scale": 0, "min_width": 180, "interactive": False}
        promote = gr.Button("Promote", variant="primary", elem_id="promote", **small)
        retire = gr.Button("Retire", elem_id="retire", **small)
        retrain = gr.Button("Retrain now", elem_id="retrain", **small)
        rollback = gr.Button("Roll back", elem_id="rollback", elem_classes="danger", **small)
    gauges = look.html(elem_id="gauges")
    with gr.Row():
        drawings = [
            _plot("Quality by version"),
            _plot("Share of thumbs up"),
            _plot("Seconds until an answer is complete"),
        ]
    buttons = [
        ("promote", promote),
        ("retire", retire),
        ("retrain", retrain),
        ("rollback", rollback),
    ]
    return [status, gauges, promote, retire, retrain, rollback], drawings, buttons


def _data_tab(house: House, tab: gr.Tab) -> list[Any]:
    review.build(house.books, tab)
    with gr.Column(elem_classes="box"):
        heading = look.html()
        drawing = gr.Plot(show_label=False, container=False, elem_id="plot-funnel")
        reasons = look.html()
    scorer = look.html(elem_id="scorer")
    with gr.Column(elem_classes="box"):
        look.html("<div class='title'>What people said last</div>")
        said = look.html(elem_id="said")
    return [heading, drawing, reasons, scorer, said]


def _training_tab() -> list[Any]:
    job = look.html(elem_id="job")
    stop = gr.Button(
        "Cancel training",
        elem_id="cancel",
        elem_classes="danger",
        size="md",
        scale=0,
        min_width=150,
        interactive=False,
    )
    losses = _plot("Loss of the latest training", "plot-losses")
    with gr.Column(elem_classes="box"):
        look.html("<div class='title'>The gate</div>")
        gate = look.html()
    with gr.Column(elem_classes="box"):
        look.html("<div class='title'>Answers before and after</div>")
        answers = look.html(elem_id="answers")
    with gr.Column(elem_classes="box"):
        look.html("<div class='title'>Training runs</div>")
        runs = look.html()
    return [job, losses, gate, answers, runs, stop]


def _versions_tab(page: AdminPage) -> list[Any]:
    with gr.Column(elem_classes="box"):
        table = look.html(elem_id="versions")
    scores = _plot("Overall score in the tests", "plot-scores")
    with gr.Column(elem_classes="box"):
        look.html("<div class='title'>Tests</div>")
        tests = look.html(elem_id="tests")
    with gr.Column(elem_classes="box"):
        look.html("<div class='title'>Looks at the latest test</div>")
        checks = look.html(elem_id="checks")
        with gr.Row(elem_id="recompute-row", elem_classes="actions"):
            number: dict[str, Any] = {"precision": 0, "minimum": 1, "min_width": 110, "scale": 0}
            experiment = gr.Number(label="Test", elem_id="recompute-test", **number)
            check = gr.Number(label="Check", elem_id="recompute-check", **number)
            again = gr.Button(
                "Work out anew", elem_id="recompute", size="md", scale=0, min_width=150
            )
        outcome = look.html(elem_id="recomputed")
    again.click(page.recompute, [experiment, check], outcome, **look.QUIET)
    return [table, scores, tests, checks, experiment, check]


def _people_tab(page: AdminPage) -> Any:
    with gr.Column(elem_classes="box"):
        people = look.html(elem_id="people")
    with gr.Column(elem_classes="box"):
        with gr.Row():
            name = gr.Textbox(label="Name", max_length=64, elem_id="person")
            role = gr.Dropdown(
                [r.value for r in Role], value=Role.STAFF.value, label="Role", elem_id="role"
            )
        with gr.Row(elem_classes="actions"):
            small: dict[str, Any] = {"size": "md", "scale": 0, "min_width": 150}
            add = gr.Button("Add", variant="primary", elem_id="person-add", **small)
            link = gr.Button("New sign-in link", **small)
            switch = gr.Button("Deactivate / activate", elem_classes="danger", **small)
        given = look.html(elem_id="link")
    add.click(page.add_person, [name, role], [people, given], **look.QUIET)
    link.click(page.new_link, name, [people, given], **look.QUIET)
    switch.click(page.switch_person, name, [people, given], **look.QUIET)
    return people


def _log_tab() -> list[Any]:
    found = []
    for title, elem_id in (("What the loop did", "iterations"), ("Who did what", "audit")):
        with gr.Column(elem_classes="box"):
            look.html(f"<div class='title'>{title}</div>")
            found.append(look.html(elem_id=elem_id))
    return found


def _plot(title: str, elem_id: str | None = None) -> gr.Plot:
    with gr.Column(elem_classes="box", min_width=300):
        look.html(f"<div class='title'>{title}</div>")
        return gr.Plot(show_label=False, container=False, elem_id=elem_id)


def _question_panel() -> dict[str, Any]:
    """One panel asks for all actions: what would happen, why, and yes or no."""
    with gr.Column(visible=False, elem_id="confirm") as panel:
        action, asked = gr.Textbox(visible=False), gr.Textbox(visible=False)
        text = look.html()
        reason = gr.Textbox(label="Reason", max_length=_MOST_REASON, elem_id="reason")
        with gr.Row(elem_classes="actions"):
            small: dict[str, Any] = {"size": "md", "scale": 0, "min_width": 120}
            no = gr.Button("Back", elem_id="confirm-no", **small)
            yes = gr.Button("Do it", variant="primary", elem_id="confirm-yes", **small)
    return {
        "panel": panel,
        "action": action,
        "question": asked,
        "text": text,
        "reason": reason,
        "no": no,
        "yes": yes,
    }


def _wire_actions(
    page: AdminPage,
    question: dict[str, Any],
    buttons: list[tuple[str, gr.Button]],
    shown: list[Any],
) -> None:
    asked = [question[name] for name in ("panel", "action", "question", "text", "reason")]
    for action, button in buttons:
        button.click(page.ask(action), None, asked, **look.QUIET)
    inputs = [question[name] for name in ("action", "question", "reason")]
    question["yes"].click(
        page.confirm, inputs, [question["panel"], question["reason"], *shown], **look.QUIET
    )
    question["no"].click(
        lambda: gr.Column(visible=False), None, question["panel"], queue=False, **look.QUIET
    )


def _link(name: str, token: str) -> str:
    return (
        f"<p>One-time link for <b>{escape(name)}</b>, good for three days. Send it to them alone.</p>"
        f"<code>/signin?link={escape(token)}</code>"
    )
