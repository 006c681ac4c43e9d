"""Erasures that versions in traffic have not caught up with, read from the rows."""

from dataclasses import dataclass

from cl.db.tables import Erasure, Version
from cl.records import Stage


@dataclass(frozen=True)
class Waiting:
    """Erasures that a version in traffic still learned from."""

    erasures: int = 0
    interactions: int = 0

    @property
    def rebuild(self) -> str:
        return f"rebuild without {self.interactions} erased interactions"


def waiting() -> Waiting:
    """What the next training must make good; nothing waits for versions that are out of traffic."""
    in_traffic = Version.stage.in_((Stage.CHAMPION, Stage.CHALLENGER))
    names = {row.name for row in Version.select().where(in_traffic)}
    still_open = Erasure.select().where(Erasure.rebuilt_by.is_null())
    rows = [row for row in still_open if names.intersection(row.versions)]
    return Waiting(len(rows), sum(row.interactions for row in rows))


def settle(run_id: int) -> None:
    """This run's version has come into traffic: note it where it is the first without the texts."""
    Erasure.update(rebuilt_by=run_id).where(Erasure.rebuilt_by.is_null()).execute()


def is_erased_from(run_id: int | None) -> bool:
    """Whether texts that this training run learned from were erased since."""
    return any(run_id in row.runs for row in Erasure.select(Erasure.runs))
