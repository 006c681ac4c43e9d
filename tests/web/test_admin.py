"""The admin page: only for admins, whatever is there to show, and every decision with its reason."""

import inspect
import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gradio as gr
import pytest
from gradio.components.plot import PlotData

from cl.db import reports
from cl.house import House
from cl.records import Role, RunStatus, Stage, State
from cl.web import panels
from cl.web.admin import AdminPage
from cl.worker import Problem
from tests.fakes import talk
from tests.test_walkthrough import FACTS, steps, teach
from tests.web.pages import ADMIN, Page, Site, deploy, everything_stored

NASTY = "<script>alert(1)</script><img src=x onerror=\"alert('1')\">"
REASON = "the numbers are clear"
ACTIONS = ("promote", "retire", "rollback", "retrain", "cancel")
IDA = gr.Request(username="ida")


@pytest.fixture
def page(house: House) -> AdminPage:
    house.books.accounts.add("ida", Role.ADMIN, "system")
    return AdminPage(house)


def handlers(page: AdminPage) -> dict[str, Callable[..., Any]]:
    """Every public method; of `ask`, the handlers it makes."""
    methods = dict(inspect.getmembers(page, inspect.ismethod))
    found = {name: method for name, method in methods.items() if not name.startswith("_")}
    ask = found.pop("ask")
    return found | {f"ask {action}": ask(action) for action in ACTIONS}


def call(handler: Callable[..., Any], request: gr.Request) -> Any:
    """With something for every field of the page."""
    fields = set(inspect.signature(handler).parameters) - {"request"}
    return handler(**dict.fromkeys(fields, "promote"), request=request)


def shown(page: AdminPage) -> dict[str, str]:
    """All the page shows, as text by handler: what needs no field and asks no question."""
    found = {name: h for name, h in handlers(page).items() if not name.startswith("ask")}
    showing = {
        n: h for n, h in found.items() if set(inspect.signature(h).parameters) == {"request"}
    }
    return {name: "\n".join(_texts(handler(IDA))) for name, handler in showing.items()}


def _texts(outputs: Any) -> list[str]:
    if isinstance(outputs, tuple):
        return [text for output in outputs for text in _texts(output)]
    if isinstance(outputs, PlotData):
        return [json.dumps(json.loads(outputs.plot)["data"])]
    return [outputs if isinstance(outputs, str) else str(getattr(outputs, "value", ""))]


def test_a_look_of_the_past_is_worked_out_anew(house: House, page: AdminPage) -> None:
    running_test(house)
    house.books.ab_test.compare_models()
    assert "The same verdict" in page.recompute(1, 1, IDA)
    assert "nan" not in page.recompute(1, 1, IDA)
    for experiment, check, text in (
        (1, 2, "none 2"),
        (9, 1, "no experiment 9"),
        (None, 1, "Enter"),
    ):
        with pytest.raises(gr.Error, match=text):
            page.recompute(experiment, check, IDA)


def test_a_verdict_that_waits_for_a_yes_says_so(house: House, page: AdminPage) -> None:
    running_test(house)
    ab_test = house.books.ab_test
    limits = replace(ab_test._limits(), decision_mode="approve")
    ab_test._limits = lambda: limits
    house.books.clock.skip(400)  # type: ignore[attr-defined]
    house.loop.run_iteration()
    assert "it waits for your yes" in shown(page)["load"]
    assert ab_test.state() is State.TESTING


def test_the_watch_over_a_new_champion_is_told(house: House, page: AdminPage) -> None:
    promoted(house)
    house.loop.run_iteration()
    assert "v0001 keeps 10% of the conversations" in shown(page)["load"]
    assert "watch" in shown(page)["versions"]


# -- who -------------------------------------------------------------------------------------


def test_every_handler_is_refused_to_all_but_active_admins(house: House, page: AdminPage) -> None:
    accounts = house.books.accounts
    accounts.add("staff", Role.STAFF, "system")
    accounts.add("former", Role.ADMIN, "system")
    accounts.set_active("former", False, "ida")
    before = everything_stored()
    for who in ("staff", "former", "visitor-0123456789ab", "stranger", "", None):
        for handler in handlers(page).values():
            with pytest.raises(gr.Error, match="Admins only"):
                call(handler, gr.Request(username=who))
    assert everything_stored() == before


