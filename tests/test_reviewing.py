"""An admin's decisions: about contents, not interactions; replaced, withdrawn, and in the log."""

from typing import Any

import pytest

from cl import reviewing
from cl.db import reports
from cl.db.tables import Audit, Conversation, Interaction, Review
from cl.house import Books
from cl.records import Arm, Decision, Outcome, Reviewed, Route, Status
from cl.reviewing import Changed, Reviews
from cl.rules.review_order import CORRECTION, DRAWN
from cl.usage_logger import MAX_CORRECTION
from tests.fakes import FakeClock


@pytest.fixture
def reviews(books: Books) -> Reviews:
    return books.reviews


def say(
    books: Books,
    prompt: str = "Who waters the plants?",
    answer: str = "Oskar does.",
    *,
    user: str = "ana",
    thumb: int = 1,
    correction: str = "",
    status: Status = Status.COMPLETE,
    conversation: int | None = None,
) -> int:
    """One finished interaction with feedback."""
    logger = books.logger
    conversation = conversation or logger.open_conversation(user, prompt)
    number = logger.log(user, conversation, prompt, Route("base", Arm.DEFAULT))
    logger.finish(number, Outcome(status, answer, 1.0))
    if thumb or correction:
        logger.record_feedback(number, user, thumb=thumb, correction=correction)
    return number


def key_of(reviews: Reviews, number: int) -> str:
    example = reviews.example(number)
    assert example
    return example.key


def stored() -> list[Any]:
    return [*Review.select().tuples(), *Audit.select().tuples()]


def audit() -> list[tuple[str, str, str, str]]:
    return [(r["actor"], r["action"], r["subject"], r["reason"]) for r in reports.audit_trail()]


def waits(reviews: Reviews) -> list[int]:
    return [item.example.interaction_id for item in reviews.queue()]


# -- deciding ------------------------------------------------------------------------------------


def test_a_decision_is_stored_with_everything_about_it(
    books: Books, reviews: Reviews, clock: FakeClock
) -> None:
    number = say(books)
    clock.skip(2)
    found = reviews.decide(number, "exclude", actor="ida", reason=" not for all\x00 ")
    assert found == Reviewed(
        key=key_of(reviews, number),
        decision=Decision.EXCLUDE,
        prompt="",
        answer="",
        actor="ida",
        reason="not for all",
        at=clock.now,
        interaction_id=number,
    )
    assert reviews.decisions() == {found.key: found}
    assert Review.get().user == "ana"
    assert audit() == [("ida", "review exclude", f"interaction {number}", "not for all")]


def test_the_same_content_elsewhere_is_decided_already(books: Books, reviews: Reviews) -> None:
    first = say(books)
    reviews.decide(first, "exclude", actor="ida")
    again = say(books, "who waters the plants", "OSKAR DOES", user="ben")
    other = say(books, "Who waters the plants?", "Mirela does.", user="ben")
    assert key_of(reviews, again) in reviews.decisions()
    assert waits(reviews) == [other]


def test_the_same_words_after_other_turns_are_not(books: Books, reviews: Reviews) -> None:
    reviews.decide(say(books), "exclude", actor="ida")
    chat = books.logger.open_conversation("ben", "hello")
    say(books, "Is it the cactus?", "Yes.", user="ben", thumb=0, conversation=chat)
    later = say(books, user="ben", conversation=chat)
    assert waits(reviews) == [later]


def test_a_second_decision_replaces_the_first(books: Books, reviews: Reviews) -> None:
    number = say(books)
    reviews.decide(number, "edit", actor="ida", answer="Oskar, on Fridays.")
    reviews.decide(number, "keep", actor="eva")
    (found,) = reviews.decisions().values()
    assert (found.decision, found.actor, found.answer) == (Decision.KEEP, "eva", "")
    assert [action for _, action, _, _ in audit()] == ["review keep", "review edit"]


