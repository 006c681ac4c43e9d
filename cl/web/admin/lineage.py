"""Lineage: the interactions that taught a version, and the versions that learned an interaction."""

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from cl import lineage
from cl.house import Books
from cl.records import Version
from cl.rules.examples import Example
from cl.web import look, markup, rights
from cl.web.admin.tab import SMALL, Tab
from cl.web.markup import pill

_PAGE = 25


class Lineage(Tab):
    name = "Lineage"

    def taught(self, event: gr.EventData, request: gr.Request) -> str:
        """A page of what taught a version: from the list of versions, or on from another page."""
        self.who(request)
        name = str(getattr(event, "name", ""))
        ids = _lessons(self._books, name)
        place = rights.place(getattr(event, "place", 0))
        place = place if place < len(ids) else 0
        examples = self._books.reviews.examples(ids[place : place + _PAGE])
        return lessons(name, ids, place, examples)

    def learned(self, interaction: Any, request: gr.Request) -> str:
        """And back: the versions that learned from an interaction."""
        self.who(request)
        id_ = rights.place(interaction)
        if not id_:
            raise rights.problem("Enter the number of an interaction.")
        example = self._books.reviews.example(id_)
        if example is None:
            raise rights.problem(f"There is no interaction {id_}.")
        return learned(example, learners(self._books, id_))

    def build(self) -> tuple[list[Any], list[Any]]:
        with gr.Column(elem_classes="box", elem_id="lineage"):
            look.html(markup.title("Lineage"))
            hint = "What a version learned from: press Lessons above. And which versions learned from one interaction:"
            look.html(markup.note(hint))
            with gr.Row(elem_classes="fields"):
                of = gr.Textbox(label="Interaction", max_lines=1, scale=0, elem_id="lineage-of")
                ask = gr.Button("Who learned it?", elem_id="lineage-ask", **SMALL)
            answer = look.html(elem_id="learners")
            self.lessons = look.html(elem_id="lessons-of", acts=True)
        for event in (ask.click, of.submit):
            event(self.learned, of, answer, **look.QUIET)
        self.lessons.select(self.taught, None, self.lessons, **look.QUIET)
        return [], [self.lessons]


def learners(books: Books, interaction: int) -> list[Version]:
    """The versions whose training sets hold this interaction."""
    sets = lineage.sets(books.settings.data_dir)
    return [
        version
        for version in books.ab_test.versions()
        if (folder := sets.get(version.run_id or 0))
        and interaction in lineage.listed_in(folder, "train")
    ]


def _lessons(books: Books, name: str) -> list[int]:
    version = next((v for v in books.ab_test.versions() if v.name == name), None)
    if version is None:
        raise rights.problem(f"There is no version {name}.")
    folder = lineage.sets(books.settings.data_dir).get(version.run_id or 0)
    return sorted(lineage.listed_in(folder, "train")) if folder else []


# -- markup ----------------------------------------------------------------------------------


def lessons(name: str, ids: Sequence[int], place: int, examples: Mapping[int, Example]) -> str:
    """A page of the interactions that a version learned from."""
    if not ids:
        return markup.nothing(f"The training set of {name} is not there any more.")
    shown = ids[place : place + _PAGE]
    rows = [
        (id_, *(_lesson(examples[id_]) if id_ in examples else (None, None, "(erased)", None)))
        for id_ in shown
    ]
    steps = [
        markup.button(text, "taught", f"{text} lessons of {name}", name=name, place=to)
        for text, to in (("Earlier", place - _PAGE), ("Later", place + _PAGE))
        if 0 <= to < len(ids)
    ]
    last = place + len(shown)
    heading = f"{name} learned from {len(ids):,} interactions; these are {place + 1:,} to {last:,}."
    headers = ("Interaction", "Kind", "From", "Question", "Answer that was learned")
    table = markup.table(headers, rows, "")
    return markup.stack(f"<p>{heading}</p>", table, f"<div class='buttons'>{''.join(steps)}</div>")


def _lesson(example: Example) -> tuple[object, ...]:
    kind = pill("correction", "warn") if example.is_correction else pill("thumb up", "good")
    return kind, example.user, example.prompt, example.answer


def learned(example: Example, versions: Sequence[Version]) -> str:
    """Who learned from an interaction."""
    return markup.facts(
        {
            "Learned by": ", ".join(version.name for version in versions) or "no version",
            "From": example.user,
            "Answered by": example.version,
            "Question": markup.shortened(example.prompt),
            "Answer": markup.shortened(example.rejected or example.answer),
            "The better answer": markup.shortened(example.answer) if example.is_correction else "",
        }
    )
