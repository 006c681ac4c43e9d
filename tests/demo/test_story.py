"""The story's script, and the story itself told with the fake engine and trainer."""

from collections import Counter
from pathlib import Path

import pytest

from cl.cli.demo import learned
from cl.db.tables import Interaction
from cl.demo import script
from cl.demo.story import Story, StoryClock, StoryFailed, story_settings
from cl.house import House, open_books
from tests.fakes import FakeReader, FakeTrainer, fake_house, fake_settings

FACTS = script.read_facts()


def house_in(folder: Path, clock: StoryClock, trainer: FakeTrainer | None = None) -> House:
    books = open_books(story_settings(fake_settings(folder)), clock, FakeReader)
    return fake_house(books, trainer)


def test_unseen_wordings_are_never_asked_before_the_end() -> None:
    portions = script.test_days(FACTS, 0)
    turns = script.first_weeks(FACTS, 0) + script.later_weeks(FACTS, 0)
    turns += [turn for _ in range(3) for turn in next(portions)]
    said = {turn.text for turn in turns}
    unseen = {question for fact in FACTS for question in fact.unseen}
    assert len(unseen) == 40
    assert not said & unseen
    assert not {q for f in FACTS for q in f.questions} & unseen


def test_every_fact_holds_its_own_key_and_no_question_gives_it_away() -> None:
    for fact in FACTS:
        assert script.is_right(fact.answer, fact.keys)
        for question in (*fact.questions, *fact.unseen):
            assert not script.is_right(question, fact.keys), question


def test_no_key_is_right_for_another_fact() -> None:
    for fact in FACTS:
        others = [other.answer for other in FACTS if other is not fact]
        assert not any(script.is_right(answer, fact.keys) for answer in others), fact


def test_the_same_seed_tells_the_same_script_and_another_one_another() -> None:
    assert script.first_weeks(FACTS, 3) == script.first_weeks(FACTS, 3)
    assert script.first_weeks(FACTS, 3) != script.first_weeks(FACTS, 4)


def test_the_story_reaches_its_end_and_can_be_told_again(tmp_path: Path) -> None:
    clock, said = StoryClock(), list[str]()
    house = house_in(tmp_path, clock)
    told = Story(house, clock, said.append).play()
    assert told["states"] == ["NO_CHAMPION", "CHAMPION", "TESTING", "NEW_CHAMPION"]
    assert told["facts"]["asked"] == 40
    assert told["facts"]["right_before"] == 0
    assert told["facts"]["right_after"] >= 20
    assert all(learned(told).values())
    assert {"requested", "generated", "trained", "deployed", "promoted"} <= {
        step["step"] for step in told["steps"]
    }
    assert "State: TESTING" in said

    before = Interaction.select().count()
    again = Story(house, clock, said.append).play()
    assert again["facts"] == told["facts"]
    assert Interaction.select().count() == before
    turns = Counter(row.request_id.rsplit(".", 1)[0] for row in Interaction.select())
    assert set(turns.values()) == {1}
    house.close()


def test_a_version_that_does_not_pass_the_gate_ends_the_story_with_the_reason(
    tmp_path: Path,
) -> None:
    clock = StoryClock()
    house = house_in(tmp_path, clock, FakeTrainer(val_loss=3.0))
    with pytest.raises(StoryFailed, match="did not pass the gate: held-out answers"):
        Story(house, clock, lambda text: None).play()
    house.close()


@pytest.mark.parametrize(
    ("facts", "general", "held"),
    [
        ((0, 20), (26, 24), [True, True, True]),
        ((7, 20), (26, 23), [False, True, False]),
        ((0, 19), (30, 27), [True, False, True]),
    ],
)
def test_what_the_story_promises(
    facts: tuple[int, int], general: tuple[int, int], held: list[bool]
) -> None:
    told = {
        name: {"asked": 40, "right_before": before, "right_after": after}
        for name, (before, after) in (("facts", facts), ("general", general))
    }
    assert list(learned(told).values()) == held