def test_a_first_decision_is_refused_where_there_is_one(books: Books, reviews: Reviews) -> None:
    number = say(books)
    reviews.decide(number, "keep", actor="ida", only_first=True)
    before = stored()
    with pytest.raises(Changed, match="state has changed"):
        reviews.decide(number, "exclude", actor="eva", only_first=True)
    assert stored() == before


def test_an_edit_keeps_the_texts_a_reviewer_wrote(books: Books, reviews: Reviews) -> None:
    number = say(books)
    found = reviews.decide(
        number, "edit", actor="ida", prompt="Who waters\x00 them?", answer=" Oskar,\n on Fridays. "
    )
    assert (found.prompt, found.answer) == ("Who waters them?", "Oskar,\n on Fridays.")
    assert found.key == key_of(reviews, number)  # of what was said, not of what it became


def test_an_edit_without_a_question_keeps_the_question(books: Books, reviews: Reviews) -> None:
    found = reviews.decide(say(books), "edit", actor="ida", answer="Eva does.")
    assert (found.prompt, found.answer) == ("Who waters the plants?", "Eva does.")


def test_an_edit_that_changes_nothing_keeps(books: Books, reviews: Reviews) -> None:
    number = say(books)
    texts = {"prompt": "Who waters the plants?", "answer": " Oskar does.\x00"}
    found = reviews.decide(number, "edit", actor="ida", **texts)
    assert (found.decision, found.prompt, found.answer) == (Decision.KEEP, "", "")
    assert audit()[0][1] == "review keep"


def test_an_edit_may_change_a_comma(books: Books, reviews: Reviews) -> None:
    found = reviews.decide(say(books), "edit", actor="ida", answer="Oskar does!")
    assert (found.decision, found.answer) == (Decision.EDIT, "Oskar does!")


def test_the_example_of_a_corrected_answer_is_the_correction(
    books: Books, reviews: Reviews
) -> None:
    number = say(books, thumb=-1, correction="Eva does.")
    assert (item := reviews.queue()[0]).why == CORRECTION
    assert (item.example.answer, item.example.rejected) == ("Eva does.", "Oskar does.")
    key = key_of(reviews, number)
    books.logger.record_feedback(number, "ana", correction="Eva and Oskar do.")
    with pytest.raises(Changed, match="state has changed"):
        reviews.decide(number, "keep", actor="ida", expected_key=key)
    assert stored() == []
    reviews.decide(number, "keep", actor="ida", expected_key=key_of(reviews, number))


def test_a_correction_written_after_a_decision_waits_anew(books: Books, reviews: Reviews) -> None:
    number = say(books)
    reviews.decide(number, "keep", actor="ida")
    assert waits(reviews) == []
    books.logger.record_feedback(number, "ana", correction="Eva does.")
    assert waits(reviews) == [number]


@pytest.mark.parametrize(
    ("decision", "texts", "told"),
    [
        ("maybe", {}, "one of keep, exclude, edit, not 'maybe'"),
        ("", {}, "one of keep"),
        ("edit", {}, "An edit needs an answer"),
        ("edit", {"answer": " \x00\n"}, "An edit needs an answer"),
        ("edit", {"answer": "x" * (MAX_CORRECTION + 1)}, "answer has 8001 characters"),
        ("edit", {"answer": "x", "prompt": "y" * 8001}, "question has 8001 characters"),
        ("keep", {"reason": "x" * 301}, "reason has 301 characters"),
    ],
)
def test_what_is_no_decision_is_refused(
    books: Books, reviews: Reviews, decision: str, texts: dict[str, str], told: str
) -> None:
    number = say(books)
    with pytest.raises(ValueError, match=told):
        reviews.decide(number, decision, actor="ida", **texts)
    assert stored() == []


def test_the_longest_texts_any_database_can_hold_are_kept(books: Books, reviews: Reviews) -> None:
    answer = "ü" * (MAX_CORRECTION - 1) + "\ud800"
    found = reviews.decide(say(books), "edit", actor="ida", answer=answer)
    assert found.answer == answer[:-1] + "?"


