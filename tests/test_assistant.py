"""The front door for a message: what comes in is logged, and however it ends, the row says so."""

import asyncio
from dataclasses import replace

import pytest
from peewee import OperationalError

from cl.assistant import Unanswerable
from cl.house import Books, House
from cl.model.engine.contract import EngineError
from cl.records import Status
from tests.fakes import DONT_KNOW, fake_books, fake_house, talk


def rows(house: House) -> list[tuple[str, Status, str]]:
    return [(r.prompt, r.status, r.answer.strip()) for r in house.books.logger.get_records()]


def test_a_message_is_answered_and_logged(house: House) -> None:
    talk(house, "ana", "  What is a budget?\n")
    assert rows(house) == [("What is a budget?", Status.COMPLETE, DONT_KNOW)]
    (row,) = house.books.logger.get_records()
    assert (row.user, row.version, row.arm.value) == ("ana", "base", "default")
    assert row.latency_s is not None
    assert row.first_token_s is not None


@pytest.mark.parametrize("text", ["", "  \n\t", "\x00\x01"])
def test_an_empty_message_is_refused_and_leaves_nothing(house: House, text: str) -> None:
    with pytest.raises(Unanswerable, match="Write a message first"):
        house.assistant.begin("ana", text, None)
    assert house.books.logger.conversations("ana") == []


def test_a_too_long_message_is_refused_with_both_numbers(house: House) -> None:
    with pytest.raises(Unanswerable, match="100000 characters; at most 8000"):
        house.assistant.begin("ana", "x" * 100_000, None)
    assert rows(house) == []


def test_somebody_elses_conversation_cannot_be_written_into(house: House) -> None:
    talk(house, "ana", "Hello")
    (theirs,) = house.books.logger.conversations("ana")
    with pytest.raises(LookupError):
        house.assistant.begin("ben", "Hello", theirs.id)
    assert len(rows(house)) == 1


def test_nobody_can_end_the_answer_of_somebody_else(house: House) -> None:
    mine, _ = house.assistant.begin("ana", "Hello", None)
    _, theirs = house.assistant.begin("ben", "Hello", None)

    async def meddle() -> None:
        async for _ in house.assistant.answer("ana", mine, theirs):
            pass

    with pytest.raises(LookupError):
        asyncio.run(meddle())
    assert [row.status for row in house.books.logger.get_records()] == [Status.STARTED] * 2


def test_an_answer_that_was_never_begun_is_given_up(house: House) -> None:
    conversation, _ = house.assistant.begin("ana", "Hello", None)
    house.assistant.begin("ana", "Hello again", conversation)
    assert [row[1] for row in rows(house)] == [Status.CANCELLED, Status.STARTED]
    house.assistant.give_up("ana", conversation)
    assert [row[1] for row in rows(house)] == [Status.CANCELLED] * 2


def test_an_answer_that_is_being_written_is_not_given_up(house: House) -> None:
    async def look_in_the_middle() -> None:
        conversation, interaction = house.assistant.begin("ana", "Hello", None)
        async for _ in house.assistant.answer("ana", conversation, interaction):
            house.assistant.give_up("ana", conversation)

    asyncio.run(look_in_the_middle())
    assert rows(house)[0][1] is Status.COMPLETE


def test_a_closed_stream_keeps_what_was_written_as_cancelled(house: House) -> None:
    async def stop_after_two() -> None:
        conversation, interaction = house.assistant.begin("ana", "Hello", None)
        stream = house.assistant.answer("ana", conversation, interaction)
        async for _ in stream:
            if house.engine.pieces == 2:  # type: ignore[attr-defined]
                break
        await stream.aclose()

    house.engine.pieces = 0  # type: ignore[attr-defined]

    def count() -> None:
        house.engine.pieces += 1  # type: ignore[attr-defined]

    house.engine.on_piece = count  # type: ignore[attr-defined]
    asyncio.run(stop_after_two())
    assert rows(house) == [("Hello", Status.CANCELLED, "That is")]


def test_an_engine_error_reaches_the_caller_and_the_row(house: House) -> None:
    house.engine.problem = EngineError("The model is shutting down.")  # type: ignore[attr-defined]
    with pytest.raises(EngineError, match="shutting down"):
        talk(house, "ana", "Hello")
    (row,) = house.books.logger.get_records()
    assert (row.status, row.error) == (Status.ERROR, "The model is shutting down.")


def test_a_message_is_answered_once(house: House) -> None:
    interaction, _ = talk(house, "ana", "Hello")
    (conversation,) = house.books.logger.conversations("ana")

    async def again() -> None:
        async for _ in house.assistant.answer("ana", conversation.id, interaction):
            pass

    with pytest.raises(LookupError, match="waiting for an answer"):
        asyncio.run(again())


def test_the_model_sees_the_system_prompt_and_the_turns_before(books: Books) -> None:
    settings = replace(books.settings.chat, system_prompt="Be brief.")
    house = fake_house(replace(books, settings=replace(books.settings, chat=settings)))
    seen: list[list[str]] = []
    original = house.engine._answer  # type: ignore[attr-defined]

    def answer(version: str, messages: list[dict[str, str]]) -> str:
        seen.append([m["content"] for m in messages])
        return str(original(version, messages))

    house.engine._answer = answer  # type: ignore[attr-defined]
    talk(house, "ana", "One")
    (conversation,) = house.books.logger.conversations("ana")
    talk(house, "ana", "Two", conversation=conversation.id)
    assert seen == [["Be brief.", "One"], ["Be brief.", "One", DONT_KNOW + " ", "Two"]]


def test_an_answer_that_cannot_be_logged_is_still_given_and_counted(house: House) -> None:
    def full(*args: object) -> None:
        raise OperationalError("database or disk is full")

    house.books.logger.finish = full  # type: ignore[method-assign]
    assert talk(house, "ana", "Hello")[1] == DONT_KNOW
    assert house.assistant.lost_rows == 1


def test_many_people_at_once_each_get_their_own_answer(tmp_path: object, clock: object) -> None:
    house = fake_house(fake_books(tmp_path, clock))  # type: ignore[arg-type]

    async def one(name: str) -> None:
        conversation, interaction = house.assistant.begin(name, f"I am {name}", None)
        async for _ in house.assistant.answer(name, conversation, interaction):
            await asyncio.sleep(0)

    async def everybody() -> None:
        await asyncio.gather(*(one(f"user{n}") for n in range(40)))

    asyncio.run(everybody())
    found = list(house.books.logger.get_records())
    assert {row.status for row in found} == {Status.COMPLETE}
    assert all(row.prompt == f"I am {row.user}" for row in found)
    house.close()
