"""The review on the admin page's Data tab: one example at a time, and what was decided about it.

The page sends back what it showed (interaction, content key): a decision about something that has
changed meanwhile, in another tab or by another admin, is refused, and what is there now is shown.
"""

from typing import Any

import gradio as gr

from cl.house import Books
from cl.records import Decision
from cl.reviewing import MAX_REASON, REACH, Changed, Reviews
from cl.rules.review_order import ReviewItem
from cl.usage_logger import MAX_CORRECTION
from cl.web import look, panels, rights

_SMALL: dict[str, Any] = {"size": "md", "scale": 0, "min_width": 110}
_UNDO_JS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-key]');
  if (button) trigger('select', {key: button.dataset.key});
});"""
# A long example leaves the page scrolled down; the next one starts at its top.
_TO_TOP_JS = """() => setTimeout(() => { const top = document.querySelector('#review');
  if (top?.getBoundingClientRect().top < 0) top.scrollIntoView(); }, 200)"""


class ReviewTab:
    """The tab's handlers. `place` is where in the queue the page is: Later goes on without deciding."""

    def __init__(self, books: Books) -> None:
        self._accounts = books.accounts
        self._reviews: Reviews = books.reviews

    def show(self, place: Any, request: gr.Request) -> tuple[Any, ...]:
        rights.admin(self._accounts, request)
        return self._view(_number(place))

    def later(self, place: Any, request: gr.Request) -> tuple[Any, ...]:
        rights.admin(self._accounts, request)
        return self._view(_number(place) + 1)

    def keep(
        self, interaction: Any, key: Any, place: Any, reason: Any, request: gr.Request
    ) -> tuple[Any, ...]:
        return self._decide(Decision.KEEP, interaction, key, place, request, reason=reason)

    def exclude(
        self, interaction: Any, key: Any, place: Any, reason: Any, request: gr.Request
    ) -> tuple[Any, ...]:
        return self._decide(Decision.EXCLUDE, interaction, key, place, request, reason=reason)

    def edit(self, interaction: Any, request: gr.Request) -> tuple[Any, ...]:
        """Open the fields, with the texts as they are."""
        rights.admin(self._accounts, request)
        example = self._reviews.example(_number(interaction))
        if example is None:
            raise rights.problem("This example is not there any more; please reload the page.")
        return *_editing(True), example.prompt, example.answer

    def back(self, request: gr.Request) -> tuple[Any, ...]:
        rights.admin(self._accounts, request)
        return _editing(False)

    def save(
        self,
        interaction: Any,
        key: Any,
        place: Any,
        reason: Any,
        prompt: Any,
        answer: Any,
        request: gr.Request,
    ) -> tuple[Any, ...]:
        """Learn this instead."""
        texts = {"reason": reason, "prompt": prompt, "answer": answer}
        return self._decide(Decision.EDIT, interaction, key, place, request, **texts)

    def undo(self, place: Any, event: gr.EventData, request: gr.Request) -> tuple[Any, ...]:
        """Take a decision back: the example waits again."""
        user = rights.admin(self._accounts, request)
        try:
            self._reviews.withdraw(str(getattr(event, "key", "")), user.name)
        except LookupError:
            gr.Warning("The state has changed: this was taken back already.")
        return self._view(_number(place))

    # -- inside ----------------------------------------------------------------------------

    def _decide(
        self,
        decision: Decision,
        interaction: Any,
        key: Any,
        place: Any,
        request: gr.Request,
        **texts: Any,
    ) -> tuple[Any, ...]:
        user = rights.admin(self._accounts, request)
        given = {name: str(text or "") for name, text in texts.items()}
        try:
            self._reviews.decide(
                _number(interaction),
                decision,
                actor=user.name,
                expected_key=str(key or ""),
                only_first=True,
                **given,
            )
        except Changed as problem:
            gr.Warning(str(problem))
        except (LookupError, ValueError) as problem:
            raise rights.problem(problem) from None
        return self._view(_number(place))

    def _view(self, place: int) -> tuple[Any, ...]:
        """Everything the tab shows; past the end of the queue it begins again."""
        queue = self._reviews.queue(REACH)
        place = place if place < len(queue) else 0
        item: ReviewItem | None = queue[place] if queue else None
        return (
            panels.review_counts(len(queue), self._reviews.counts(), REACH),
            panels.review_card(item, place + 1, len(queue)),
            item.example.interaction_id if item else None,
            item.example.key if item else None,
            place,
            "",
            gr.Column(visible=item is not None),
            *_editing(False),
            panels.decisions(self._reviews.decided()),
        )


def build(books: Books, tab: gr.Tab) -> None:
    """The tab's parts and wires; opening the tab shows them."""
    page = ReviewTab(books)
    interaction, key, place = (gr.Textbox(visible=False) for _ in range(3))
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
                save = gr.Button("Save edit", variant="primary", elem_id="review-save", **_SMALL)
                back = gr.Button("Back", elem_id="review-back", **_SMALL)
    with gr.Column(elem_classes="box"):
        look.html("<div class='title'>What was decided</div>")
        decided = gr.HTML(
            "", apply_default_css=False, padding=False, js_on_load=_UNDO_JS, elem_id="decided"
        )
    open_close = [fields, deciding, editing]
    view = [heading, card, interaction, key, place, reason, actions, *open_close, decided]
    chosen = [interaction, key, place, reason]
    tab.select(page.show, place, view, **look.QUIET)
    decided.select(page.undo, place, view, **look.QUIET)
    edit.click(page.edit, interaction, [*open_close, prompt, answer], **look.QUIET)
    back.click(page.back, None, open_close, **look.QUIET)
    for event in (
        keep.click(page.keep, chosen, view, **look.QUIET),
        exclude.click(page.exclude, chosen, view, **look.QUIET),
        save.click(page.save, [*chosen, prompt, answer], view, **look.QUIET),
        later.click(page.later, place, view, **look.QUIET),
    ):
        event.then(None, None, None, js=_TO_TOP_JS)


def _buttons() -> tuple[gr.Row, list[gr.Button]]:
    with gr.Row(elem_classes="actions") as row:
        return row, [
            gr.Button("Keep", variant="primary", elem_id="review-keep", **_SMALL),
            gr.Button("Exclude", elem_id="review-exclude", elem_classes="danger", **_SMALL),
            gr.Button("Edit", elem_id="review-change", **_SMALL),
            gr.Button("Later", elem_id="review-later", **_SMALL),
        ]


def _editing(is_open: bool) -> tuple[gr.Column, gr.Row, gr.Row]:
    """The fields, the buttons to decide, the buttons to save or leave."""
    return gr.Column(visible=is_open), gr.Row(visible=not is_open), gr.Row(visible=is_open)


def _number(value: Any) -> int:
    """A number as the browser sends it; nonsense is 0, which is no interaction and the first place."""
    try:
        number = int(value or 0)
    except (TypeError, ValueError, OverflowError):
        return 0
    return number if 0 < number < 2**63 else 0
