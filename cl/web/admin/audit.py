"""Audit: who did what, when and why; and what the loop did by itself."""

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from cl.db import reports
from cl.web import look, markup, rights
from cl.web.admin.tab import SMALL, Tab, box

_SIZE = 50
CSV = "/admin/audit.csv"


class Audit(Tab):
    name = "Audit"

    def show(self, search: Any, request: gr.Request) -> tuple[Any, ...]:
        self.who(request)
        return *self._page(search, ""), iterations(reports.iterations())

    def find(self, search: Any, request: gr.Request) -> tuple[Any, ...]:
        self.who(request)
        return self._page(search, "")

    def older(self, search: Any, below: Any, request: gr.Request) -> tuple[Any, ...]:
        self.who(request)
        return self._page(search, below)

    def _page(self, search: Any, below: Any) -> tuple[Any, ...]:
        words = str(search or "").strip()[:80]
        found = reports.audit_trail(words, rights.place(below) or None, _SIZE + 1)
        is_more = len(found) > _SIZE
        shown = found[:_SIZE]
        last = str(shown[-1]["id"]) if is_more else ""
        return (
            audit(shown),
            last,
            gr.Button(interactive=is_more),
            gr.Button(interactive=bool(below)),
        )

    def build(self) -> tuple[list[Any], list[Any]]:
        below = gr.Textbox(visible=False)
        with gr.Column(elem_classes="box"):
            look.html(markup.title("Who did what", "only ever added to"))
            with gr.Row(elem_classes="fields"):
                search = gr.Textbox(
                    label="Search the audit trail",
                    show_label=False,
                    placeholder="Search",
                    max_lines=1,
                    container=False,
                    min_width=220,
                    scale=0,
                    elem_id="audit-search",
                )
                latest = gr.Button("Latest", elem_id="audit-latest", interactive=False, **SMALL)
                older = gr.Button("Older", elem_id="audit-older", interactive=False, **SMALL)
                look.html(markup.link("Download as CSV", CSV), elem_id="audit-csv")
            table = look.html(elem_id="audit")
        loop = box("What the loop did", "iterations")
        page = [table, below, older, latest]
        search.input(self.find, search, page, trigger_mode="always_last", **look.QUIET)
        latest.click(self.find, search, page, **look.QUIET)
        older.click(self.older, [search, below], page, **look.QUIET)
        return [search], [*page, loop]


# -- markup ----------------------------------------------------------------------------------


def audit(found: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (r["at"], r["actor"], r["action"], r["subject"], r["before"], r["after"], r["reason"])
        for r in found
    ]
    headers = ("Time (UTC)", "Who", "Did", "To", "Before", "After", "Why")
    return markup.table(headers, rows, "Nothing of this kind has been done.")


def iterations(found: Sequence[Mapping[str, Any]]) -> str:
    rows = [(r["at"], r["step"].replace("_", " "), r["repeats"], r["reason"]) for r in found]
    return markup.table(
        ("Time (UTC)", "Step", "Times", "Why"), rows, "The loop has not looked yet."
    )
