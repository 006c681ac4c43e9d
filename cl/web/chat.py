"""The chat page: conversations at the left, one of them open, thumbs under every answer.

Everything a browser sends can be forged, ids included: what is shown and changed is looked up in
the database under the signed-in name, every time. Version names never reach this page, so that
people judge answers, not versions.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import datetime
from itertools import groupby
from typing import Any, cast

import gradio as gr
from peewee import PeeweeException

from cl.assistant import Unanswerable
from cl.house import House
from cl.model.engine.contract import EngineError
from cl.model.versions import BadVersion
from cl.records import Conversation, Interaction, Status
from cl.usage_logger import MAX_COMMENT, MAX_CORRECTION, REASONS
from cl.web import look

log = logging.getLogger(__name__)

_PUSH_SECONDS = (
    0.12  # between two updates of a growing answer: each costs the event loop about 1 ms
)
_QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}

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
_HISTORY = """
<nav class="hist" aria-label="Conversations">
{{#each value.groups}}<h2>{{this.name}}</h2>
{{#each this.items}}<button type="button" data-id="{{this.id}}" title="{{this.title}}"
  {{#if this.open}}aria-current="true"{{/if}}>{{this.title}}</button>{{/each}}{{/each}}
{{#if value.empty}}<p>No conversations yet.</p>{{/if}}
</nav>"""
_HISTORY_JS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-id]');
  if (button) trigger('select', {id: button.dataset.id});
});"""
# What was typed before signing in anew. Not an output of the event: that would wipe out what a
# quick person has typed meanwhile.
_DRAFT_JS = """() => { const draft = sessionStorage.getItem('draft'); sessionStorage.removeItem('draft');
  const box = draft && document.querySelector('#composer textarea');
  if (box) { box.value = draft; box.dispatchEvent(new Event('input', {bubbles: true})); } }"""
# The panel takes room from the chat: the answer that was just rated must not vanish behind it.
_KEEP_IN_SIGHT_JS = """() => { const rated = document.activeElement;
  setTimeout(() => rated?.closest('#chat') && rated.scrollIntoView({block: 'end'}), 200); }"""
_PRIVATE = "Nothing in it is used for training. It is stored as always, and thumbs still count."
_SUFFIX = {
    Status.STARTED: "*(still being written)*",
    Status.CANCELLED: "*(stopped)*",
    Status.INTERRUPTED: "*(interrupted)*",
}


class ChatPage:
    """The page's handlers. Each takes what the browser sends and asks the parts."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._logger = house.books.logger
        self._options = house.books.settings.chat

    # -- showing ---------------------------------------------------------------------------

    def load(self, request: gr.Request) -> tuple[str, Any, Any]:
        name = _who(request)
        user = self._house.books.accounts.find(name)
        top = look.header(self._house.books.settings, user, name if user else "Visitor", "chat")
        return top, self._history(name, None), self._messages([])

    def open(self, event: gr.EventData, request: gr.Request) -> tuple[Any, ...]:
        """Show one of one's own conversations."""
        number = _number(getattr(event, "id", None))
        turns = self._turns(request, number)
        return (
            number,
            self._history(_who(request), number),
            self._messages(turns),
            gr.Column(visible=False),
            self._is_private(request, number),
        )

    def fresh(self, request: gr.Request) -> tuple[Any, ...]:
        """An empty conversation; it exists once something is said in it."""
        empty = self._messages([])
        return (
            None,
            self._history(_who(request), None),
            empty,
            gr.Column(visible=False),
            _composer(value=""),
            False,
        )

    def learning(self, private: bool, conversation: str | None, request: gr.Request) -> bool:
        """Store whether this chat may be learned from; a new one is told when it begins."""
        name, number = _who(request), _number(conversation)
        if number is not None:
            try:
                self._logger.set_learning(name, number, not private)
            except LookupError as problem:
                raise _problem(problem) from None
        return bool(private)

    # -- talking ---------------------------------------------------------------------------

    def begin(
        self, text: str, conversation: str | None, private: bool, request: gr.Request
    ) -> tuple[Any, ...]:
        """Take a message in, and show it. `private` counts for a new chat; others have it stored."""
        name, known = _who(request), _number(conversation)
        try:
            with self._logger.at_once():
                number, interaction = self._house.assistant.begin(name, text or "", known)
                if known is None and private:
                    self._logger.set_learning(name, number, False)
        except (Unanswerable, LookupError) as problem:
            raise _problem(problem) from None
        except PeeweeException:
            log.exception("a message could not be stored")
            raise _problem(
                "Your message could not be stored. Please tell your administrator."
            ) from None
        turns = self._turns(request, number)
        waiting = _composer(value="", submit_btn=False, stop_btn=True)
        history = self._history(name, number)
        return (
            number,
            interaction,
            waiting,
            self._messages(turns),
            history,
            gr.Column(visible=False),
        )

    def example(
        self,
        conversation: str | None,
        private: bool,
        event: gr.SelectData,
        request: gr.Request,
    ) -> tuple[Any, ...]:
        return self.begin(str(event.value["text"]), conversation, private, request)

    async def answer(
        self, conversation: str, interaction: str, request: gr.Request
    ) -> AsyncIterator[Any]:
        """Write the answer, pushing it to the page as it grows; its row is finished in any case."""
        name, number, mine = _who(request), _number(conversation), _number(interaction)
        if number is None or mine is None:
            raise _problem("Open a conversation first.")
        shown = _to_messages([t for t in self._turns(request, number) if t.id < mine])
        asked = next((t.prompt for t in self._turns(request, number) if t.id == mine), "")
        shown.append({"role": "user", "content": asked})
        written, pushed = "", 0.0
        if not self._house.engine.loaded():
            yield [*shown, {"role": "assistant", "content": "*The model is being loaded...*"}]
        try:
            async with aclosing(self._house.assistant.answer(name, number, mine)) as pieces:
                async for piece in pieces:
                    written = piece.text if piece.anew else written + piece.text
                    if piece.place:
                        yield [*shown, {"role": "assistant", "content": _queued(piece.place)}]
                    elif time.monotonic() - pushed > _PUSH_SECONDS:
                        pushed = time.monotonic()
                        yield [*shown, {"role": "assistant", "content": written}]
        except (EngineError, LookupError) as problem:
            raise _problem(problem) from None
        except BadVersion:
            log.exception("a version in traffic is not whole")
            raise _problem("The answer failed. Please tell your administrator.") from None

    def done(self, conversation: str | None, request: gr.Request) -> tuple[Any, Any]:
        """However the answer ended: show what is stored, and take the next message."""
        number = _number(conversation)
        if number is not None:
            try:
                self._house.assistant.give_up(_who(request), number)
            except LookupError as problem:
                raise _problem(problem) from None
        turns = self._turns(request, number)
        return _composer(submit_btn=True, stop_btn=False), self._messages(turns)

    async def stopped(self, conversation: str | None, request: gr.Request) -> tuple[Any, Any]:
        """The same after Stop: the row is being finished at this moment."""
        for _ in range(20):
            turns = self._turns(request, _number(conversation))
            if not turns or turns[-1].status is not Status.STARTED:
                break
            await asyncio.sleep(0.05)
        return self.done(conversation, request)

    # -- feedback --------------------------------------------------------------------------

    def thumb(
        self, conversation: str | None, event: gr.LikeData, request: gr.Request
    ) -> tuple[Any, ...]:
        """Save a thumb at the click; a thumb down opens the panel for more."""
        turn = self._pick(conversation, event.index, request)
        value = {True: 1, False: -1}.get(event.liked, 0) if isinstance(event.liked, bool) else 0
        try:
            said = self._logger.record_feedback(turn.id, _who(request), thumb=value)
        except (LookupError, ValueError) as problem:
            raise _problem(problem) from None
        panel = gr.Column(visible=value < 0)
        return panel, turn.id, list(said.reasons), said.comment, said.correction

    def say_more(
        self,
        interaction: str,
        reasons: list[str],
        comment: str,
        correction: str,
        request: gr.Request,
    ) -> Any:
        """Save reasons, comment and the better answer."""
        number = _number(interaction)
        if number is None:
            raise _problem("Choose a thumb first.")
        try:
            self._logger.record_feedback(
                number,
                _who(request),
                reasons=tuple(reasons or ()),
                comment=comment or "",
                correction=correction or "",
            )
        except (LookupError, ValueError) as problem:
            raise _problem(problem) from None
        gr.Success("Thank you. The next version learns from this.", duration=4)
        return gr.Column(visible=False)

    # -- inside ----------------------------------------------------------------------------

    def _pick(self, conversation: str | None, index: Any, request: gr.Request) -> Interaction:
        """The interaction behind a message of the page: every turn shows exactly two messages."""
        place = index[0] if isinstance(index, list | tuple) else index
        turns = self._turns(request, _number(conversation))
        if not isinstance(place, int) or not 0 <= place // 2 < len(turns):
            raise _problem("This answer is not there any more; please reload the page.")
        return turns[place // 2]

    def _turns(self, request: gr.Request, number: int | None) -> list[Interaction]:
        if number is None:
            return []
        try:
            return self._logger.history(_who(request), number)
        except LookupError as problem:
            raise _problem(problem) from None

    def _messages(self, turns: list[Interaction]) -> Any:
        votes = [{1: "Like", -1: "Dislike"}.get(t.feedback.thumb) for t in turns]
        return gr.Chatbot(value=_to_messages(turns), feedback_value=votes)

    def _is_private(self, request: gr.Request, number: int | None) -> bool:
        known = self._logger.conversations(_who(request))
        return next((not c.learn for c in known if c.id == number), False)

    def _history(self, name: str, open_: int | None) -> dict[str, Any]:
        found = self._logger.conversations(name)
        today = self._house.books.clock()
        groups = [
            {
                "name": age,
                "items": [{"id": c.id, "title": c.title, "open": c.id == open_} for c in items],
            }
            for age, items in groupby(found, key=lambda c: _age(c, today))
        ]
        return {"groups": groups, "empty": not groups}


def _queued(place: int) -> str:
    ahead = "You are next." if place == 1 else f"{place - 1} ahead of you."
    return f"*Others are being answered. {ahead}*"


def build(house: House) -> gr.Blocks:
    """The page and its wires."""
    page = ChatPage(house)
    with gr.Blocks(
        title=look.NAME, fill_height=True, fill_width=True, analytics_enabled=False
    ) as blocks:
        conversation = gr.Textbox(visible=False)
        interaction = gr.Textbox(visible=False)
        rated = gr.Textbox(visible=False)
        top = look.html(elem_id="header")
        with gr.Sidebar(width=270, open=True, elem_id="side"):
            new = gr.Button("New chat", variant="primary", elem_id="new-chat", size="md")
            history = gr.HTML(
                {"groups": [], "empty": False},
                apply_default_css=False,
                html_template=_HISTORY,
                js_on_load=_HISTORY_JS,
                elem_id="hist",
            )
        with gr.Column(elem_id="main"):
            box = gr.Chatbot(
                show_label=False,
                label="Conversation",
                elem_id="chat",
                height="100%",
                container=False,
                buttons=["copy"],
                feedback_options=("Like", "Dislike"),
                placeholder=_EMPTY,
                examples=_EXAMPLES,
                allow_tags=False,
                sanitize_html=True,
                latex_delimiters=[],
                scale=1,
            )
            panel, fields, skip, send = _feedback_panel()
            text = _composer(
                autofocus=True,
                elem_id="composer",
                max_length=house.books.settings.chat.max_message_chars,
            )
            private = _privacy_switch()
            look.html(
                "Enter sends, Shift+Enter adds a line, Esc stops, Ctrl+Shift+O starts a new chat.",
                elem_id="foot",
            )
        blocks.load(page.load, None, [top, history, box], **_QUIET)
        blocks.load(None, None, None, js=_DRAFT_JS)
        history.select(page.open, None, [conversation, history, box, panel, private], **_QUIET)
        new.click(page.fresh, None, [conversation, history, box, panel, text, private], **_QUIET)
        private.input(page.learning, [private, conversation], private, **_QUIET)
        begun = [conversation, interaction, text, box, history, panel]
        running = [
            start.success(
                page.answer, [conversation, interaction], box, concurrency_limit=None, **_QUIET
            )
            for start in (
                text.submit(page.begin, [text, conversation, private], begun, **_QUIET),
                box.example_select(page.example, [conversation, private], begun, **_QUIET),
            )
        ]
        for event in running:
            event.then(page.done, conversation, [text, box], **_QUIET)
        text.stop(page.stopped, conversation, [text, box], cancels=running, **_QUIET)
        liked = box.like(page.thumb, conversation, [panel, rated, *fields], **_QUIET)
        liked.then(None, None, None, js=_KEEP_IN_SIGHT_JS)
        send.click(page.say_more, [rated, *fields], panel, **_QUIET)
        skip.click(lambda: gr.Column(visible=False), None, panel, queue=False, **_QUIET)
    return cast(gr.Blocks, blocks)  # its context manager is untyped


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


def _feedback_panel() -> tuple[gr.Column, list[Any], gr.Button, gr.Button]:
    with gr.Column(visible=False, elem_id="feedback") as panel:
        look.html(
            "<b>What was wrong?</b> <span class='mut'>All optional; your thumb is saved.</span>",
            elem_id="ask",
        )
        reasons = gr.CheckboxGroup(
            list(REASONS), show_label=False, label="Reasons", container=False, elem_id="reasons"
        )
        better = gr.Textbox(
            label="The better answer",
            placeholder="How it should have answered. The next version learns this.",
            lines=2,
            max_lines=6,
            max_length=MAX_CORRECTION,
            elem_id="better",
        )
        comment = gr.Textbox(
            label="Comment", lines=1, max_lines=3, max_length=MAX_COMMENT, elem_id="comment"
        )
        with gr.Row():
            skip = gr.Button("Skip", size="md", elem_id="feedback-skip")
            send = gr.Button("Send", variant="primary", size="md", elem_id="feedback-send")
    return panel, [reasons, comment, better], skip, send


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


def _who(request: gr.Request) -> str:
    name = request.username
    if not name:
        raise _problem("Sign in first.")
    return str(name)


def _number(value: Any) -> int | None:
    """An id as the browser sends it; nonsense is refused, emptiness is None."""
    if value in (None, ""):
        return None
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        number = 0
    if not 0 < number < 2**63:  # what a database can look for
        raise _problem("This conversation is not there any more; please reload the page.")
    return number


def _problem(reason: object) -> gr.Error:
    return gr.Error(str(reason), print_exception=False, duration=8)


def _age(conversation: Conversation, now: datetime) -> str:
    days = (now.date() - conversation.updated_at.date()).days
    return (
        "Today"
        if days <= 0
        else "Yesterday"
        if days == 1
        else "Previous 7 days"
        if days <= 7
        else "Older"
    )
