"""The audit trail: one line per action, written in the transaction of the action itself."""

from datetime import datetime

from cl.db.tables import Audit


def record(
    at: datetime,
    actor: str,
    action: str,
    subject: str = "",
    reason: str = "",
    change: tuple[str, str] = ("", ""),
) -> None:
    """Add a line. Call inside the `atomic()` block that does what the line says.

    `change` is what was before, and what is now.
    """
    before, after = change
    Audit.create(
        at=at,
        actor=actor,
        action=action,
        subject=subject,
        before=before,
        after=after,
        reason=reason,
    )
