"""What the trigger reads from the log; the rule itself is tested in rules/."""

from datetime import timedelta

import pytest

from cl.db.tables import Erasure, Interaction, TrainingRun, Version
from cl.house import Books
from cl.records import Arm, Gauge, RunStatus, Status
from cl.settings import TriggerLimits
from tests.fakes import FakeClock


def fill(
    books: Books,
    count: int,
    *,
    quality: float = 0.9,
    version: str = "base",
    status: Status = Status.COMPLETE,
    scorer: str = "rules-1",
) -> None:
    """Rows as the log would hold them; written directly because only their numbers matter."""
    talk = books.logger.open_conversation("ana", "Q")
    start = books.logger.last_id()
    scored = status is Status.COMPLETE
    Interaction.insert_many(
        {
            "request_id": f"r{start + n}",
            "conversation": talk,
            "user": "ana",
            "prompt": "Q",
            "status": status,
            "version": version,
            "arm": Arm.DEFAULT,
            "quality": quality if scored else None,
            "scorer": scorer if scored else None,
            "created_at": books.clock(),
        }
        for n in range(count)
    ).execute()


def ended_run(books: Books, status: RunStatus, *, trained: bool) -> None:
    now = books.clock()
    TrainingRun.create(
        trigger="manual",
        reason="",
        status=status,
        requested_by="ana",
        last_interaction=books.logger.last_id(),
        started_at=now,
        trained_at=now if trained else None,
        ended_at=now,
    )


def gauges(books: Books) -> dict[str, Gauge]:
    return {gauge.name: gauge for gauge in books.trigger.check_triggers().gauges}


def fired(books: Books) -> str | None:
    return books.trigger.check_triggers().trigger


def test_an_empty_log_fires_nothing_and_shows_every_gauge(books: Books) -> None:
    assert fired(books) is None
    assert set(gauges(books)) == {
        "cooldown",
        "sample_count",
        "scheduled",
        "quality_drop",
        "error_rate",
        "erasure",
    }


def test_enough_new_interactions_fire(books: Books) -> None:
    fill(books, 11)
    assert fired(books) is None
    fill(books, 1)
    assert fired(books) == "sample_count"


def test_only_interactions_after_the_last_training_count(books: Books) -> None:
    fill(books, 12)
    ended_run(books, RunStatus.DEPLOYED, trained=True)
    assert gauges(books)["sample_count"].value == 0
    fill(books, 3)
    assert gauges(books)["sample_count"].value == 3


def test_a_run_that_ended_without_training_does_not_use_up_its_samples(books: Books) -> None:
    fill(books, 12)
    ended_run(books, RunStatus.NOT_ENOUGH_DATA, trained=False)
    assert gauges(books)["sample_count"].value == 12


def test_unfinished_and_cancelled_messages_are_no_samples(books: Books) -> None:
    for status in (Status.STARTED, Status.CANCELLED, Status.INTERRUPTED):
        fill(books, 5, status=status)
    assert gauges(books)["sample_count"].value == 0


def test_a_week_after_the_first_message_a_training_is_due(books: Books, clock: FakeClock) -> None:
    fill(books, 1)
    clock.skip(24 * 7 - 1)
    assert fired(books) is None
    clock.skip(1)
    assert fired(books) == "scheduled"


@pytest.mark.parametrize("outcome", [RunStatus.FAILED, RunStatus.NOT_ENOUGH_DATA])
def test_every_run_starts_the_cooldown(books: Books, clock: FakeClock, outcome: RunStatus) -> None:
    books.trigger._limits = lambda: TriggerLimits(min_new_samples=1, cooldown_hours=24)
    fill(books, 1)
    ended_run(books, outcome, trained=False)
    clock.skip(23.9)
    assert fired(books) is None
    assert gauges(books)["cooldown"].fires
    clock.skip(0.1)
    assert fired(books) == "sample_count"


def champion(books: Books, name: str) -> None:
    Version.update(stage="retired").execute()
    Version.create(name=name, stage="champion", parent="base", sha256="x", created_at=books.clock())


def quiet_samples(books: Books) -> None:
    books.trigger._limits = lambda: TriggerLimits(min_new_samples=10_000, window=20, min_window=10)


def test_a_drop_is_measured_against_the_same_version_when_it_was_fresh(books: Books) -> None:
    quiet_samples(books)
    fill(books, 20, quality=0.9)
    fill(books, 20, quality=0.81)
    assert fired(books) is None
    fill(books, 20, quality=0.80)
    assert fired(books) == "quality_drop"
    champion(books, "v0001")
    fill(books, 20, quality=0.5, version="v0001")
    assert gauges(books)["quality_drop"].value is None  # nothing later than its own first window


def test_scores_of_another_scorer_are_not_compared(books: Books) -> None:
    quiet_samples(books)
    fill(books, 20, quality=0.9, scorer="scorer-0001")
    fill(books, 20, quality=0.2)
    assert gauges(books)["quality_drop"].value is None


def test_many_errors_fire_and_few_answers_tell_nothing(books: Books) -> None:
    quiet_samples(books)
    fill(books, 9, status=Status.ERROR)
    assert gauges(books)["error_rate"].value is None
    fill(books, 16)
    assert gauges(books)["error_rate"].value == pytest.approx(4 / 20)
    assert fired(books) is None
    fill(books, 1, status=Status.ERROR)
    fill(books, 14)
    fill(books, 5, status=Status.ERROR)
    assert fired(books) == "error_rate"


def test_an_erasure_fires_as_long_as_what_learned_from_the_texts_is_in_service(
    books: Books,
) -> None:
    champion(books, "v0001")
    Version.update(tainted=True).execute()
    for versions, rebuilt_by in ((["v0001"], 3), (["v0002"], None), ([], None)):
        Erasure.create(
            at=books.clock(), actor="a", interactions=9, versions=versions, rebuilt_by=rebuilt_by
        )
        assert fired(books) is None
    Erasure.create(at=books.clock(), actor="a", interactions=9, versions=["v0001"])
    assert fired(books) == "erasure"
    Version.update(stage="retired").execute()
    assert fired(books) is None


def test_after_an_erasure_the_rest_after_a_run_is_kept(books: Books, clock: FakeClock) -> None:
    books.trigger._limits = lambda: TriggerLimits(cooldown_hours=24)
    champion(books, "v0001")
    Version.update(tainted=True).execute()
    Erasure.create(at=books.clock(), actor="a", interactions=9, versions=["v0001"])
    ended_run(books, RunStatus.FAILED, trained=False)
    clock.skip(23)
    assert fired(books) is None
    clock.skip(1)
    assert fired(books) == "erasure"


def test_a_clock_set_back_does_not_stretch_the_cooldown_into_the_past(
    books: Books, clock: FakeClock
) -> None:
    fill(books, 12)
    ended_run(books, RunStatus.DEPLOYED, trained=True)
    clock.now -= timedelta(days=400)
    cooldown = gauges(books)["cooldown"]
    assert cooldown.value == 0
