"""The list of a person's chats: found by words, opened, called by another name, deleted."""

import re
from datetime import datetime
from html import escape
from itertools import groupby
from typing import Any

import gradio as gr

from cl.house import House
from cl.records import Conversation
from cl.usage_logger import MAX_TITLE
from cl.web.rights import number, problem, who

_DELETED = "It leaves your list and is not learned from. The log keeps it until its time is over."
# Values go in as they are: `_safe` has made markup of them, which the page would not do well. It
# takes what it has filled in for a JavaScript template, and runs what stands in ${...} there.
_LIST = f"""
<nav class="hist" aria-label="Conversations">
{{{{#each value.groups}}}}<h2>{{{{this.name}}}}</h2><ul>
{{{{#each this.items}}}}<li data-id="{{{{this.id}}}}"{{{{#if this.open}}}} class="open"{{{{/if}}}}>
  <button type="button" class="name" data-act="open" title="{{{{{{this.title}}}}}}"
    {{{{#if this.open}}}}aria-current="true"{{{{/if}}}}>{{{{{{this.title}}}}}}</button>
  <button type="button" class="tool" data-act="edit" aria-label="Rename {{{{{{this.title}}}}}}" title="Rename">&#9998;</button>
  <button type="button" class="tool" data-act="ask" aria-label="Delete {{{{{{this.title}}}}}}" title="Delete">&#10005;</button>
  <form hidden><input type="text" maxlength="{MAX_TITLE}" aria-label="Name of this chat" value="{{{{{{this.title}}}}}}"></form>
  <div class="sure" hidden role="group" aria-label="Delete this chat?" title="{_DELETED}">Delete?
    <button type="button" class="yes" data-act="delete">Yes</button>
    <button type="button" data-act="keep">No</button></div>
</li>{{{{/each}}}}</ul>{{{{/each}}}}
{{{{#if value.nothing}}}}<p>{{{{value.nothing}}}}</p>{{{{/if}}}}
</nav>"""
_OLD = "Older"


class Sidebar:
    """The list's handlers."""

    def __init__(self, house: House) -> None:
        self._logger = house.books.logger
        self._now = house.books.clock

    def listed(
        self, search: str, conversation: int | str | None, request: gr.Request
    ) -> dict[str, Any]:
        """The chats that hold these words, or all; the open one is marked."""
        words, open_ = (search or "").strip()[:MAX_TITLE], number(conversation)
        found = self._logger.conversations(who(request), words)
        groups = [
            {
                "name": age,
                "items": [
                    {"id": c.id, "title": _safe(c.title), "open": c.id == open_} for c in items
                ],
            }
            for age, items in groupby(found, key=lambda c: _age(c, self._now()))
        ]
        nothing = "No chat holds these words." if words else "No conversations yet."
        return {"groups": groups, "nothing": "" if groups else nothing}

    def change(self, event: gr.EventData, request: gr.Request) -> int | None:
        """Do what was asked for in the list. Returns the chat that was deleted, if any."""
        name, id_ = who(request), number(getattr(event, "id", None))
        act = getattr(event, "act", None)
        if id_ is None:
            raise problem("This conversation is not there any more; please reload the page.")
        try:
            if act == "rename":
                self._logger.rename(name, id_, str(getattr(event, "title", "")))
            elif act == "delete":
                self._logger.hide(name, id_)
                return id_
        except (LookupError, ValueError) as refusal:
            raise problem(refusal) from None
        return None


def build() -> tuple[gr.Button, gr.Textbox, gr.HTML]:
    """The list and what stands above it: a new chat, and the words to look for."""
    with gr.Sidebar(width=270, open=True, elem_id="side"):
        new = gr.Button("New chat", variant="primary", elem_id="new-chat", size="md")
        search = gr.Textbox(
            show_label=False,
            label="Search chats",
            placeholder="Search chats",
            container=False,
            max_lines=1,
            max_length=MAX_TITLE,
            elem_id="search",
        )
        history = gr.HTML(
            {"groups": [], "nothing": ""},
            apply_default_css=False,
            html_template=_LIST,
            js_on_load="cl.history(element, trigger)",
            elem_id="hist",
        )
    return new, search, history


def _safe(text: str) -> str:
    """As markup that is also an ordinary part of a JavaScript template."""
    return re.sub(r"[$`{}\\]", lambda found: f"&#{ord(found[0])};", escape(text))


def _age(conversation: Conversation, now: datetime) -> str:
    days = (now.date() - conversation.updated_at.date()).days
    names = ((0, "Today"), (1, "Yesterday"), (7, "Previous 7 days"))
    return next((name for most, name in names if days <= most), _OLD)
