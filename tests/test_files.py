"""A file or folder is there whole or not at all."""

import json
import os
from pathlib import Path

import pytest

from cl.files import TEMPORARY, new_folder, sha256, sweep, write_json, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_text_is_written_as_utf8_into_folders_made_for_it(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "note.txt"
    write_text(path, "Grüße\n東京")
    assert path.read_bytes() == b"Gr\xc3\xbc\xc3\x9fe\n\xe6\x9d\xb1\xe4\xba\xac"
    write_text(path, "")
    assert path.read_bytes() == b""
    assert names(path.parent) == ["note.txt"]


def test_a_write_that_fails_half_way_leaves_the_old_text_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "x" * 100_000 + "\ud800")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["note.txt"]


def test_a_name_that_is_taken_by_a_folder_leaves_no_rest_behind(tmp_path: Path) -> None:
    (tmp_path / "note.txt").mkdir()
    with pytest.raises(OSError, match=r"note\.txt"):
        write_text(tmp_path / "note.txt", "new")
    assert names(tmp_path) == ["note.txt"]


def test_the_same_value_is_the_same_bytes_in_whatever_order_it_was_built(tmp_path: Path) -> None:
    one, other = {"b": [1, None], "a": "é"}, {"a": "é", "b": [1, None]}
    for name, value in (("one", one), ("other", other)):
        write_json(tmp_path / name, value)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    assert json.loads((tmp_path / "one").read_text("utf-8")) == one
    assert (tmp_path / "one").read_text("utf-8").endswith("}\n")


def test_a_value_json_cannot_hold_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "value", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "value", {"a": object()})
    assert (tmp_path / "value").read_text() == "1\n"


def test_a_new_folder_appears_under_its_name_only_when_it_is_full(tmp_path: Path) -> None:
    final = tmp_path / "models" / "v0001"
    with new_folder(final) as aside:
        (aside / "deep").mkdir()
        (aside / "deep" / "weights").write_bytes(b"123")
        assert not final.exists()
        assert aside.parent == final.parent  # a rename does not cross file systems
    assert names(final.parent) == ["v0001"]
    assert (final / "deep" / "weights").read_bytes() == b"123"


def fill_and_fail(final: Path, problem: type[BaseException]) -> None:
    with new_folder(final) as aside:
        (aside / "weights").write_bytes(b"12")
        raise problem


@pytest.mark.parametrize("problem", [ValueError, OSError, KeyboardInterrupt])
def test_an_exception_while_filling_leaves_nothing(
    tmp_path: Path, problem: type[BaseException]
) -> None:
    with pytest.raises(problem):
        fill_and_fail(tmp_path / "v0001", problem)
    assert names(tmp_path) == []


def test_a_full_folder_of_that_name_is_never_replaced(tmp_path: Path) -> None:
    final = tmp_path / "v0001"
    final.mkdir()
    (final / "weights").write_bytes(b"old")
    with pytest.raises(OSError, match="v0001"), new_folder(final) as aside:
        (aside / "weights").write_bytes(b"new")
    assert (final / "weights").read_bytes() == b"old"
    assert names(tmp_path) == ["v0001"]


def test_what_a_crash_left_of_the_same_folder_does_not_get_in(tmp_path: Path) -> None:
    stale = tmp_path / f"{TEMPORARY}{os.getpid()}-v0001"
    stale.mkdir()
    (stale / "half").touch()
    with new_folder(tmp_path / "v0001"):
        pass
    assert names(tmp_path) == ["v0001"]
    assert names(tmp_path / "v0001") == []


def test_a_sweep_takes_what_dead_processes_left_and_nothing_else(tmp_path: Path) -> None:
    dead, alive = 999_999_999, os.getppid()
    (tmp_path / "runs" / f".tmp-{dead}-v0001" / "deep").mkdir(parents=True)
    mine = f".tmp-{alive}-note.txt"
    for name in (f"runs/.tmp-{dead}-v0001/deep/half", f".tmp-{dead}-note.txt", mine, "note.tmp-"):
        (tmp_path / name).touch()
    assert sweep(tmp_path) == 2
    assert names(tmp_path) == [mine, "note.tmp-", "runs"]
    assert names(tmp_path / "runs") == []
    assert sweep(tmp_path) == 0


def test_a_crash_inside_a_write_is_what_a_sweep_finds(tmp_path: Path) -> None:
    crashed = new_folder(tmp_path / "v0001")
    (crashed.__enter__() / "half").touch()
    assert sweep(tmp_path) == 1
    assert names(tmp_path) == []


def test_there_is_nothing_to_sweep_where_there_is_no_folder(tmp_path: Path) -> None:
    assert sweep(tmp_path / "absent") == 0


@pytest.mark.parametrize(
    ("content", "digest"),
    [
        (b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
    ],
)
def test_the_digest_is_that_of_the_bytes(tmp_path: Path, content: bytes, digest: str) -> None:
    (tmp_path / "file").write_bytes(content)
    assert sha256(tmp_path / "file") == digest
