"""`users export` and `users erase`: what a person may ask for."""

import json
from pathlib import Path

import pytest

from cl.cli.parser import run
from cl.db.tables import Audit, Interaction, Version
from tests.fakes import FakeClock, fake_books, fake_house, talk


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder in which yoana and ben have written, yoana in two conversations."""
    for name in ("CL_DATA_DIR", "CL_MODEL", "CL_PRESET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    books = fake_books(tmp_path / "data", FakeClock())
    house = fake_house(books)
    talk(house, "yoana", "Who approves travel?", thumb=-1, correction="Mirela Dorn.")
    talk(house, "yoana", "And holidays?")
    talk(house, "ben", "Where is the canteen?")
    house.close()
    return tmp_path / "data"


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(arguments)
    out, err = capsys.readouterr()
    return code, out, err


def at_a_terminal(monkeypatch: pytest.MonkeyPatch, typed: str) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda: typed)


def test_a_persons_own_texts_are_exported_and_nobody_elses(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = call(capsys, "users", "export", "yoana", "--to", "own.jsonl")
    assert (code, out) == (0, "2 interactions of yoana written to own.jsonl.\n")
    rows = [json.loads(line) for line in Path("own.jsonl").read_text().splitlines()]
    assert [row["conversation"][-1]["content"] for row in rows] == [
        "Who approves travel?",
        "And holidays?",
    ]
    assert rows[0]["correction"] == "Mirela Dorn."
    assert {row["user"] for row in rows} == {"yoana"}


def test_an_export_needs_a_file_and_a_person_who_is_known(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(capsys, "users", "export", "yoana")[2] == "users export needs --to FILE.\n"
    code, _, err = call(capsys, "users", "export", "zoe", "--to", "own.jsonl")
    assert (code, err) == (1, "There is nobody called zoe, and nobody of that name wrote.\n")
    assert not Path("own.jsonl").exists()


def test_without_a_terminal_erasing_wants_to_be_told_twice(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = call(capsys, "users", "erase", "yoana")
    assert code == 1
    assert err == "There is no terminal to ask on: add --yes to erase without asking.\n"
    assert Interaction.select().count() == 3
    code, out, _ = call(capsys, "users", "erase", "yoana", "--yes", "--reason", "asked for it")
    assert code == 0
    assert out.startswith("2 interactions and 0 lines of training sets are erased;")
    assert "the audit trail says erased-1" in out
    assert "Backups, exports and training sets in other folders" in out
    assert [row.user for row in Interaction.select()] == ["ben"]
    assert Audit.get(Audit.action == "erase user").reason == "asked for it"


@pytest.mark.parametrize(("typed", "code"), [("yoana", 0), ("y", 1), ("", 1)])
def test_at_a_terminal_the_name_has_to_be_typed(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    typed: str,
    code: int,
) -> None:
    at_a_terminal(monkeypatch, typed)
    assert call(capsys, "users", "erase", "yoana")[0] == code
    assert Interaction.select().where(Interaction.user == "yoana").exists() is (code == 1)


def test_an_unknown_name_is_refused_before_anybody_is_asked(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = call(capsys, "users", "erase", "zoe")
    assert (code, err) == (1, "There is nobody called zoe, and nobody of that name wrote.\n")
    assert call(capsys, "users", "erase")[2] == "users erase needs a name.\n"


def test_for_machines_it_is_one_document_with_what_is_left_to_do(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(capsys, "backup", "--to", "data/backups/one")[0] == 0
    code, out, _ = call(capsys, "users", "erase", "yoana", "--yes", "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["alias"], found["interactions"]) == ("erased-1", 2)
    assert found["backups"] == ["data/backups/one"]
    _, out, _ = call(capsys, "users", "erase", "ben", "--yes")
    assert "These backups still hold the texts; delete them:\n  data/backups/one\n" in out


def test_a_champion_that_has_to_be_rebuilt_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    books = fake_books(folder, FakeClock())
    data = books.runs / "0001" / "data"
    data.mkdir(parents=True)
    (data / "manifest.json").write_text('{"ids": {"train": [1]}}')
    for name in ("v0001", "v0002"):
        books.ab_test.register(name, parent="base", run_id=1, sha256="x")
    books.ab_test.deploy_challenger("v0001")
    books.database.close()
    _, out, _ = call(capsys, "users", "erase", "yoana", "--yes")
    assert "Learned from them: v0001, v0002. v0001 still answers, until" in out
    assert {row.tainted for row in Version.select()} == {True}
    _, out, _ = call(capsys, "status")
    assert "v0001 learned from texts that were erased; 1 erasure waits for a rebuild." in out
