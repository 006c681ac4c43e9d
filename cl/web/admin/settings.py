"""Settings: the thresholds that hold now, who changed them, and how to change them."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import gradio as gr

from cl.settings import Knob, SettingsError, adjustable
from cl.thresholds import Change, Thresholds, shown
from cl.web import look, markup, rights
from cl.web.admin.dialog import Deed, Offer
from cl.web.admin.tab import Tab

# When a change takes effect, by group.
_HOLDS = {
    "experiment": "Holds for the next test; a running one keeps what it began with, but for who decides.",
    "trigger": "Holds from the loop's next look.",
    "data": "Holds for the next training set.",
    "gate": "Holds for the next version at the gate.",
}
_NAMES = {
    "experiment": "The A/B test",
    "trigger": "When to retrain",
    "data": "What may be learned from",
    "gate": "What a fresh version must pass",
}


class SettingsTab(Tab):
    name = "Settings"

    @property
    def _thresholds(self) -> Thresholds:
        return self._books.thresholds

    def show(self, request: gr.Request) -> str:
        self.who(request)
        changes = self._thresholds.changes()
        return markup.stack(
            *(group(name, knobs, self._thresholds, changes) for name, knobs in adjustable().items())
        )

    def pick(self, event: gr.EventData, request: gr.Request) -> tuple[Any, ...]:
        """Change or Reset was pressed: check the value, then ask."""
        self.who(request)
        act, name = str(getattr(event, "act", "")), str(getattr(event, "name", ""))
        subject = f"{name}={getattr(event, 'value', '')}" if act == "set" else name
        return self._asking.ask(act, subject, request)

    def offers(self) -> dict[str, Offer]:
        return {"set": self._set, "reset": self._reset}

    def _set(self, subject: str) -> Deed:
        name, _, text = subject.partition("=")
        try:
            before, after = self._thresholds.value(name), self._thresholds.check(name, text)
        except SettingsError as problem:
            raise rights.problem(problem) from None
        if before == after:
            raise rights.problem(f"CL_{name.upper()} is {shown(before)} already.")
        return Deed(
            f"Set CL_{name.upper()} from {shown(before)} to {shown(after)}?",
            _HOLDS[_group_of(name)],
            lambda who, why: self._thresholds.change(name, text, actor=who, reason=why),
        )

    def _reset(self, subject: str) -> Deed:
        if subject not in self._thresholds.changes():
            raise rights.problem(f"CL_{subject.upper()} was not changed.")
        try:
            before, after = self._thresholds.value(subject), self._thresholds.given(subject)
        except SettingsError as problem:
            raise rights.problem(problem) from None
        return Deed(
            f"Set CL_{subject.upper()} back from {shown(before)} to {shown(after)}?",
            f"What the environment says holds again. {_HOLDS[_group_of(subject)]}",
            lambda who, why: self._thresholds.reset(subject, actor=who, reason=why),
        )

    def build(self) -> tuple[list[Any], list[Any]]:
        table = look.html(elem_id="settings", acts=True)
        table.select(self.pick, None, self._asking.asked, **look.QUIET)
        return [], [table]


def _group_of(name: str) -> str:
    return next(g for g, knobs in adjustable().items() if any(k.name == name for k in knobs))


# -- markup ----------------------------------------------------------------------------------


def group(
    name: str, knobs: Sequence[Knob], thresholds: Thresholds, changes: Mapping[str, Change]
) -> str:
    rows = "".join(
        _row(knob, thresholds.value(knob.name), thresholds.given(knob.name), changes.get(knob.name))
        for knob in knobs
    )
    return (
        f"<section class='box'>{markup.title(_NAMES[name], _HOLDS[name])}"
        f"<div class='knobs'>{rows}</div></section>"
    )


def _row(knob: Knob, value: Any, given: Any, change: Change | None) -> str:
    name, label = escape(knob.name, quote=True), escape(knob.env)
    if knob.choices:
        options = "".join(
            f"<option{' selected' if c == value else ''}>{escape(c)}</option>" for c in knob.choices
        )
        field = f"<select name='value' aria-label='{label}'>{options}</select>"
    else:
        text = escape(str(value), quote=True)
        field = f"<input name='value' value='{text}' aria-label='{label}' autocomplete='off'>"
    told = ""
    if change:
        who = f"by {change.actor}, {markup.when(change.at)} UTC; without it {shown(given)}"
        reset = markup.button("Reset", "reset", f"Reset {knob.env}", name=knob.name)
        told = f"<span class='small'>{markup.pill('changed', 'warn')} {escape(who)}</span> {reset}"
    return (
        f"<form class='knob' data-act='set' data-name='{name}'>"
        f"<label><b>{label}</b><span class='mut'>{escape(knob.doc)}</span></label>"
        f"<span class='set'>{field}<button type='submit' class='small' aria-label='Change {label}'>"
        f"Change</button></span><span class='told'>{told}</span></form>"
    )
