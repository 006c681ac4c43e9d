"""Review, on the Data tab: the examples before anything is learned from them.

A card shows one example, by itself the next of the queue, or one that was opened from the ratings. The
page sends back what it showed (interaction, content key): a decision about something that has changed
meanwhile, in another tab or by another admin, is refused, and what is there now is shown.
"""

from typing import Any

import gradio as gr

from cl.records import Decision
from cl.reviewing import MAX_REASON, REACH, Changed
from cl.rules.review_order import ReviewItem
from cl.usage_logger import MAX_CORRECTION
from cl.web import look, markup, rights
from cl.web.admin.lineage import learners
from cl.web.admin.ratings import Ratings
from cl.web.admin.review_cards import counts, decisions, review_card
from cl.web.admin.tab import SMALL, Tab

_CHOSEN = "chosen by you"


class Review(Tab):
    """`place` is where in the queue the page is: Later goes on without deciding. `was` is what had
    been decided of the example that is shown."""

    name = "Review"

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.ratings = Ratings(*parts)

    # -- the card --------------------------------------------------------------------------

    def show(self, place: Any, request: gr.Request) -> tuple[Any, ...]:
        self.who(request)
        return self._view(rights.place(place))

    def later(self, place: Any, request: gr.Request) -> tuple[Any, ...]:
        self.who(request)
        return self._view(rights.place(place) + 1)

    def open(self, place: Any, event: gr.EventData, request: gr.Request) -> tuple[Any, ...]:
        """Any rated answer, from the table."""
        self.who(request)
        example = self._books.reviews.example(rights.place(getattr(event, "name", 0)))
        if example is None:
            raise rights.problem("This example is not there any more; please reload the page.")
        return self._view(rights.place(place), ReviewItem(example, _CHOSEN, 0.0))

    def keep(
        self, interaction: Any, key: Any, was: Any, place: Any, reason: Any, request: gr.Request
    ) -> tuple[Any, ...]:
        return self._decide(Decision.KEEP, interaction, key, was, place, request, reason=reason)

    def exclude(
        self, interaction: Any, key: Any, was: Any, place: Any, reason: Any, request: gr.Request
    ) -> tuple[Any, ...]:
        return self._decide(Decision.EXCLUDE, interaction, key, was, place, request, reason=reason)

    def edit(self, interaction: Any, request: gr.Request) -> tuple[Any, ...]:
        """Open the fields, with the texts as they are."""
        self.who(request)
        example = self._books.reviews.example(rights.place(interaction))
        if example is None:
            raise rights.problem("This example is not there any more; please reload the page.")
        return *_editing(True), example.prompt, example.answer

    def back(self, request: gr.Request) -> tuple[Any, ...]:
        self.who(request)
        return _editing(False)

    def save(
        self,
        interaction: Any,
        key: Any,
        was: Any,
        place: Any,
        reason: Any,
        prompt: Any,
        answer: Any,
        request: gr.Request,
    ) -> tuple[Any, ...]:
        """Learn this instead."""
        texts = {"reason": reason, "prompt": prompt, "answer": answer}
        return self._decide(Decision.EDIT, interaction, key, was, place, request, **texts)

    def undo(self, place: Any, event: gr.EventData, request: gr.Request) -> tuple[Any, ...]:
        """Take a decision back: the example waits again."""
        user = self.who(request)
        try:
            self._books.reviews.withdraw(str(getattr(event, "name", "")), user.name)
        except LookupError:
            gr.Warning("The state has changed: this was taken back already.")
        return self._view(rights.place(place))

    def _decide(
        self,
        decision: Decision,
        interaction: Any,
        key: Any,
        was: Any,
        place: Any,
        request: gr.Request,
        **texts: Any,
    ) -> tuple[Any, ...]:
        user = self.who(request)
        given = {name: str(text or "") for name, text in texts.items()}
        try:
            self._books.reviews.decide(
                rights.place(interaction),
                decision,
                actor=user.name,
                expected_key=str(key or ""),
                only_first=not was,
                **given,
            )
        except Changed as problem:
            gr.Warning(str(problem))
        except (LookupError, ValueError) as problem:
            raise rights.problem(problem) from None
        return self._view(rights.place(place))

    def _view(self, place: int, item: ReviewItem | None = None) -> tuple[Any, ...]:
        """Everything about the card; by itself the queue's, which begins again past its end."""
        reviews = self._books.reviews
        queue = reviews.queue(REACH)
        place = place if place < len(queue) else 0
        where = ""
        if item is None and queue:
            item, where = queue[place], f"{place + 1:,} of {len(queue):,}"
        decided = reviews.decided_of([item.example]) if item else {}
        was = next(iter(decided.values()), None)
        learners = self._learners(item.example.interaction_id) if item else []
        facts = [where, f"taught {', '.join(learners)}" if learners else ""]
        return (
            counts(len(queue), reviews.counts(), REACH),
            review_card(item, facts, was),
            item.example.interaction_id if item else None,
            item.example.key if item else None,
            was.value if was else "",
            place,
            "",
            gr.Column(visible=item is not None),
            *_editing(False),
            decisions(reviews.decided()),
        )

    def _learners(self, interaction: int) -> list[str]:
        return [version.name for version in learners(self._books, interaction)]

    def after(self, action: Any, place: Any, request: gr.Request) -> Any:
        """Something was done in the dialog: what this tab shows changes only by its own."""
        self.who(request)
        return self._view(rights.place(place)) if action == "exclude-all" else gr.skip()

    # -- parts -----------------------------------------------------------------------------

    def build(self) -> tuple[list[Any], list[Any]]:
        interaction, key, was, place = (gr.Textbox(visible=False) for _ in range(4))
        with gr.Column(elem_classes="box", elem_id="review"):
            heading = look.html(elem_id="review-heading")
            card = look.html(elem_id="review-card")
            with gr.Column(visible=False, elem_id="review-actions") as actions:
                with gr.Column(visible=False, elem_id="review-edit") as fields:
                    texts: dict[str, Any] = {"max_lines": 10, "max_length": MAX_CORRECTION}
                    prompt = gr.Textbox(label="Question", lines=2, elem_id="review-prompt", **texts)
                    answer = gr.Textbox(label="Answer", lines=4, elem_id="review-answer", **texts)
                reason = gr.Textbox(
                    label="Reason",
                    show_label=False,
                    container=False,
                    placeholder="Reason (optional)",
                    max_length=MAX_REASON,
                    max_lines=1,
                    elem_id="review-reason",
                )
                deciding, (keep, exclude, edit, later) = _buttons()
                with gr.Row(visible=False, elem_classes="actions") as editing:
                    save = gr.Button("Save edit", variant="primary", elem_id="review-save", **SMALL)
                    back = gr.Button("Back", elem_id="review-back", **SMALL)
        ratings = self.ratings.build()
        with gr.Column(elem_classes="box"):
            look.html(markup.title("What was decided"))
            decided = look.html(elem_id="decided", acts=True)
        open_close = [fields, deciding, editing]
        view = [heading, card, interaction, key, was, place, reason, actions, *open_close, decided]
        chosen = [interaction, key, was, place, reason]
        edit.click(self.edit, interaction, [*open_close, prompt, answer], **look.QUIET)
        back.click(self.back, None, open_close, **look.QUIET)
        self.ratings.table.select(self.open, place, view, **look.QUIET).success(
            None, None, None, js="() => cl.toTop('#review')"
        )
        for event in (
            decided.select(self.undo, place, view, **look.QUIET),
            keep.click(self.keep, chosen, view, **look.QUIET),
            exclude.click(self.exclude, chosen, view, **look.QUIET),
            save.click(self.save, [*chosen, prompt, answer], view, **look.QUIET),
            self._asking.answered.success(
                self.after, [self._asking.action, place], view, **look.QUIET
            ),
        ):
            event.success(self.ratings.show, *ratings, **look.QUIET)
            event.then(None, None, None, js="() => cl.toTop('#review')")
        later.click(self.later, place, view, **look.QUIET)
        self.also = [("ratings", self.ratings.show, *ratings)]
        return [place], view


def _buttons() -> tuple[gr.Row, list[gr.Button]]:
    with gr.Row(elem_classes="actions") as row:
        return row, [
            gr.Button("Keep", variant="primary", elem_id="review-keep", **SMALL),
            gr.Button("Exclude", elem_id="review-exclude", elem_classes="danger", **SMALL),
            gr.Button("Edit", elem_id="review-change", **SMALL),
            gr.Button("Later", elem_id="review-later", **SMALL),
        ]


def _editing(is_open: bool) -> tuple[gr.Column, gr.Row, gr.Row]:
    """The fields, the buttons to decide, the buttons to save or leave."""
    return gr.Column(visible=is_open), gr.Row(visible=not is_open), gr.Row(visible=is_open)
