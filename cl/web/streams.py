"""The answers that are being written to pages, and which chat each page shows.

Who opens another chat does not end the answer of the one they leave: it is written on unseen, and
is seen growing again once its chat is opened again. So what a page shows has to be known here.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import gradio as gr

from cl.records import Piece
from cl.web.rights import who

# Seconds between two updates of a growing answer. Each costs the event loop about 1 ms, so they
# get rarer the more answers are being written at the same time.
_PUSH_ALONE, _PUSH_EACH, _PUSH_MOST = 0.1, 0.0125, 0.5
_MOST_PAGES = 10_000  # that are remembered; nobody tells when one is closed

Page = tuple[str, str | None]  # whose it is, and its name between browser and server


@dataclass(eq=False)
class Stream:
    """An answer on its way to a page."""

    page: Page
    chat: int
    _stop: asyncio.Event = field(default_factory=asyncio.Event)

    def stop(self) -> None:
        self._stop.set()

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    async def until_stopped(
        self, pieces: AsyncGenerator[Piece, None]
    ) -> AsyncGenerator[Piece, None]:
        """What is written until somebody says stop, even while it waits; it is closed then."""
        stopping = asyncio.ensure_future(self._stop.wait())
        step: asyncio.Future[Piece | None] | None = None
        try:
            while not self.stopped:
                step = asyncio.ensure_future(anext(pieces, None))
                await asyncio.wait({step, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if not step.done() or (piece := step.result()) is None:
                    return
                yield piece
        finally:
            stopping.cancel()
            if step and not step.done():
                step.cancel()
                await asyncio.wait({step})
            await pieces.aclose()


class Streams:
    """All of them."""

    def __init__(self) -> None:
        self._running: set[Stream] = set()
        self._shown: OrderedDict[Page, int | None] = OrderedDict()

    def show(self, request: gr.Request, chat: int | None) -> None:
        """From now on this page shows this chat; None is a new one."""
        page = _page(request)
        self._shown[page] = chat
        self._shown.move_to_end(page)
        if len(self._shown) > _MOST_PAGES:
            self._shown.popitem(last=False)

    def is_shown(self, stream: Stream) -> bool:
        return self._shown.get(stream.page, stream.chat) == stream.chat

    def is_written(self, request: gr.Request, chat: int | None) -> bool:
        """Whether this page is being sent an answer of this chat."""
        return any(self._of(request, chat))

    def stop(self, request: gr.Request, chat: int | None) -> None:
        """End what this page is being sent of this chat. To be called in the event loop."""
        for stream in self._of(request, chat):
            stream.stop()

    @contextmanager
    def running(self, request: gr.Request, chat: int) -> Iterator[Stream]:
        stream = Stream(_page(request), chat)
        self._running.add(stream)
        try:
            yield stream
        finally:
            self._running.discard(stream)

    def push_seconds(self) -> float:
        return min(_PUSH_MOST, max(_PUSH_ALONE, _PUSH_EACH * len(self._running)))

    def _of(self, request: gr.Request, chat: int | None) -> Iterator[Stream]:
        page = _page(request)
        return (one for one in list(self._running) if (one.page, one.chat) == (page, chat))


def _page(request: gr.Request) -> Page:
    return who(request), request.session_hash
