"""The Versions and Training tabs: lineage both ways, looks worked out anew, runs with what made them."""

import json
import re

import gradio as gr
import pytest

from cl import lineage
from cl.house import House
from cl.web.admin import AdminPage
from tests.fakes import talk
from tests.test_walkthrough import FACTS, steps, teach
from tests.web.admin import stories
from tests.web.admin.conftest import IDA, event, tab

NASTY = "<img src=x onerror=alert(1)>"


@pytest.fixture
def learned(house: House) -> set[int]:
    """Two versions that learned from what ben taught. Returns what the first one learned."""
    teach(house, list(FACTS)[:6])
    steps(house)
    teach(house, list(FACTS)[2:])
    steps(house)
    return lineage.listed_in(house.books.runs / "0001" / "data", "train")


def ids(shown: str) -> list[int]:
    return [int(n) for n in re.findall(r"<tr><td class='n'>([\d,]+)</td>", shown)]


# -- lineage ---------------------------------------------------------------------------------


def test_from_a_version_to_the_interactions_that_taught_it_and_back(
    house: House, page: AdminPage, learned: set[int]
) -> None:
    versions = tab(page, "Versions")
    assert "data-act='taught' data-name='v0001'" in versions.show(IDA)[0]
    shown = versions._lineage.taught(event(name="v0001"), IDA)
    assert set(ids(shown)) == learned
    assert f"v0001 learned from {len(learned)} interactions" in shown
    for id_ in learned:
        assert "v0001" in versions._lineage.learned(str(id_), IDA)
    (other,) = [talk(house, "ana", "never rated")[0]]
    assert "no version" in versions._lineage.learned(str(other), IDA)


def test_many_lessons_come_page_by_page(
    house: House, page: AdminPage, learned: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cl.web.admin.lineage._PAGE", 4)
    box, seen, place = tab(page, "Versions")._lineage, [], 0
    while True:
        shown = box.taught(event(name="v0001", place=str(place)), IDA)
        seen += ids(shown)
        later = re.search(r"data-place='(\d+)' aria-label='Later", shown)
        if not later:
            break
        place = int(later[1])
    assert seen == sorted(learned)
    assert "Earlier lessons" in shown
    for forged in ("999", "x", "-4", None):
        assert ids(box.taught(event(name="v0001", place=forged), IDA))[0] == min(learned)


def test_what_was_erased_is_not_shown(house: House, page: AdminPage, learned: set[int]) -> None:
    house.books.forgetting.erase("ben", actor="ida", reason="asked for")
    shown = tab(page, "Versions")._lineage.taught(event(name="v0001"), IDA)
    assert "is not there any more" in shown
    assert "Mirela" not in shown


def test_strange_numbers_and_names_are_refused(page: AdminPage) -> None:
    box = tab(page, "Versions")._lineage
    for number, told in (("", "Enter"), (None, "Enter"), ("x", "Enter"), ("999", "no interaction")):
        with pytest.raises(gr.Error, match=told):
            box.learned(number, IDA)
    for name in ("v9", "", NASTY):
        with pytest.raises(gr.Error, match="There is no version"):
            box.taught(event(name=name), IDA)


# -- looks -------------------------------------------------------------------------------------


def test_a_look_of_the_past_is_worked_out_anew(house: House, page: AdminPage) -> None:
    stories.running_test(house)
    house.books.ab_test.compare_models()
    versions = tab(page, "Versions")
    assert versions.show(IDA)[-2:] == ("1", "1")
    assert "The same verdict" in versions.recompute("1", "1", IDA)
    assert "nan" not in versions.recompute("1", "1", IDA)
    for experiment, check, text in (
        ("1", "2", "none 2"),
        ("9", "1", "no experiment 9"),
        ("", "1", "Enter"),
        ("1", NASTY, "Enter"),
    ):
        with pytest.raises(gr.Error, match=text):
            versions.recompute(experiment, check, IDA)


# -- runs --------------------------------------------------------------------------------------


def test_a_run_is_chosen_and_shows_what_it_was_made_of(
    house: House, page: AdminPage, learned: set[int]
) -> None:
    (house.books.runs / "0001" / "job.json").write_text(json.dumps({"options": {"lora_rank": 7}}))
    training = tab(page, "Training")
    latest = training.show("", IDA)
    assert "deployed" in latest[0]
    assert "run 2" in latest[2]
    assert "Show run 1" in latest[-1]
    chosen = training.pick("", event(act="run", name="1"), IDA)
    shown = training.show(chosen, IDA)
    assert "run 1" in shown[2]
    for text in ("sha256 of the data", "<dt>CL_SEED</dt><dd>0</dd>", "CL_LORA_RANK</dt><dd>7"):
        assert text in shown[5]
    assert "passed" in shown[6]
    assert "Mirela Dorn approves travel." in shown[7]
    for forged in ("99", "x", None, NASTY):
        assert training.show(forged, IDA)[2] == latest[2]


def test_a_run_at_work_is_the_one_that_is_shown(house: House, page: AdminPage) -> None:
    stories.a_training_asked_for(house)
    training = tab(page, "Training")
    shown = training.show("", IDA)
    assert "running" in shown[0]
    assert shown[1].interactive
    house.loop.cancel_training("ida", "no more")
    shown = training.show("", IDA)
    assert "being cancelled" in shown[0]
    assert not shown[1].interactive
