"""kill -9 during an import: run again, nothing is missing and nothing there twice."""

import json
import multiprocessing
import random
import time
from pathlib import Path

import pytest

from tests.fakes import FakeClock, fake_books
from tests.import_child import bring

pytestmark = pytest.mark.slow

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["tests.import_child"])


def write_file(path: Path) -> None:
    """Pairs of answers, long conversations, ratings that come late."""
    dice = random.Random(0)
    with path.open("w") as file:
        for group in range(150):
            said = [f"{group} {n} {dice.random()}" for n in range(2 * dice.randint(1, 6))]
            messages = [
                {"role": ("user", "assistant")[n % 2], "content": text}
                for n, text in enumerate(said)
            ]
            for end in dice.sample(range(2, len(said) + 1, 2), len(said) // 2):
                line = {"conversation": messages[: end - 1], "group": str(group)}
                for answer, thumb in ((said[end - 1], 1), ("No.", -1)):
                    file.write(json.dumps({**line, "response": answer, "feedback": thumb}) + "\n")


def log(folder: Path) -> list[tuple[object, ...]]:
    """Everything that was said, and what was said of it; in order."""
    with fake_books(folder, FakeClock()) as books:
        return [
            (
                [m["content"] for m in books.logger.context(row.conversation_id, row.id)],
                row.prompt,
                row.answer,
                row.feedback.thumb,
            )
            for row in books.logger.get_records()
        ]


@pytest.mark.parametrize("seed", range(2))
def test_killed_again_and_again_an_import_ends_like_one_that_was_not(
    tmp_path: Path, seed: int
) -> None:
    file, calm, killed = tmp_path / "in.jsonl", tmp_path / "calm", tmp_path / "killed"
    write_file(file)
    started = time.monotonic()
    bring(calm, file)
    seconds = time.monotonic() - started
    dice = random.Random(seed)
    kills = sizes = 0
    while not (killed / "end").exists():
        process = _PROCESSES.Process(target=bring, args=(killed, file))
        process.start()
        process.join(timeout=dice.uniform(0.1, 0.4) * seconds if kills < 5 else 60)
        kills += process.is_alive()
        process.kill()
        process.join()
        with fake_books(killed, FakeClock()) as books:
            found = sum(1 for _ in books.logger.get_records())
        assert found >= sizes
        sizes = found
    assert kills >= 2
    assert log(killed) == log(calm)
