"""The deployment state, derived from what the rows say, and what may be done in it."""

from cl.records import State


def state_of(champion: str | None, challenger: str | None, last_promoted: str | None) -> State:
    """`last_promoted` is the version that the latest finished experiment promoted, if it did."""
    if champion is None:
        return State.NO_CHAMPION
    if challenger is not None:
        return State.TESTING
    return State.NEW_CHAMPION if last_promoted == champion else State.CHAMPION
