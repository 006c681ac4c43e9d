"""Running the trainer: starting the child, following it, ending it. No torch in this process."""

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cl import files
from cl.model.base_model import BaseModel
from cl.model.trainer import EXIT_CANCELLED, EXIT_DONE
from cl.model.versions import VersionStore
from cl.records import BASE, TrainingResult
from cl.settings import TrainingOptions, child_environment

_GRACE_SECONDS = 10.0
_POLL_SECONDS = 0.5
_MOST_LOSSES = 2000

# glibc gives large blocks back to the system after every step and faults them in again; keeping
# them is worth a tenth of the time. Both settings together: the second alone makes it much worse.
_MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "1000000000000"}


class TrainingFailed(RuntimeError):
    """The training ended without a result; the text says why."""


class TrainingCancelled(RuntimeError):
    """Somebody stopped the training."""


@dataclass(frozen=True)
class Progress:
    """How far a training is; `share` is None while that cannot be said."""

    stage: str
    step: int = 0
    steps: int = 0
    seconds_left: float | None = None
    tokens_per_s: float | None = None

    @property
    def share(self) -> float | None:
        return self.step / self.steps if self.steps else None


class TrainingJob:
    """What the loop asks for a trained candidate."""

    def __init__(
        self, base: BaseModel, versions: VersionStore, options: TrainingOptions, seed: int
    ) -> None:
        self._base = base
        self._versions = versions
        self._options = options
        self._seed = seed

    def train(
        self, data: Path, folder: Path, parent: str, keep_going: Callable[[Progress], bool]
    ) -> TrainingResult:
        """Train on `data`, leaving candidate/ and the loss curves in `folder`.

        `keep_going` hears of the progress about twice a second; when it says no, the child is
        ended. Raises TrainingCancelled or TrainingFailed.
        """
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "result.json").unlink(missing_ok=True)
        files.write_json(folder / "job.json", self._job(data, parent))
        with (folder / "trainer.log").open("wb") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", "cl.model.trainer", str((folder / "job.json").resolve())],
                stdin=subprocess.PIPE,  # held open: when this process dies, the child sees it close
                stdout=log,
                stderr=log,
                cwd=Path(__file__).parents[2],
                env=child_environment(**_MALLOC),
            )
        try:
            self._follow(child, folder, keep_going)
        finally:
            _end(child)
        return _result(folder, child.returncode)

    def _follow(
        self, child: "subprocess.Popen[bytes]", folder: Path, keep_going: Callable[[Progress], bool]
    ) -> None:
        started = time.monotonic()
        while child.poll() is None:
            if not keep_going(read_progress(folder) or Progress("starting")):
                raise TrainingCancelled("The training was cancelled.")
            if time.monotonic() - started > self._options.max_train_minutes * 60:
                raise TrainingFailed(
                    f"The training took longer than {self._options.max_train_minutes:g} minutes."
                )
            time.sleep(_POLL_SECONDS)

    def _job(self, data: Path, parent: str) -> dict[str, Any]:
        return {
            "base": {
                "source": self._base.source,
                "folder": str(self._base.folder.resolve()),
                "sha256": self._base.sha256,
            },
            "data": str(data.resolve()),
            "parent": None if parent == BASE else str(self._versions.path(parent).resolve()),
            "options": dataclasses.asdict(self._options),
            "seed": self._seed,
        }


def read_progress(folder: Path) -> Progress | None:
    """The trainer's last word on how far it is."""
    try:
        return Progress(**json.loads((folder / "progress.json").read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def read_losses(folder: Path) -> list[dict[str, float]]:
    """The loss curve so far: rows with `step` and `train`, `kl`, `val` or `drift`; thinned if long."""
    try:
        lines = (folder / "losses.jsonl").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    every = len(lines) // _MOST_LOSSES + 1
    # The last line may be half-written while the training runs.
    whole = [
        line
        for i, line in enumerate(lines)
        if line.endswith("}") and (i % every == 0 or '"val"' in line)
    ]
    return [json.loads(line) for line in whole]


def _end(child: "subprocess.Popen[bytes]") -> None:
    """Ask, wait, then insist."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    if child.stdin:
        child.stdin.close()


def _result(folder: Path, code: int) -> TrainingResult:
    if code == EXIT_CANCELLED:
        raise TrainingCancelled("The training was cancelled.")
    try:
        found = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        found = {}
    if code == EXIT_DONE and "val_loss" in found:
        return TrainingResult(**found)
    if "problem" in found:
        raise TrainingFailed(f"The training failed: {found['problem']}.")
    if code < 0:
        raise TrainingFailed(
            f"The trainer was ended by signal {-code}, most likely for want of memory."
        )
    last = (
        (folder / "trainer.log")
        .read_text(encoding="utf-8", errors="replace")
        .strip()
        .splitlines()[-1:]
    )
    raise TrainingFailed(f"The training failed: {last[0] if last else f'exit code {code}'}.")
