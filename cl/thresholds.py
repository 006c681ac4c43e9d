"""Thresholds: the knobs an admin may turn while the app runs.

What was changed is stored and holds over what the environment says, in every process that works on
this data, from the next look on. The parts ask for their limits each time they need them; a running
test keeps those it began with. Writes setting.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from peewee import Database

from cl.db import audit
from cl.db.tables import Setting as Row
from cl.settings import (
    ADJUSTABLE,
    DataLimits,
    ExperimentLimits,
    GateLimits,
    Settings,
    SettingsError,
    TriggerLimits,
    adjusted,
)


@dataclass(frozen=True)
class Change:
    """A threshold that was changed: what it is now, by whom, and since when."""

    value: str
    actor: str
    at: datetime


class Thresholds:
    def __init__(
        self, database: Database, settings: Settings, clock: Callable[[], datetime]
    ) -> None:
        """`settings` are those of the environment."""
        self._db = database
        self._given = settings
        self._now = clock

    # -- reading ---------------------------------------------------------------------------

    def settings(self) -> Settings:
        """The settings as they hold now."""
        return self._adjusted()[0]

    def problems(self) -> list[str]:
        """Stored values that this release cannot work with, and therefore does not use."""
        return self._adjusted()[1]

    def trigger(self) -> TriggerLimits:
        return self.settings().trigger

    def data(self) -> DataLimits:
        return self.settings().data

    def gate(self) -> GateLimits:
        return self.settings().gate

    def experiment(self) -> ExperimentLimits:
        return self.settings().experiment

    def changes(self) -> dict[str, Change]:
        """What was changed, by name."""
        return {row.name: Change(row.value, row.actor, row.at) for row in Row.select()}

    def value(self, name: str) -> Any:
        """What holds now. Raises SettingsError for a name that is none."""
        return _value(self.settings(), name)

    def given(self, name: str) -> Any:
        """What holds without a change."""
        return _value(self._given, name)

    # -- changing --------------------------------------------------------------------------

    def check(self, name: str, text: str) -> Any:
        """The value that this text would be. Raises SettingsError when it does not fit."""
        stored = {n: c.value for n, c in self.changes().items()}
        return _value(adjusted(self._given, {**self._usable(stored), name: text}), name)

    def change(self, name: str, text: str, *, actor: str, reason: str) -> None:
        """Set a threshold; it holds from the next look on.

        Raises SettingsError for a value that does not fit, alone or beside the others, and for one
        that holds already.
        """
        with self._db.atomic():
            before, after = self.value(name), self.check(name, text)
            if before == after:
                raise SettingsError(f"CL_{name.upper()} is {shown(before)} already.")
            values = {"value": text.strip(), "actor": actor, "at": self._now()}
            Row.insert(name=name, **values).on_conflict(
                conflict_target=[Row.name], update=values
            ).execute()
            self._note("change setting", name, before, after, actor, reason)

    def reset(self, name: str, *, actor: str, reason: str) -> None:
        """Have the environment's value hold again. Raises SettingsError where nothing was changed."""
        with self._db.atomic():
            before = self.value(name)
            stored = {n: c.value for n, c in self.changes().items()}
            if name not in stored:
                raise SettingsError(f"CL_{name.upper()} was not changed.")
            others = {n: text for n, text in self._usable(stored).items() if n != name}
            adjusted(self._given, others)  # they may not fit beside what was before
            Row.delete().where(Row.name == name).execute()
            self._note("reset setting", name, before, self.value(name), actor, reason)

    # -- inside ----------------------------------------------------------------------------

    def _note(
        self, action: str, name: str, before: Any, after: Any, actor: str, reason: str
    ) -> None:
        change = (shown(before), shown(after))
        audit.record(self._now(), actor, action, f"CL_{name.upper()}", reason, change)

    def _adjusted(self) -> tuple[Settings, list[str]]:
        rows: Any = Row.select(Row.name, Row.value).tuples()
        stored = dict(rows)
        try:
            return adjusted(self._given, stored), []
        except SettingsError:
            usable = self._usable(stored)
            unused = [f"CL_{n.upper()}={stored[n]}" for n in stored if n not in usable]
            text = f"Stored settings that do not fit any more are not used: {', '.join(unused)}."
            return adjusted(self._given, usable), [text]

    def _usable(self, stored: dict[str, str]) -> dict[str, str]:
        """Those stored values that fit, alone and beside the others."""
        found: dict[str, str] = {}
        for name in sorted(stored) * 2:  # what fits only beside a later one, fits the second time
            try:
                adjusted(self._given, {**found, name: stored[name]})
            except SettingsError:
                continue
            found[name] = stored[name]
        return found


def shown(value: Any) -> str:
    """A value as people read it."""
    return "empty" if value == "" else f"{value:g}" if isinstance(value, float) else str(value)


def _value(settings: Settings, name: str) -> Any:
    for group in ADJUSTABLE:
        limits = getattr(settings, group)
        if hasattr(limits, name):
            return getattr(limits, name)
    raise SettingsError(f"There is no setting CL_{name.upper()} to change.")
