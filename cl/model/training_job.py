"""Running the trainer and the examiner: starting the child, following it, ending it.

The child has a processor's idle time only, and is held altogether while an answer is being written.
"""

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cl.model.base_model import BaseModel
from cl.model.training import measured
from cl.model.training.child import (
    DISK_FULL,
    EXIT_CANCELLED,
    EXIT_DISK_FULL,
    EXIT_DONE,
    WATCHED,
    Job,
)
from cl.model.versions import BadVersion, VersionStore, verify_adapter
from cl.records import BASE, TrainingResult
from cl.rules.gating import Measured
from cl.settings import TrainingOptions, child_environment

RESULT, CHECKPOINT, PROGRESS = "result.json", "checkpoint.pt", "progress.json"
_GRACE_SECONDS = 4.0
_TELL_SECONDS = 0.5
_POLL_SECONDS = 0.05  # how late a held child may be
_MOST_HELD, _LEAST_FREE = 20.0, 1.0  # a busy chat slows a training down, and does not end it
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
    loss: float | None = None
    saved: int = 0  # the step a broken-off training goes on from

    @property
    def share(self) -> float | None:
        return self.step / self.steps if self.steps else None


class TrainingJob:
    """What the loop asks for a trained candidate, and for its measurements."""

    def __init__(
        self,
        base: BaseModel,
        versions: VersionStore,
        options: TrainingOptions,
        seed: int,
        is_busy: Callable[[], bool] = lambda: False,
    ) -> None:
        """`is_busy` says whether an answer is being written: then the child is held."""
        self._base = base
        self._versions = versions
        self._options = options
        self._seed = seed
        self._is_busy = is_busy

    def train(
        self, data: Path, folder: Path, parent: str, keep_going: Callable[[Progress], bool]
    ) -> TrainingResult:
        """Train on `data`, leaving candidate/ and the loss curves in `folder`.

        A training that was broken off goes on where it was. `keep_going` hears of the progress
        about twice a second; when it says no, the child is ended. Raises TrainingCancelled or
        TrainingFailed.
        """
        job = self._job(data, folder, parent)
        if not _is_finished(job):
            (folder / RESULT).unlink(missing_ok=True)
            launcher = self._options.train_launcher
            self._run("cl.model.trainer", job.write(), RESULT, keep_going, launcher)
        (folder / CHECKPOINT).unlink(missing_ok=True)
        return _result(folder)

    def measure(
        self, data: Path, folder: Path, parent: str, keep_going: Callable[[Progress], bool]
    ) -> Measured:
        """Measure the candidate in `folder` beside its parent, for the gate. Raises as `train`."""
        (folder / measured.MEASURED).unlink(missing_ok=True)
        path = self._job(data, folder, parent).write()
        self._run("cl.model.evaluation", path, measured.MEASURED, keep_going)
        return measured.read(folder)

    def _job(self, data: Path, folder: Path, parent: str) -> Job:
        path = None if parent == BASE else self._versions.path(parent)
        return Job(self._base, data, path, self._options, self._seed, folder)

    # -- the child ---------------------------------------------------------------------------

    def _run(
        self,
        module: str,
        job: Path,
        result: str,
        keep_going: Callable[[Progress], bool],
        launcher: str = "",
    ) -> None:
        """Have the child work until it has written its result. Raises when it did not."""
        folder = job.parent
        (folder / PROGRESS).unlink(missing_ok=True)
        command = [*(shlex.split(launcher) or [sys.executable]), "-m", module]
        with (folder / "trainer.log").open("ab") as log:
            try:
                child = subprocess.Popen(
                    [*command, str(job.resolve()), WATCHED],
                    stdin=subprocess.PIPE,  # held open: when this process dies, the child sees it close
                    stdout=log,
                    stderr=log,
                    cwd=Path(__file__).parents[2],
                    env=child_environment(**_MALLOC),
                )
            except OSError as problem:
                raise TrainingFailed(f"The trainer cannot be started: {problem}.") from None
        try:
            # Stopped, a launcher would do nothing for the chat, and not end with the app.
            self._follow(child, folder, keep_going, may_hold=not launcher)
        finally:
            _end(child)
        _refuse_failure(folder, result, child.returncode)

    def _follow(
        self,
        child: "subprocess.Popen[bytes]",
        folder: Path,
        keep_going: Callable[[Progress], bool],
        may_hold: bool,
    ) -> None:
        started = told = moved = time.monotonic()
        seen = read_progress(folder)
        holding = _Holding(child)
        try:
            while child.poll() is None:
                now = time.monotonic()
                if now - told >= _TELL_SECONDS:
                    told, progress = now, read_progress(folder)
                    if not keep_going(progress or Progress("starting")):
                        raise TrainingCancelled("The training was cancelled.")
                    if progress != seen or holding.is_held:
                        seen, moved = progress, now
                self._refuse_endless(now - started, now - moved)
                holding.hold(may_hold and self._is_busy())
                time.sleep(_POLL_SECONDS)
        finally:
            holding.hold(False)

    def _refuse_endless(self, seconds: float, since_progress: float) -> None:
        options = self._options
        if seconds > options.max_train_minutes * 60:
            raise TrainingFailed(
                f"The training took longer than {options.max_train_minutes:g} minutes."
            )
        if since_progress > options.max_stall_minutes * 60:
            raise TrainingFailed(
                f"The training made no step for {options.max_stall_minutes:g} minutes."
            )


