"""Many requests at one engine, for long: is anything lost, mixed up, or kept for ever?

    python -m tests.bench.soak [--requests 10000]

A tiny real model and three versions of it. Clients of several users ask without pause, leave in
the middle of answers or while they wait, and are sent away when too many wait; versions are dropped
and come back meanwhile, and questions nobody sits in front of run beside. Every answer that was
heard to its end must be, letter by letter, what its version says when it is asked alone.
`tests/model/test_soak.py` runs a short one.
"""

import argparse
import asyncio
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import torch

from cl.model.engine.contract import Busy
from cl.model.engine.embedded import EmbeddedEngine
from cl.model.versions import VersionStore
from cl.records import BASE, Message, Sampling
from cl.settings import ServingOptions
from tests import tiny_model

CLIENTS, LONGEST, PATIENCE_S = 24, 20, 60
VERSIONS = [BASE, "v0001", "v0002", "v0003"]
USERS = ["", "", *"abcdefgh"]
SYSTEM = Message(role="system", content="Be brief.")


def _conversations() -> list[list[Message]]:
    """Alike at their beginning in many ways, so that they share what has been read."""
    texts = ["Hello", "Hello again", "Hm", "What can you do?", "Good morning! How are you today?"]
    plain = [[Message(role="user", content=text)] for text in texts]
    turns = [
        Message(role="user", content="Hello"),
        Message(role="assistant", content="Hi."),
    ]
    return plain + [[SYSTEM, *one] for one in plain] + [[SYSTEM, *turns, *one] for one in plain]


CONVERSATIONS = _conversations()


@dataclass
class Report:
    """How it went. `wrong` holds what was heard and what should have been."""

    fates: Counter[str] = field(default_factory=Counter)
    wrong: list[tuple[str, str]] = field(default_factory=list)
    swaps: int = 0
    early: tuple[float, int] = (0.0, 0)  # megabytes and threads after a third of the requests
    late: tuple[float, int] = (0.0, 0)  # and at the end
    left: int = 0  # answers running or waiting when everybody has gone
    seconds: float = 0.0

    @property
    def growth_mb(self) -> float:
        return self.late[0] - self.early[0]


def soak(folder: Path, requests: int, seed: int = 0) -> Report:
    base = tiny_model.build(folder / "model")
    store = VersionStore(folder / "versions", base.sha256)
    for number, version in enumerate(VERSIONS[1:], start=1):
        tiny_model.write_random_adapter(base, store.path(version), seed=number)

    def engine(**options: int) -> EmbeddedEngine:
        return EmbeddedEngine(base, store, ServingOptions(weights="fp32", **options))  # type: ignore[arg-type]

    alone = engine(max_rows=1)
    try:
        expected = asyncio.run(_alone(alone))
    finally:
        alone.close()
    # Fewer may wait than there are clients: some are sent away.
    shared = engine(max_rows=4, max_waiting=18)
    try:
        return asyncio.run(_Soak(shared, expected, requests, seed).run())
    finally:
        shared.close()


async def _alone(engine: EmbeddedEngine) -> dict[tuple[str, int], list[str]]:
    """What each version says to each conversation, token by token."""
    expected = {}
    for version in VERSIONS:
        for number, conversation in enumerate(CONVERSATIONS):
            stream = engine.chat(version, conversation, Sampling(LONGEST))
            expected[version, number] = [piece.text async for piece in stream if piece.text]
    assert all(len(tokens) == LONGEST for tokens in expected.values())
    return expected


