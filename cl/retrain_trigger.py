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
    def __init__(self, limits: TriggerLimits, clock: Callable[[], datetime]) -> None:
        self._limits = limits
        self._now = clock

    def check_triggers(self) -> TriggerResult:
        """Every gauge, and the first trigger that fires."""
        return triggering.decide(self._read(), self._limits, self._now())

    def _read(self) -> triggering.Readings:
        last = TrainingRun.select().where(TrainingRun.trained_at.is_null(False))
        last = last.order_by(TrainingRun.id.desc()).first()
        first_message = Row.select(Row.created_at).order_by(Row.id).first()
        ended = TrainingRun.select(TrainingRun.ended_at).where(TrainingRun.ended_at.is_null(False))
        last_run = ended.order_by(TrainingRun.ended_at.desc()).first()
        baseline, recent = self._qualities()
        return triggering.Readings(
            new_interactions=_finished()
            .where(Row.id > (last.last_interaction if last else 0))
            .count(),
            last_run_at=last_run.ended_at if last_run else None,
            last_training_at=last.trained_at
            if last
            else first_message and first_message.created_at,
            baseline_quality=baseline,
            recent_quality=recent,
            recent_errors=self._errors(),
            erasures=erasures.waiting().erasures,
        )

    def _qualities(self) -> tuple[float | None, float | None]:
        """Mean quality of the version in service: its first window, and its last one after that."""
        champion = Version.get_or_none(Version.stage == Stage.CHAMPION)
        scored: Any = Row.select(Row.id, Row.quality).where(
            (Row.version == (champion.name if champion else BASE)) & (Row.scorer == newest_scorer())
        )
        first = list(scored.order_by(Row.id).limit(self._limits.window).tuples())
        if len(first) < self._limits.min_window:
            return None, None
        later = (
            scored.where(Row.id > first[-1][0]).order_by(Row.id.desc()).limit(self._limits.window)
        )
        last = list(later.tuples())
        baseline = sum(q for _, q in first) / len(first)
        return baseline, sum(q for _, q in last) / len(last) if len(
            last
        ) >= self._limits.min_window else None

    def _errors(self) -> float | None:
        window: Any = _finished().order_by(Row.id.desc()).limit(self._limits.window)
        statuses = [status for (status,) in window.tuples()]
        if len(statuses) < self._limits.min_window:
            return None
        return statuses.count(Status.ERROR) / len(statuses)


def _finished() -> Any:
    return Row.select(Row.status).where(Row.status.in_((Status.COMPLETE, Status.ERROR)))
