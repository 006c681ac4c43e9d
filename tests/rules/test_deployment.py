"""The four deployment states, as they follow from the rows."""

import pytest

from cl.records import State
from cl.rules.deployment import state_of


@pytest.mark.parametrize(
    ("champion", "challenger", "last_promoted", "state"),
    [
        (None, None, None, State.NO_CHAMPION),
        (None, None, "v0001", State.NO_CHAMPION),  # promoted once, then rolled back to the base
        ("v0001", None, None, State.CHAMPION),
        ("v0001", None, "v0002", State.CHAMPION),  # promoted once, then rolled back
        ("v0001", "v0002", None, State.TESTING),
        ("v0002", None, "v0002", State.NEW_CHAMPION),
        ("v0002", "v0003", "v0002", State.TESTING),
    ],
)
def test_the_state_follows_from_champion_challenger_and_last_promotion(
    champion: str | None, challenger: str | None, last_promoted: str | None, state: State
) -> None:
    assert state_of(champion, challenger, last_promoted) is state
