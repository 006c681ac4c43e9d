"""What the tabs have in common."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gradio as gr

from cl.house import House
from cl.records import User
from cl.web import look, markup, rights
from cl.web.admin.dialog import Dialog, Offer


class Tab:
    """A tab of the admin page: its parts are built once, and shown again whenever it is opened or
    something was done. Each handler asks who is there before it does anything.
    """

    name: str
    show: Callable[..., Any]  # given the first, it fills the second of what `build` returns
    # What else is shown when it is opened: (name, handler, what it is given, what it fills).
    also: Sequence[tuple[str, Callable[..., Any], Any, Any]] = ()

    def __init__(self, house: House, asking: Dialog) -> None:
        self._house = house
        self._books = house.books
        self._asking = asking
        asking.offer(self.offers())

    def offers(self) -> Mapping[str, Offer]:
        """What this tab has that must be asked first, by action."""
        return {}

    def build(self) -> tuple[Sequence[Any], Sequence[Any]]:
        """Make the components. Returns what `show` is given, and what it fills."""
        raise NotImplementedError

    def who(self, request: gr.Request) -> User:
        """The admin who asks; anybody else is refused."""
        return rights.admin(self._books.accounts, request)


def plot(title: str, elem_id: str, hint: str = "") -> gr.Plot:
    """A drawing in a box of its own."""
    with gr.Column(elem_classes="box", min_width=320):
        look.html(markup.title(title, hint))
        return gr.Plot(show_label=False, container=False, elem_id=elem_id)


def box(title: str, elem_id: str, *, acts: bool = False, hint: str = "") -> gr.HTML:
    """Markup of ours in a box with a heading."""
    with gr.Column(elem_classes="box", min_width=320):
        look.html(markup.title(title, hint))
        return look.html(elem_id=elem_id, acts=acts)


SMALL: dict[str, Any] = {"size": "md", "scale": 0, "min_width": 130}