def test_an_admin_made_staff_is_refused_at_the_next_click(house: House, page: AdminPage) -> None:
    house.books.accounts.add("other", Role.ADMIN, "system")
    page.refresh(IDA)
    house.books.accounts.set_role("ida", Role.STAFF, "other")
    with pytest.raises(gr.Error, match="Admins only"):
        page.refresh(IDA)


def test_whatever_the_page_is_wired_to_asks_who_is_there(site: Site) -> None:
    config = Page(site.browser(ADMIN), "/admin").config
    blocks = next(r for r in site.app.routes if getattr(r, "path", "") == "/admin").app.get_blocks()
    events = [blocks.fns[event["id"]] for event in config["dependencies"]]
    wired = [event for event in events if event.fn]  # the others run in the browser alone
    unasked = [f for f in wired if "request" not in inspect.signature(f.fn).parameters]
    assert len(wired) > 15
    # Only the way back out of a question does not: it hides the question.
    assert [(len(f.inputs), len(f.outputs)) for f in unasked] == [(0, 1)]


def test_the_overview_tells_what_is_wrong_in_the_background(house: House, page: AdminPage) -> None:
    assert "role='alert'" not in shown(page)["load"]
    house.worker.problem = Problem(house.books.clock(), "OSError: disk full")
    house.books.scoring.problem = "no memory for the reader"
    found = shown(page)["load"]
    assert found.count("role='alert'") == 2
    assert "OSError: disk full" in found
    assert "no memory for the reader" in found


# -- showing ---------------------------------------------------------------------------------


def nothing(house: House) -> None:
    """Nobody has written."""


def a_training_asked_for(house: House) -> None:
    house.assistant.begin("ana", "a message without an answer", None)
    house.loop.request_training("ida", REASON)


def one_version(house: House) -> None:
    deploy(house, "v0001")


def running_test(house: House) -> None:
    deploy(house, "v0001")
    deploy(house, "v0002")


def promoted(house: House) -> None:
    running_test(house)
    house.books.ab_test.promote(actor="ida", reason=REASON)


@pytest.mark.parametrize("story", [a_training_asked_for, running_test, promoted])
def test_every_part_of_the_page_can_be_shown(
    house: House, page: AdminPage, story: Callable[[House], None]
) -> None:
    story(house)
    found = shown(page)
    assert all(text.strip() for text in found.values())
    assert "ida" in found["load"]
    assert not re.search(r">None<|\bnan\b", "".join(found.values()))


def test_the_page_follows_the_story(house: House, page: AdminPage) -> None:
    before = shown(page)
    assert "Nobody has written yet." in before["load"]
    assert "No version has been trained yet." in before["versions"]
    teach(house, list(FACTS)[:6])
    steps(house)
    losses = '{"step": 7, "train": 2.5}\n{"step": 7, "val": 1.5}\n{"step": 8, "tra'  # being written
    (house.books.runs / "0001" / "losses.jsonl").write_text(losses)
    after = shown(page)
    assert "v0001 answers everybody" in after["load"]
    assert "Roll back to base" in after["load"]
    assert "v0001" in after["versions"]
    assert "v0001 passed the gate" in after["log"]
    assert "passed" in after["training"]
    assert '"y": [2.5]' in after["training"]
    assert "Mirela Dorn approves travel." in after["data"]


def test_every_tab_arrives_through_the_queue(site: Site) -> None:
    talk(site.house, "ana", "hello", thumb=1)
    page = Page(site.browser(ADMIN), "/admin")
    for handler in ("load", "tick", "data", "training", "versions", "people", "log"):
        assert page.run(handler)
    assert "nothing to do that with" in page.refusal("handler")  # promote, without a test


def test_nothing_people_write_becomes_markup(house: House, page: AdminPage) -> None:
    interaction, _ = talk(house, "ana", NASTY, thumb=-1, correction=NASTY)
    house.books.logger.record_feedback(interaction, "ana", comment=NASTY)
    house.loop.request_training("ida", NASTY)
    found = shown(page)
    assert "&lt;script&gt;" in found["data"]
    assert "&lt;script&gt;" in found["log"]
    assert "&lt;script&gt;" in found["load"]
    assert not re.search("<script|<img", "".join(found.values()))


# -- deciding --------------------------------------------------------------------------------

