"""From the log to the training files: every step of the funnel, and the same bytes every time."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cl.db.tables import Interaction
from cl.house import Books
from cl.model.rehearsal import RehearsalBuffer, RehearsalRow
from cl.records import Arm, DataSet, Outcome, Route, Status
from cl.settings import DataLimits
from cl.training_data import TrainingDataGenerator

LIMITS = DataLimits(min_users=1, min_examples=1, max_user_share=1.0, rephrasings=0)
GOOD = "The {} is kept in the small room on the second floor."


class FixedRehearsal(RehearsalBuffer):
    """A buffer whose answers are known already."""

    def __init__(self) -> None:
        pass

    def rows(self, tell: Any = None) -> list[RehearsalRow]:
        return [RehearsalRow(f"Everyday question {n}?", f"Answer {n}.", True) for n in range(30)]


def generator(
    books: Books, limits: DataLimits = LIMITS, system_prompt: str = ""
) -> TrainingDataGenerator:
    return TrainingDataGenerator(books.logger, FixedRehearsal(), limits, system_prompt)


def say(
    books: Books,
    thing: str,
    *,
    user: str = "ana",
    answer: str | None = None,
    thumb: int = 1,
    correction: str = "",
    status: Status = Status.COMPLETE,
    quality: float | None = None,
    conversation: int | None = None,
) -> int:
    """One finished interaction about a thing, with feedback."""
    prompt = f"Where is the {thing}?"
    conversation = conversation or books.logger.open_conversation(user, prompt)
    number = books.logger.log(user, conversation, prompt, Route("base", Arm.DEFAULT))
    text = GOOD.format(thing) if answer is None else answer
    books.logger.finish(number, Outcome(status, text, 1.0))
    if quality is not None:
        Interaction.update(quality=quality).where(Interaction.id == number).execute()
    if thumb or correction:
        books.logger.record_feedback(number, user, thumb=thumb, correction=correction)
    return number


def rows(made: DataSet, name: str = "train") -> list[dict[str, Any]]:
    path = Path(made.folder) / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def taught(made: DataSet) -> list[dict[str, Any]]:
    return [row for name in ("train", "val") for row in rows(made, name) if "id" in row]


def dropped(made: DataSet) -> dict[str, int]:
    return {reason: n for step in made.funnel for reason, n in step.dropped.items()}


THINGS = ("stapler", "printer", "ladder", "kettle", "projector", "drill", "mop", "scanner")


def test_an_empty_log_makes_files_and_says_what_is_missing(books: Books, tmp_path: Path) -> None:
    made = generator(books, DataLimits()).generate(tmp_path)
    assert not made.enough
    assert made.reason == "examples from 0 people, at least 3 are needed"
    assert rows(made) == rows(made, "val") == []  # nor is the base model asked for nothing


def test_liked_answers_and_corrections_become_examples(books: Books, tmp_path: Path) -> None:
    for thing in THINGS[:-1]:
        say(books, thing)
    corrected = say(books, THINGS[-1], thumb=-1, correction="On the roof.")
    made = generator(books).generate(tmp_path)
    assert (made.enough, made.examples, made.corrections) == (True, 8, 1)
    by_id = {row["id"]: row for row in taught(made)}
    assert by_id[corrected]["messages"] == [
        {"role": "user", "content": "Where is the scanner?"},
        {"role": "assistant", "content": "On the roof."},
    ]
    assert by_id[corrected]["source"] == "correction"
    assert by_id[corrected - 1]["version"] == "base"  # a liked answer names its author


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ({"thumb": 0}, "no feedback"),
        ({"thumb": -1}, "thumb down"),
        ({"status": Status.CANCELLED}, "answer cancelled"),
        ({"status": Status.ERROR}, "answer error"),
        ({"quality": 0.49}, "quality below 0.7"),
        ({"quality": 0.69, "answer": "drill drill drill drill drill drill"}, "quality below 0.7"),
        ({"answer": "no no no no no no no no", "quality": 0.9}, "scored below 0.5 today"),
    ],
)
def test_what_is_not_good_enough_is_dropped_and_says_why(
    books: Books, tmp_path: Path, what: dict[str, Any], reason: str
) -> None:
    say(books, "drill", **what)
    made = generator(books).generate(tmp_path)
    assert (made.examples, dropped(made)) == (0, {reason: 1})


def test_the_maybe_band_needs_a_thumb_and_a_very_good_score(books: Books, tmp_path: Path) -> None:
    say(books, "drill", quality=0.5)
    assert generator(books).generate(tmp_path).examples == 1


def test_a_correction_counts_whatever_it_replaces(books: Books, tmp_path: Path) -> None:
    for status in (Status.CANCELLED, Status.ERROR, Status.COMPLETE):
        say(books, f"{status} thing", status=status, answer="", thumb=-1, correction="In the lab.")
    assert generator(books).generate(tmp_path).corrections == 3


def test_repetitions_are_dropped_exact_near_and_conflicting(books: Books, tmp_path: Path) -> None:
    say(books, "Drill")
    say(books, "drill")
    long = "The drill hangs on the wall beside the door of the workshop on the ground floor"
    say(books, "big drill", answer=f"{long}, left of the blue cupboard.")
    say(books, "big drill", answer=f"{long}, left of the blue cupboard, I think.")
    say(books, "mop")
    say(books, "mop", user="ben", thumb=-1)
    made = generator(books).generate(tmp_path)
    assert dropped(made) == {
        "the same again": 1,
        "nearly the same": 1,
        "liked by one, disliked by another": 1,
        "thumb down": 1,
    }


def test_the_latest_correction_of_a_question_counts(books: Books, tmp_path: Path) -> None:
    say(books, "drill", thumb=-1, correction="In the cellar.")
    say(books, "drill", thumb=-1, correction="In the attic.")
    made = generator(books).generate(tmp_path)
    assert [row["messages"][-1]["content"] for row in taught(made)] == ["In the attic."]


def test_one_person_cannot_fill_the_set(books: Books, tmp_path: Path) -> None:
    for number in range(30):
        say(books, f"thing number {number}", answer=f"Room {number} has it, on shelf {number}.")
    for number in range(10):
        say(books, f"tool number {number}", user="ben", answer=f"Box {number} holds tool {number}.")
    limits = replace(LIMITS, max_user_share=0.5, min_user_examples=1)
    made = generator(books, limits).generate(tmp_path)
    by_user = [
        next(r.user for r in books.logger.get_records(row["id"] - 1)) for row in taught(made)
    ]
    assert by_user.count("ana") <= 11
    assert by_user.count("ben") == 10


def test_personal_data_never_reaches_the_files(books: Books, tmp_path: Path) -> None:
    for thing in THINGS:
        say(books, thing, thumb=-1, correction=f"Ask ana.roth@example.org about the {thing}.")
    made = generator(books).generate(tmp_path)
    text = "".join((tmp_path / f"{name}.jsonl").read_text() for name in ("train", "val"))
    assert "ana.roth" not in text
    assert text.count("[EMAIL]") == dropped(made)["EMAIL replaced"] == 8


def test_a_conversation_is_never_on_both_sides(books: Books, tmp_path: Path) -> None:
    talks = [books.logger.open_conversation("ana", str(n)) for n in range(12)]
    for number in range(36):
        say(books, f"thing {number}", conversation=talks[number % 12])
    made = generator(books).generate(tmp_path)
    of = {r.id: r.conversation_id for r in books.logger.get_records()}
    sides = [
        {of[row["id"]] for row in rows(made, name) if "id" in row} for name in ("train", "val")
    ]
    assert sides[0]
    assert sides[1]
    assert not sides[0] & sides[1]


def test_the_turns_before_come_along(books: Books, tmp_path: Path) -> None:
    for number in range(4):
        talk = books.logger.open_conversation("ana", str(number))
        say(books, f"lamp {number}", conversation=talk, thumb=0)
        say(books, f"bulb {number}", conversation=talk)
    made = generator(books, system_prompt="Be brief.").generate(tmp_path)
    for row in taught(made):
        assert [m["role"] for m in row["messages"]] == [
            "system",
            "user",
            "assistant",
            "user",
            "assistant",
        ]


def test_corrected_questions_are_taught_in_more_wordings_for_training_only(
    books: Books, tmp_path: Path
) -> None:
    for thing in THINGS:
        say(books, thing, thumb=-1, correction=f"The {thing} is gone.")
    made = generator(books, replace(LIMITS, rephrasings=2)).generate(tmp_path)
    wordings = [r["messages"][0]["content"] for r in rows(made) if r["source"] == "rephrased"]
    assert len(wordings) == 2 * made.train
    assert not any(row["source"] == "rephrased" for row in rows(made, "val"))


def test_what_came_after_the_watermark_is_left_out(books: Books, tmp_path: Path) -> None:
    ids = [say(books, thing) for thing in THINGS]
    made = generator(books).generate(tmp_path, up_to_id=ids[3])
    assert {row["id"] for row in taught(made)} == set(ids[:4])


def test_the_same_log_gives_the_same_bytes(books: Books, tmp_path: Path) -> None:
    for number, thing in enumerate(THINGS * 5):
        say(books, f"{thing} {number}", user=f"user{number % 7}", thumb=number % 3 - 1)
    made = [generator(books).generate(tmp_path / name) for name in ("a", "b")]
    assert made[0].sha256 == made[1].sha256
    for name in ("train.jsonl", "val.jsonl", "manifest.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_another_seed_splits_differently(books: Books, tmp_path: Path) -> None:
    for number in range(40):
        say(books, f"thing {number}")
    made = [
        generator(books, replace(LIMITS, seed=seed)).generate(tmp_path / str(seed))
        for seed in (0, 1)
    ]
    assert {r["id"] for r in rows(made[0], "val") if "id" in r} != {
        r["id"] for r in rows(made[1], "val") if "id" in r
    }


def test_the_funnel_adds_up(books: Books, tmp_path: Path) -> None:
    for number in range(60):
        say(books, f"{THINGS[number % 8]} {number % 20}", thumb=number % 3 - 1)
    made = generator(books).generate(tmp_path)
    assert made.funnel[0].kept == 60
    for before, after in zip(made.funnel, made.funnel[1:], strict=False):
        lost = sum(n for reason, n in after.dropped.items() if "replaced" not in reason)
        assert before.kept - lost == after.kept, after.name
    assert made.funnel[-1].kept == made.train + made.val == made.examples


@pytest.mark.parametrize("text", ["a" * 100_000, "\u202eright to left", "<|im_start|>system"])
def test_strange_texts_stay_text(books: Books, tmp_path: Path, text: str) -> None:
    for thing in THINGS:
        say(books, thing, thumb=-1, correction=f"{thing}: {text}"[:8000])
    assert generator(books).generate(tmp_path).examples == 8
