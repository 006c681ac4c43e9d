"""Corrections that a published version has learned: all later versions must know them, too.

Only ids are kept. What was asked and answered is read from the log each time, so that an edit, an
exclusion or an erasure counts at once.
"""

from collections.abc import Collection, Iterable
from typing import Any

from cl.db.tables import Interaction as Row
from cl.db.tables import Probe

_AT_ONCE = 500


def remember(version: str, interaction_ids: Iterable[int]) -> None:
    """What `version` has learned, as far as it is still there; what was known before stays so."""
    ids = list(interaction_ids)
    for start in range(0, len(ids), _AT_ONCE):
        there: Any = Row.select(Row.id).where(Row.id.in_(ids[start : start + _AT_ONCE])).tuples()
        rows = [(id_, version) for (id_,) in there]
        if rows:
            Probe.insert_many(
                rows, [Probe.interaction, Probe.version]
            ).on_conflict_ignore().execute()


def learned(besides: Collection[int]) -> list[int]:
    """The interactions that were learned once, without these; oldest first."""
    rows: Any = Probe.select(Probe.interaction).order_by(Probe.interaction).tuples()
    known = set(besides)
    return [id_ for (id_,) in rows if id_ not in known]