DECISIONS = [
    (running_test, "promote", "promote", "v0002"),
    (running_test, "retire", "retire", "v0002"),
    (promoted, "rollback", "rollback", "v0002 -> v0001"),
    (one_version, "rollback", "rollback", "v0001 -> base"),
    (nothing, "retrain", "retrain", "run 1"),
    (a_training_asked_for, "cancel", "cancel training", "run 1"),
]


def ask(page: AdminPage, action: str) -> str:
    """The question, as the page shows it and sends it back."""
    panel, asked, question, text, reason = page.ask(action)(IDA)
    assert (panel.visible, asked, reason) == (True, action, "")
    assert question in text
    return question


def decide(page: AdminPage, action: str) -> None:
    page.confirm(action, ask(page, action), REASON, IDA)


def audit() -> list[tuple[str, str, str, str]]:
    lines = reports.audit_trail()
    return [(r["actor"], r["action"], r["subject"], r["reason"]) for r in lines]


@pytest.mark.parametrize(("story", "action", "written", "subject"), DECISIONS)
def test_a_decision_is_done_and_written_down_with_name_and_reason(
    house: House,
    page: AdminPage,
    story: Callable[[House], None],
    action: str,
    written: str,
    subject: str,
) -> None:
    story(house)
    question = ask(page, action)
    before = len(audit())
    panel, reason, *_ = page.confirm(action, question, f" {REASON} ", IDA)
    assert (panel.visible, reason) == (False, "")
    assert audit()[0] == ("ida", written, subject, REASON)
    assert len(audit()) == before + 1


def test_what_was_decided_holds(house: House, page: AdminPage) -> None:
    running_test(house)
    ab_test = house.books.ab_test
    decide(page, "promote")
    assert [(v.name, v.stage) for v in ab_test.versions()] == [
        ("v0002", Stage.CHAMPION),
        ("v0001", Stage.RETIRED),
    ]
    decide(page, "rollback")
    assert ab_test.route_request(1).version == "v0001"
    decide(page, "retrain")
    decide(page, "cancel")
    steps(house)
    assert reports.runs()[0]["status"] == RunStatus.CANCELLED


def test_without_a_reason_nothing_is_done(page: AdminPage) -> None:
    before = everything_stored()
    for reason in ("", "  ", "ok", " x ", None, "x" * 301):
        with pytest.raises(gr.Error, match="Please write a reason"):
            page.confirm("retrain", "", reason, IDA)
    assert everything_stored() == before


def test_what_cannot_be_done_now_is_not_even_asked(page: AdminPage) -> None:
    for action in ("promote", "retire", "rollback", "cancel", "erase", ""):
        with pytest.raises(gr.Error, match="nothing to do that with"):
            page.ask(action)(IDA)


OTHER_ADMIN = {"actor": "other", "reason": "was faster"}
STALE = [
    ("promote", lambda house: house.books.ab_test.retire(**OTHER_ADMIN), "nothing to do"),
    ("retire", lambda house: house.books.ab_test.promote(**OTHER_ADMIN), "nothing to do"),
    ("rollback", lambda house: house.books.ab_test.promote(**OTHER_ADMIN), "state has changed"),
    ("rollback", lambda house: house.books.ab_test.retire(**OTHER_ADMIN), "state has changed"),
]


@pytest.mark.parametrize(("action", "meanwhile", "told"), STALE)
def test_a_question_the_world_has_moved_past_is_refused_and_changes_nothing(
    house: House, page: AdminPage, action: str, meanwhile: Callable[[House], Any], told: str
) -> None:
    running_test(house)
    seen = ask(page, action)
    meanwhile(house)
    before = everything_stored()
    with pytest.raises(gr.Error, match=told):
        page.confirm(action, seen, REASON, IDA)
    assert everything_stored() == before


def test_a_forged_answer_to_a_question_changes_nothing(house: House, page: AdminPage) -> None:
    running_test(house)
    before = everything_stored()
    for action, subject in (
        ("promote", "v0001"),
        ("retire", ""),
        ("rollback", "base"),
        ("erase", "v0002"),
        ("", ""),
    ):
        with pytest.raises(gr.Error, match=r"state has changed|nothing to do"):
            page.confirm(action, subject, REASON, IDA)
    assert everything_stored() == before


