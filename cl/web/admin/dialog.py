"""The dialog that asks before something dangerous is done.

It says what would happen, wants a reason, and for what changes who answers whom the name typed. What
it asks is worked out anew when the answer comes: if it is another question by then, the page was
stale, and nothing is done. So a deed is done once, whoever presses how often.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from cl.ab_test import Refused
from cl.accounts import Accounts
from cl.web import look, rights

LEAST_REASON, MOST_REASON = 3, 300
NOTHING_TO_DO = "There is nothing to do that with at the moment."


@dataclass(frozen=True)
class Deed:
    """Something that must be asked first."""

    question: str  # another one whenever the state is another one
    effect: str
    do: Callable[[str, str], object]  # given who does it and why
    typed: str = ""  # what has to be typed to confirm it


# What an action would do to something, such as a user or a setting. Raises gr.Error for nothing.
Offer = Callable[[str], Deed]


class Dialog:
    """Knows what can be asked for, by action; `done` is called after each deed."""

    asked: list[Any]  # the components that asking changes
    action: Any  # the one that knows what is asked for
    answered: Any  # the event that something was done

    def __init__(self, accounts: Accounts, done: Callable[[], object]) -> None:
        self._accounts = accounts
        self._offers: dict[str, Offer] = {}
        self._done = done

    def offer(self, offers: Mapping[str, Offer]) -> None:
        self._offers |= offers

    # -- handlers --------------------------------------------------------------------------

    def open(self, action: str) -> Callable[..., tuple[Any, ...]]:
        """The handler behind an action's button."""

        def handler(request: gr.Request) -> tuple[Any, ...]:
            return self.ask(action, "", request)

        return handler

    def ask(self, action: str, subject: str, request: gr.Request) -> tuple[Any, ...]:
        """Show the question. For the outputs `asked`."""
        rights.admin(self._accounts, request)
        deed = self._deed(action, subject)
        text = (
            f"<h2 id='dialog-title' class='title'>{escape(deed.question)}</h2>"
            f"<p>{escape(deed.effect)}</p>"
            "<p class='mut'>It is written to the audit trail with your name and reason.</p>"
        )
        typed = gr.Textbox(
            value="", visible=bool(deed.typed), label=f"Type {deed.typed} to confirm"
        )
        return gr.Column(visible=True), action, subject, deed.question, text, "", typed

    def confirm(
        self,
        action: str,
        subject: str,
        question: str,
        reason: str,
        typed: str,
        request: gr.Request,
    ) -> Any:
        """Do it, if the same question would be asked now: the state is what the admin saw."""
        user = rights.admin(self._accounts, request)
        reason = (reason or "").strip()
        if not LEAST_REASON <= len(reason) <= MOST_REASON:
            raise rights.problem(
                f"Please write a reason of {LEAST_REASON} to {MOST_REASON} characters."
            )
        deed = self._deed(action, str(subject or ""))
        if deed.question != question:
            raise rights.problem(f"The state has changed. Now the question is: {deed.question}")
        if deed.typed and (typed or "").strip() != deed.typed:
            raise rights.problem(f"Please type {deed.typed} to confirm.")
        try:
            deed.do(user.name, reason)
        except (Refused, LookupError, ValueError) as problem:
            raise rights.problem(problem) from None
        self._done()
        gr.Success("Done.", duration=3)
        return gr.Column(visible=False)

    def _deed(self, action: str, subject: str) -> Deed:
        offer = self._offers.get(action)
        if offer is None:
            raise rights.problem(NOTHING_TO_DO)
        return offer(subject)

    def nothing(self) -> tuple[Any, ...]:
        """Leave the dialog as it is. For the outputs `asked`."""
        return tuple(gr.skip() for _ in self.asked)

    # -- parts -----------------------------------------------------------------------------

    def build(self) -> None:
        """The dialog, out of sight. app.js moves the focus into it and back."""
        with gr.Column(visible=False, elem_id="dialog") as panel, gr.Column(elem_id="dialog-card"):
            action, subject, question = (gr.Textbox(visible=False) for _ in range(3))
            text = look.html(elem_id="dialog-text")
            reason = gr.Textbox(
                label="Reason", max_lines=1, max_length=MOST_REASON, elem_id="dialog-reason"
            )
            typed = gr.Textbox(label="Name", max_lines=1, visible=False, elem_id="dialog-typed")
            with gr.Row(elem_classes="actions"):
                small: dict[str, Any] = {"size": "md", "scale": 0, "min_width": 120}
                no = gr.Button("Cancel", elem_id="dialog-no", **small)
                yes = gr.Button("Confirm", elem_id="dialog-yes", elem_classes="danger", **small)
        no.click(lambda: gr.Column(visible=False), None, panel, queue=False, **look.QUIET)
        self.action = action
        self.asked = [panel, action, subject, question, text, reason, typed]
        self.answered = gr.on(
            [yes.click, reason.submit, typed.submit],
            self.confirm,
            [action, subject, question, reason, typed],
            panel,
            trigger_mode="once",
            **look.QUIET,
        )
