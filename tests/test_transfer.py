"""Histories in and out as JSON lines."""

import json
from pathlib import Path
from typing import Any

import pytest

from cl.house import Books
from cl.records import Status
from cl.transfer import Imported, export_lines, import_lines
from tests.fakes import FakeClock, fake_books


def line(prompt: str = "Where is the mop?", response: str = "In the hall.", **more: Any) -> str:
    entry = {"conversation": [{"role": "user", "content": prompt}], "response": response, **more}
    return json.dumps(entry)


def load(books: Books, *lines: str) -> Imported:
    return import_lines(books.database, books.logger, lines)


def test_an_interaction_comes_in_with_its_feedback_and_a_score(books: Books) -> None:
    assert load(books, line(feedback=-1, correction="In the cellar.", user="ana")).added == 1
    (row,) = books.logger.get_records()
    assert (row.user, row.prompt, row.answer) == ("ana", "Where is the mop?", "In the hall.")
    assert (row.feedback.thumb, row.feedback.correction) == (-1, "In the cellar.")
    assert (row.status, row.version) == (Status.COMPLETE, "imported")
    assert row.quality is not None


def test_the_same_line_twice_is_there_once(books: Books) -> None:
    load(books, line(), line("Another?"))
    again = load(books, line(), line("Another?"), line("A third?"))
    assert (again.added, again.known) == (1, 2)


def test_earlier_turns_of_a_conversation_come_along(books: Books) -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "Two"},
    ]
    load(books, json.dumps({"conversation": turns, "response": "2", "group": "g", "feedback": 1}))
    found = [(r.prompt, r.answer, r.feedback.thumb) for r in books.logger.get_records()]
    assert found == [("One", "1", 0), ("Two", "2", 1)]
    assert len({r.conversation_id for r in books.logger.get_records()}) == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not JSON"),
        ("[]", "a line must be a JSON object"),
        ("{}", "conversation is missing"),
        (json.dumps({"conversation": [], "response": "x"}), "must end with a message of the user"),
        (json.dumps({"conversation": [{"role": "user"}], "response": "x"}), "content is missing"),
        (line(created_at="yesterday"), "`created_at` is 'yesterday'"),
        (json.dumps({"conversation": [{"role": "boss", "content": "x"}]}), "needs a role"),
        (json.dumps({"conversation": "hello", "response": "x"}), "needs a role"),
        (line(response=None), "text is missing"),  # type: ignore[arg-type]
        (line(feedback=2), "`feedback` is 2"),
        (line(feedback="up"), "`feedback` is 'up'"),
        (line(reasons=["Boring"]), "'Boring' is not one of the reasons"),
        (line(correction="x" * 8001), "8001 characters"),
    ],
)
def test_a_wrong_line_is_named_with_its_reason_and_the_others_come_in(
    books: Books, text: str, reason: str
) -> None:
    result = load(books, line("First?"), text, line("Last?"))
    assert (result.added, result.refused) == (2, 1)
    ((number, why),) = result.rejected
    assert number == 2
    assert reason in why
    assert [r.prompt for r in books.logger.get_records()] == ["First?", "Last?"]


def test_texts_no_database_can_hold_come_in_cleaned(books: Books) -> None:
    load(
        books, '{"conversation": [{"role": "user", "content": "a\\u0000\\ud800"}], "response": "b"}'
    )
    assert next(books.logger.get_records()).prompt == "a?"


def test_what_goes_out_comes_in_again_the_same(
    books: Books, tmp_path: Path, clock: FakeClock
) -> None:
    load(
        books,
        line(feedback=1, user="ana", comment="good", reasons=["Outdated"]),
        line("Second?", group="g", user="ben", correction="Better."),
    )
    lines = list(export_lines(books.logger))
    clock.skip(100)
    other = fake_books(tmp_path / "other", clock)
    assert load(other, *lines).added == 2
    for a, b in zip(lines, export_lines(other.logger), strict=True):
        first, second = json.loads(a), json.loads(b)
        assert first.keys() == second.keys()
        for key in first.keys() - {"id", "group", "version"}:
            assert first[key] == second[key]
    other.database.close()
