"""What routing and logging add to an answer: the assistant around an engine that costs nothing.

    python -m tests.bench.overhead [--messages 2000]

Takes messages in and finishes their rows on a real SQLite file, while a champion and a challenger
are in traffic, and prints the milliseconds this takes beside the same stream without the assistant.
Each message is two transactions that are on the disk before anything goes on; what two bare ones cost
on this disk at the same moment is printed beside it.
"""

import argparse
import asyncio
import gc
import sqlite3
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from cl.records import BASE, Message, Sampling
from tests.bench.serving import percentile
from tests.fakes import FakeClock, fake_books, fake_house, write_adapter


def measure(folder: Path, messages: int) -> None:
    house = fake_house(fake_books(folder, FakeClock()))
    for name in ("v0001", "v0002"):
        write_adapter(house.versions.path(name), {})
        house.books.ab_test.register(name, parent=BASE, run_id=None, sha256="0" * 64)
        house.books.ab_test.deploy_challenger(name, actor="bench", reason="bench")
    with_log, without, bare = [], [], []
    disk = bare_database(folder / "bare.db")

    async def one(number: int) -> None:
        began = time.perf_counter()
        conversation, interaction = house.assistant.begin(
            f"user{number % 50}", "How are you?", None
        )
        async for _ in house.assistant.answer(f"user{number % 50}", conversation, interaction):
            pass
        with_log.append(time.perf_counter() - began)
        began = time.perf_counter()
        asked = [Message(role="user", content="How are you?")]
        async for _ in house.engine.chat(BASE, asked, Sampling(max_tokens=64)):
            pass
        without.append(time.perf_counter() - began)
        bare.append(two_transactions(disk))

    gc.collect()
    gc.freeze()  # as the app does when it starts

    async def all_of_them() -> None:
        for number in range(messages):
            await one(number)

    asyncio.run(all_of_them())
    added = [a - b for a, b in zip(with_log, without, strict=True)]
    own = [a - b for a, b in zip(added, bare, strict=True)]
    print(f"{messages} messages, milliseconds: median, p99")
    for name, seconds in (
        ("route and log", added),
        ("two bare synced transactions", bare),
        ("what is ours of it", own),
    ):
        print(f"{name:<30}{1000 * median(seconds):6.2f}{1000 * percentile(seconds, 0.99):7.2f}")
    disk.close()
    house.close()


def two_transactions(disk: sqlite3.Connection) -> float:
    began = time.perf_counter()
    for _ in range(2):
        disk.execute("BEGIN IMMEDIATE")
        disk.execute("INSERT INTO line VALUES (?)", ("x" * 500,))
        disk.execute("COMMIT")
    return time.perf_counter() - began


def bare_database(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = wal")
    connection.execute("PRAGMA synchronous = full")
    connection.execute("CREATE TABLE line (text)")
    return connection


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--messages", type=int, default=2000)
    options = parser.parse_args()
    with TemporaryDirectory() as scratch:
        measure(Path(scratch), options.messages)


if __name__ == "__main__":
    main()
