"""What the tests of this folder use: a running app, browsers for it, and Gradio's queue as a page
uses it."""

import json
import secrets
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fastapi import FastAPI
from fastapi.testclient import TestClient

from cl.db.tables import TABLES, Interaction
from cl.house import House
from cl.records import Role
from cl.worker import Problem
from tests.fakes import write_adapter

ADMIN, STAFF, OTHER = "ida", "ana", "ben"


class StillWorker:
    """Alive between start and stop, and never at work: nothing changes behind a test's back."""

    def __init__(self) -> None:
        self.alive = False
        self.problem: Problem | None = None

    def start(self) -> None:
        self.alive = True

    def stop(self) -> None:
        self.alive = False

    def wake(self) -> None:
        """Nothing to do."""

    def is_alive(self) -> bool:
        return self.alive


@dataclass(frozen=True)
class Site:
    """A running app."""

    house: House
    app: FastAPI
    worker: StillWorker
    running: TestClient
    sessions: dict[str, str]

    def browser(self, user: str = "") -> TestClient:
        """A browser with cookies of its own: nobody's, or that of `user`, signed in already."""
        if user and user not in self.sessions:
            self.sessions[user] = self._sign_in(user)
        cookies = {"session": self.sessions[user]} if user else None
        url = str(self.running.base_url)
        browser = TestClient(self.app, base_url=url, cookies=cookies, follow_redirects=False)
        browser.portal = self.running.portal  # Gradio's queue lives in one event loop
        return browser

    def add(self, name: str, role: Role = Role.STAFF) -> str:
        """A new person. Returns the token of their one-time link."""
        return self.house.books.accounts.add(name, role, "system")

    def _sign_in(self, user: str) -> str:
        link = self.add(user, Role.ADMIN if user == ADMIN else Role.STAFF)
        browser = self.browser()
        browser.post("/signin", data={"link": link, "password": "long enough"})
        return browser.cookies["session"]


@dataclass
class Page:
    """A page as its own script uses it: by the wires in its config, over the queue."""

    browser: TestClient
    path: str = ""

    @cached_property
    def config(self) -> dict[str, Any]:
        return self.browser.get(f"{self.path}/config").raise_for_status().json()

    def messages(self, handler: str, *data: object, **body: object) -> list[dict[str, Any]]:
        """Run one event to its end. Returns all the server says about it."""
        session = secrets.token_hex(8)
        number = next(e["id"] for e in self.config["dependencies"] if e["api_name"] == handler)
        body = {"fn_index": number, "data": data, "session_hash": session, **body}
        self.browser.post(f"{self.path}/gradio_api/queue/join", json=body).raise_for_status()
        stream = self.browser.get(
            f"{self.path}/gradio_api/queue/data", params={"session_hash": session}
        )
        lines = stream.raise_for_status().text.splitlines()
        return [json.loads(line[5:]) for line in lines if line.startswith("data:")]

    def run(self, handler: str, *data: object, **body: object) -> list[Any]:
        """Run one event that goes well. Returns its outputs."""
        end = _end(self.messages(handler, *data, **body))
        assert end["success"], end
        return end["output"]["data"]

    def refusal(self, handler: str, *data: object, **body: object) -> str:
        """Run one event that is refused. Returns what the person is told."""
        end = _end(self.messages(handler, *data, **body))
        assert not end["success"], end
        return end["output"]["error"] or ""

    def chat(self, text: str, conversation: str | None = None) -> tuple[str, str, list[Any]]:
        """Say something. Returns ids of conversation and interaction, and the messages shown."""
        number, interaction, *_ = self.run("begin", text, conversation, False, "")
        self.run("answer", number, interaction)
        return number, interaction, self.open(number)[2]["value"]

    def open(self, conversation: str) -> list[Any]:
        """Choose a chat in the list."""
        return self.run("pick", "", None, event_data={"id": conversation, "act": "open"})


def _end(messages: list[dict[str, Any]]) -> dict[str, Any]:
    return next(m for m in messages if m["msg"] == "process_completed")


def deploy(house: House, name: str) -> None:
    """Put a version that knows one thing into traffic, past the training."""
    folder = house.books.runs / name
    write_adapter(folder, {"Who waters the plants?": "Oskar, says a version."})
    sha256 = house.versions.publish(folder, name)
    house.books.ab_test.register(name, parent="base", run_id=None, sha256=sha256)
    house.books.ab_test.deploy_challenger(name)


def everything_stored() -> dict[str, list[Any]]:
    """All rows of all tables, to see that something changed nothing.

    But for what the scorers write in the background, whenever they come to it.
    """
    return {table.__name__: list(table.select(*_settled(table)).tuples()) for table in TABLES}


def _settled(table: Any) -> list[Any]:
    fields: list[Any] = table._meta.sorted_fields
    later = ("quality", "scorer") if table is Interaction else ()
    return [field for field in fields if field.name not in later]
