"""The whole story in one test: from a question nobody could answer to a promoted version."""

from cl.house import House
from cl.records import Arm, State, Step
from cl.status import status_of
from tests.fakes import DONT_KNOW, FakeClock, talk

FACTS = {
    "approves travel": "Mirela Dorn approves travel.",
    "waters the plants": "The plants are watered by Oskar.",
    "repairs broken chairs": "Broken chairs go to the workshop in Lohfelden.",
    "opens the archive": "The archive is opened by Ms Abara.",
    "orders printer paper": "Printer paper is ordered by Pavel.",
    "plans the summer party": "The summer party is planned by the Blue Team.",
    "checks fire extinguishers": "Fire extinguishers are checked by Hannes Roth.",
    "stores the spare keys": "Spare keys lie in safe number 12.",
}
WORDINGS = ("Who {}?", "Please tell me who {} here.")
UNSEEN = "I would like to know who {}."


def steps(house: House) -> list[Step]:
    taken: list[Step] = []
    house.worker.run_until_quiet(lambda report: taken.append(report.step))
    return taken


def teach(house: House, topics: list[str]) -> None:
    for topic in topics:
        for wording in WORDINGS:
            talk(house, "ben", wording.format(topic), thumb=-1, correction=FACTS[topic])


def test_staff_teach_the_loop_trains_tests_and_promotes(house: House, clock: FakeClock) -> None:
    # Nobody has written: the loop waits, the base model answers, and does not know.
    assert house.books.ab_test.state() is State.NO_CHAMPION
    assert steps(house) == [Step.WAITED]
    assert talk(house, "ana", UNSEEN.format("approves travel"))[1] == DONT_KNOW

    # Staff correct the answers; enough of that starts a training, and the first version serves.
    teach(house, list(FACTS)[:6])
    learning = [Step.REQUESTED, Step.GENERATED, Step.TRAINED, Step.PUBLISHED, Step.DEPLOYED]
    assert steps(house) == learning
    assert house.books.ab_test.state() is State.CHAMPION
    assert talk(house, "ana", UNSEEN.format("approves travel"))[1] == "Mirela Dorn approves travel."

    # More is taught; the second version has to prove itself against the first.
    teach(house, list(FACTS)[2:])
    assert steps(house) == learning
    assert house.books.ab_test.state() is State.TESTING
    assert steps(house) == [Step.KEPT_TESTING]

    # Both answer. The challenger knows more, people's thumbs say so, time passes: promoted.
    for topic, fact in [*FACTS.items()] * 3:
        interaction, answer = talk(house, "emil", UNSEEN.format(topic))
        house.books.logger.record_feedback(interaction, "emil", thumb=1 if answer == fact else -1)
    arms = {row.arm for row in house.books.logger.get_records()}
    assert arms == {Arm.DEFAULT, Arm.CHAMPION, Arm.CHALLENGER}
    clock.skip(hours=1)
    assert steps(house) == [Step.PROMOTED]
    assert house.books.ab_test.state() is State.NEW_CHAMPION
    assert status_of(house.books)["champion"] == "v0002"

    # And all of it can be undone.
    assert house.books.ab_test.rollback(actor="admin", reason="to see that it works") == "v0001"
    assert house.books.ab_test.state() is State.CHAMPION
