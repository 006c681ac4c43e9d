"""`python -m cl import` as it is typed."""

import json
from pathlib import Path

import pytest

from cl.cli.parser import run

GOOD = '{"messages": [{"role": "user", "content": "Q%d?"}, {"role": "assistant", "content": "A."}]}'


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CL_DATA_DIR", str(tmp_path / "data"))
    return tmp_path


def write(*lines: str) -> None:
    Path("in.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def test_refused_lines_are_named_beside_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    write(*["nonsense"] * 23, GOOD % 1)
    assert run(["import", "in.jsonl"]) == 0
    out, err = capsys.readouterr()
    assert out == "1 interactions added, 0 known ones rated; 0 lines known already, 23 refused.\n"
    lines = err.splitlines()
    assert lines[0] == "  line 1: not JSON: Expecting value"
    assert lines[-2].startswith("  line 20: ")
    assert lines[-1] == "  and 3 more; --rejected PATH writes them all to a file"


def test_a_thousand_refused_lines_are_listed_and_all_are_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(*["nonsense"] * 1005, GOOD % 1)
    assert run(["import", "in.jsonl", "--json", "--rejected", "out.jsonl"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found["added"], found["refused"], len(found["rejected"])) == (1, 1005, 1000)
    assert found["rejected"][-1] == [1000, "not JSON: Expecting value"]
    assert err == ""
    lines = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [line["line"] for line in lines] == [*range(1, 1006)]
    assert lines[0] == {"line": 1, "reason": "not JSON: Expecting value"}


def test_the_exit_code_tells_whether_anything_was_taken_or_known() -> None:
    write(GOOD % 1, "nonsense")
    assert run(["import", "in.jsonl"]) == 0
    assert run(["import", "in.jsonl"]) == 0
    write("nonsense")
    assert run(["import", "in.jsonl"]) == 1


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nothing.jsonl", "There is no file nothing.jsonl."),
        (".", ". is a folder; import takes one file."),
        ("in.jsonl", "in.jsonl is empty: there is nothing to import."),
    ],
)
def test_a_file_that_is_none_is_one_sentence(
    capsys: pytest.CaptureFixture[str], name: str, sentence: str
) -> None:
    write()
    assert run(["import", name]) == 1
    assert capsys.readouterr().err == sentence + "\n"


def test_the_refused_lines_do_not_overwrite_the_file_they_come_from(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(GOOD % 1)
    assert run(["import", "in.jsonl", "--rejected", "./in.jsonl"]) == 1
    assert "another file" in capsys.readouterr().err
    assert Path("in.jsonl").read_text() == GOOD % 1 + "\n"


def test_a_bar_shows_how_far_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    write(*(GOOD % n for n in range(1000)))
    assert run(["import", "in.jsonl"]) == 0
    err = capsys.readouterr().err
    assert "500 interactions, 0 lines known [############            ] 50%" in err
    assert "1,000 interactions, 0 lines known [########################] 100%" in err
