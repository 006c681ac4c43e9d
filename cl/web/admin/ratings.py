"""Ratings, on the Data tab: all that people said, filtered and page by page, to be opened in the review.

What waits for a decision among them can be excluded together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any
from urllib.parse import parse_qs, urlencode

import gradio as gr

from cl.db import ratings
from cl.db.ratings import DECISIONS, VOTES, Rating, Wanted
from cl.records import BASE, IMPORTED, Decision
from cl.reviewing import MOST_AT_ONCE
from cl.usage_logger import REASONS
from cl.web import look, markup, rights
from cl.web.admin.dialog import Deed, Offer
from cl.web.admin.review_cards import decided
from cl.web.admin.tab import SMALL, Tab
from cl.web.markup import pill

CSV = "/admin/ratings.csv"
_ANY = "any"


class Ratings(Tab):
    name = "Ratings"
    filters: list[Any]
    table: Any  # its buttons open a rating

    def show(
        self, vote: Any, decision: Any, reason: Any, version: Any, request: gr.Request
    ) -> tuple[Any, ...]:
        """The newest ratings that are wanted."""
        self.who(request)
        return self._page(_wanted(vote, decision, reason, version), None)

    def older(
        self,
        vote: Any,
        decision: Any,
        reason: Any,
        version: Any,
        below: Any,
        request: gr.Request,
    ) -> tuple[Any, ...]:
        self.who(request)
        return self._page(_wanted(vote, decision, reason, version), rights.place(below) or None)

    def known_versions(self) -> gr.Dropdown:
        """For the filter."""
        names = [v.name for v in self._books.ab_test.versions()]
        return gr.Dropdown(choices=[_ANY, *names, BASE, IMPORTED])

    def _page(self, wanted: Wanted, below: int | None) -> tuple[Any, ...]:
        found = ratings.page(wanted, below)
        examples = self._books.reviews.examples([rating.id for rating in found.ratings])
        decided = self._books.reviews.decided_of(list(examples.values()))
        query = {name: value for name, value in asdict(wanted).items() if value}
        address = f"{CSV}?{urlencode(query)}" if query else CSV
        return (
            rating_list(found.ratings, decided),
            str(found.older or ""),
            gr.Button(interactive=found.older is not None),
            gr.Button(interactive=below is not None),
            markup.link("Download as CSV", address),
        )

    # -- many at once ----------------------------------------------------------------------

    def offers(self) -> dict[str, Offer]:
        return {"exclude-all": self._exclude_all}

    def ask_exclude_all(
        self, vote: Any, decision: Any, reason: Any, version: Any, request: gr.Request
    ) -> tuple[Any, ...]:
        wanted = _wanted(vote, decision, reason, version)
        return self._asking.ask("exclude-all", urlencode(asdict(wanted)), request)

    def _exclude_all(self, subject: str) -> Deed:
        reviews = self._books.reviews
        ids = reviews.undecided(rating.id for rating in ratings.every(parsed(subject)))
        if not ids:
            raise rights.problem("Nothing in this table waits for a decision.")
        many = f"{len(ids):,} examples" if len(ids) > 1 else "1 example"
        return Deed(
            f"Exclude {many}?",
            f"All that wait for a decision with these filters, at most {MOST_AT_ONCE:,} at once. "
            "None of them is learned from. Each can be taken back below.",
            lambda who, why: reviews.exclude_all(ids, actor=who, reason=why),
            typed=str(len(ids)),
        )

    # -- parts -----------------------------------------------------------------------------

    def build(self) -> tuple[list[Any], list[Any]]:
        with gr.Column(elem_classes="box"):
            look.html(markup.title("What people said", "the newest answers first"))
            with gr.Row(elem_classes="fields"):
                filters = [
                    gr.Dropdown(
                        [_ANY, *choices],
                        value=_ANY,
                        label=label,
                        min_width=140,
                        scale=0,
                        elem_id=f"filter-{label.lower()}",
                    )
                    for label, choices in (
                        ("Vote", VOTES),
                        ("Decision", DECISIONS),
                        ("Reason", REASONS),
                        ("Version", ()),
                    )
                ]
            table = look.html(elem_id="said", acts=True)
            below = gr.Textbox(visible=False)
            with gr.Row(elem_classes="actions"):
                latest = gr.Button("Latest", elem_id="said-latest", interactive=False, **SMALL)
                older = gr.Button("Older", elem_id="said-older", interactive=False, **SMALL)
                all_ = gr.Button(
                    "Exclude all", elem_id="exclude-all", elem_classes="danger apart", **SMALL
                )
                download = look.html(elem_id="said-csv")
        page = [table, below, older, latest, download]
        for one in filters:
            one.input(self.show, filters, page, **look.QUIET)
        latest.click(self.show, filters, page, **look.QUIET)
        older.click(self.older, [*filters, below], page, **look.QUIET)
        all_.click(self.ask_exclude_all, filters, self._asking.asked, **look.QUIET)
        self.filters, self.table = filters, table
        return filters, page


def parsed(query: str) -> Wanted:
    """Filters as an address or the dialog carries them; what is unknown asks for nothing."""
    found = {name: values[-1] for name, values in parse_qs(query).items()}
    return _wanted(*(found.get(name, "") for name in ("vote", "decision", "reason", "version")))


def _wanted(vote: Any, decision: Any, reason: Any, version: Any) -> Wanted:
    def known(value: Any, choices: Sequence[str]) -> str:
        return str(value) if value in choices else ""

    name = "" if version in (None, _ANY) else str(version)[:64]
    return Wanted(known(vote, VOTES), known(decision, DECISIONS), known(reason, REASONS), name)


# -- markup ----------------------------------------------------------------------------------


def rating_list(found: Sequence[Rating], made: Mapping[int, Decision]) -> str:
    marks = {1: pill("up", "good"), -1: pill("down", "bad"), 0: None}
    rows = [
        (
            markup.button("Open", "open", f"Open interaction {r.id}", name=r.id),
            r.at,
            r.user,
            marks[r.thumb],
            r.prompt,
            r.answer,
            r.correction,
            ", ".join(r.reasons),
            r.comment,
            r.version,
            None if r.quality is None else round(r.quality, 2),
            decided(made.get(r.id)),
        )
        for r in found
    ]
    headers = (
        "",
        "Answered (UTC)",
        "Who",
        "Vote",
        "Question",
        "Answer",
        "The better answer",
        "Reasons",
        "Comment",
        "Version",
        "Score",
        "Decision",
    )
    return markup.table(headers, rows, "Nothing of this kind has been said.")
