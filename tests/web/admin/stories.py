"""What may have happened before somebody opens the admin page."""

from cl.house import House
from tests.web.admin.conftest import REASON
from tests.web.pages import deploy


def nothing(house: House) -> None:
    """Nobody has written."""


def a_training_asked_for(house: House) -> None:
    house.assistant.begin("ana", "a message without an answer", None)
    house.loop.request_training("ida", REASON)


def one_version(house: House) -> None:
    deploy(house, "v0001")


def running_test(house: House) -> None:
    deploy(house, "v0001")
    deploy(house, "v0002")


def promoted(house: House) -> None:
    running_test(house)
    house.books.ab_test.promote(actor="ida", reason=REASON)