class _Soak:
    def __init__(
        self,
        engine: EmbeddedEngine,
        expected: dict[tuple[str, int], list[str]],
        requests: int,
        seed: int,
    ) -> None:
        self._engine, self._expected, self._requests = engine, expected, requests
        self._dice, self._asked, self._report = random.Random(seed), 0, Report()
        self._over = False

    async def run(self) -> Report:
        began = time.monotonic()
        beside = [asyncio.create_task(work()) for work in (self._swap, self._question)]
        await asyncio.gather(*(self._client() for _ in range(CLIENTS)))
        self._over = True
        await asyncio.gather(*beside)
        while self._busy() and time.monotonic() - began < PATIENCE_S + self._requests:
            await asyncio.sleep(0.01)
        self._report.left = self._busy()
        self._report.late = _memory_and_threads()
        self._report.seconds = time.monotonic() - began
        return self._report

    def _busy(self) -> int:
        status = self._engine.status()
        return int(status["rows"] + status["waiting"] + status["waiting_later"])

    async def _client(self) -> None:
        while self._asked < self._requests:
            self._asked += 1
            if self._asked == self._requests // 3:
                self._report.early = _memory_and_threads()
            try:
                fate = await asyncio.wait_for(self._one(), PATIENCE_S)
            except Busy:
                fate = "sent away"
                await asyncio.sleep(0.1 * self._dice.random())
            except TimeoutError:
                fate = "lost"
            except Exception as problem:  # noqa: BLE001 (counted and shown)
                fate = f"failed: {problem} ({problem.__cause__})"
            self._report.fates[fate] += 1

    async def _one(self) -> str:
        dice = self._dice
        version, number = dice.choice(VERSIONS), dice.randrange(len(CONVERSATIONS))
        length, leaves = dice.randint(1, LONGEST), dice.random()
        if leaves < 0.1:  # before or after the first word, wherever that finds it
            task = asyncio.create_task(self._hear(version, number, length, length))
            await asyncio.wait([task], timeout=0.02 * dice.random())
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return "left" if task.cancelled() else "heard"
        until = dice.randint(1, length) if leaves < 0.2 else length
        await self._hear(version, number, length, until)
        return "left" if until < length else "heard"

    async def _hear(self, version: str, number: int, length: int, until: int) -> None:
        """Listen to so many tokens of an answer of this length."""
        stream = self._engine.chat(
            version, CONVERSATIONS[number], Sampling(length), user=self._dice.choice(USERS)
        )
        heard: list[str] = []
        try:
            async for piece in stream:
                heard += [piece.text] * bool(piece.text)
                if until < length and len(heard) >= until:
                    break
        finally:
            await stream.aclose()
        expected = self._expected[version, number][:until]
        if heard != expected:
            self._report.wrong.append(("".join(heard), "".join(expected)))

    async def _swap(self) -> None:
        """Versions go, and come back when they are asked for, or before."""
        while not self._over:
            version = self._dice.choice(VERSIONS[1:])
            if self._dice.random() < 0.7:
                self._engine.drop(version)
            else:
                await asyncio.to_thread(self._engine.ensure, version)
            self._report.swaps += 1
            await asyncio.sleep(0.02 * self._dice.random())

    async def _question(self) -> None:
        while not self._over:
            version = self._dice.choice(VERSIONS)
            numbers = self._dice.sample(range(len(CONVERSATIONS)), 3)
            asked = [CONVERSATIONS[number] for number in numbers]
            answers = await asyncio.to_thread(
                self._engine.ask_all, version, asked, Sampling(LONGEST)
            )
            for number, (answer, _) in zip(numbers, answers, strict=True):
                expected = "".join(self._expected[version, number])
                if answer != expected:
                    self._report.wrong.append((answer, expected))
            self._report.fates["question"] += 3


def _memory_and_threads() -> tuple[float, int]:
    return psutil.Process().memory_info().rss / 1e6, threading.active_count()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--requests", type=int, default=10_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        report = soak(Path(folder), options.requests)
    print(f"{options.requests} requests in {report.seconds:.0f} s, {report.swaps} swaps")
    print(f"fates: {dict(report.fates)}; wrong: {len(report.wrong)}; left behind: {report.left}")
    for when, (megabytes, threads) in (("a third", report.early), ("the end", report.late)):
        print(f"memory after {when}: {megabytes:.0f} MB, {threads} threads")
    for heard, expected in report.wrong[:5]:
        print(f"heard {heard!r}, expected {expected!r}")


if __name__ == "__main__":
    main()
