"""RetrainTrigger: reads the log and says whether it is time to retrain."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from cl.db import erasures
from cl.db.scorers import newest_scorer
from cl.db.tables import Interaction as Row
from cl.db.tables import TrainingRun, Version
from cl.records import BASE, Stage, Status, TriggerResult
from cl.rules import triggering
from cl.settings import TriggerLimits


class RetrainTrigger:
    def __init__(self, limits: Callable[[], TriggerLimits], clock: Callable[[], datetime]) -> None:
        """`limits` gives those that hold now."""
        self._limits = limits
        self._now = clock

    def check_triggers(self) -> TriggerResult:
        """Every gauge, and the first trigger that fires."""
        limits = self._limits()
        return triggering.decide(self._read(limits), limits, self._now())

    def _read(self, limits: TriggerLimits) -> triggering.Readings:
        last = TrainingRun.select().where(TrainingRun.trained_at.is_null(False))
        last = last.order_by(TrainingRun.id.desc()).first()
        first_message = Row.select(Row.created_at).order_by(Row.id).first()
        ended = TrainingRun.select(TrainingRun.ended_at).where(TrainingRun.ended_at.is_null(False))
        last_run = ended.order_by(TrainingRun.ended_at.desc()).first()
        baseline, recent = _qualities(limits)
        return triggering.Readings(
            new_interactions=_new(last.last_interaction if last else 0, limits),
            last_run_at=last_run.ended_at if last_run else None,
            last_training_at=last.trained_at
            if last
            else first_message and first_message.created_at,
            baseline_quality=baseline,
            recent_quality=recent,
            recent_errors=_errors(limits),
            erasures=erasures.waiting().erasures,
        )


def _new(after_id: int, limits: TriggerLimits) -> int:
    """Interactions since the last training, counted no further than it takes to decide and to tell."""
    new = _finished().where(Row.id > after_id).limit(triggering.most_counted(limits))
    return int(new.count())


def _qualities(limits: TriggerLimits) -> tuple[float | None, float | None]:
    """Mean quality of the version in service: its first window, and its last one after that."""
    champion = Version.get_or_none(Version.stage == Stage.CHAMPION)
    scored: Any = Row.select(Row.id, Row.quality).where(
        (Row.version == (champion.name if champion else BASE)) & (Row.scorer == newest_scorer())
    )
    first = list(scored.order_by(Row.id).limit(limits.window).tuples())
    if len(first) < limits.min_window:
        return None, None
    later = scored.where(Row.id > first[-1][0]).order_by(Row.id.desc()).limit(limits.window)
    last = list(later.tuples())
    recent = _mean(last) if len(last) >= limits.min_window else None
    return _mean(first), recent


def _mean(rows: list[tuple[int, float]]) -> float:
    return sum(quality for _, quality in rows) / len(rows)


def _errors(limits: TriggerLimits) -> float | None:
    window: Any = _finished().order_by(Row.id.desc()).limit(limits.window)
    statuses = [status for (status,) in window.tuples()]
    if len(statuses) < limits.min_window:
        return None
    return statuses.count(Status.ERROR) / len(statuses)


def _finished() -> Any:
    return Row.select(Row.status).where(Row.status.in_((Status.COMPLETE, Status.ERROR)))
