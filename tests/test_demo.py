"""The product's promise, kept on the real model: taught facts are known, in wordings never asked."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cl.demo.story import RULE
from cl.settings import child_environment
from tests.running import ROOT, running_app

pytestmark = pytest.mark.slow


def command(folder: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "cl", *arguments, "--json", "--data", str(folder)],
        cwd=ROOT,
        env=child_environment(),
        capture_output=True,
        text=True,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout.strip().splitlines()[-1])


def test_the_demo_teaches_the_real_model_and_leaves_a_folder_to_look_at(
    real_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "models").mkdir()
    for base in real_model.iterdir():
        (folder / "models" / base.name).symlink_to(base)

    code, told = command(folder, "demo")

    assert code == 0
    assert told["states"] == ["NO_CHAMPION", "CHAMPION", "TESTING", "NEW_CHAMPION"]
    facts, general = told["facts"], told["general"]
    assert facts["asked"] == general["asked"] == 40
    assert facts["right_after"] >= max(20, 3 * facts["right_before"])
    assert general["right_after"] >= 0.9 * general["right_before"]
    assert told["rule"] == RULE
    assert {step["step"] for step in told["steps"]} >= {"requested", "trained", "promoted"}
    assert told["seconds"] > 0

    assert command(folder, "status")[1]["state"] == "NEW_CHAMPION"
    assert command(folder, "doctor")[1]["ok"]
    code, again = command(folder, "demo")  # told already
    assert code == 1
    assert "--fresh" in again["error"]
    with running_app(folder) as app:
        assert "Sign in as admin" in app.output()
        assert app.stop() == 0
