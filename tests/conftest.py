"""What many tests start from: a real SQLite database, a clock that stands still, a house of fakes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cl import accounts
from cl.house import Books, House
from cl.model.base_model import prepare
from cl.settings import DEFAULT_MODEL, quiet_libraries
from tests.fakes import FakeClock, fake_books, fake_house

quiet_libraries()

TESTS = Path(__file__).parent
SLOW_ROOMS = (
    TESTS / "model",
    TESTS / "web",
)  # importing torch and Gradio takes longer than the rest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Without the slow tests the slow rooms are not even imported."""
    return True if config.option.markexpr == "not slow" and collection_path in SLOW_ROOMS else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if set(SLOW_ROOMS) & set(item.path.parents):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def quick_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashing a password takes long on purpose; in the tests it would be most of the time."""
    monkeypatch.setitem(accounts._SCRYPT, "n", 2)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def books(tmp_path: Path, clock: FakeClock) -> Iterator[Books]:
    """The parts that need no model, in a folder of their own."""
    opened = fake_books(tmp_path / "data", clock)
    yield opened
    opened.database.close()


@pytest.fixture
def house(books: Books) -> Iterator[House]:
    """Everything, with the fake engine and trainer."""
    built = fake_house(books)
    yield built
    built.close()


@pytest.fixture(scope="session")
def real_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models folder with the default base model, fetched and converted once for all tests."""
    folder = tmp_path_factory.mktemp("real") / "models"
    prepare(DEFAULT_MODEL, folder)
    return folder
