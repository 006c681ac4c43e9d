"""The Settings tab: what holds, who changed it, and a change that is asked first and holds at once."""

import gradio as gr
import pytest

from cl.house import House
from cl.settings import adjustable
from cl.web.admin import AdminPage
from tests.web.admin.conftest import IDA, REASON, ask, decide, event, tab
from tests.web.pages import everything_stored

NASTY = "<img src=x onerror=alert(1)>"


def test_every_threshold_is_there_with_what_holds(page: AdminPage) -> None:
    found = tab(page, "Settings").show(IDA)
    for knobs in adjustable().values():
        for knob in knobs:
            assert f"aria-label='{knob.env}'" in found
            assert f"data-name='{knob.name}'" in found
    assert found.count("<form class='knob'") == sum(map(len, adjustable().values()))
    assert "<option selected>plain</option>" in found
    assert "changed" not in found


def test_a_change_is_asked_done_shown_and_can_be_reset(house: House, page: AdminPage) -> None:
    settings = tab(page, "Settings")
    asked = settings.pick(event(act="set", name="min_quality", value="0.8"), IDA)
    assert asked[3] == "Set CL_MIN_QUALITY from 0.7 to 0.8?"
    assert "Holds for the next training set." in asked[4]
    page.dialog.confirm(*asked[1:4], REASON, "", IDA)
    assert house.books.thresholds.data().min_quality == 0.8
    assert "by ida, 2026-01-05 09:00 UTC; without it 0.7" in settings.show(IDA)
    with pytest.raises(gr.Error, match=r"is 0\.8 already"):  # the same press again
        page.dialog.confirm(*asked[1:4], REASON, "", IDA)
    assert ask(page, "reset", "min_quality")[0] == "Set CL_MIN_QUALITY back from 0.8 to 0.7?"
    decide(page, "reset", "min_quality")
    assert house.books.thresholds.data().min_quality == 0.7
    with pytest.raises(gr.Error, match="was not changed"):
        ask(page, "reset", "min_quality")


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("min_quality", "2", "must be from 0 to 1"),
        ("min_quality", "", "is not a number"),
        ("quiet_hours", "late", "two times of the day"),
        ("port", "1", "no setting CL_PORT"),
        ("seed", "1", "cannot be changed"),
        ("", "", "no setting"),
        (NASTY, "1", "no setting"),
        ("min_test_hours", "99999", "must not be more than"),
    ],
)
def test_what_does_not_fit_is_not_even_asked(
    page: AdminPage, name: str, value: str, told: str
) -> None:
    before = everything_stored()
    with pytest.raises(gr.Error, match=told):
        tab(page, "Settings").pick(event(act="set", name=name, value=value), IDA)
    assert everything_stored() == before


def test_another_change_meanwhile_makes_the_question_stale(house: House, page: AdminPage) -> None:
    question, _ = ask(page, "set", "min_quality=0.8")
    house.books.thresholds.change("min_quality", "0.75", actor="eva", reason="first")
    with pytest.raises(
        gr.Error, match=r"Now the question is: Set CL_MIN_QUALITY from 0\.75 to 0\.8"
    ):
        page.dialog.confirm("set", "min_quality=0.8", question, REASON, "", IDA)
    assert house.books.thresholds.data().min_quality == 0.75


def test_a_text_that_is_markup_is_shown_as_text(house: House, page: AdminPage) -> None:
    with pytest.raises(gr.Error) as refused:
        tab(page, "Settings").pick(event(act="set", name="quiet_hours", value=NASTY), IDA)
    assert "two times of the day" in str(refused.value)
    assert house.books.thresholds.changes() == {}
