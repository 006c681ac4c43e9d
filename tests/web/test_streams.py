"""Answers on their way to a page: stopped at once, even while nothing comes, and always closed."""

import asyncio
from collections.abc import AsyncGenerator

import gradio as gr
import pytest

from cl.records import Piece
from cl.web.streams import Streams

ANA = gr.Request(username="ana", session_hash="tab")


class Writer:
    """Says one word, and then nothing for ever; or fails."""

    def __init__(self, problem: Exception | None = None) -> None:
        self.problem = problem
        self.closed = False

    async def write(self) -> AsyncGenerator[Piece, None]:
        try:
            yield Piece("one ")
            if self.problem:
                raise self.problem
            await asyncio.Event().wait()
        finally:
            self.closed = True


def test_an_answer_is_stopped_while_nothing_comes() -> None:
    streams, writer = Streams(), Writer()

    async def listen() -> list[str]:
        with streams.running(ANA, 7) as stream:
            asyncio.get_running_loop().call_later(0.05, streams.stop, ANA, 7)
            return [piece.text async for piece in stream.until_stopped(writer.write())]

    assert asyncio.run(asyncio.wait_for(listen(), 10)) == ["one "]
    assert writer.closed
    assert not streams.is_written(ANA, 7)


def test_an_answer_is_closed_when_its_page_goes_away_or_the_writer_fails() -> None:
    left, failed = Writer(), Writer(OSError("gone"))

    async def leave(writer: Writer) -> None:
        with Streams().running(ANA, 7) as stream:
            pieces = stream.until_stopped(writer.write())
            await anext(pieces)
            waiting = asyncio.ensure_future(anext(pieces))
            await asyncio.sleep(0.05)
            waiting.cancel()
            await waiting

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(leave(left))
    with pytest.raises(OSError, match="gone"):
        asyncio.run(leave(failed))
    assert left.closed
    assert failed.closed


def test_only_the_own_page_and_chat_is_stopped() -> None:
    streams = Streams()
    others = (
        (gr.Request(username="ana", session_hash="another tab"), 7),
        (gr.Request(username="ben", session_hash="tab"), 7),
        (ANA, 8),
        (ANA, None),
    )
    with streams.running(ANA, 7) as stream:
        for request, chat in others:
            assert not streams.is_written(request, chat)
            streams.stop(request, chat)
        assert not stream.stopped
        streams.stop(ANA, 7)
        assert stream.stopped


def test_of_many_pages_the_latest_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cl.web.streams._MOST_PAGES", 2)
    streams = Streams()
    with streams.running(ANA, 7) as stream:
        streams.show(ANA, 8)
        assert not streams.is_shown(stream)
        for number in range(2):
            streams.show(gr.Request(username="ben", session_hash=str(number)), 1)
        assert streams.is_shown(stream)
