"""What routing and logging add to an answer: the assistant around an engine that costs nothing.

    python -m tests.bench.overhead [--messages 2000]

Takes messages in and finishes their rows on a real SQLite file, while a champion and a challenger
are in traffic, and prints the milliseconds this takes beside the same stream without the assistant.
"""

import argparse
import asyncio
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
    with_log, without = [], []

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

    async def all_of_them() -> None:
        for number in range(messages):
            await one(number)

    asyncio.run(all_of_them())
    added = [a - b for a, b in zip(with_log, without, strict=True)]
    print(
        f"route and log, {messages} messages: median {1000 * median(added):.2f} ms, p99 {1000 * percentile(added, 0.99):.2f} ms"
    )
    house.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--messages", type=int, default=2000)
    options = parser.parse_args()
    with TemporaryDirectory() as scratch:
        measure(Path(scratch), options.messages)


if __name__ == "__main__":
    main()
