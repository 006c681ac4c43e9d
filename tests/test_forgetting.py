"""Who asks to be forgotten is; what is too old goes; and nothing else is lost on the way."""

import json
import multiprocessing
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cl import files, lineage
from cl.accounts import visitor_name
from cl.backup import backup
from cl.db import removal
from cl.db.tables import (
    Audit,
    Conversation,
    Erasure,
    Experiment,
    Feedback,
    HeldOut,
    Interaction,
    Iteration,
    Reading,
    Review,
    Session,
    TrainingRun,
    User,
    Version,
)
from cl.forgetting import BeingErased, Forgetting
from cl.house import Books, House, sweep_up
from cl.records import BASE, Arm, Outcome, Role, RunStatus, State, Status, Step
from cl.status import status_of, status_text
from tests.erasing_child import erase as erase_and_die
from tests.fakes import FakeClock, FakeTrainer, fake_books, fake_house, talk

SECRET = "xyzzyplugh"
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["tests.erasing_child"])


@pytest.fixture
def books(tmp_path: Path, clock: FakeClock) -> Iterator[Books]:
    """Yoana and the admin have accounts; no training starts by itself."""
    opened = fake_books(tmp_path / "data", clock, min_new_samples=1000, retention_days=30)
    opened.accounts.ensure_admin()
    opened.accounts.add("yoana", Role.STAFF, "admin")
    yield opened
    opened.database.close()


def teach(house: House, user: str, count: int, secret: str = "") -> list[int]:
    """Corrections, each in a conversation of its own. Returns the interactions."""
    return [
        talk(
            house,
            user,
            f"Where does {user} {secret} keep number {n}?",
            thumb=-1,
            correction=f"Number {n} {secret} lies in drawer {n * 7} of {user}.",
        )[0]
        for n in range(count)
    ]


def learn(house: House) -> list[Step]:
    """A whole training run."""
    taken: list[Step] = []
    house.loop.request_training("admin", "now")
    house.worker.run_until_quiet(lambda report: taken.append(report.step))
    return taken


