"""The command line: words for people, one JSON document for machines, and honest exit codes."""

import json
from pathlib import Path
from typing import Any

import pytest

from cl.cli.parser import parser, run
from cl.house import serve_alone, utc_now
from tests.fakes import FakeClock, fake_books, fake_house, talk, write_adapter

LINE = '{"conversation": [{"role": "user", "content": "Q%d?"}], "response": "A.", "feedback": 1}\n'
WITHOUT_A_MODEL = [
    ("status",),
    ("check-triggers",),
    ("compare",),
    ("promote",),
    ("retire",),
    ("rollback",),
    ("review",),
    ("review", "7", "keep"),
    ("export", "out.jsonl"),
    ("users",),
    ("backup", "--to", "kept/a"),
    ("restore", "kept"),
    ("doctor",),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of the test's own, and nothing from outside."""
    for name in ("CL_DATA_DIR", "CL_MODEL", "CL_PRESET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(arguments)
    out, err = capsys.readouterr()
    return code, out, err


def call_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code, out, _ = call(capsys, *arguments, "--json")
    return code, json.loads(out.strip().splitlines()[-1])


def test_status_has_the_promised_keys_on_an_empty_folder(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = call_json(capsys, "status")
    assert code == 0
    assert {"state", "champion", "challenger", "interactions", "triggers", "job"} <= set(found)
    assert (found["state"], found["interactions"], found["job"]) == ("NO_CHAMPION", 0, None)
    code, out, _ = call(capsys, "status")
    assert out.startswith("Nobody has written yet.")


@pytest.mark.parametrize("command", WITHOUT_A_MODEL)
def test_every_command_says_something_sensible_on_an_empty_folder(
    folder: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    code, out, err = call(capsys, *command)
    assert code in (0, 1)
    assert (out or err).strip()
    assert "Traceback" not in out + err
    code_json, found = call_json(capsys, *command)
    assert code_json == code
    assert ("error" in found) == (code == 1)


@pytest.mark.parametrize("command", ["promote", "retire", "rollback", "compare"])
def test_what_cannot_be_done_now_is_refused_with_a_reason(
    folder: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    code, out, err = call(capsys, command)
    assert (code, out) == (1, "")
    assert err in ("No test is running.\n", "There is no champion to roll back from.\n")


@pytest.mark.parametrize("arguments", [[], ["fly"], ["import"], ["users", "paint"], ["--json"]])
def test_wrong_usage_exits_with_2(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(arguments)
    assert ended.value.code == 2


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("CL_PORT", "http", "CL_PORT='http' is not a whole number."),
        ("CL_VALSHARE", "1", "There is no setting CL_VALSHARE"),
        ("CL_PRESET", "prod", "must be production or demo"),
    ],
)
def test_a_wrong_setting_is_wrong_usage(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
    words: str,
) -> None:
    monkeypatch.setenv(name, value)
    code, _, err = call(capsys, "status")
    assert code == 2
    assert words in err


@pytest.mark.parametrize("command", [("iterate",), ("train",), ("generate", "--out", "x")])
def test_a_model_that_cannot_be_had_is_one_sentence(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
) -> None:
    monkeypatch.setenv("CL_MODEL", "nothing.gguf")
    code, _, err = call(capsys, *command)
    assert (code, err) == (1, "There is no file nothing.gguf. Check CL_MODEL.\n")


def test_examples_are_reviewed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("in.jsonl").write_text("".join(LINE % n for n in range(4)), encoding="utf-8")
    call(capsys, "import", "in.jsonl")
    _, found = call_json(capsys, "review", "--limit", "3")
    assert (found["waiting"], found["keep"], len(found["items"])) == (4, 0, 3)
    assert {"id", "key", "why", "propensity", "prompt", "answer"} <= set(found["items"][0])
    first, second, third = (item["id"] for item in found["items"])
    assert call(capsys, "review", str(first), "keep")[:2] == (0, f"Interaction {first}: keep.\n")
    assert call(capsys, "review", str(second), "edit", "--answer", "B.", "--reason", "x")[0] == 0
    assert call_json(capsys, "review", str(third), "exclude")[1]["decision"] == "exclude"
    code, out, _ = call(capsys, "review")
    assert code == 0
    assert len(out.splitlines()) == 1
    assert "A." in out
    found = call_json(capsys, "review")[1]
    assert [found[name] for name in ("waiting", "keep", "exclude", "edit")] == [1, 1, 1, 1]
    with fake_books(folder, utc_now) as books:
        (edited,) = (r for r in books.reviews.decisions().values() if r.answer)
    assert (edited.interaction_id, edited.answer, edited.reason) == (second, "B.", "x")
    assert edited.actor.endswith("(terminal)")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("99", "keep"), "There is no interaction 99."),
        (("1",), "Say keep, exclude or edit"),
        (("1", "edit"), "An edit needs an answer."),
        (("1", "keep", "--answer", "B."), "go with edit, not with keep"),
        (("--limit", "0"), "--limit is at least 1"),
    ],
)
def test_a_review_that_cannot_be_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], told: str
) -> None:
    Path("in.jsonl").write_text(LINE % 1, encoding="utf-8")
    call(capsys, "import", "in.jsonl")
    code, out, err = call(capsys, "review", *arguments)
    assert (code, out) == (1, "")
    assert told in err


