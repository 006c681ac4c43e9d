"""Fifty people ask at once: does every answer stream to its end, and how soon does it begin?

    python -m tests.bench.crowd [--people 50] [--seconds 4]

The real pages, router, log and web server, and an engine that computes nothing: it says a word every
moment for so many seconds. What is measured is everything but the model. The people are tabs in a
process of their own, each with its own session, asked for with raw server-sent events as the page's
script does.
"""

import argparse
import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import httpx

from cl.assistant import Assistant
from cl.db.tables import Interaction
from cl.house import utc_now
from cl.model.versions import VersionStore
from cl.records import Finish, Message, Piece, Sampling, Status
from cl.web import server
from cl.web.address import take
from tests.bench.serving import percentile
from tests.bench.web_worker import Visitor, find_events
from tests.fakes import BASE_SHA, FakeEngine, fake_books, fake_house
from tests.running import ROOT, free_port

WORDS = 80
TARGET = 3.0  # seconds to the first text, 95th percentile


class Talker(FakeEngine):
    """Says WORDS words in so many seconds, to any number of people at once."""

    def __init__(self, versions: VersionStore, seconds: float) -> None:
        super().__init__(versions)
        self._seconds = seconds

    async def chat(
        self, version: str, messages: Sequence[Message], sampling: Sampling, *, user: str = ""
    ) -> AsyncGenerator[Piece, None]:
        for number in range(WORDS):
            await asyncio.sleep(self._seconds / WORDS)
            yield Piece(f"word{number} ")
        yield Piece("", Finish("stop", 10, WORDS))


def serve(folder: Path, port: int, seconds: float) -> None:
    """The app with that engine, open to visitors."""
    books = fake_books(folder, utc_now, auth="open")
    engine = Talker(VersionStore(books.models, BASE_SHA), seconds)
    engine.ensure("base")
    assistant = Assistant(books.logger, books.ab_test, engine, books.settings.chat)
    house = replace(fake_house(books), engine=engine, assistant=assistant)
    server.serve(server.create_app(house), take("127.0.0.1", port))


async def visit(address: str, number: int) -> tuple[list[float], float]:
    """Seconds from Enter to each push, and to the end of the answer."""
    async with httpx.AsyncClient(base_url=address, timeout=120, follow_redirects=True) as client:
        client.headers["Origin"] = address
        events = await find_events(client)
        await READY.wait()
        began = time.perf_counter()
        seen = await Visitor(client, events, number).ask(f"Question {number}?")
        return seen, time.perf_counter() - began


READY = asyncio.Event()


async def ask_all(address: str, people: int) -> list[tuple[list[float], float]]:
    visits = [asyncio.create_task(visit(address, number)) for number in range(people)]
    await asyncio.sleep(0.1 * people)  # all pages are open
    READY.set()
    return await asyncio.gather(*visits)


def wait_for(address: str, process: "subprocess.Popen[bytes]") -> None:
    while True:
        assert process.poll() is None, "the app has ended"
        try:
            httpx.get(f"{address}/healthz", timeout=5)
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--people", type=int, default=50)
    arguments.add_argument("--seconds", type=float, default=4.0, help="an answer takes")
    arguments.add_argument("--serve", type=int, metavar="PORT", help=argparse.SUPPRESS)
    arguments.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = arguments.parse_args()
    if args.serve:
        serve(args.folder, args.serve, args.seconds)
        return
    with TemporaryDirectory() as name:
        port, folder = free_port(), Path(name) / "data"
        address = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "tests.bench.crowd", "--serve", str(port)]
        command += ["--folder", str(folder), "--seconds", str(args.seconds)]
        process = subprocess.Popen(command, cwd=ROOT)
        try:
            wait_for(address, process)
            found = asyncio.run(ask_all(address, args.people))
        finally:
            process.terminate()
            process.wait(30)
        books = fake_books(folder, utc_now, auth="open")
        whole = Interaction.select().where(Interaction.status == Status.COMPLETE).count()
        books.database.close()
    first, total = [seen[0] for seen, _ in found], [seconds for _, seconds in found]
    tail = percentile(first, 0.95)
    print(f"{whole} of {args.people} answers complete in the log")
    print(
        f"first text: median {median(first):.2f} s, p95 {tail:.2f} s (under {TARGET:.0f}: {tail < TARGET})"
    )
    print(
        f"whole answer of {args.seconds:.0f} s: median {median(total):.2f} s, p95 {percentile(total, 0.95):.2f} s"
    )
    print(f"pushes an answer: median {median(len(seen) for seen, _ in found):.0f}")


if __name__ == "__main__":
    main()
