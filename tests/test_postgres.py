"""The same product on PostgreSQL: a real server, started for these tests alone."""

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from peewee import PeeweeException

from cl.ab_test import Refused
from cl.db import observations
from cl.db.database import DatabaseProblem, open_database
from cl.db.removal import GONE
from cl.db.tables import TABLES, Audit, Observation
from cl.forgetting import Forgetting
from cl.house import Books, House
from cl.records import BASE, Arm, Outcome, Status
from cl.settings import child_environment
from cl.status import status_of
from tests.fakes import FakeClock, fake_books, fake_house, talk
from tests.schema import schema
from tests.test_walkthrough import test_staff_teach_the_loop_trains_tests_and_promotes as walk

pytestmark = [
    pytest.mark.slow,
    # peewee gives each thread a connection of its own, which ends when the thread does.
    pytest.mark.filterwarnings("ignore:<psycopg.* was deleted while still open:ResourceWarning"),
]


def program(name: str) -> str:
    """A program of the server, on the path or where Debian keeps it."""
    found = shutil.which(name) or next(
        map(str, sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)), None
    )
    assert found, f"PostgreSQL is needed for this test: {name} was not found"
    return found


def as_server(folder: Path, *command: str) -> None:
    """PostgreSQL refuses to run as root."""
    if os.getuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
        command = ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *command)
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env=child_environment(LC_ALL="C")
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a fresh server."""
    with TemporaryDirectory(prefix="pg-") as name, socket.socket() as free:
        folder = Path(name)
        folder.chmod(0o755)
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        data = str(folder / "data")
        as_server(folder, program("initdb"), "-D", data, "-U", "tester", "-A", "trust", "-N")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={name}"
        log = str(folder / "server.log")
        as_server(folder, program("pg_ctl"), "-D", data, "-w", "-l", log, "-o", options, "start")
        yield f"postgresql://tester@127.0.0.1:{port}/postgres"
        as_server(folder, program("pg_ctl"), "-D", data, "-m", "immediate", "stop")


@pytest.fixture
def books(server: str, tmp_path: Path, clock: FakeClock) -> Iterator[Books]:
    opened = fake_books(tmp_path, clock, database_url=server)
    yield opened
    opened.database.execute_sql("DROP SCHEMA public CASCADE")
    opened.database.execute_sql("CREATE SCHEMA public")
    opened.database.close()


@pytest.fixture
def house(books: Books) -> House:
    return fake_house(books)


def test_the_whole_story(house: House, clock: FakeClock) -> None:
    walk(house, clock)
    assert status_of(house.books)["champion"] == "v0001"
    assert not (house.books.settings.data_dir / "usage.db").exists()


def test_the_migrations_make_exactly_the_tables_that_are_declared(books: Books) -> None:
    migrated = schema(books.database)
    books.database.drop_tables(TABLES, cascade=True)
    books.database.create_tables(TABLES)
    assert schema(books.database) == migrated


def test_any_text_a_person_can_type_is_kept(house: House) -> None:
    interaction, _ = talk(house, "ana", "a\x00b\ud800 🙂 'quoted' %s", correction="\x00c")
    (row,) = house.books.logger.get_records()
    assert (row.id, row.prompt, row.feedback.correction) == (
        interaction,
        "ab? 🙂 'quoted' %s",
        "c",
    )


def test_processes_that_start_together_do_not_both_make_the_tables(
    books: Books, server: str, tmp_path: Path
) -> None:
    books.database.execute_sql("DROP SCHEMA public CASCADE")
    books.database.execute_sql("CREATE SCHEMA public")
    problems: list[Exception] = []

    def start(number: int) -> None:
        try:
            open_database(tmp_path / str(number), server).close()
        except (DatabaseProblem, PeeweeException) as problem:
            problems.append(problem)

    threads = [threading.Thread(target=start, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


def test_of_many_who_promote_at_once_one_succeeds(books: Books) -> None:
    for name in ("v0001", "v0002"):
        books.ab_test.register(name, parent=BASE, run_id=None, sha256="x")
        books.ab_test.deploy_challenger(name)
    outcomes: list[str] = []

    def promote() -> None:
        try:
            outcomes.append(books.ab_test.promote(actor="admin", reason="now"))
        except Refused:
            outcomes.append("refused")
        finally:
            books.database.close()

    threads = [threading.Thread(target=promote) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["refused"] * 5 + ["v0002"]
    assert Audit.select().where(Audit.action == "promote").count() == 1


def test_an_answer_is_finished_once_whoever_comes_late(house: House) -> None:
    interaction, answer = talk(house, "ana", "Hello")
    house.books.logger.finish(interaction, Outcome(Status.ERROR, "late", 1.0))
    (row,) = house.books.logger.get_records()
    assert (row.status, row.answer.strip()) == (Status.COMPLETE, answer)


def test_a_person_is_erased_and_old_texts_expire(house: House, clock: FakeClock) -> None:
    books = house.books
    for number in range(6):
        talk(house, "yoana", f"Question {number}?", thumb=-1, correction=f"Secret {number}.")
    talk(house, "ben", "Hello?")
    talk(house, "yoana", "And this?")
    done = books.forgetting.erase("yoana", "operator", "asked for it")
    assert (done.alias, done.interactions) == ("erased-1", 7)
    assert {row.user for row in books.logger.get_records()} == {"ben", GONE}
    clock.skip(24 * 31)
    talk(house, "cleo", "Hello?")
    expiring = Forgetting(
        books.database, books.accounts, books.ab_test, clock, books.settings.data_dir, 30
    )
    assert expiring.expire() == 1
    assert {row.user for row in books.logger.get_records()} == {"cleo"}
    assert books.forgetting.erase("cleo", "operator").alias == "erased-2"


def test_what_another_process_wrote_late_is_counted_all_the_same(books: Books) -> None:
    """Rows get their numbers before they can be seen by others."""

    def note(number: int, interaction: int, thumb: int) -> None:
        about = {"experiment_id": 1, "conversation_id": interaction, "arm": Arm.CHAMPION}
        Observation.create(id=number, interaction_id=interaction, thumb=thumb, **about)

    note(2, 7, 1)
    note(5, 8, 0)
    seen = observations.read(books.database, observations.Ledger(1))
    note(1, 7, -1)  # before what is known of it already
    note(3, 8, 1)  # the same
    note(4, 9, -1)  # of an answer nobody knows yet
    seen = observations.read(books.database, seen)
    assert seen.interaction.tolist() == [7, 8, 9]
    assert seen.arm(Arm.CHAMPION)["feedback"].tolist() == [1, 0, -1]
