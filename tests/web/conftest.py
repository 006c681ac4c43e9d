"""Two running apps: one for people with accounts, one open to visitors, on a Space.

Building an app takes half a second, so all tests of this folder share the two, and their database:
each test brings people and conversations of its own.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from cl.db.tables import TABLES
from cl.house import Books
from cl.web.server import create_app
from tests.fakes import FakeClock, fake_books, fake_house, fake_settings
from tests.web.pages import Site, StillWorker


@pytest.fixture(scope="session")
def shared_books(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Books]:
    opened = fake_books(tmp_path_factory.mktemp("web"), FakeClock())
    yield opened
    opened.database.close()


@pytest.fixture(scope="session")
def sessions() -> dict[str, str]:
    """Who has signed in already; a second sign-in by link would end the first."""
    return {}


@pytest.fixture(scope="session")
def running_site(shared_books: Books, sessions: dict[str, str]) -> Iterator[Site]:
    with _serve(shared_books, "http://testserver", sessions) as site:
        yield site


@pytest.fixture(scope="session")
def running_open_site(shared_books: Books, sessions: dict[str, str]) -> Iterator[Site]:
    folder = shared_books.settings.data_dir
    settings = fake_settings(folder, auth="open", space="somebody/assistant")
    books = replace(shared_books, settings=settings)
    with _serve(books, "https://testserver", sessions) as site:
        yield site


@pytest.fixture
def site(running_site: Site) -> Site:
    """The app for people with accounts."""
    return _bound(running_site)


@pytest.fixture
def open_site(running_open_site: Site) -> Site:
    """The app where visitors may chat, in a frame on another site's page."""
    return _bound(running_open_site)


@contextmanager
def _serve(books: Books, url: str, sessions: dict[str, str]) -> Iterator[Site]:
    async def build() -> FastAPI:
        # Inside a running event loop Gradio opens none of its own, which nobody would close.
        return create_app(house)

    worker = StillWorker()
    house = replace(fake_house(books), worker=worker)
    app = asyncio.run(build())
    with TestClient(app, base_url=url) as running:
        yield Site(house, app, worker, running, sessions)


def _bound(site: Site) -> Site:
    # Other tests open databases of their own, and the tables belong to the one opened last.
    site.house.books.database.bind(TABLES)
    return site
