"""The usage log: every message leaves a row, and only its owner may say what they think of it."""

import pytest

from cl.house import Books
from cl.records import Arm, Feedback, Finish, Outcome, Route, Status
from cl.usage_logger import MAX_COMMENT, MAX_CORRECTION
from tests import fakes
from tests.fakes import FakeClock

ROUTE = Route("base", Arm.DEFAULT)


def asked(books: Books, user: str = "ana", prompt: str = "What is a budget?") -> int:
    conversation = books.logger.open_conversation(user, prompt)
    return books.logger.log(user, conversation, prompt, ROUTE)


def answered(books: Books, user: str = "ana", answer: str = "A budget is a plan.") -> int:
    interaction = asked(books, user)
    books.logger.finish(interaction, Outcome(Status.COMPLETE, answer, 1.5, 0.2, Finish("stop")))
    return interaction


def only(books: Books) -> tuple[Status, str, float | None]:
    (row,) = books.logger.get_records()
    return row.status, row.answer, row.quality


def test_a_row_is_there_before_its_answer(books: Books) -> None:
    asked(books)
    assert only(books) == (Status.STARTED, "", None)


def test_a_complete_answer_is_timed_and_waits_for_its_score(books: Books) -> None:
    interaction = answered(books)
    (row,) = books.logger.get_records()
    assert (row.status, row.quality, row.scorer) == (Status.COMPLETE, None, None)
    assert (row.latency_s, row.first_token_s, row.finish_reason) == (1.5, 0.2, "stop")
    assert books.logger.unscored(10) == [(interaction, None)]


def test_an_answer_is_scored_once_for_ever(books: Books) -> None:
    interaction = answered(books)
    books.logger.score([(interaction, 0.7, "rules-1"), (interaction, 0.1, "scorer-0001")])
    books.logger.score([(interaction, 0.2, "scorer-0001")])
    (row,) = books.logger.get_records()
    assert (row.quality, row.scorer) == (0.7, "rules-1")
    assert books.logger.unscored(10) == []


def test_the_newest_answers_are_scored_first(books: Books) -> None:
    ids = [answered(books) for _ in range(5)]
    books.logger.finish(asked(books), Outcome(Status.ERROR, "", 0.4, error="why"))
    assert [id_ for id_, _ in books.logger.unscored(3)] == ids[:1:-1]


@pytest.mark.parametrize("status", [Status.CANCELLED, Status.ERROR])
def test_an_answer_that_did_not_end_well_keeps_its_text_and_has_no_score(
    books: Books, status: Status
) -> None:
    books.logger.finish(asked(books), Outcome(status, "A budget", 0.4, error="why"))
    assert only(books) == (status, "A budget", None)


def test_a_finished_row_is_not_changed_by_a_late_second_writer(books: Books) -> None:
    interaction = answered(books)
    books.logger.finish(interaction, Outcome(Status.CANCELLED, "something else", 9.0))
    assert only(books)[:2] == (Status.COMPLETE, "A budget is a plan.")


def test_after_a_crash_unfinished_rows_say_interrupted(books: Books) -> None:
    asked(books)
    answered(books)
    assert books.logger.interrupt_unfinished() == 1
    statuses = [row.status for row in books.logger.get_records()]
    assert statuses == [Status.INTERRUPTED, Status.COMPLETE]


def test_the_same_request_twice_is_one_row(books: Books) -> None:
    conversation = books.logger.open_conversation("ana", "Hi")
    first = books.logger.log("ana", conversation, "Hi", ROUTE, "request-1")
    assert books.logger.log("ana", conversation, "Hi", ROUTE, "request-1") == first
    assert books.logger.last_id() == first


def test_texts_no_database_can_hold_are_cleaned(books: Books) -> None:
    conversation = books.logger.open_conversation("ana", "a\x00b\ud800")
    interaction = books.logger.log("ana", conversation, "a\x00b\ud800 🙂", ROUTE)
    books.logger.finish(interaction, Outcome(Status.COMPLETE, "c\x00\udfffd", 1.0))
    books.logger.record_feedback(interaction, "ana", comment="e\x00f")
    (row,) = books.logger.get_records()
    assert (row.prompt, row.answer, row.feedback.comment) == ("ab? 🙂", "c?d", "ef")


def test_an_unknown_interaction_cannot_be_finished(books: Books) -> None:
    with pytest.raises(LookupError, match="99"):
        books.logger.finish(99, Outcome(Status.COMPLETE, "", 1.0))


# -- feedback ----------------------------------------------------------------------------------


def test_a_thumb_can_be_given_changed_and_withdrawn(books: Books) -> None:
    interaction = answered(books)
    for thumb in (1, -1, 0, 1):
        assert books.logger.record_feedback(interaction, "ana", thumb=thumb).thumb == thumb
    (row,) = books.logger.get_records()
    assert row.feedback == Feedback(thumb=1)


