"""Fifty people ask at once: does every answer stream to its end, and how soon does it begin?

    python -m tests.bench.crowd [--people 50] [--seconds 4]

The real pages, router, log and web server, and an actor for the engine, which computes nothing: it says
eighty words in so many seconds. What is measured is everything but the model. The people are tabs in a
process of their own, each with its own session, asked for with raw server-sent events as the page's
script does.
"""

import argparse
import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import httpx

from tests.bench.serving import percentile
from tests.bench.web_worker import Visitor, find_events
from tests.running import running_stage

WORDS = 80
TARGET = 3.0  # seconds to the first text, 95th percentile


async def visit(address: str, number: int, ready: asyncio.Event) -> tuple[list[float], float]:
    """Seconds from Enter to each push, and to the end of the answer."""
    async with httpx.AsyncClient(base_url=address, timeout=120, follow_redirects=True) as client:
        client.headers["Origin"] = address
        events = await find_events(client)
        await ready.wait()
        began = time.perf_counter()
        seen = await Visitor(client, events, number).ask(f"Say eighty words, number {number}")
        return seen, time.perf_counter() - began


async def ask_all(address: str, people: int) -> list[tuple[list[float], float]]:
    """Everybody opens the page, then all ask at the same moment."""
    ready = asyncio.Event()
    visits = [asyncio.create_task(visit(address, number, ready)) for number in range(people)]
    await asyncio.sleep(0.1 * people)
    ready.set()
    return await asyncio.gather(*visits)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--people", type=int, default=50)
    arguments.add_argument("--seconds", type=float, default=4.0, help="an answer takes")
    args = arguments.parse_args()
    with TemporaryDirectory() as name:
        data, pace = Path(name) / "data", args.seconds / WORDS
        with running_stage(data, auth="open", pace=pace) as app:
            found = asyncio.run(ask_all(app.address, args.people))
        with closing(sqlite3.connect(data / "usage.db")) as log:
            query = "SELECT COUNT(*) FROM interaction WHERE status = 'complete' AND answer LIKE '%word79%'"
            (whole,) = log.execute(query).fetchone()
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
