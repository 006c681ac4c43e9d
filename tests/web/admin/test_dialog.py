"""What must be asked first: done once, with a reason and the name typed, if the state is what was seen."""

from collections.abc import Callable
from typing import Any

import gradio as gr
import pytest

from cl.db import reports
from cl.house import House
from cl.records import RunStatus, Stage
from cl.web.admin import AdminPage
from tests.test_walkthrough import steps
from tests.web.admin import stories
from tests.web.admin.conftest import IDA, REASON, ask, decide
from tests.web.pages import everything_stored

DECISIONS = [
    (stories.running_test, "promote", "promote", "v0002", "v0002"),
    (stories.running_test, "retire", "retire", "v0002", "v0002"),
    (stories.promoted, "rollback", "rollback", "v0002 -> v0001", "v0001"),
    (stories.one_version, "rollback", "rollback", "v0001 -> base", "base"),
    (stories.nothing, "retrain", "retrain", "run 1", ""),
    (stories.a_training_asked_for, "cancel", "cancel training", "run 1", ""),
]


def audit() -> list[tuple[str, str, str, str]]:
    lines = reports.audit_trail()
    return [(r["actor"], r["action"], r["subject"], r["reason"]) for r in lines]


@pytest.mark.parametrize(("story", "action", "written", "subject", "typed"), DECISIONS)
def test_a_decision_is_done_once_and_written_down_with_name_and_reason(
    house: House,
    page: AdminPage,
    story: Callable[[House], None],
    action: str,
    written: str,
    subject: str,
    typed: str,
) -> None:
    story(house)
    question, word = ask(page, action)
    assert word == typed
    before = len(audit())
    assert page.dialog.confirm(action, "", question, f" {REASON} ", word, IDA).visible is False
    assert audit()[0] == ("ida", written, subject, REASON)
    assert len(audit()) == before + 1
    for _ in range(2):  # the same press again
        with pytest.raises(gr.Error, match=r"state has changed|nothing to do"):
            page.dialog.confirm(action, "", question, REASON, word, IDA)
    assert len(audit()) == before + 1


@pytest.mark.parametrize(("story", "action", "written", "subject", "typed"), DECISIONS)
def test_without_a_reason_or_the_name_nothing_is_done(
    house: House,
    page: AdminPage,
    story: Callable[[House], None],
    action: str,
    written: str,
    subject: str,
    typed: str,
) -> None:
    story(house)
    question, word = ask(page, action)
    before = everything_stored()
    for reason in ("", "  ", "ok", " x ", None, "x" * 301):
        with pytest.raises(gr.Error, match="Please write a reason"):
            page.dialog.confirm(action, "", question, reason, word, IDA)  # type: ignore[arg-type]
    for wrong in ("", "v9", typed.upper(), None) if typed else ():
        with pytest.raises(gr.Error, match=f"Please type {typed}"):
            page.dialog.confirm(action, "", question, REASON, wrong or "", IDA)
    assert everything_stored() == before


def test_what_was_decided_holds(house: House, page: AdminPage) -> None:
    stories.running_test(house)
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


def test_what_cannot_be_done_now_is_not_even_asked(page: AdminPage) -> None:
    for action in ("promote", "retire", "rollback", "cancel", "erase", "", "exclude-all"):
        with pytest.raises(gr.Error, match=r"nothing to do that with|Nothing in this table"):
            page.dialog.open(action)(IDA)


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
    stories.running_test(house)
    question, word = ask(page, action)
    meanwhile(house)
    before = everything_stored()
    with pytest.raises(gr.Error, match=told):
        page.dialog.confirm(action, "", question, REASON, word, IDA)
    assert everything_stored() == before


def test_a_forged_answer_to_a_question_changes_nothing(house: House, page: AdminPage) -> None:
    stories.running_test(house)
    before = everything_stored()
    for action, question in (
        ("promote", "v0001"),
        ("retire", ""),
        ("rollback", "base"),
        ("erase", "v0002"),
        ("", ""),
    ):
        with pytest.raises(gr.Error, match=r"state has changed|nothing to do"):
            page.dialog.confirm(action, "", question, REASON, "v0002", IDA)
    assert everything_stored() == before


def test_a_cancel_after_the_end_is_refused(house: House, page: AdminPage) -> None:
    stories.a_training_asked_for(house)
    question, _ = ask(page, "cancel")
    steps(house)  # with nothing to learn from it ends at once
    with pytest.raises(gr.Error, match="nothing to do"):
        page.dialog.confirm("cancel", "", question, REASON, "", IDA)
    house.loop.request_training("other", "once more")
    with pytest.raises(gr.Error, match="the question is: Cancel training run 2"):
        page.dialog.confirm("cancel", "", question, REASON, "", IDA)


def test_no_second_training_is_started_and_none_during_a_test(
    house: House, page: AdminPage
) -> None:
    question, _ = ask(page, "retrain")
    stories.a_training_asked_for(house)
    before = everything_stored()
    with pytest.raises(gr.Error, match="nothing to do"):
        page.dialog.confirm("retrain", "", question, REASON, "", IDA)
    assert everything_stored() == before
    stories.running_test(house)
    with pytest.raises(gr.Error, match="nothing to do"):
        page.dialog.confirm("retrain", "", question, REASON, "", IDA)
