"""A real Chromium; the app with the real model, and the app with actors, empty and with a past."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, sync_playwright

from tests.running import App, running_app, running_stage
from tests.web.browser.looking import Visit, new_context, visit


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    assert path, "this test needs Chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def browser(chromium: Browser) -> Iterator[BrowserContext]:
    context = new_context(chromium)
    yield context
    context.close()


@pytest.fixture(scope="session")
def app(real_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """With the real model."""
    folder = tmp_path_factory.mktemp("browser") / "data"
    folder.mkdir()
    (folder / "models").symlink_to(real_model)
    with running_app(folder, preset="demo", temperature="0") as app:
        yield app


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """With actors, and an empty log at first."""
    with running_stage(tmp_path_factory.mktemp("stage") / "data") as app:
        yield app


@pytest.fixture(scope="session")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """With actors, eight days of a company's life behind it, and a test under way."""
    with running_stage(tmp_path_factory.mktemp("lived") / "data", history=8) as app:
        yield app


@pytest.fixture
def open_page(chromium: Browser) -> Iterator[Callable[..., Visit]]:
    """Pages with somebody signed in; at the end none of them has done what it should not.

    Each person has a browser of their own, with as many pages as are opened.
    """
    visits: list[Visit] = []
    browsers: dict[str, BrowserContext] = {}

    def open_(app: App, name: str, path: str = "/") -> Visit:
        if name not in browsers:
            browsers[name] = new_context(chromium)
        visits.append(visit(browsers[name], app, name, path))
        return visits[-1]

    yield open_
    faults = [fault for one in visits for fault in one.faults]
    for browser in browsers.values():
        browser.close()
    assert faults == []


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """With actors, and nobody ever says anything."""
    with running_stage(tmp_path_factory.mktemp("empty") / "data") as app:
        yield app


@pytest.fixture
def restartable(tmp_path: Path) -> Iterator[App]:
    with running_stage(tmp_path / "data") as app:
        yield app


@pytest.fixture
def narrow(tmp_path: Path) -> Iterator[App]:
    """With room for one answer at a time."""
    with running_stage(tmp_path / "data", places=1) as app:
        yield app


@pytest.fixture
def promotable(lived: App, tmp_path: Path) -> Iterator[App]:
    """A copy of the company, to be changed."""
    lived_copy = tmp_path / "data"
    shutil.copytree(lived.data, lived_copy, ignore=shutil.ignore_patterns("*.lock", "serving.json"))
    with running_stage(lived_copy) as app:
        yield app


@pytest.fixture
def trainable(tmp_path: Path) -> Iterator[App]:
    """With something to learn from, and an unhurried trainer."""
    with running_stage(tmp_path / "data", taught=40, seconds=40) as app:
        yield app
