"""The engine through the web server, asked as tests/bench/serving.py asks its systems.

    python -m tests.bench.web_worker MODELS

Starts the app, signs in, and does what the page does for every message: an event that takes it in,
then one whose pushes carry the growing answer. Moments are those at which a push arrives; so "between
tokens" is between pushes here.
"""

import asyncio
import json
import shutil
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import psutil

from tests.bench.serving import NEW_TOKENS, SYSTEM, question
from tests.running import App, running_app


class Visitor:
    """One browser tab."""

    def __init__(self, client: httpx.AsyncClient, events: dict[str, int], number: int) -> None:
        self._client = client
        self._events = events
        self._session = f"tab{number}-{time.monotonic_ns()}"

    async def ask(self, text: str) -> list[float]:
        """Seconds from Enter to each push of the answer."""
        asked = time.perf_counter()
        taken = [data async for _, data in self._event("begin", [text, "", False, ""])][-1]
        ids = [value for value in taken if isinstance(value, int | str) and str(value).isdigit()]
        seen = []
        async for moment, data in self._event("answer", [str(ids[0]), str(ids[1])]):
            if data and "Others are being answered" not in json.dumps(data):
                seen.append(moment - asked)
        return seen

    async def _event(self, name: str, data: list[Any]) -> Any:
        body = {
            "data": data,
            "fn_index": self._events[name],
            "session_hash": self._session,
            "event_data": None,
            "trigger_id": None,
        }
        joined = await self._client.post("/gradio_api/queue/join", json=body)
        joined.raise_for_status()
        mine = joined.json()["event_id"]
        path = f"/gradio_api/queue/data?session_hash={self._session}"
        async with self._client.stream("GET", path) as stream:
            async for line in stream.aiter_lines():
                if not line.startswith("data:"):
                    continue
                message = json.loads(line[5:])
                if message.get("event_id") not in (mine, None):
                    continue
                if message["msg"] in ("process_generating", "process_completed"):
                    assert message["success"], message
                    yield time.perf_counter(), message["output"].get("data", [])
                if message["msg"] == "process_completed":
                    return


async def sign_in(app: App) -> httpx.AsyncClient:
    client = httpx.AsyncClient(base_url=app.address, timeout=120, follow_redirects=True)
    link = app.link()
    token = link.rsplit("link=", 1)[1]
    origin = {"Origin": app.address}
    done = await client.post(
        "/signin", data={"link": token, "password": "correct horse battery"}, headers=origin
    )
    done.raise_for_status()
    client.headers["Origin"] = app.address
    return client


async def find_events(client: httpx.AsyncClient) -> dict[str, int]:
    """The numbers by which the page calls its handlers, out of the page itself."""
    html = (await client.get("/")).text
    start = html.index("window.gradio_config = ") + len("window.gradio_config = ")
    config, _ = json.JSONDecoder().raw_decode(html[start:])
    return {d["api_name"]: d["id"] for d in config["dependencies"]}


def main() -> None:
    with TemporaryDirectory() as scratch:
        data = Path(scratch) / "data"
        shutil.copytree(
            sys.argv[1], data / "models", ignore=shutil.ignore_patterns("v0*", "*.gguf")
        )
        settings = {
            "system_prompt": SYSTEM,
            "temperature": "0",
            "max_answer_tokens": str(NEW_TOKENS),
        }
        with running_app(data, **settings) as app:
            asyncio.run(serve(app, data / "usage.db"))


async def serve(app: App, log: Path) -> None:
    client = await sign_in(app)
    events = await find_events(client)
    print(json.dumps("ready"), flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        asked = json.loads(line)
        start = time.perf_counter()

        async def visit(index: int, asked: Any = asked, start: float = start) -> list[float]:
            await asyncio.sleep(max(0.0, start + asked["at"][index] - time.perf_counter()))
            words = asked["last_words"] if index == len(asked["at"]) - 1 else asked["words"]
            text = question(asked["first"] + index, words)[1]["content"]
            return await Visitor(client, events, index).ask(text)

        seen = await asyncio.gather(*(visit(i) for i in range(len(asked["at"]))))
        with closing(sqlite3.connect(log)) as database:
            newest = "select answer_tokens from interaction order by id desc limit ?"
            tokens = sum(n for (n,) in database.execute(newest, (len(seen),)))
        peak = psutil.Process(app.process.pid).memory_info().rss / 2**20
        print(json.dumps({"seen": seen, "peak": peak, "tokens": tokens}), flush=True)


if __name__ == "__main__":
    main()
