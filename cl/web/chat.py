"""The chat page: conversations at the left, one of them open, thumbs under every answer.

Everything a browser sends can be forged, ids included: what is shown and changed is looked up in
the database under the signed-in name, every time. Version names never reach this page, so that
people judge answers, not versions.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from html import escape
from typing import Any, cast

import gradio as gr
from peewee import PeeweeException

from cl import news
from cl.assistant import Unanswerable
from cl.house import House
from cl.model.engine.contract import EngineError
from cl.model.versions import BadVersion
from cl.records import Interaction, Status
from cl.web import feedback, look, sidebar
from cl.web.rights import number, problem, who

log = logging.getLogger(__name__)

# Seconds between two updates of a growing answer. Each costs the event loop about 1 ms, so they
# get rarer the more answers are being written at the same time.
_PUSH_ALONE, _PUSH_EACH, _PUSH_MOST = 0.1, 0.0125, 0.5

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
        self._streams = 0

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
            chosen = number(getattr(event, "id", None))
            turns = self._turns(request, chosen)
            private = chosen is not None and not self._logger.may_learn(who(request), chosen)
            listed = self.sidebar.listed(search, conversation=chosen, request=request)
            return listed, chosen, self._messages(turns), *feedback.out_of_sight(), private
        gone = self.sidebar.change(event, request)
        if gone is not None and gone == number(conversation):
            return self.fresh(search, request)[:-1]
        listed = self.sidebar.listed(search, conversation, request)
        return listed, *(gr.skip() for _ in range(5))

    def fresh(self, search: str, request: gr.Request) -> tuple[Any, ...]:
        """An empty conversation; it exists once something is said in it."""
        listed, messages = self.sidebar.listed(search, None, request), self._messages([])
        return listed, None, messages, *feedback.out_of_sight(), False, _composer(value="")

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
    ) -> AsyncIterator[Any]:
        """Write the answer, pushing it to the page as it grows; its row is finished in any case."""
        name, chat, mine = who(request), number(conversation), number(interaction)
        if chat is None or mine is None:
            raise problem("Open a conversation first.")
        turns = self._turns(request, chat)
        shown = _to_messages([turn for turn in turns if turn.id < mine])
        asked = next((turn.prompt for turn in turns if turn.id == mine), "")
        shown.append({"role": "user", "content": asked})
        written, pushed = "", 0.0
        if not self._house.engine.loaded():
            yield [*shown, {"role": "assistant", "content": "*The model is being loaded...*"}]
        try:
            stream = self._house.assistant.answer(name, chat, mine)
            with self._counted():
                async with aclosing(stream) as pieces:
                    async for piece in pieces:
                        written = piece.text if piece.anew else written + piece.text
                        if piece.place:
                            yield [*shown, {"role": "assistant", "content": _queued(piece.place)}]
                        elif time.monotonic() - pushed > self._push_seconds():
                            pushed = time.monotonic()
                            yield [*shown, {"role": "assistant", "content": written}]
        except (EngineError, LookupError) as refusal:
            raise problem(refusal) from None
        except BadVersion:
            log.exception("a version in traffic is not whole")
            raise problem("The answer failed. Please tell your administrator.") from None

    def done(self, conversation: str | None, request: gr.Request) -> tuple[Any, Any]:
        """However the answer ended: show what is stored, and take the next message."""
        chat = number(conversation)
        if chat is not None:
            try:
                self._house.assistant.give_up(who(request), chat)
            except LookupError as refusal:
                raise problem(refusal) from None
        turns = self._turns(request, chat)
        return _composer(submit_btn=True, stop_btn=False), self._messages(turns)

    async def stopped(self, conversation: str | None, request: gr.Request) -> tuple[Any, Any]:
        """The same after Stop: the row is being finished at this moment."""
        for _ in range(20):
            turns = self._turns(request, number(conversation))
            if not turns or turns[-1].status is not Status.STARTED:
                break
            await asyncio.sleep(0.05)
        return self.done(conversation, request)

    # -- feedback --------------------------------------------------------------------------

    def thumb(
        self, conversation: str | None, event: gr.LikeData, request: gr.Request
    ) -> tuple[Any, ...]:
        """Save a thumb at the click."""
        turn = self._pick(conversation, event.index, request)
        return self.feedback.thumb(turn, event, request)

    # -- inside ----------------------------------------------------------------------------

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """An answer that is being pushed to a page; all handlers share one thread."""
        self._streams += 1
        try:
            yield
        finally:
            self._streams -= 1

    def _push_seconds(self) -> float:
        return min(_PUSH_MOST, max(_PUSH_ALONE, _PUSH_EACH * self._streams))

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
        opened = [history, conversation, box, *panel.away, private]
        history.select(page.pick, [search, conversation], opened, **look.QUIET)
        new.click(page.fresh, search, [*opened, text], **look.QUIET)
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
        running = [
            start.success(
                page.answer, [conversation, interaction], box, concurrency_limit=None, **look.QUIET
            )
            for start in (
                said,
                box.example_select(
                    page.example, [conversation, private, search], begun, **look.QUIET
                ),
                box.retry(page.again, [conversation, search], begun, **look.QUIET),
                box.edit(page.edit, [conversation, search], begun, **look.QUIET),
            )
        ]
        for event in running:
            event.then(page.done, conversation, [text, box], **look.QUIET)
        text.stop(page.stopped, conversation, [text, box], cancels=running, **look.QUIET)
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