def test_what_is_not_said_again_stays(books: Books) -> None:
    interaction = answered(books)
    books.logger.record_feedback(
        interaction, "ana", thumb=-1, reasons=("Outdated",), comment="old", correction="New."
    )
    said = books.logger.record_feedback(interaction, "ana", thumb=1)
    assert said == Feedback(1, ("Outdated",), "old", "New.")
    assert books.logger.record_feedback(interaction, "ana", correction="").correction == ""


@pytest.mark.parametrize("thumb", [2, -2, 1.5, True, "1", None.__class__])
def test_any_other_thumb_is_refused(books: Books, thumb: object) -> None:
    interaction = answered(books)
    with pytest.raises(ValueError, match="thumb"):
        books.logger.record_feedback(interaction, "ana", thumb=thumb)  # type: ignore[arg-type]
    assert next(books.logger.get_records()).feedback == Feedback()


@pytest.mark.parametrize("interaction", [99, 0, -1])
def test_feedback_for_an_unknown_interaction_is_refused(books: Books, interaction: int) -> None:
    with pytest.raises(LookupError, match=str(interaction)):
        books.logger.record_feedback(interaction, "ana", thumb=1)


def test_feedback_on_somebody_elses_answer_is_refused_like_an_unknown_one(books: Books) -> None:
    interaction = answered(books, "ana")
    with pytest.raises(LookupError, match=f"no answer {interaction}"):
        books.logger.record_feedback(interaction, "ben", thumb=-1)
    assert next(books.logger.get_records()).feedback == Feedback()


def test_feedback_waits_until_the_answer_is_there(books: Books) -> None:
    with pytest.raises(ValueError, match="still being written"):
        books.logger.record_feedback(asked(books), "ana", thumb=1)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"reasons": ("Boring",)}, "Boring"),
        ({"comment": "x" * (MAX_COMMENT + 1)}, "2001 characters"),
        ({"correction": "x" * (MAX_CORRECTION + 1)}, "8001 characters"),
    ],
)
def test_unknown_reasons_and_too_long_texts_are_refused(
    books: Books, said: dict[str, object], words: str
) -> None:
    interaction = answered(books)
    with pytest.raises(ValueError, match=words):
        books.logger.record_feedback(interaction, "ana", **said)  # type: ignore[arg-type]


# -- reading -----------------------------------------------------------------------------------


def test_history_is_for_its_owner_only(books: Books) -> None:
    answered(books, "ana")
    (mine,) = books.logger.conversations("ana")
    assert len(books.logger.history("ana", mine.id)) == 1
    assert books.logger.conversations("ben") == []
    for user, number in (("ben", mine.id), ("ana", mine.id + 1)):
        with pytest.raises(LookupError, match=f"no conversation {number}"):
            books.logger.history(user, number)


def test_conversations_come_with_the_latest_first(books: Books, clock: FakeClock) -> None:
    first = books.logger.open_conversation("ana", "The first")
    clock.skip(1)
    books.logger.open_conversation("ana", "The second")
    clock.skip(1)
    books.logger.log("ana", first, "Again", ROUTE)
    assert [c.title for c in books.logger.conversations("ana")] == ["The first", "The second"]


def test_the_context_of_an_answer_is_the_complete_turns_before_it(books: Books) -> None:
    conversation = books.logger.open_conversation("ana", "One")
    for prompt, status in (
        ("One", Status.COMPLETE),
        ("Two", Status.CANCELLED),
        ("Three", Status.COMPLETE),
    ):
        interaction = books.logger.log("ana", conversation, prompt, ROUTE)
        books.logger.finish(interaction, Outcome(status, f"{prompt}!", 1.0))
    assert [m["content"] for m in books.logger.context(conversation)] == [
        "One",
        "One!",
        "Three",
        "Three!",
    ]
    assert len(books.logger.context(conversation, before_id=interaction)) == 2


def test_records_can_be_read_from_a_watermark_and_by_version(books: Books) -> None:
    ids = [answered(books) for _ in range(5)]
    books.logger.record_feedback(ids[2], "ana", thumb=1)
    assert [r.id for r in books.logger.get_records(ids[1], up_to_id=ids[3])] == ids[2:4]
    assert [r.id for r in books.logger.get_records(with_feedback=True)] == [ids[2]]
    assert list(books.logger.get_records(version="v0001")) == []


def test_a_log_of_many_pages_is_read_whole(books: Books) -> None:
    conversation = books.logger.open_conversation("ana", "Many")
    with books.database.atomic():
        for number in range(1001):
            fakes.answered(books, f"Q{number}", "A.", conversation)
    assert [r.prompt for r in books.logger.get_records()] == [f"Q{n}" for n in range(1001)]
