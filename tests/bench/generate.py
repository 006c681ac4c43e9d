"""A training set from a log of a million messages: seconds and memory, beside a tenth of it.

    python -m tests.bench.generate [--sizes 100000 1000000] [--keep DIR]

Writes logs of these sizes (12 % rated, a fifth of those down, a tenth corrected; some answers are
copies, some nearly), makes a training set of each in a process of its own and prints processor
seconds, the peak of its resident memory, and how both grow. Set OMP_NUM_THREADS and taskset as you
like: one core is enough.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cl.records import Arm, Status
from cl.settings import DataLimits
from cl.training_data import TrainingDataGenerator
from tests.fakes import FakeClock, FixedDecisions, FixedRehearsal, FixedScores, fake_books

RATED, DOWN, CORRECTED, COPIED = 0.12, 0.2, 0.1, 0.1
PEOPLE = 400
_WORDS = 4000
_AT_ONCE = 5000


def _insertion(table: str, *columns: str) -> str:
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' for _ in columns)})"


_CHAT = _insertion("conversation", "id", "user", "title", "created_at", "updated_at", "learn")
_INTERACTION = _insertion(
    "interaction",
    *("id", "request_id", "conversation_id", "user", "prompt", "answer", "status", "version"),
    *("arm", "quality", "scorer", "created_at", "finish_reason"),
)
_FEEDBACK = _insertion(
    "feedback",
    *("interaction_id", "user", "thumb", "reasons", "comment", "correction"),
    *("created_at", "updated_at"),
)


def write_log(folder: Path, size: int, seed: int = 0) -> None:
    """A log of so many interactions, two to a conversation on average."""
    dice = random.Random(seed)
    words = ["".join(dice.choices("etaoinshrdlu", k=dice.randint(2, 9))) for _ in range(_WORDS)]
    books = fake_books(folder, FakeClock())
    start = 1_760_000_000_000
    chats = ((n, f"user {n % PEOPLE}", "Chat", start, start, 1) for n in range(1, size // 2 + 1))
    with books.database.atomic():
        books.database.connection().executemany(_CHAT, chats)
        _insert(books.database, size, dice, words, start)
    books.database.close()


def _insert(database: Any, size: int, dice: random.Random, words: list[str], start: int) -> None:
    rows, said = [], []
    recent: list[str] = []
    for number in range(1, size + 1):
        answer = " ".join(dice.choices(words, k=dice.randint(20, 90)))
        if recent and dice.random() < COPIED:
            answer = dice.choice(recent)
        recent = [*recent[-200:], answer]
        prompt = " ".join(dice.choices(words, k=dice.randint(4, 14))) + "?"
        chat = dice.randrange(1, size // 2 + 1)
        rows.append(
            (
                number,
                str(number),
                chat,
                f"user {chat % PEOPLE}",
                prompt,
                answer,
                Status.COMPLETE.value,
                "base",
                Arm.DEFAULT.value,
                dice.random(),
                "rules-1",
                start + number,
                "stop",
            )
        )
        if dice.random() < RATED:
            thumb = -1 if dice.random() < DOWN else 1
            better = " ".join(dice.choices(words, k=30)) if dice.random() < CORRECTED else ""
            said.append((number, f"user {chat % PEOPLE}", thumb, "[]", "", better, start, start))
        if len(rows) == _AT_ONCE or number == size:
            many = database.connection().executemany
            many(_INTERACTION, rows)
            many(_FEEDBACK, said)
            rows, said = [], []


def generate(folder: Path) -> dict[str, Any]:
    """In a process of its own: what making the set cost."""
    books = fake_books(folder, FakeClock())
    before, began = time.process_time(), time.monotonic()
    made = TrainingDataGenerator(
        books.logger, FixedRehearsal(), FixedScores(), FixedDecisions(), DataLimits
    ).generate(folder / "set")
    return {
        "cpu_s": time.process_time() - before,
        "seconds": time.monotonic() - began,
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "examples": made.examples,
        "votes": made.votes,
        "funnel": [(step.name, step.kept, step.dropped) for step in made.funnel],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--keep", type=Path, help="keep the logs here and use them again")
    parser.add_argument("--child", type=Path)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(generate(options.child)))
        return
    with TemporaryDirectory() as scratch:
        found = {size: _measured(options.keep or Path(scratch), size) for size in options.sizes}
    for size, cost in found.items():
        print(
            f"{size:>9,} interactions: {cost['cpu_s']:.1f} CPU s, {cost['seconds']:.1f} s, peak {cost['rss_mb']:.0f} MB, {cost['examples']:,} examples, {cost['votes']:,} votes"
        )
        for name, kept, dropped in cost["funnel"]:
            print(
                f"    {name:<24}{kept:>10,}  "
                + ", ".join(f"{n:,} {why}" for why, n in dropped.items())
            )
    small, *_, large = options.sizes
    if small != large:
        growth = found[large]["cpu_s"] / found[small]["cpu_s"]
        print(f"{large / small:.0f} times the log costs {growth:.1f} times the processor time")


def _measured(folder: Path, size: int) -> dict[str, Any]:
    log = folder / str(size)
    if not (log / "usage.db").exists():
        print(f"writing a log of {size:,} interactions", file=sys.stderr)
        write_log(log, size)
    child = [sys.executable, "-m", "tests.bench.generate", "--child", str(log)]
    done = subprocess.run(child, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout))


if __name__ == "__main__":
    main()
