"""The chat page: conversations at the left, one of them open, thumbs under every answer.

Everything a browser sends can be forged, ids included: what is shown and changed is looked up in
the database under the signed-in name, every time. Version names never reach this page, so that
people judge answers, not versions.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from html import escape
from typing import Any, cast

import gradio as gr
from peewee import PeeweeException

from cl import news
from cl.assistant import Unanswerable
from cl.house import House
from cl.model.engine.contract import EngineError
from cl.records import Interaction, Status
from cl.web import feedback, look, sidebar
from cl.web.rights import number, problem, who
from cl.web.streams import Stream, Streams

log = logging.getLogger(__name__)

_EXAMPLES: list[Any] = [
    {"text": "What is the capital of France?"},
    {"text": "Write a short thank-you note to a colleague."},
    {"text": "Explain what a budget is in two sentences."},
    {"text": "Give me three ideas for a team lunch."},
]
_EMPTY = (
    "<div class='hero'><h1>How can I help?</h1>"
    "<p>Answers can be wrong. Your thumbs and better answers teach the next version.</p></div>"
)
_PRIVATE = "Nothing in it is used for training. It is stored as always, and thumbs still count."
_SUFFIX = {
    Status.STARTED: "*(still being written)*",
    Status.CANCELLED: "*(stopped)*",
    Status.INTERRUPTED: "*(interrupted)*",
}
_GONE = "This answer is not there any more; please reload the page."


class ChatPage:
    """The page's handlers. Each takes what the browser sends and asks the parts."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._logger = house.books.logger
        self.feedback = feedback.Feedback(house.books.logger)
        self.sidebar = sidebar.Sidebar(house)
        self._streams = Streams()

    # -- showing ---------------------------------------------------------------------------

    def load(self, request: gr.Request) -> tuple[Any, ...]:
        name = who(request)
        user = self._house.books.accounts.find(name)
        top = look.header(self._house.books.settings, user, name if user else "Visitor", "chat")
        told = news.latest(name, self._house.books.runs)
        return (
            top,
            self.sidebar.listed("", None, request),
            self._messages([]),
            gr.Column(visible=told is not None),
            _told(told) if told else "",
        )

    def read(self, request: gr.Request) -> Any:
        """What the new version learned from this person has been read."""
        name = who(request)
        if told := news.latest(name, self._house.books.runs):
            news.mark_told(name, told.version)
        return gr.Column(visible=False)

    def pick(
        self, search: str, conversation: str | None, event: gr.EventData, request: gr.Request
    ) -> tuple[Any, ...]:
        """Open one of one's own conversations, or do what was asked for in the list."""
        if getattr(event, "act", None) == "open":
            return self._opened(search, number(getattr(event, "id", None)), request)
        gone = self.sidebar.change(event, request)
        if gone is not None and gone == number(conversation):
            return self.fresh(search, request)
        listed = self.sidebar.listed(search, conversation, request)
        return listed, *(gr.skip() for _ in range(6))

    def fresh(self, search: str, request: gr.Request) -> tuple[Any, ...]:
        """An empty conversation; it exists once something is said in it."""
        return self._opened(search, None, request)

    def _opened(self, search: str, chat: int | None, request: gr.Request) -> tuple[Any, ...]:
        try:
            private = chat is not None and not self._logger.may_learn(who(request), chat)
        except LookupError as refusal:
            raise problem(refusal) from None
        self._streams.show(request, chat)
        listed = self.sidebar.listed(search, chat, request)
        is_written = self._streams.is_written(request, chat)
        turns = self._turns(request, chat)
        if turns and turns[-1].status is not Status.STARTED:
            is_written = False  # its answer ended while it was read
        composer = _composer(submit_btn=not is_written, stop_btn=is_written)
        return listed, chat, self._messages(turns), *feedback.out_of_sight(), private, composer

    def learning(self, private: bool, conversation: str | None, request: gr.Request) -> bool:
        """Store whether this chat may be learned from; a new one is told when it begins."""
        name, known = who(request), number(conversation)
        if known is not None:
            try:
                self._logger.set_learning(name, known, not private)
            except LookupError as refusal:
                raise problem(refusal) from None
        return bool(private)

    # -- talking ---------------------------------------------------------------------------

    def begin(
        self,
        text: str,
        conversation: str | None,
        private: bool,
        search: str,
        request: gr.Request,
        instead: int | None = None,
    ) -> tuple[Any, ...]:
        """Take a message in, and show it. `private` counts for a new chat; others have it stored.

        `instead` is the interaction it is asked in the stead of.
        """
        name, known = who(request), number(conversation)
        try:
            with self._logger.at_once():
                chat, interaction = self._house.assistant.begin(
                    name, text or "", known, regenerates=instead
                )
                if known is None and private:
                    self._logger.set_learning(name, chat, False)
        except (Unanswerable, LookupError) as refusal:
            raise problem(refusal) from None
        except PeeweeException:
            log.exception("a message could not be stored")
            raise problem(
                "Your message could not be stored. Please tell your administrator."
            ) from None
        self._streams.show(request, chat)
        waiting = _composer(submit_btn=False, stop_btn=True)  # its text has left it already
        messages = self._messages(self._turns(request, chat))
        listed = self.sidebar.listed(search, chat, request)
        return chat, interaction, waiting, messages, listed, *feedback.out_of_sight()

    def example(
        self,
        conversation: str | None,
        private: bool,
        search: str,
        event: gr.SelectData,
        request: gr.Request,
    ) -> tuple[Any, ...]:
        """Ask one of the examples."""
        return self.begin(str(event.value["text"]), conversation, private, search, request)

    def again(
        self, conversation: str | None, search: str, event: gr.RetryData, request: gr.Request
    ) -> tuple[Any, ...]:
        """Ask the same once more. Both answers stay in the log."""
        turn = self._pick(conversation, event.index, request)
        return self.begin(turn.prompt, conversation, False, search, request, turn.id)

    def edit(
        self, conversation: str | None, search: str, event: gr.EditData, request: gr.Request
    ) -> tuple[Any, ...]:
        """Ask something else in the stead of an earlier message; what had followed it goes."""
        turn = self._pick(conversation, event.index, request)
        return self.begin(_text(event.value), conversation, False, search, request, turn.id)

    async def answer(
        self, conversation: str, interaction: str, request: gr.Request
    ) -> AsyncIterator[tuple[Any, Any]]:
        """Write the answer, pushing it to the page as it grows while the page shows its chat.

        Its row is finished in any case. At the end comes what is stored, however it ended.
        """
        chat, mine = number(conversation), number(interaction)
        if chat is None or mine is None:
            raise problem("Open a conversation first.")
        before, refusal = self._before(request, chat, mine), None
        with self._streams.running(request, chat) as stream:
            try:
                async with aclosing(self._growing(stream, mine)) as texts:
                    async for text in texts:
                        if self._streams.is_shown(stream):
                            yield gr.skip(), [*before, {"role": "assistant", "content": text}]
            except (EngineError, LookupError) as found:
                refusal = problem(found)
            except Exception:
                log.exception("an answer failed")
                refusal = problem("The answer failed. Please tell your administrator.")
        if self._streams.is_shown(stream):
            yield self._rest(request, chat)
        yield gr.skip(), gr.skip()  # Gradio sends the last once more, whatever is shown by then
        if refusal:
            raise refusal

    async def _growing(self, stream: Stream, mine: int) -> AsyncGenerator[str, None]:
        """What stands in the place of the answer, as often as it is worth pushing."""
        if not self._house.engine.loaded():
            yield "*The model is being loaded...*"
        written, pushed = "", 0.0
        pieces = self._house.assistant.answer(stream.page[0], stream.chat, mine)
        async with aclosing(stream.until_stopped(pieces)) as heard:
            async for piece in heard:
                written = piece.text if piece.anew else written + piece.text
                if piece.place:
                    yield _queued(piece.place)
                elif time.monotonic() - pushed > self._streams.push_seconds():
                    pushed = time.monotonic()
                    yield written

    def _before(self, request: gr.Request, chat: int, mine: int) -> list[Any]:
        """What stands above an answer: earlier turns, and what it answers."""
        turns = self._turns(request, chat)
        asked = next((turn.prompt for turn in turns if turn.id == mine), "")
        return [
            *_to_messages([turn for turn in turns if turn.id < mine]),
            {"role": "user", "content": asked},
        ]

    async def stopped(self, conversation: str | None, request: gr.Request) -> tuple[Any, Any]:
        """Stop was pressed: end the answer, and show what there is of it."""
        chat = number(conversation)
        for _ in range(20):
            turns = self._turns(request, chat)
            if not turns or turns[-1].status is not Status.STARTED:
                break
            self._streams.stop(request, chat)
            await asyncio.sleep(0.05)
        if chat is not None:
            self._house.assistant.give_up(who(request), chat)
        return self._rest(request, chat)

    def _rest(self, request: gr.Request, chat: int | None) -> tuple[Any, Any]:
        """Nothing is being written: what is stored, and a place for the next message."""
        turns = self._turns(request, chat)
        return _composer(submit_btn=True, stop_btn=False), self._messages(turns)

    # -- feedback --------------------------------------------------------------------------

    def thumb(
        self, conversation: str | None, event: gr.LikeData, request: gr.Request
    ) -> tuple[Any, ...]:
        """Save a thumb at the click."""
        turn = self._pick(conversation, event.index, request)
        return self.feedback.thumb(turn, event, request)

    # -- inside ----------------------------------------------------------------------------

    def _pick(self, conversation: str | None, index: Any, request: gr.Request) -> Interaction:
        """The interaction behind a message of the page: every turn shows exactly two messages."""
        place = index[0] if isinstance(index, list | tuple) else index
        turns = self._turns(request, number(conversation))
        if not isinstance(place, int) or not 0 <= place // 2 < len(turns):
            raise problem(_GONE)
        return turns[place // 2]

    def _turns(self, request: gr.Request, chat: int | None) -> list[Interaction]:
        if chat is None:
            return []
        try:
            return self._logger.history(who(request), chat)
        except LookupError as refusal:
            raise problem(refusal) from None

    def _messages(self, turns: list[Interaction]) -> Any:
        votes = [{1: "Like", -1: "Dislike"}.get(t.feedback.thumb) for t in turns]
        return gr.Chatbot(value=_to_messages(turns), feedback_value=votes)


def build(house: House) -> gr.Blocks:
    """The page and its wires."""
    page = ChatPage(house)
    with gr.Blocks(
        title=look.NAME, fill_height=True, fill_width=True, analytics_enabled=False
    ) as blocks:
        conversation = gr.Textbox(visible=False)
        interaction = gr.Textbox(visible=False)
        top = look.html(elem_id="header")
        new, search, history = sidebar.build()
        with gr.Column(elem_id="main"):
            told, lessons, got_it = _news_panel()
            box = _chatbot()
            panel = feedback.build(page.feedback)
            text = _composer(autofocus=True, elem_id="composer")
            private = _privacy_switch()
            look.html(
                "Enter sends, Shift+Enter adds a line, Esc stops, Ctrl+Shift+O starts a new chat.",
                elem_id="foot",
            )
        blocks.load(page.load, None, [top, history, box, told, lessons], **look.QUIET)
        blocks.load(None, None, None, js="() => cl.draft()")
        got_it.click(page.read, None, told, **look.QUIET)
        opened = [history, conversation, box, *panel.away, private, text]
        for opening in (
            history.select(page.pick, [search, conversation], opened, **look.QUIET),
            new.click(page.fresh, search, opened, **look.QUIET),
        ):
            opening.then(None, None, None, js="() => cl.opened()")
        search.change(  # its input event does not tell of what was deleted
            page.sidebar.listed,
            [search, conversation],
            history,
            trigger_mode="always_last",
            **look.QUIET,
        )
        private.input(page.learning, [private, conversation], private, **look.QUIET)
        begun = [conversation, interaction, text, box, history, *panel.away]
        said = text.submit(
            page.begin,
            [text, conversation, private, search],
            begun,
            js="(...values) => cl.send(values.slice(0, 4))",
            **look.QUIET,
        )
        said.failure(None, None, None, js="() => cl.giveBack()")
        for start in (
            said,
            box.example_select(page.example, [conversation, private, search], begun, **look.QUIET),
            box.retry(page.again, [conversation, search], begun, **look.QUIET),
            box.edit(page.edit, [conversation, search], begun, **look.QUIET),
        ):
            start.success(
                page.answer,
                [conversation, interaction],
                [text, box],
                trigger_mode="multiple",  # one chat may be asked while another is answered
                concurrency_limit=None,
                **look.QUIET,
            )
        text.stop(page.stopped, conversation, [text, box], **look.QUIET)
        liked = box.like(page.thumb, conversation, panel.all, **look.QUIET)
        liked.then(None, None, None, js="() => cl.keepInSight()")
    return cast(gr.Blocks, blocks)  # its context manager is untyped


def _chatbot() -> gr.Chatbot:
    return gr.Chatbot(
        show_label=False,
        label="Conversation",
        elem_id="chat",
        height="100%",
        container=False,
        buttons=["copy"],
        editable="user",
        feedback_options=("Like", "Dislike"),
        placeholder=_EMPTY,
        examples=_EXAMPLES,
        allow_tags=False,
        sanitize_html=True,
        latex_delimiters=[],
        scale=1,
    )


def _composer(**changes: Any) -> gr.Textbox:
    return gr.Textbox(
        **{
            "show_label": False,
            "label": "Message",
            "container": False,
            "placeholder": "Write a message",
            "lines": 1,
            "max_lines": 8,
            "submit_btn": True,
            "stop_btn": False,
            **changes,
        }
    )


def _privacy_switch() -> gr.Checkbox:
    with gr.Row(elem_id="privacy"):
        private = gr.Checkbox(
            label="Don't learn from this chat",
            container=False,
            scale=0,
            min_width=200,
            elem_id="private",
        )
        look.html(_PRIVATE, elem_id="private-hint")
    return private


def _news_panel() -> tuple[gr.Column, gr.HTML, gr.Button]:
    with gr.Column(visible=False, elem_id="news") as column:
        lessons = look.html(elem_id="lessons")
        got_it = gr.Button("Got it", size="sm", scale=0, min_width=110, elem_id="news-read")
    return column, lessons, got_it


def _told(found: news.News) -> str:
    """What a person taught, with the answers that changed."""
    count = "One of your ratings" if found.taught == 1 else f"{found.taught:,} of your ratings"
    parts = [
        f"<h2>You said, it learned</h2><p class='mut'>{count} taught the assistant you have now.</p>"
    ]
    for lesson in found.lessons:
        parts.append(
            f"<dl><dt>{escape(lesson.question)}</dt>"
            f"<dd class='before'><b>Before</b> {escape(lesson.before)}</dd>"
            f"<dd class='after'><b>Now</b> {escape(lesson.after)}</dd></dl>"
        )
    return "".join(parts)


def _queued(place: int) -> str:
    ahead = "You are next." if place == 1 else f"{place - 1} ahead of you."
    return f"*Others are being answered. {ahead}*"


def _text(value: Any) -> str:
    """An edited message as the browser sends it: a text, or parts of one."""
    if isinstance(value, list):
        return "\n".join(_text(part) for part in value)
    return str(value.get("text", "")) if isinstance(value, dict) else str(value)


def _to_messages(turns: list[Interaction]) -> list[Any]:
    """Two messages a turn, always, so that a message's place tells its interaction."""
    messages: list[Any] = []
    for turn in turns:
        content = turn.answer
        if turn.status is Status.ERROR:
            content = "\n\n".join(
                filter(None, [content, "*(the answer failed; please try again)*"])
            )
        elif note := _SUFFIX.get(turn.status):
            content = "\n\n".join(filter(None, [content, note]))
        messages.append({"role": "user", "content": turn.prompt})
        messages.append({"role": "assistant", "content": content or "*(empty answer)*"})
    return messages
