"""Thresholds that are changed while the app runs: checked, told, and effective at the next look."""

import pytest

from cl.db.tables import Audit, Setting
from cl.house import Books, House, open_books
from cl.settings import SettingsError, adjustable, adjusted
from cl.thresholds import Thresholds
from tests.fakes import FakeClock, FakeReader, fake_settings, talk

WHY = {"actor": "ida", "reason": "too strict for us"}


def last_line() -> tuple[str, ...]:
    a = Audit.select().order_by(Audit.id.desc()).first()
    return (a.actor, a.action, a.subject, a.before, a.after, a.reason)


def test_a_change_holds_at_the_next_look_and_is_told(house: House) -> None:
    for number in range(5):
        talk(house, "ana", f"Message {number}")
    trigger, thresholds = house.books.trigger, house.books.thresholds
    assert not trigger.check_triggers().fired
    thresholds.change("min_new_samples", " 5 ", **WHY)
    assert trigger.check_triggers().trigger == "sample_count"
    assert last_line() == ("ida", "change setting", "CL_MIN_NEW_SAMPLES", "12", "5", WHY["reason"])
    assert thresholds.changes()["min_new_samples"].actor == "ida"
    assert thresholds.given("min_new_samples") == 12
    thresholds.reset("min_new_samples", **WHY)
    assert not trigger.check_triggers().fired
    assert last_line()[1:5] == ("reset setting", "CL_MIN_NEW_SAMPLES", "5", "12")
    assert thresholds.changes() == {}


def test_another_process_and_the_next_start_have_it_too(books: Books, clock: FakeClock) -> None:
    books.thresholds.change("quiet_hours", "22:00-06:00", **WHY)
    other = open_books(fake_settings(books.settings.data_dir), clock, FakeReader)
    assert other.thresholds.trigger().quiet_hours == "22:00-06:00"
    other.thresholds.change("quiet_hours", "", **WHY)
    assert last_line()[3:5] == ("22:00-06:00", "empty")
    assert books.thresholds.trigger().quiet_hours == ""
    other.database.close()


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("min_quality", "2", "must be from 0 to 1"),
        ("min_quality", "much", "is not a number"),
        ("min_quality", "nan", "is not a number"),
        ("min_quality", "0.4", "must not be more than"),  # below maybe_quality
        ("min_quality", "0.70", "is 0.7 already"),
        ("decision_rule", "dice", "must be evidence or plain"),
        ("challenger_share", "0.6", "at most 0.5"),
        ("quiet_hours", "at night", "two times of the day"),
        ("min_test_hours", "1e9", "must not be more than CL_MAX_TEST_HOURS"),
        ("port", "80", "There is no setting CL_PORT to change"),
        ("train_launcher", "rm", "There is no setting"),
        ("seed", "1", "cannot be changed"),
        ("__class__", "x", "There is no setting|cannot be changed"),
        ("", "", "There is no setting"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(
    books: Books, name: str, text: str, told: str
) -> None:
    with pytest.raises(SettingsError, match=told):
        books.thresholds.change(name, text, **WHY)
    assert Setting.select().count() == Audit.select().count() == 0


def test_what_was_not_changed_cannot_be_reset(books: Books) -> None:
    with pytest.raises(SettingsError, match="was not changed"):
        books.thresholds.reset("min_quality", **WHY)


def test_a_reset_that_leaves_disorder_is_refused(books: Books) -> None:
    books.thresholds.change("maybe_quality", "0.2", **WHY)
    books.thresholds.change("min_quality", "0.3", **WHY)
    with pytest.raises(SettingsError, match="must not be more than"):
        books.thresholds.reset("maybe_quality", **WHY)
    assert books.thresholds.data().maybe_quality == 0.2


def test_a_stored_value_that_fits_no_longer_is_left_out_and_told(
    books: Books, clock: FakeClock
) -> None:
    now = clock()
    for name, value in (("min_quality", "high"), ("no_longer_there", "1"), ("window", "50")):
        Setting.create(name=name, value=value, actor="ida", at=now)
    assert books.thresholds.trigger().window == 50
    assert books.thresholds.data().min_quality == 0.7
    (problem,) = books.thresholds.problems()
    assert "CL_MIN_QUALITY=high" in problem
    assert "CL_NO_LONGER_THERE=1" in problem
    assert "WINDOW" not in problem.replace("CL_NO_LONGER", "")
    books.thresholds.change("min_quality", "0.8", **WHY)
    assert "MIN_QUALITY" not in books.thresholds.problems()[0]


def test_a_running_test_keeps_the_limits_it_began_with(house: House) -> None:
    ab_test = house.books.ab_test
    for name in ("v0001", "v0002"):
        ab_test.register(name, parent="base", run_id=None, sha256="x")
        ab_test.deploy_challenger(name)
    house.books.thresholds.change("challenger_share", "0.25", **WHY)
    share = len([n for n in range(2000) if ab_test.route_request(n).version == "v0002"]) / 2000
    assert share == pytest.approx(0.5, abs=0.05)
    ab_test.retire(actor="ida", reason="try again")
    ab_test.deploy_challenger("v0002")
    share = len([n for n in range(2000) if ab_test.route_request(n).version == "v0002"]) / 2000
    assert share == pytest.approx(0.25, abs=0.05)


def test_every_knob_on_the_page_can_be_turned(books: Books) -> None:
    """Its own value is always accepted, in the words the page shows it in."""
    for knobs in adjustable().values():
        for knob in knobs:
            value = books.thresholds.value(knob.name)
            assert adjusted(books.settings, {knob.name: str(value)}) == books.settings
            if knob.choices:
                assert value in knob.choices


def test_a_knob_that_is_stored_is_read_by_the_parts_of_a_new_house(books: Books) -> None:
    thresholds = Thresholds(books.database, books.settings, books.clock)
    thresholds.change("max_drift", "0.5", **WHY)
    assert books.thresholds.gate().max_drift == 0.5
