"""The Overview: what the loop is at, how the test goes, and what may be pressed and why not."""

import json
import random
import re
from typing import Any

import gradio as gr
import pytest

from cl.house import House
from cl.records import Arm, Outcome, Status
from cl.rules.planning import Need
from cl.settings import ExperimentLimits
from cl.web.admin import AdminPage, overview, standing
from cl.web.admin.standing import interval
from tests.fakes import talk
from tests.web.admin import stories
from tests.web.admin.conftest import IDA

LIMITS = {"decision_rule": "evidence", "decision_mode": "approve", "min_test_hours": 48.0}


def traffic(house: House, count: int, better: float = 0.2) -> None:
    """Conversations of the running test; the challenger's answers are liked more often."""
    dice, logger = random.Random(5), house.books.logger
    for number in range(count):
        conversation = logger.open_conversation("ana", "Q")
        route = house.books.ab_test.route_request(conversation)
        interaction = logger.log("ana", conversation, f"Question {number}?", route)
        logger.finish(interaction, Outcome(Status.COMPLETE, "A", 1.0, 0.1 + number / 1000))
        good = dice.random() < 0.6 + (better if route.arm is Arm.CHALLENGER else 0)
        logger.score([(interaction, 0.8 if good else 0.4, "rules-1")])
        reasons = () if good else ("Incorrect",)
        logger.record_feedback(interaction, "ana", thumb=1 if good else -1, reasons=reasons)


@pytest.fixture
def testing(house: House) -> House:
    limits = ExperimentLimits(**LIMITS, challenger_share=0.5)  # type: ignore[arg-type]
    house.books.ab_test._limits = lambda: limits
    stories.running_test(house)
    return house


def show(page: AdminPage) -> dict[str, Any]:
    names = [
        "sentence",
        "cards",
        "promote",
        "retire",
        "retrain",
        "rollback",
        "why",
        "gauges",
        "timer",
    ]
    drawings = ["lift", "table", "liked", "lives", "quality", "thumbs"]
    found = dict(zip(names, page.overview.show(IDA), strict=True))
    return found | dict(zip(drawings, page.overview.draw(IDA), strict=True))


def drawn(plot: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(plot.plot)["data"]
    return found


def test_what_cannot_be_pressed_says_why(house: House, page: AdminPage) -> None:
    found = show(page)
    pressed = {name: found[name].interactive for name in ("promote", "retire", "rollback")}
    assert pressed == {"promote": False, "retire": False, "rollback": False}
    assert found["retrain"].interactive
    assert "need a running test" in found["why"]
    assert "no champion to roll back from" in found["why"]
    stories.running_test(house)
    found = show(page)
    assert [found[n].value for n in ("promote", "retire")] == ["Promote v0002", "Retire v0002"]
    assert not found["retrain"].interactive
    assert "A training begins after the test." in found["why"]


def test_before_the_minimum_there_is_no_word_of_a_winner(testing: House, page: AdminPage) -> None:
    traffic(testing, 260)
    clock = testing.books.clock
    for hours in (1, 46.9):  # 47.9 hours: enough answers
        clock.skip(hours)  # type: ignore[attr-defined]
        testing.loop.run_iteration()
    found = show(page)
    everything = found["sentence"] + found["cards"] + found["table"]
    assert not re.search(r"winner|wins|significant|better than|the verdict", everything, re.I)
    assert "too early to judge" in found["cards"]
    assert "about 6 min" in found["cards"]
    assert "<li aria-current=step>A/B test</li>" in found["sentence"]
    clock.skip(0.2)  # type: ignore[attr-defined]
    testing.loop.run_iteration()
    assert "too early to judge" not in show(page)["cards"]


def test_with_time_but_too_few_answers_it_is_closed_too(testing: House, page: AdminPage) -> None:
    traffic(testing, 190)
    testing.books.clock.skip(60)  # type: ignore[attr-defined]
    testing.loop.run_iteration()
    counts = testing.books.ab_test.compare_models()
    assert counts is not None
    assert min(counts.champion.requests, counts.challenger.requests) < 100
    found = show(page)
    assert "too early to judge" in found["cards"]
    assert "48 of 48 hours" in found["cards"]
    assert re.search(r"\d\d of 100 answers", found["cards"])
    assert not re.search(r"verdict is", found["sentence"])


def test_the_test_is_told_in_cards_a_table_and_a_band(testing: House, page: AdminPage) -> None:
    traffic(testing, 260)
    for _ in range(3):
        testing.books.clock.skip(5)  # type: ignore[attr-defined]
        testing.loop.run_iteration()
    found = show(page)
    assert "50% of chats" in found["cards"]
    assert "liked of" in found["cards"]
    assert "class='interval'" in found["cards"]
    for text in ("Liked", "Asked again", "First word, 95th percentile", "Disliked: Incorrect"):
        assert text in found["table"]
    assert "v0001" in found["table"]
    lift = drawn(found["lift"])
    assert [trace["name"] for trace in lift] == ["", "interval", "lift"]
    assert [round(x) for x in lift[-1]["x"]] == [5, 10, 15]
    layout = json.loads(found["lift"].plot)["layout"]
    assert "do not conclude" in layout["annotations"][0]["text"]
    assert layout["shapes"][0]["x1"] == 48
    assert drawn(found["liked"])[0]["x"] == ["v0001", "v0002"]


def test_an_ended_test_stays_to_be_read(testing: House, page: AdminPage) -> None:
    traffic(testing, 60)
    testing.loop.run_iteration()
    testing.books.ab_test.retire(actor="ida", reason="no")
    found = show(page)
    assert "The latest test, ended." in found["table"]
    assert "no test is running" in found["cards"]
    marks = {trace["name"] for trace in drawn(found["lives"])}
    assert marks == {"in service", "under test"}


def test_the_service_card_tells_of_people_and_errors(house: House, page: AdminPage) -> None:
    talk(house, "ana", "hello")
    talk(house, "ben", "hello")
    assert "2 online" in show(page)["cards"]
    assert "no error in 2 answers" in show(page)["cards"]
    house.engine.problem = RuntimeError("out of memory")  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError):
        talk(house, "ana", "hello")
    found = show(page)["cards"]
    assert "33% errors" in found
    assert "last error 2026-01-05 09:00" in found
    house.books.clock.skip(1)  # type: ignore[attr-defined]
    assert "0 online" in show(page)["cards"]


def test_while_a_training_runs_the_page_asks_again_and_then_falls_silent(
    house: House, page: AdminPage
) -> None:
    assert show(page)["timer"].active is False
    stories.a_training_asked_for(house)
    assert show(page)["timer"].active is True
    house.worker.run_until_quiet()
    assert show(page)["timer"].active is False


@pytest.mark.parametrize(
    ("low", "value", "high"), [(-0.03, 0.04, 0.11), (0.0, 0.0, 0.0), (0.2, 0.3, 0.4)]
)
def test_the_interval_keeps_zero_in_sight(low: float, value: float, high: float) -> None:
    places = [float(p) for p in re.findall(r"left:([\d.]+)%", interval(low, value, high))]
    assert len(places) == 3
    assert all(0 <= place <= 100 for place in places)


def test_a_need_that_is_met_is_not_overfull() -> None:
    assert Need("answers", 300, 100).share == 1.0
    assert standing._amount(1234.0) == "1,234"
    with pytest.raises(gr.Error, match="nothing to do"):
        overview._needed(None)