class _Holding:
    """Stops the child while the chat needs the machine, but never for long at a time."""

    def __init__(self, child: "subprocess.Popen[bytes]") -> None:
        self._child = child
        self._since: float | None = None
        self._free_until = 0.0

    @property
    def is_held(self) -> bool:
        return self._since is not None

    def hold(self, wanted: bool) -> None:
        now = time.monotonic()
        if self._since is not None and now - self._since > _MOST_HELD:
            wanted, self._free_until = False, now + _LEAST_FREE
        wanted = wanted and now >= self._free_until
        if wanted != self.is_held and self._child.poll() is None and hasattr(signal, "SIGSTOP"):
            self._child.send_signal(signal.SIGSTOP if wanted else signal.SIGCONT)
            self._since = now if wanted else None


def read_progress(folder: Path) -> Progress | None:
    """The trainer's last word on how far it is."""
    try:
        return Progress(**json.loads((folder / PROGRESS).read_text(encoding="utf-8")))
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


def read_log(folder: Path, most: int) -> list[str]:
    """The last lines of what there is to say of a training: its steps, and what the trainer printed."""
    lines = [_step_line(row) for row in read_losses(folder)[-most:]]
    try:
        printed = (folder / "trainer.log").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        printed = ""
    return [*lines, *(line for line in printed.splitlines() if line.strip())][-most:]


def _step_line(row: dict[str, float]) -> str:
    names = {"train": "loss", "val": "held-out loss", "kl": "KL", "drift": "drift"}
    facts = [f"{name} {row[key]:.3f}" for key, name in names.items() if key in row]
    return f"step {int(row['step']):>5}  {'  '.join(facts)}"


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


def _is_finished(job: Job) -> bool:
    """Whether this very job was done, and the app killed before it noted the result."""
    try:
        written = json.loads((job.folder / "job.json").read_text(encoding="utf-8"))
        verify_adapter(job.candidate, job.base.sha256)
        _result(job.folder)
    except (OSError, ValueError, LookupError, TypeError, BadVersion, TrainingFailed):
        return False
    return bool(written == json.loads(json.dumps(job.facts())))


def _result(folder: Path) -> TrainingResult:
    found = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    if "problem" in found:
        raise TrainingFailed(f"The training failed: {found['problem']}.")
    return TrainingResult(**{**found, "methods": tuple(found["methods"])})


def _refuse_failure(folder: Path, result: str, code: int) -> None:
    """Raises unless the child has done its work."""
    if code == EXIT_CANCELLED:
        raise TrainingCancelled("The training was cancelled.")
    try:
        found = json.loads((folder / result).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        found = {}
    if code == EXIT_DONE and found:
        return
    if found.get("problem"):
        raise TrainingFailed(f"The training failed: {found['problem']}.")
    if code == EXIT_DISK_FULL:
        raise TrainingFailed(f"The training failed: {DISK_FULL}.")
    if code < 0:
        raise TrainingFailed(
            f"The trainer was ended by signal {-code}, most likely for want of memory."
        )
    log = (folder / "trainer.log").read_text(encoding="utf-8", errors="replace")
    last = [line.strip() for line in log.splitlines() if re.search(r"\w", line)][-1:]
    raise TrainingFailed(f"The training failed: {last[0] if last else f'exit code {code}'}.")