def found_in_files(folder: Path, text: str) -> list[str]:
    """Files that hold this text; not the fakes' weights, which are texts."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file()
        and not {"models", "candidate", "backups"} & set(path.relative_to(folder).parts)
        and text.encode() in path.read_bytes()
    )


def everything_about(house: House, name: str) -> None:
    """A trace of the person in every table and file."""
    books = house.books
    first, *_ = teach(house, name, 6, SECRET)
    conversation = Interaction.get_by_id(first).conversation_id
    books.logger.record_feedback(first, name, comment=f"{SECRET} comment")
    failed = books.logger.log(name, conversation, f"{SECRET}?", books.ab_test.route_request(1))
    books.logger.finish(failed, Outcome(Status.ERROR, SECRET, 1.0, error=f"choked on {SECRET}"))
    Reading.create(interaction=first, reader="r", vector=SECRET.encode())
    books.reviews.decide(first, "edit", actor="admin", answer=f"{SECRET}, edited")
    HeldOut.insert(conversation=conversation).on_conflict_ignore().execute()


def manifest(books: Books, run: int = 1) -> dict[str, Any]:
    return dict(json.loads((books.runs / f"{run:04d}" / "data" / "manifest.json").read_text()))


def lines(books: Books, run: int = 1) -> list[dict[str, Any]]:
    data = books.runs / f"{run:04d}" / "data"
    return [
        json.loads(line)
        for path in sorted(data.glob("*.jsonl"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]


# -- a person goes, everywhere -------------------------------------------------------------------


def test_an_erased_persons_texts_are_in_no_file_and_in_no_table(house: House) -> None:
    books = house.books
    folder = books.settings.data_dir
    # Some builds of SQLite overwrite what is deleted by themselves, others do not.
    books.database.execute_sql("PRAGMA secure_delete = OFF")
    everything_about(house, "yoana")
    kept = teach(house, "ben", 6)
    assert learn(house)[-1] is Step.DEPLOYED
    (books.runs / "0001" / "trainer.log").write_text(f"cannot read {SECRET}")
    (books.runs / "0001" / "data" / "train.sharegpt.jsonl").write_text(f'{{"a": "{SECRET}"}}\n')
    files.write_text(
        folder / "rehearsal-abc.jsonl",
        f'{{"prompt": "{SECRET}", "answer": "A", "whole": true, "id": 1}}\n{{"prompt": "Q"}}\n',
    )
    before = found_in_files(folder, SECRET)
    runs = {"runs/0001/data/train.jsonl", "runs/0001/data/probes.jsonl", "runs/0001/answers.jsonl"}
    assert {"usage.db-wal", "rehearsal-abc.jsonl", *runs} <= set(before)
    done = books.forgetting.erase("yoana", "operator", "asked for it")
    assert found_in_files(folder, SECRET) == []
    assert found_in_files(folder, "yoana") == []
    assert books.database.execute_sql("PRAGMA freelist_count").fetchone() == (0,)
    assert not done.waits_for_start
    assert (done.interactions, done.runs, done.versions) == (7, [1], ["v0001"])
    assert done.lines > 0
    assert [row.id for row in Interaction.select()] == kept
    assert {row.user for row in Conversation.select()} == {"ben"}
    assert [f.user for f in Feedback.select()] == ["ben"] * len(kept)
    assert not Reading.select().exists()
    assert not Review.select().exists()
    assert [u.name for u in User.select()] == ["admin"]
    assert {s.user.name for s in Session.select()} == {"admin"}


def test_what_others_wrote_stays_in_the_training_sets_word_for_word(house: House) -> None:
    books = house.books
    gone = teach(house, "yoana", 6, SECRET)
    teach(house, "ben", 6)
    learn(house)
    before = lines(books)
    books.forgetting.erase("yoana", "operator")
    kept = [line for line in before if line.get("id") not in gone]
    assert 0 < len(kept) < len(before)
    assert lines(books) == kept


def test_a_set_that_was_erased_from_no_longer_claims_to_be_the_original(house: House) -> None:
    books = house.books
    gone = teach(house, "yoana", 6, SECRET)
    teach(house, "ben", 6)
    learn(house)
    original = manifest(books)
    assert original["sha256"]
    books.forgetting.erase("yoana", "operator")
    now = manifest(books)
    assert (now["erased_from"], now["sha256"]) == (True, "")
    assert now["before_erasure"]["sha256"] == original["sha256"]
    left = {i for ids in now["ids"].values() for i in ids}
    assert left
    assert left.isdisjoint(gone)
    teach(house, "cleo", 1)
    books.forgetting.erase("ben", "operator")
    assert manifest(books)["before_erasure"]["sha256"] == original["sha256"]


def test_sets_without_the_person_are_left_as_they_are(house: House) -> None:
    books = house.books
    teach(house, "ben", 8)
    learn(house)
    before = {p: p.read_bytes() for p in (books.runs / "0001" / "data").iterdir()}
    teach(house, "yoana", 3, SECRET)
    done = books.forgetting.erase("yoana", "operator")
    assert (done.runs, done.versions, done.lines) == ([], [], 0)
    assert {p: p.read_bytes() for p in (books.runs / "0001" / "data").iterdir()} == before
    assert not Version.get().tainted


def test_a_real_question_that_was_only_rehearsed_counts_as_learned_from(books: Books) -> None:
    data = books.runs / "0001" / "data"
    files.write_json(data / "manifest.json", {"ids": {"train": [5], "pairs": [[6, 7]]}})
    files.write_text(data / "train.jsonl", '{"messages": [], "source": "rehearsal", "id": 3}\n')
    files.write_text(books.runs / "0002" / "data" / "votes.jsonl", '{"ids": [4, 9]}\n')
    told = {i: lineage.runs_that_learned_from(books.settings.data_dir, [i]) for i in range(3, 10)}
    assert told == {3: [1], 4: [2], 5: [1], 6: [1], 7: [1], 8: [], 9: [2]}


@pytest.mark.parametrize("name", ["visitor", "imported"])
def test_people_without_an_account_can_be_erased(house: House, name: str) -> None:
    user = visitor_name("token") if name == "visitor" else "someone@elsewhere"
    teach(house, user, 2, SECRET)
    house.books.forgetting.erase(user, "operator")
    assert found_in_files(house.books.settings.data_dir, SECRET) == []
    assert not house.books.forgetting.knows(user)


def test_nobody_of_that_name_is_said(books: Books) -> None:
    with pytest.raises(LookupError, match="nobody called zoe"):
        books.forgetting.erase("zoe", "operator")
    assert not Erasure.select().exists()


def test_the_last_admin_cannot_be_erased(house: House) -> None:
    teach(house, "admin", 1, SECRET)
    with pytest.raises(ValueError, match="admin is the last admin"):
        house.books.forgetting.erase("admin", "operator")
    assert Interaction.select().count() == 1
    house.books.accounts.set_role("yoana", Role.ADMIN, "admin")
    house.books.forgetting.erase("admin", "admin")
    assert [u.name for u in User.select()] == ["yoana"]
    assert not Audit.select().where((Audit.actor == "admin") | (Audit.subject == "admin")).exists()
    assert Erasure.get().actor == "erased-1"


def test_the_audit_trail_tells_of_the_erasure_without_the_name(house: House) -> None:
    books = house.books
    teach(house, "yoana", 1)
    books.accounts.set_role("yoana", Role.ADMIN, "admin")
    books.accounts.set_role("admin", Role.STAFF, "yoana")
    books.accounts.set_role("admin", Role.ADMIN, "yoana")
    run = house.loop.request_training("yoana", "yoana wants it; yoanas, yoana@b and yoana.b do not")
    alias = books.forgetting.erase("yoana", "operator", "asked for it").alias
    told = [(a.actor, a.action, a.subject) for a in Audit.select().order_by(Audit.id)]
    assert ("admin", "add user", alias) in told
    assert (alias, "set role", "admin") in told
    assert told[-1] == ("operator", "erase user", alias)
    assert sum(action == "erase user" for _, action, _ in told) == 1
    row = TrainingRun.get_by_id(run)
    assert row.requested_by == alias
    assert row.reason == f"{alias} wants it; yoanas, yoana@b and yoana.b do not"


@pytest.mark.parametrize("is_newest", [True, False])
def test_an_answer_being_written_while_its_person_is_erased_ends_in_nobodys_row(
    house: House, is_newest: bool
) -> None:
    logger, route = house.books.logger, house.books.ab_test.route_request(1)
    conversation = logger.open_conversation("yoana", SECRET)
    writing = logger.log("yoana", conversation, SECRET, route)
    if not is_newest:
        talk(house, "ben", "Hello?")
    house.books.forgetting.erase("yoana", "operator")
    other, _ = talk(house, "ben", "Hello?")
    house.assistant._close(writing, Outcome(Status.COMPLETE, SECRET, 1.0))
    assert other != writing
    assert house.assistant.lost_rows == 0
    assert SECRET not in [row.answer for row in Interaction.select()]
    assert logger.last_id() == other


def test_the_emptied_row_goes_as_soon_as_newer_ones_have_come(house: House) -> None:
    everything_about(house, "yoana")
    newest = Interaction.select().order_by(Interaction.id.desc()).get()
    assert newest.error
    house.books.forgetting.erase("yoana", "operator")
    (left,) = Interaction.select()
    assert (left.id, left.user, left.request_id) == (newest.id, removal.GONE, f"gone-{left.id}")
    assert (left.prompt, left.answer, left.error) == ("", "", None)
    assert left.status == Status.INTERRUPTED
    talk(house, "ben", "Hello?")
    teach(house, "cleo", 1)
    house.books.forgetting.erase("cleo", "operator")
    assert {row.user for row in Interaction.select()} == {"ben", removal.GONE}
    assert Interaction.select().count() == Conversation.select().count() == 2


def test_what_a_person_said_of_somebody_elses_answer_goes_and_the_answer_stays(
    house: House,
) -> None:
    books = house.books
    first, *_ = teach(house, "ben", 8)
    learn(house)
    Feedback.update(user="yoana", correction=SECRET).where(Feedback.interaction == first).execute()
    Reading.create(interaction=first, reader="r", vector=b"x")
    done = books.forgetting.erase("yoana", "operator")
    assert (done.interactions, done.versions) == (0, ["v0001"])
    assert Interaction.select().count() == 8
    assert Feedback.select().count() == 7
    assert not Reading.select().exists()
    assert first not in {line.get("id") for line in lines(books)}


def test_a_large_database_is_written_anew_when_the_app_starts_next(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    books = house.books
    folder = books.settings.data_dir
    monkeypatch.setattr("cl.forgetting._MOST_BYTES", 1000)
    books.database.execute_sql("PRAGMA secure_delete = OFF")
    log_many(books, 500, days_ago=0)
    Interaction.update(user="yoana", answer=SECRET * 20).execute()
    Conversation.update(user="yoana").execute()
    assert books.forgetting.erase("yoana", "operator").waits_for_start
    assert found_in_files(folder, SECRET) == []  # overwritten
    (free,) = books.database.execute_sql("PRAGMA freelist_count").fetchone()
    assert free > 0
    sweep_up(books)
    assert books.database.execute_sql("PRAGMA freelist_count").fetchone() == (0,)
    assert not (folder / "vacuum.due").exists()


def test_backups_that_still_hold_the_texts_are_named(house: House) -> None:
    books = house.books
    teach(house, "ben", 1)
    backup(books.settings, books.clock(), books.settings.data_dir / "backups" / "early")
    teach(house, "zoe", 1, SECRET)
    late = backup(books.settings, books.clock(), books.settings.data_dir / "backups" / "late")
    broken = books.settings.data_dir / "backups" / "broken"
    broken.mkdir()
    (broken / "usage.db").write_bytes(b"no database at all" * 99)
    done = books.forgetting.erase("zoe", "operator")
    assert done.backups == [str(broken), str(late)]
    assert {p.name for p in late.parent.rglob("*") if p.is_file()} == {"usage.db"}


# -- what had been learned -----------------------------------------------------------------------


def test_a_champion_that_learned_from_the_person_serves_until_a_rebuild_has_replaced_it(
    house: House, clock: FakeClock
) -> None:
    books = house.books
    teach(house, "yoana", 6, SECRET)
    teach(house, "ben", 6)
    learn(house)
    done = books.forgetting.erase("yoana", "operator")
    assert done.champion == "v0001"
    assert books.ab_test.state() is State.CHAMPION
    found = status_of(books)
    assert found["erasures"] == 1
    assert "v0001 learned from texts that were erased; 1 erasure waits" in status_text(found)
    assert Audit.select().where(Audit.action == "alert", Audit.subject == "v0001").exists()
    teach(house, "cleo", 6)
    clock.skip(1)
    steps: list[Any] = []
    house.worker.run_until_quiet(steps.append)
    assert [s.step for s in steps][-1] is Step.DEPLOYED
    assert [v.name for v in books.ab_test.versions() if v.stage == "champion"] == ["v0002"]
    run = TrainingRun.get_by_id(2)
    assert run.trigger == "erasure"
    for text in (run.reason, run.outcome, manifest(books, 2)["rebuild"]):
        assert "rebuild without 6 erased interactions" in text
    assert Erasure.get().rebuilt_by == 2
    assert status_of(books)["erasures"] == 0
    assert "erased" not in status_text(status_of(books))
    assert run.result["parent"] == BASE  # and not the one that has to go
    assert house.loop.run_iteration().step is Step.WAITED


def test_a_second_erasure_waits_together_with_the_first(house: House) -> None:
    for name in ("yoana", "ben", "cleo", "dan"):
        teach(house, name, 4, SECRET)
    learn(house)
    house.books.forgetting.erase("yoana", "operator")
    house.books.forgetting.erase("ben", "operator")
    assert status_of(house.books)["erasures"] == 2
    assert learn(house)[-1] is Step.DEPLOYED
    assert "rebuild without 8 erased" in TrainingRun.get_by_id(2).reason
    assert {row.rebuilt_by for row in Erasure.select()} == {2}


def test_a_test_of_a_version_that_learned_from_the_person_ends(house: House) -> None:
    teach(house, "ben", 8)
    learn(house)
    teach(house, "yoana", 6, SECRET)
    learn(house)
    assert house.books.ab_test.state() is State.TESTING
    done = house.books.forgetting.erase("yoana", "operator")
    assert (done.versions, done.champion) == (["v0002"], None)
    assert house.books.ab_test.state() is State.CHAMPION
    ended = Experiment.get()
    assert (ended.outcome, ended.reason) == ("aborted", "texts it learned from were erased")
    assert status_of(house.books)["erasures"] == 0


def test_an_open_training_on_the_persons_texts_ends_cancelled(house: House) -> None:
    teach(house, "yoana", 6, SECRET)
    teach(house, "ben", 6)
    house.loop.request_training("admin", "now")
    assert house.loop.run_iteration().step is Step.GENERATED
    house.books.forgetting.erase("yoana", "operator")
    run = TrainingRun.get()
    assert run.status == RunStatus.CANCELLED
    assert run.outcome == "The training was cancelled: texts it learned from were erased."
    assert learn(house)[-1] is Step.DEPLOYED
    assert not Version.get().tainted


def test_a_training_that_is_under_way_stops_and_brings_no_version(
    books: Books,
) -> None:
    class Erasing(FakeTrainer):
        def train(self, *given: Any) -> Any:
            books.forgetting.erase("yoana", "operator")
            return super().train(*given)

    house = fake_house(books, Erasing())
    teach(house, "yoana", 6, SECRET)
    teach(house, "ben", 6)
    assert learn(house)[-1] is Step.WAITED
    assert TrainingRun.get().status == RunStatus.CANCELLED
    assert not Version.select().exists()
    house.engine.close()


def test_an_open_training_on_other_texts_goes_on(house: House) -> None:
    teach(house, "ben", 8)
    house.loop.request_training("admin", "now")
    house.loop.run_iteration()
    teach(house, "yoana", 1, SECRET)
    house.books.forgetting.erase("yoana", "operator")
    assert TrainingRun.get().status == RunStatus.GENERATED


def test_where_a_set_is_lost_a_version_that_could_have_learned_from_it_counts(
    house: House,
) -> None:
    teach(house, "ben", 8)
    learn(house)
    teach(house, "yoana", 8)
    learn(house)
    for run in (1, 2):
        shutil.rmtree(house.books.runs / f"{run:04d}" / "data")
    assert house.books.forgetting.erase("yoana", "operator").versions == ["v0002"]


# -- broken off, and together with others --------------------------------------------------------


@pytest.mark.slow
def test_killed_at_any_point_the_same_command_finishes_the_work(
    house: House, tmp_path: Path
) -> None:
    everything_about(house, "yoana")
    kept = teach(house, "ben", 6)
    learn(house)
    house.books.database.close()
    survived, dies_at = False, 1
    kills = 0
    while not survived:
        folder = tmp_path / str(dies_at) / "data"
        shutil.copytree(house.books.settings.data_dir, folder)
        for attempt in (dies_at, 0):
            process = _PROCESSES.Process(target=erase_and_die, args=(folder, "yoana", attempt))
            process.start()
            process.join()
            if survived := process.exitcode == 0:
                break
            kills += 1
        survived = attempt == dies_at
        assert found_in_files(folder, SECRET) == []
        assert found_in_files(folder, "yoana") == []
        assert not [*folder.glob("erasing-*")]
        database = sqlite3.connect(folder / "usage.db")
        ids = database.execute("SELECT id FROM interaction ORDER BY id").fetchall()
        assert [i for (i,) in ids] == kept
        erasures = database.execute("SELECT interactions, runs, versions FROM erasure").fetchall()
        assert erasures == [(7, "[1]", '["v0001"]')]
        audit = "SELECT subject FROM audit WHERE action = 'erase user'"
        assert database.execute(audit).fetchall() == [("erased-1",)]
        assert database.execute("SELECT tainted FROM version").fetchall() == [(1,)]
        database.close()
        dies_at += 7
    assert kills >= 8


def test_the_running_app_finishes_what_was_broken_off(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    books = house.books
    teach(house, "yoana", 3, SECRET)
    monkeypatch.setattr(lineage, "take_out", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        books.forgetting.erase("yoana", "operator")
    monkeypatch.undo()
    assert books.forgetting.knows("yoana")
    house.worker._tick()
    assert not books.forgetting.knows("yoana")
    assert found_in_files(books.settings.data_dir, SECRET) == []


def test_while_texts_are_erased_a_training_set_waits_and_the_run_is_not_given_up(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    teach(house, "yoana", 3, SECRET)
    teach(house, "ben", 8)
    monkeypatch.setattr(lineage, "take_out", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        house.books.forgetting.erase("yoana", "operator")
    monkeypatch.undo()
    house.loop.request_training("admin", "now")
    for _ in range(5):
        assert house.loop.run_iteration().step is Step.WAITED
    house.books.forgetting.finish_broken_off()
    assert house.loop.run_iteration().step is Step.GENERATED
    assert found_in_files(house.books.settings.data_dir, SECRET) == []


def test_while_a_training_set_is_made_nothing_is_erased(house: House) -> None:
    teach(house, "yoana", 1)
    forgetting = house.books.forgetting
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patched, forgetting.at_rest():
        patched.setattr("cl.forgetting._WAIT_SECONDS", 0)
        with pytest.raises(BeingErased, match="try again in a minute"):
            forgetting.erase("yoana", "operator")
    assert Interaction.select().count() == 1
    assert forgetting.erase("yoana", "operator").interactions == 1


# -- what is too old -----------------------------------------------------------------------------


def log_many(books: Books, count: int, *, days_ago: float, experiment: int | None = None) -> None:
    """Rows as the log would hold them."""
    at = books.clock() - timedelta(days=days_ago)
    start = books.logger.last_id()
    for first in range(start, start + count, 100):
        talk = books.logger.open_conversation("ben", f"{SECRET} {days_ago}")
        Interaction.insert_many(
            {
                "request_id": f"r{first + n}",
                "conversation": talk,
                "user": "ben",
                "prompt": "Question?",
                "status": Status.COMPLETE,
                "version": BASE,
                "arm": Arm.DEFAULT,
                "experiment_id": experiment,
                "created_at": at,
            }
            for n in range(min(100, start + count - first))
        ).execute()


def test_what_is_older_than_the_setting_goes_with_all_that_hangs_on_it(
    house: House, clock: FakeClock
) -> None:
    books = house.books
    everything_about(house, "yoana")
    books.database.execute_sql("PRAGMA secure_delete = OFF")
    old = Interaction.select().count()
    learn(house)
    clock.skip(29 * 24)
    kept = teach(house, "ben", 6)
    assert books.forgetting.expire() == 0
    clock.skip(2 * 24)
    assert books.forgetting.expire() == old
    assert [row.id for row in Interaction.select()] == kept
    for table in (Reading, Review):
        assert not table.select().exists()
    assert Conversation.select().count() == Feedback.select().count() == len(kept)
    assert not [line for line in lines(books) if "id" in line]
    assert manifest(books)["erased_from"]
    told = Audit.get(Audit.action == "expire")
    assert told.reason == f"{old} interactions older than 30 days"
    assert not Version.get().tainted
    assert books.accounts.find("yoana")
    assert books.database.execute_sql("PRAGMA secure_delete").fetchone() == (1,)


def test_without_the_setting_nothing_ever_goes(house: House, clock: FakeClock) -> None:
    teach(house, "ben", 2)
    clock.skip(24 * 3650)
    books = house.books
    forgetting = Forgetting(
        books.database, books.accounts, books.ab_test, clock, books.settings.data_dir
    )
    assert forgetting.expire() == 0
    assert Interaction.select().count() == 2


def test_an_answer_whose_first_attempt_is_too_old_stays_and_replaces_nothing(
    house: House, clock: FakeClock
) -> None:
    first, _ = talk(house, "ben", "What?")
    conversation = Interaction.get_by_id(first).conversation_id
    clock.skip(24 * 20)
    second, _ = talk(house, "ben", "What?", conversation=conversation)
    Interaction.update(regenerates=first).where(Interaction.id == second).execute()
    clock.skip(24 * 11)
    house.books.forgetting.expire()
    assert [(row.id, row.regenerates) for row in Interaction.select()] == [(second, None)]


def test_a_conversation_that_goes_on_is_named_after_what_is_left(
    house: House, clock: FakeClock
) -> None:
    first, _ = talk(house, "ben", f"{SECRET}?")
    conversation = Interaction.get_by_id(first).conversation_id
    clock.skip(24 * 20)
    talk(house, "ben", "And what else?", conversation=conversation)
    clock.skip(24 * 11)
    assert house.books.forgetting.expire() == 1
    assert Conversation.get().title == "And what else?"


def test_interactions_of_a_running_test_go_after_it_has_ended(books: Books) -> None:
    for name in ("v0001", "v0002"):
        books.ab_test.register(name, parent=BASE, run_id=None, sha256="x")
        books.ab_test.deploy_challenger(name)
    log_many(books, 20, days_ago=40, experiment=1)
    log_many(books, 20, days_ago=40)
    log_many(books, 10, days_ago=1)
    assert books.forgetting.expire() == 20
    books.ab_test.retire(actor="admin", reason="worse")
    assert books.forgetting.expire() == 20
    assert Interaction.select().count() == 10


def test_old_interactions_go_in_small_transactions_with_turns_for_others(
    books: Books, clock: FakeClock
) -> None:
    left: list[int] = []
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        left.append(Interaction.select().count())
        # A second connection can write now: no transaction is open.
        other = sqlite3.connect(books.settings.data_dir / "usage.db", timeout=0)
        other.execute("UPDATE user SET active = 1")
        other.commit()
        other.close()

    log_many(books, 2100, days_ago=40)
    log_many(books, 100, days_ago=1)
    forgetting = Forgetting(
        books.database, books.accounts, books.ab_test, clock, books.settings.data_dir, 30, pause
    )
    assert forgetting.expire() == 2100
    assert left == [1700, 1200, 700, 200]
    assert min(pauses) > 0


def test_once_a_day_the_running_app_looks_for_what_is_too_old(
    house: House, clock: FakeClock
) -> None:
    teach(house, "ben", 2)
    house.worker._tick()
    clock.skip(24 * 31)
    talk(house, "cleo", "Hello?")
    house.worker._tick()
    assert {row.user for row in Interaction.select()} == {"cleo"}
    clock.skip(24 * 30.5)
    house.worker._tick()
    assert Interaction.get().user == removal.GONE


def test_the_set_of_an_open_training_is_cleaned_after_it_ended(
    house: House, clock: FakeClock
) -> None:
    teach(house, "ben", 8)
    house.loop.request_training("admin", "now")
    house.loop.run_iteration()
    before = lines(house.books)
    clock.skip(24 * 31)
    house.books.forgetting.expire()
    assert lines(house.books) == before
    house.worker.run_until_quiet()
    house.books.forgetting.expire()
    assert not [line for line in lines(house.books) if "id" in line]


def test_people_chat_while_somebody_is_erased(house: House) -> None:
    teach(house, "yoana", 4, SECRET)
    problems: list[BaseException] = []
    said: list[int] = []

    def chat() -> None:
        try:
            said.extend(talk(house, "ben", f"Question {n}?")[0] for n in range(20))
        except BaseException as problem:  # noqa: BLE001 (told to the test)
            problems.append(problem)
        finally:
            house.books.database.close()

    chatting = threading.Thread(target=chat)
    chatting.start()
    house.books.forgetting.erase("yoana", "operator")
    chatting.join()
    assert problems == []
    assert house.assistant.lost_rows == 0
    kept = Interaction.select(Interaction.id).where(Interaction.user == "ben")
    assert [row.id for row in kept.order_by(Interaction.id)] == said


# -- learning from a chat, and reading one's own texts ---------------------------------------------


def test_a_person_decides_for_their_own_chats_whether_they_are_learned_from(books: Books) -> None:
    mine = books.logger.open_conversation("yoana", "Q")
    books.logger.set_learning("yoana", mine, False)
    assert [c.learn for c in books.logger.conversations("yoana")] == [False]
    books.logger.set_learning("yoana", mine, True)
    assert [c.learn for c in books.logger.conversations("yoana")] == [True]
    for user, conversation in (("ben", mine), ("yoana", mine + 1)):
        with pytest.raises(LookupError, match=f"no conversation {conversation}"):
            books.logger.set_learning(user, conversation, False)


def test_steps_of_the_loop_do_not_name_the_person_either(house: House) -> None:
    Iteration.create(at=house.books.clock(), step="waited", reason="yoana asked for it")
    house.books.forgetting.erase("yoana", "operator")
    assert Iteration.get().reason == "erased-1 asked for it"


def test_while_somebody_reads_the_old_rows_the_erasure_is_not_called_done(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    books = house.books
    teach(house, "yoana", 2, SECRET)
    monkeypatch.setattr("cl.forgetting._EMPTYING_SECONDS", 0)
    books.database.execute_sql("PRAGMA busy_timeout = 10")
    reader = sqlite3.connect(books.settings.data_dir / "usage.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM interaction").fetchone()
    with pytest.raises(TimeoutError, match="Run the same command again"):
        books.forgetting.erase("yoana", "operator")
    reader.close()
    assert found_in_files(books.settings.data_dir, SECRET)
    assert books.forgetting.erase("yoana", "operator").interactions == 2
    assert found_in_files(books.settings.data_dir, SECRET) == []
