"""kill -9 at any moment: nothing is lost, nothing is half there, and the loop goes on."""

import multiprocessing
import random
import sqlite3
import time
from collections import Counter
from pathlib import Path

import pytest

from cl.files import TEMPORARY
from cl.model.versions import VersionStore
from tests.crash_child import play, ready
from tests.fakes import BASE_SHA

pytestmark = pytest.mark.slow

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["tests.crash_child"])


def rows(folder: Path, query: str) -> list[tuple[object, ...]]:
    """What the database says, read from outside; nothing when there is none yet."""
    if not (folder / "usage.db").exists():
        return []
    connection = sqlite3.connect(folder / "usage.db")
    try:
        return connection.execute(query).fetchall()
    except sqlite3.OperationalError:  # killed before the tables were made
        return []
    finally:
        connection.close()


def check(folder: Path, before: dict[object, object]) -> dict[object, object]:
    """What must hold after every kill. Returns the finished interactions as they are now."""
    if (folder / "usage.db").exists():
        assert rows(folder, "PRAGMA quick_check") == [("ok",)]
    stages = Counter(stage for (stage,) in rows(folder, "SELECT stage FROM version"))
    assert stages["champion"] <= 1
    assert stages["challenger"] <= 1
    store = VersionStore(folder / "models", BASE_SHA)
    for (name,) in rows(folder, "SELECT name FROM version"):
        store.check(str(name))
    for path in (folder / "models").glob("v*"):
        store.check(path.name)
    now = dict(
        rows(folder, "SELECT id, prompt || answer FROM interaction WHERE status = 'complete'")
    )
    assert before.items() <= now.items()  # what was finished stays finished, word for word
    return now


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> float:
    """Seconds the whole story takes here: the kills must fall within it on any machine."""
    first = _PROCESSES.Process(target=ready)  # starting the server of processes is not the story
    first.start()
    first.join()
    started = time.monotonic()
    process = _PROCESSES.Process(target=play, args=(tmp_path_factory.mktemp("undisturbed"),))
    process.start()
    process.join()
    assert process.exitcode == 0
    return time.monotonic() - started


@pytest.mark.parametrize("seed", range(6))
def test_killed_again_and_again_the_story_still_reaches_its_end(
    tmp_path: Path, undisturbed: float, seed: int
) -> None:
    dice = random.Random(seed)
    finished: dict[object, object] = {}
    kills = 0
    while not (tmp_path / "end").exists():
        process = _PROCESSES.Process(target=play, args=(tmp_path,))
        process.start()
        process.join(timeout=dice.uniform(0.01, 0.1) * undisturbed if kills < 20 else 60)
        kills += process.is_alive()
        process.kill()
        process.join()
        finished = check(tmp_path, finished)
    assert kills >= 3
    assert (tmp_path / "end").read_text().split()[-1] == "NEW_CHAMPION"
    assert not [*tmp_path.rglob(f"{TEMPORARY}*")]
    assert rows(tmp_path, "SELECT * FROM interaction WHERE status = 'started'") == []
    rated = "SELECT request_id FROM interaction JOIN feedback ON interaction_id = interaction.id"
    turns = Counter(str(key).rsplit(".", 1)[0] for (key,) in rows(tmp_path, rated))
    assert set(turns.values()) == {1}  # every turn of the script was rated once