def test_import_and_export(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("in.jsonl").write_text(LINE % 1 + "nonsense\n" + LINE % 2, encoding="utf-8")
    code, found = call_json(capsys, "import", "in.jsonl")
    assert code == 0
    assert (found["added"], found["refused"]) == (2, 1)
    assert found["rejected"] == [[2, "not JSON: Expecting value"]]
    assert call_json(capsys, "export", "out.jsonl")[1]["exported"] == 2
    code, out, _ = call(capsys, "export", "-")
    assert out == Path("out.jsonl").read_text(encoding="utf-8")
    assert call(capsys, "import", "missing.jsonl")[0] == 1
    Path("bad.jsonl").write_text("nonsense\n", encoding="utf-8")
    assert call(capsys, "import", "bad.jsonl")[0] == 1


def test_people_are_added_listed_and_let_in_again(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = call(capsys, "users", "add", "ana", "--role", "admin")
    assert code == 0
    assert "http://127.0.0.1:7860/signin?link=" in out
    assert call(capsys, "users", "add", "ana")[0] == 1
    assert call(capsys, "users", "add")[0] == 1
    assert call(capsys, "users", "deactivate", "ana")[2] == "ana is the last admin.\n"
    assert call(capsys, "users", "link", "ben")[2] == "There is no user ben.\n"
    assert call_json(capsys, "users")[1] == {
        "users": [{"name": "ana", "role": "admin", "active": True}]
    }


def test_backup_and_restore(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nothing to back up" in call(capsys, "backup")[2]
    call(capsys, "users", "add", "ana")
    code, found = call_json(capsys, "backup", "--to", "kept")
    assert (code, found) == (0, {"backup": "kept"})
    call(capsys, "users", "add", "ben")
    with serve_alone(folder):
        assert "Stop it first" in call(capsys, "restore", "kept")[2]
    assert call(capsys, "restore", "kept")[0] == 0
    assert [u["name"] for u in call_json(capsys, "users")[1]["users"]] == ["ana"]


def test_steering_works_while_the_app_runs(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    house = fake_house(fake_books(folder, utc_now))
    with serve_alone(folder):
        for _ in range(2):
            for n in range(12):
                talk(house, "ana", f"Where is {n}?", thumb=-1, correction=f"In drawer {n}.")
            house.worker.run_until_quiet()
        code, out, _ = call(capsys, "compare")
        assert code == 0
        assert "continue: " in out
        code, out, _ = call(capsys, "compare", "--experiment", "1", "--check", "1")
        assert (code, out.splitlines()[-1]) == (0, "The same verdict.")
        code, found = call_json(capsys, "compare", "--experiment", "1", "--check", "1")
        assert (code, found["same"], found["now"]["experiment_id"]) == (0, True, 1)
        assert "none 99" in call(capsys, "compare", "--experiment", "1", "--check", "99")[2]
        code, found = call_json(capsys, "promote", "--reason", "looks good")
        assert (code, found) == (0, {"state": "NEW_CHAMPION", "version": "v0002"})
        assert call_json(capsys, "rollback")[1] == {"state": "CHAMPION", "version": "v0001"}
        assert "v0001" in call(capsys, "status")[1]
    house.close()


def test_an_experiment_without_its_check_is_wrong_usage(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = call(capsys, "compare", "--check", "1")
    assert code == 2
    assert "go together" in err


def test_the_self_test_tells_what_the_rule_does_with_equals(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "a self-test needs" in call(capsys, "compare", "--self-test")[2]
    house = fake_house(fake_books(folder, utc_now))
    for n in range(40):
        talk(house, "ana", f"Where is {n}?", thumb=1 if n % 3 else -1)
    house.close()
    code, out, _ = call(capsys, "compare", "--self-test", "--tests", "2")
    assert code == 0
    assert "Drawn from 40 conversations" in out
    code, found = call_json(capsys, "compare", "--self-test", "--tests", "2")
    assert (code, found["tests"], found["promoted"]) == (0, 2, 0.0)


def test_doctor_names_what_is_wrong_and_exits_with_1(
    folder: Path, capsys: pytest.CaptureFixture[str], clock: FakeClock
) -> None:
    code, found = call_json(capsys, "doctor")
    assert (code, found["ok"]) == (0, True)
    books = fake_books(folder, clock)
    write_adapter(books.models / "v0001", {})
    books.ab_test.register("v0001", parent="base", run_id=None, sha256="x")
    (books.models / "v0001" / "learned.json").write_text("{changed}")
    books.database.close()
    code, out, _ = call(capsys, "doctor")
    assert code == 1
    assert "BAD  version v0001" in out
    assert "damaged" in out


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for name in "status", "check-triggers", "iterate", "generate", "train", "deploy", "compare":
        assert name in text
    for name in (
        "promote",
        "retire",
        "rollback",
        "review",
        "export",
        "import",
        "users",
        "backup",
        "restore",
    ):
        assert name in text
    assert "doctor" in text
    assert "demo" in text
