"""What people say of an answer: a thumb, saved at the click, and more if they like."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from cl.records import Interaction
from cl.usage_logger import MAX_COMMENT, MAX_CORRECTION, REASONS, UsageLogger
from cl.web import look
from cl.web.rights import number, problem, who

_DISLIKED = "<b>What was wrong?</b> <span class='mut'>All optional; your thumb is saved.</span>"
_LIKED = "<b>Anything to add?</b> <span class='mut'>All optional; your thumb is saved.</span>"
_SMALL: dict[str, Any] = {"size": "sm", "scale": 0, "min_width": 130}


class Feedback:
    """The handlers."""

    def __init__(self, logger: UsageLogger) -> None:
        self._logger = logger

    def thumb(self, turn: Interaction, event: gr.LikeData, request: gr.Request) -> tuple[Any, ...]:
        """Save a thumb at the click. A thumb down opens the panel for more, a thumb up offers it."""
        value = {True: 1, False: -1}.get(event.liked, 0) if isinstance(event.liked, bool) else 0
        try:
            said = self._logger.record_feedback(turn.id, who(request), thumb=value)
        except (LookupError, ValueError) as refusal:
            raise problem(refusal) from None
        return (
            gr.Column(visible=value < 0),
            gr.Row(visible=value > 0),
            turn.id,
            _DISLIKED if value < 0 else _LIKED,
            gr.CheckboxGroup(value=list(said.reasons), visible=value < 0),
            said.comment,
            said.correction,
        )

    def say_more(
        self,
        interaction: str,
        reasons: list[str],
        comment: str,
        correction: str,
        request: gr.Request,
    ) -> Any:
        """Save reasons, comment and the better answer."""
        id_ = number(interaction)
        if id_ is None:
            raise problem("Choose a thumb first.")
        try:
            self._logger.record_feedback(
                id_,
                who(request),
                reasons=tuple(reasons or ()),
                comment=comment or "",
                correction=correction or "",
            )
        except (LookupError, ValueError) as refusal:
            raise problem(refusal) from None
        gr.Success("Thank you, it is saved.", duration=4)
        return gr.Column(visible=False)


@dataclass(frozen=True)
class Panel:
    """What is shown under the chat once a thumb was given."""

    away: list[Any]  # what goes out of sight when another chat or message comes
    all: list[Any]  # what a thumb changes


def out_of_sight() -> tuple[Any, Any]:
    """For the outputs of `Panel.away`."""
    return gr.Column(visible=False), gr.Row(visible=False)


def build(handlers: Feedback) -> Panel:
    """The panel, the line that offers it, and their wires."""
    rated = gr.Textbox(visible=False)
    with gr.Row(visible=False, elem_id="thanks") as thanks:
        look.html("Your thumb is saved.", elem_id="thanks-text")
        add = gr.Button("Add a comment", elem_id="feedback-add", **_SMALL)
    with gr.Column(visible=False, elem_id="feedback") as panel:
        heading = look.html(_DISLIKED, elem_id="ask")
        reasons = gr.CheckboxGroup(
            list(REASONS), show_label=False, label="Reasons", container=False, elem_id="reasons"
        )
        better = gr.Textbox(
            label="The better answer",
            placeholder="How it should have answered",
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
    at_once: dict[str, Any] = {"queue": False, **look.QUIET}
    add.click(
        lambda: (gr.Column(visible=True), gr.Row(visible=False)), None, [panel, thanks], **at_once
    )
    skip.click(lambda: gr.Column(visible=False), None, panel, **at_once)
    fields = [reasons, comment, better]
    send.click(handlers.say_more, [rated, *fields], panel, **look.QUIET)
    return Panel([panel, thanks], [panel, thanks, rated, heading, *fields])