def test_a_cancel_after_the_end_is_refused(house: House, page: AdminPage) -> None:
    a_training_asked_for(house)
    question = ask(page, "cancel")
    steps(house)  # with nothing to learn from it ends at once
    with pytest.raises(gr.Error, match="nothing to do"):
        page.confirm("cancel", question, REASON, IDA)
    house.loop.request_training("other", "once more")
    with pytest.raises(gr.Error, match="the question is: Cancel training run 2"):
        page.confirm("cancel", question, REASON, IDA)


def test_no_second_training_is_started_and_none_during_a_test(
    house: House, page: AdminPage
) -> None:
    question = ask(page, "retrain")
    a_training_asked_for(house)
    before = everything_stored()
    with pytest.raises(gr.Error, match="nothing to do"):
        page.confirm("retrain", question, REASON, IDA)
    assert everything_stored() == before
    running_test(house)
    with pytest.raises(gr.Error, match="nothing to do"):
        page.confirm("retrain", question, REASON, IDA)


# -- people ----------------------------------------------------------------------------------


def test_a_person_is_added_with_a_link_that_works(house: House, page: AdminPage) -> None:
    people, link = page.add_person(" emil ", "staff", IDA)
    assert "emil" in people
    token = re.search(r"/signin\?link=([\w-]+)<", link)
    assert token
    assert house.books.accounts.is_link(token[1])
    assert audit()[0] == ("ida", "add user", "emil", "as staff")
    newer = page.new_link("emil", IDA)[1]
    assert token[1] not in newer
    assert not house.books.accounts.is_link(token[1])


def test_a_person_who_cannot_be_added_is_refused(page: AdminPage) -> None:
    before = everything_stored()
    for name, role in (
        ("", "staff"),
        (None, "staff"),
        ("ida", "admin"),  # there already
        ("emil", "owner"),
        ("emil", None),
        ("visitor-x", "staff"),
        ("a b", "staff"),
        ("x" * 65, "staff"),
        (NASTY, "staff"),
    ):
        with pytest.raises(gr.Error):
            page.add_person(name, role, IDA)
    assert everything_stored() == before


def test_people_are_deactivated_and_activated_by_the_same_button(
    house: House, page: AdminPage
) -> None:
    page.add_person("emil", "staff", IDA)
    for active in (False, True):
        page.switch_person("emil", IDA)
        found = house.books.accounts.find("emil")
        assert found
        assert found.active is active
        assert audit()[0] == ("ida", "activate" if active else "deactivate", "emil", "")


def test_the_last_admin_cannot_lock_everybody_out(page: AdminPage) -> None:
    with pytest.raises(gr.Error, match="ida is the last admin"):
        page.switch_person("ida", IDA)
    page.refresh(IDA)


def test_strangers_get_neither_link_nor_switch(page: AdminPage) -> None:
    for name in ("nobody", "", None):
        for act in (page.new_link, page.switch_person):
            with pytest.raises(gr.Error, match="There is no user"):
                act(name, IDA)


# -- the engine --------------------------------------------------------------------------------


def test_the_service_tab_says_how_the_engine_runs_and_why_not_better() -> None:
    found = {
        "kind": "embedded",
        "stage": "prepacked",
        "why": "Not compiled: there is no C++ compiler (g++) on this machine.",
        "device": "processor",
        "loaded": ["base", "v0001"],
        "rows": 3,
        "max_rows": 8,
        "waiting": 5,
        "steps": 1234,
        "step_ms": 10.5,
        "tokens": 4321,
        "prompt_tokens": 1000,
        "reused_tokens": 250,
        "answers": {"stop": 7, "length": 1},
    }
    shown = panels.service(found)
    for text in (
        "prepacked", "there is no C++ compiler", "3 of 8", "base, v0001", "10.5 ms", "1,234 steps",
        "4,321", "25% of them known already", "1 length, 7 stop",
    ):  # fmt: skip
        assert text in shown
    assert ">5</div>" in shown


def test_the_service_tab_shows_each_inference_server() -> None:
    servers = [
        {"url": "http://10.0.0.7:8000", "ok": True, "running": 2},
        {"url": "http://10.0.0.8:8000", "ok": False, "running": 0},
    ]
    found = {"kind": "remote", "stage": "vllm", "why": "", "loaded": [], "waiting": 0}
    shown = panels.service({**found, "servers": servers})
    assert "2 answers being written" in shown
    assert "gives no answer" in shown
    assert "nothing yet" in shown
