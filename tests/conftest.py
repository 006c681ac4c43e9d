"""What many tests start from: a real SQLite database, a clock that stands still, a house of fakes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cl.house import Books, House
from cl.model.base_model import prepare
from cl.settings import DEFAULT_MODEL, quiet_libraries
from tests.fakes import FakeClock, fake_books, fake_house

quiet_libraries()


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
