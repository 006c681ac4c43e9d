"""Where everything stands, in the same keys and one sentence, whatever there is."""

import json

from cl.house import House
from cl.records import State, Step
from cl.status import status_of, status_text
from tests.fakes import FakeClock, talk

KEYS = {"state", "champion", "challenger", "interactions", "triggers", "job", "headline", "phase"}


def teach(house: House) -> None:
    for number in range(12):
        talk(house, "ana", f"Where is number {number}?", thumb=-1, correction=f"Shelf {number}.")


def headline(house: House) -> str:
    found = status_of(house.books)
    assert set(found) >= KEYS
    json.dumps(found, default=str, allow_nan=False)
    assert found["headline"] in status_text(found)
    return str(found["headline"])


def test_the_headline_says_what_the_system_does_and_waits_for(
    house: House, clock: FakeClock
) -> None:
    assert headline(house).startswith("Nobody has written yet.")
    talk(house, "ana", "Hello")
    assert headline(house).startswith(
        "The base model answers everybody. The next training waits: 1 of 12 new interactions"
    )
    assert headline(house).endswith("Nothing to do.")
    teach(house)
    assert "A training begins at the next look: 13 of 12 new interactions." in headline(house)
    assert house.loop.run_iteration().step is Step.REQUESTED
    assert headline(house).startswith("Training run 1 is at work: the training set is being made.")
    house.worker.run_until_quiet()
    assert headline(house).startswith("v0001 answers everybody.")
    teach(house)
    house.worker.run_until_quiet()
    assert headline(house).startswith("Testing v0002 against v0001: the first look")
    house.worker.run_until_quiet()
    assert "no scored answer yet" in headline(house)
    house.books.ab_test.promote(actor="admin", reason="I know")
    watched = (
        "v0002 is freshly promoted and watched; v0001 keeps 10% of the conversations: the first"
    )
    assert headline(house).startswith(watched)
    house.loop.run_iteration()
    assert "0.0 of 0.02 hours beside v0001" in headline(house)
    clock.skip(1)
    house.loop.run_iteration()
    assert headline(house).startswith("v0002 answers everybody, freshly promoted.")
    assert status_of(house.books)["state"] == State.NEW_CHAMPION
