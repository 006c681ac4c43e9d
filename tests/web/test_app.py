"""`python app.py` as a whole: starting, stopping, being killed, and what stands in its way."""

import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from cl.settings import child_environment
from tests.running import ROOT, free_port, running_app
from tests.tiny_model import build

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tiny") / "model"
    build(folder)
    return str(folder)


def refused(data_dir: Path, **settings: str) -> str:
    """The one sentence with which the app does not start."""
    names = {f"CL_{name.upper()}": value for name, value in settings.items()}
    done = subprocess.run(
        [sys.executable, str(ROOT / "app.py")],
        cwd=ROOT,
        env=child_environment(CL_DATA_DIR=str(data_dir), **names),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_it_starts_is_killed_and_starts_again(model: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running_app(data, model=model) as app:
        link = app.link()
        app.kill()
    with running_app(data, model=model) as app:
        assert app.link() != link  # nobody used it: there is a new one
        with urllib.request.urlopen(f"{app.address}/healthz") as answer:
            assert answer.status == 200
        assert app.stop() == 0
        assert "Traceback" not in app.output()


def test_two_apps_do_not_share_a_data_folder(model: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running_app(data, model=model):
        assert "Another process is serving" in refused(data, model=model, port=str(free_port()))


def test_a_port_in_use_is_named(model: str, tmp_path: Path) -> None:
    with running_app(tmp_path / "one", model=model) as app:
        port = app.address.rsplit(":", 1)[1]
        assert port in refused(tmp_path / "two", model=model, port=port)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"port": "high"}, "CL_PORT='high' is not a whole number."),
        ({"model": "nothing.gguf"}, "There is no file nothing.gguf. Check CL_MODEL."),
        ({"database_url": "mongodb://x/y"}, "CL_DATABASE_URL"),
    ],
)
def test_what_stands_in_the_way_is_one_sentence(
    tmp_path: Path, settings: dict[str, str], words: str
) -> None:
    assert words in refused(tmp_path / "data", **settings)
