"""The admin page: what the loop does, why, and the few things a person may decide.

Hidden or disabled buttons protect nothing, and this app being mounted for admins only is one lock;
the other is that every handler asks the database for the role before it does anything.
"""

from typing import Any, cast

import gradio as gr

from cl.house import House
from cl.web import look
from cl.web.admin.audit import Audit
from cl.web.admin.data import Data
from cl.web.admin.dialog import Dialog
from cl.web.admin.overview import Overview
from cl.web.admin.service import Service
from cl.web.admin.settings import SettingsTab
from cl.web.admin.tab import Tab
from cl.web.admin.training import Training
from cl.web.admin.users import Users
from cl.web.admin.versions import Versions


class AdminPage:
    """The page: its tabs, and the dialog they ask with."""

    def __init__(self, house: House) -> None:
        self._house = house
        self.dialog = Dialog(house.books.accounts, house.worker.wake)
        parts = (house, self.dialog)
        self.overview, self.training, self.data = Overview(*parts), Training(*parts), Data(*parts)
        self.tabs: list[Tab] = [
            self.overview,
            self.data,
            self.training,
            Versions(*parts),
            Service(*parts),
            SettingsTab(*parts),
            Users(*parts),
            Audit(*parts),
        ]

    def head(self, request: gr.Request) -> str:
        user = self.overview.who(request)
        return look.header(self._house.books.settings, user, user.name, "admin")


def build(house: House) -> gr.Blocks:
    """The page and its wires."""
    page = AdminPage(house)
    asking, overview, training = page.dialog, page.overview, page.training
    with gr.Blocks(
        title=f"Admin - {look.NAME}", fill_width=True, analytics_enabled=False
    ) as blocks:
        top = look.html(elem_id="header")
        refresh = gr.Button("Refresh", elem_id="refresh")
        with gr.Column(elem_id="admin"):
            asking.build()
            with gr.Tabs(elem_id="tabs"):
                wires = [_build(tab) for tab in page.tabs]
        shown: dict[str, Any] = {tab.name: wire for tab, wire in zip(page.tabs, wires, strict=True)}
        blocks.load(page.head, None, top, **look.QUIET)
        blocks.load(overview.show, *shown["Overview"], **look.QUIET)
        # While a training is at work, and when somebody comes back to the page.
        for begins in (overview.timer.tick, refresh.click):
            begins(overview.show, *shown["Overview"], **look.QUIET)
            begins(training.show, *shown["Training"], **look.QUIET)
        for begins in (blocks.load, refresh.click, asking.answered.success):
            begins(overview.draw, None, overview.drawn, **look.QUIET)
        for tab in page.tabs:
            if tab is not page.data:  # which follows by itself
                asking.answered.success(tab.show, *shown[tab.name], **look.QUIET)
        for action, button in (*overview.buttons.items(), ("cancel", training.cancel)):
            button.click(
                asking.open(action), None, asking.asked, api_name=f"ask_{action}", **look.QUIET
            )
    return cast(gr.Blocks, blocks)  # its context manager is untyped


def _build(tab: Tab) -> tuple[Any, Any]:
    """A tab with its parts; opening it shows them. Returns what its `show` takes and fills."""
    with gr.Tab(tab.name, id=tab.name.lower()) as opened:
        inputs, outputs = tab.build()
    for name, handler, given, filled in ((tab.name, tab.show, inputs, outputs), *tab.also):
        opened.select(handler, given, filled, api_name=f"open_{name.lower()}", **look.QUIET)
    return inputs, outputs
