"""The admin page around the house of fakes, with its handlers to be called as Gradio would."""

import inspect
import json
from collections.abc import Callable
from typing import Any

import gradio as gr
import pytest
from gradio.components.plot import PlotData

from cl.house import House
from cl.records import Role
from cl.web.admin import AdminPage
from cl.web.admin.dialog import Dialog
from cl.web.admin.tab import Tab

IDA = gr.Request(username="ida")
REASON = "the numbers are clear"


@pytest.fixture
def page(house: House) -> AdminPage:
    house.books.accounts.add("ida", Role.ADMIN, "system")
    found = AdminPage(house)
    found.dialog.asked = [None] * 7  # so many components, once it is built
    return found


def tab(page: AdminPage, name: str) -> Any:
    return next(tab for tab in page.tabs if tab.name == name)


def event(**data: Any) -> gr.EventData:
    """A button of a list was pressed."""
    return gr.EventData(None, data)


def ask(page: AdminPage, action: str, subject: str = "") -> tuple[str, str]:
    """The question as the page shows it and sends it back, and what has to be typed."""
    panel, asked, of, question, text, reason, typed = page.dialog.ask(action, subject, IDA)
    assert (panel.visible, asked, of, reason) == (True, action, subject, "")
    assert question in text.replace("&#x27;", "'")
    word = typed.label.removeprefix("Type ").removesuffix(" to confirm")
    return question, word if typed.visible else ""


def decide(page: AdminPage, action: str, subject: str = "") -> Any:
    question, typed = ask(page, action, subject)
    return page.dialog.confirm(action, subject, question, f" {REASON} ", typed, IDA)


def handlers(page: AdminPage) -> dict[str, Callable[..., Any]]:
    """Everything the page may be wired to."""
    review = page.data.review
    parts: list[Tab | Dialog] = [*page.tabs, review, review.ratings, page.dialog]
    found: dict[str, Callable[..., Any]] = {"head": page.head}
    for part in parts:
        for name, method in inspect.getmembers(part, inspect.ismethod):
            if not name.startswith("_") and "request" in inspect.signature(method).parameters:
                found[f"{type(part).__name__}.{name}"] = method
    return found


def shown(page: AdminPage) -> dict[str, str]:
    """All that opening each tab shows, as text, by tab."""
    found = {"head": page.head(IDA)}
    for part in (*page.tabs, page.data.review):
        fields = set(inspect.signature(part.show).parameters) - {"request"}
        found[part.name] = "\n".join(texts(part.show(**dict.fromkeys(fields, ""), request=IDA)))
    found["drawings"] = "\n".join(texts(page.overview.draw(IDA)))
    found["ratings"] = "\n".join(texts(page.data.review.ratings.show("", "", "", "", IDA)))
    return found


def texts(outputs: Any) -> list[str]:
    if isinstance(outputs, tuple):
        return [text for output in outputs for text in texts(output)]
    if isinstance(outputs, PlotData):
        return [json.dumps(json.loads(outputs.plot)["data"])]
    return [outputs if isinstance(outputs, str) else str(getattr(outputs, "value", ""))]
