"""kill -9 while versions are trained, measured and published; tests/bench/kills.py does it for longer."""

from pathlib import Path

import pytest

from cl import files
from cl.model.versions import add_files, verify
from tests.bench.kills import kill
from tests.fakes import write_adapter

pytestmark = pytest.mark.slow


def test_killed_again_and_again_every_version_is_published_whole_and_the_same(
    tmp_path: Path,
) -> None:
    report = kill(tmp_path, kills=25, seed=0)
    assert not report.faults
    assert report.kills.total() == 25
    assert report.kills["training"] + report.kills["checkpointing"] >= 5
    assert report.killed_trainings >= 2


@pytest.mark.parametrize("write", range(1, 5))
def test_what_is_written_anew_beside_the_weights_leaves_them_whole_when_broken_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: int
) -> None:
    """The gate measures once more after a crash, and what it then says may differ."""
    folder, text, writes = tmp_path / "candidate", files.write_text, []
    write_adapter(folder, {})
    add_files(folder, {"gate.json": "first", "README.md": "first"})

    def broken(path: Path, content: str) -> None:
        writes.append(path)
        if len(writes) == write:
            raise KeyboardInterrupt
        text(path, content)

    monkeypatch.setattr(files, "write_text", broken)
    with pytest.raises(KeyboardInterrupt):
        add_files(folder, {"gate.json": "second", "README.md": "second"})
    verify(folder)
    monkeypatch.undo()
    add_files(folder, {"gate.json": "third"})
    assert "gate.json" in verify(folder)["files"]