def test_what_can_never_be_learned_is_not_decided(books: Books, reviews: Reviews) -> None:
    refused = {
        say(books, thumb=0): "liked or corrected",
        say(books, thumb=-1): "liked or corrected",
        say(books, status=Status.CANCELLED): "not complete: cancelled",
    }
    for number, told in refused.items():
        with pytest.raises(ValueError, match=told):
            reviews.decide(number, "keep", actor="ida")
    for number in (99, 0, -1, 2**62):
        with pytest.raises(LookupError, match=f"no interaction {number}"):
            reviews.decide(number, "keep", actor="ida")
    assert stored() == []
    reviews.decide(say(books, status=Status.CANCELLED, correction="Eva."), "keep", actor="ida")


def test_a_chat_not_to_be_learned_from_is_neither_shown_nor_decided(
    books: Books, reviews: Reviews
) -> None:
    number = say(books)
    assert waits(reviews) == [number]
    Conversation.update(learn=False).execute()
    assert waits(reviews) == []
    with pytest.raises(ValueError, match="asked not to learn"):
        reviews.decide(number, "exclude", actor="ida")


def test_a_decision_taken_back_waits_again(books: Books, reviews: Reviews) -> None:
    number = say(books)
    found = reviews.decide(number, "exclude", actor="ida")
    reviews.withdraw(found.key, "eva", "a mistake")
    assert reviews.decisions() == {}
    assert waits(reviews) == [number]
    assert audit()[0] == ("eva", "review withdraw", f"interaction {number}", "a mistake")
    for key in (found.key, "", "nonsense"):
        with pytest.raises(LookupError, match="no such decision"):
            reviews.withdraw(key, "eva")
    assert len(audit()) == 2


# -- reading -------------------------------------------------------------------------------------


def test_nothing_waits_in_an_empty_log(reviews: Reviews) -> None:
    assert reviews.queue() == []
    assert reviews.decided() == []
    assert reviews.decisions() == {}
    assert reviews.counts() == {Decision.KEEP: 0, Decision.EXCLUDE: 0, Decision.EDIT: 0}


def test_the_decided_are_listed_newest_first_with_their_examples(
    books: Books, reviews: Reviews, clock: FakeClock
) -> None:
    numbers = [say(books, f"Question {n}?") for n in range(4)]
    for number in numbers:
        clock.skip(1)
        reviews.decide(number, "keep" if number % 2 else "exclude", actor="ida")
    found = reviews.decided(3)
    assert [r.interaction_id for r, _ in found] == numbers[:0:-1]
    assert [e.prompt if e else None for _, e in found] == [
        "Question 3?",
        "Question 2?",
        "Question 1?",
    ]
    assert reviews.counts() == {Decision.KEEP: 2, Decision.EXCLUDE: 2, Decision.EDIT: 0}
    Interaction.delete().where(Interaction.id == numbers[-1]).execute()
    assert reviews.decided()[0][1] is None


def test_the_tenth_place_is_drawn_however_many_were_decided_today(
    books: Books, reviews: Reviews, clock: FakeClock
) -> None:
    for n in range(40):
        say(books, f"Question {n}?", f"Answer {n}.")
    order = [item.example.interaction_id for item in reviews.queue()]
    for place in range(1, 25):
        item = reviews.queue()[0]
        assert item.example.interaction_id == order[place - 1]
        assert (item.why == DRAWN) is (place % 10 == 0)
        reviews.decide(item.example.interaction_id, "keep", actor="ida")
        clock.skip(0.1)
    clock.skip(24)
    assert [item.why for item in reviews.queue()].index(DRAWN) == 9


def test_only_the_latest_ratings_are_looked_at(
    books: Books, reviews: Reviews, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = [say(books, f"Question {n}?", thumb=-1 if n == 7 else 1) for n in range(10)]
    say(books, "Nobody said anything of this.", thumb=0)
    monkeypatch.setattr(reviewing, "REACH", 4)
    assert sorted(waits(reviews)) == [n for n in numbers[-4:] if n != numbers[7]]
    assert len(reviews.queue(2)) == 2
