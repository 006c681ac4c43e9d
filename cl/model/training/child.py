"""What the processes that train and that measure have in common: the job, the reports, the manners.

Such a process reads JOB.json and writes beside it: progress.json while it works, and last its
result, or {"problem": ...} with the reason there is none. It takes only the processor's idle time,
is the first to go when memory runs out, and ends when the app is gone, however that died.
"""

import ctypes
import errno
import json
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from cl import files
from cl.model.base_model import BaseModel, NoModel, ready
from cl.records import BASE
from cl.settings import TrainingOptions, quiet_libraries

EXIT_DONE, EXIT_FAILED, EXIT_DISK_FULL, EXIT_CANCELLED = 0, 1, 74, 75
DISK_FULL = "the disk is full"
WATCHED = "--watched"  # the app holds standard input open as long as it lives
_PR_SET_PDEATHSIG = 1
_NO_MEMORY = ("out of memory", "allocate memory", "bad_alloc")  # of CUDA, of torch, of C++
_GOES_FIRST = 500  # of 1000, when memory runs out
_MEMORY_SHARE = 0.6  # of the machine's memory, unless the settings say otherwise


class TrainingProblem(RuntimeError):
    """The work cannot go on; the text says why."""


class Forsaken(TrainingProblem):
    """Another process of the same training has ended; that one knows why."""


@dataclass(frozen=True)
class Job:
    """What to train, as the app wrote it into the job file."""

    base: BaseModel
    data: Path
    parent: Path | None  # the folder of the version to be better than; None: the base model
    options: TrainingOptions
    seed: int
    folder: Path

    @property
    def parent_name(self) -> str:
        return self.parent.name if self.parent else BASE

    @property
    def candidate(self) -> Path:
        return self.folder / "candidate"

    @staticmethod
    def read(path: Path) -> "Job":
        job = json.loads(path.read_text(encoding="utf-8"))
        base = job["base"]
        return Job(
            base=BaseModel(base["source"], Path(base["folder"]), base["sha256"]),
            data=Path(job["data"]),
            parent=Path(job["parent"]) if job["parent"] else None,
            options=TrainingOptions(**job["options"]),
            seed=job["seed"],
            folder=path.parent,
        )

    def write(self) -> Path:
        path = self.folder / "job.json"
        files.write_json(path, self.facts())
        return path

    def facts(self) -> dict[str, Any]:
        """What the job file holds."""
        base = {"source": self.base.source, "sha256": self.base.sha256}
        return {
            "base": {**base, "folder": str(self.base.folder.resolve())},
            "data": str(self.data.resolve()),
            "parent": str(self.parent.resolve()) if self.parent else None,
            "options": vars(self.options),
            "seed": self.seed,
        }


class Reporter:
    """Tells how far the work is: a file replaced at each step, and a line per loss."""

    def __init__(self, folder: Path, is_first: bool = True) -> None:
        """Of processes that work together, only the first one reports."""
        self._folder = folder
        self._losses = folder / "losses.jsonl"
        self._speaks = is_first

    def tell(self, stage: str, step: int = 0, steps: int = 0, **facts: float) -> None:
        if self._speaks:
            told = {"stage": stage, "step": step, "steps": steps, **_numbers(facts)}
            files.write_json(self._folder / "progress.json", told)

    def loss(self, **values: float) -> None:
        if self._speaks:
            with self._losses.open("a", encoding="utf-8") as file:
                file.write(json.dumps(_numbers(values)) + "\n")

    def back_to(self, step: int) -> None:
        """Forget the losses after this step: they will be told again."""
        if self._speaks and self._losses.exists():
            lines = self._losses.read_text(encoding="utf-8").split("\n")
            kept = [x for x in lines if x.endswith("}") and json.loads(x)["step"] <= step]
            files.write_text(self._losses, "".join(line + "\n" for line in kept))


def _numbers(values: Mapping[str, float]) -> dict[str, float]:
    """Without those that are none: JSON has no word for them."""
    return {name: value for name, value in values.items() if math.isfinite(value)}


def run(
    arguments: Sequence[str], result: str, work: Callable[[Job], Mapping[str, Any] | None]
) -> int:
    """Do the work of the job file with good manners. Returns the exit code.

    `result` is the name of the file that what it returns is written to; None writes none.
    """
    quiet_libraries()
    job = Job.read(Path(arguments[0]))
    # Cancelled: nothing of worth is on the disk that is not whole.
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(EXIT_CANCELLED))
    if WATCHED in arguments:
        _end_with_the_app()
    _step_aside(job.options)
    try:
        _refuse_another_base(job.base)
        found = work(job)
        if found is not None:
            files.write_json(job.folder / result, dict(found))
    except Exception as problem:
        reason = _reason(problem)
        if not (isinstance(problem, Forsaken) and (job.folder / result).exists()):
            said = reason or f"{type(problem).__name__}: {problem}"
            with suppress(OSError):  # a full disk has no room for this either
                files.write_json(job.folder / result, {"problem": said})
        if reason is None:
            raise
        return EXIT_DISK_FULL if reason == DISK_FULL else EXIT_FAILED
    return EXIT_DONE


def threads(options: TrainingOptions) -> int:
    """How many to compute with: one is left to the chat, where there are two."""
    return options.train_threads or max(1, (os.cpu_count() or 2) - 1)


def _reason(problem: Exception) -> str | None:
    """What to tell people of a failure that can be expected; None for a fault of ours."""
    if isinstance(problem, TrainingProblem | NoModel):
        return str(problem)
    text = str(problem).lower()
    if isinstance(problem, MemoryError) or any(words in text for words in _NO_MEMORY):
        return "out of memory"
    if getattr(problem, "errno", None) == errno.ENOSPC or "no space left" in text:
        return DISK_FULL
    if isinstance(problem, OSError | UnicodeError):
        return f"a file cannot be read or written ({problem})"
    return None


def _refuse_another_base(base: BaseModel) -> None:
    if ready(base.source, base.folder).sha256 != base.sha256:
        raise TrainingProblem(f"the base model in {base.folder} has changed since the app started")


def _step_aside(options: TrainingOptions) -> None:
    """The chat comes first: lowest priority, only otherwise idle time where the system knows it."""
    if hasattr(os, "nice"):
        os.nice(19)
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    if sys.platform == "linux":
        import resource  # not on Windows

        # This goes first, not the chat. Where it would already, only root may lower the number.
        readiness = Path("/proc/self/oom_score_adj")
        if int(readiness.read_text()) < _GOES_FIRST:
            readiness.write_text(str(_GOES_FIRST))
        total = psutil.virtual_memory().total
        most = int(options.train_memory_gb * 2**30 or _MEMORY_SHARE * total)
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def _end_with_the_app() -> None:
    """The app holds our standard input open; when it is gone, however it died, so are we."""

    def watch() -> None:
        while os.read(0, 4096):  # not sys.stdin: its lock would still be held at exit
            pass
        os._exit(EXIT_CANCELLED)

    threading.Thread(target=watch, daemon=True).start()
    if sys.platform == "linux":
        # While the app holds us (SIGSTOP) no thread of ours runs: then the kernel has to do it.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
