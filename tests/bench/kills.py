"""kill -9 while versions are trained, measured and published: what is there afterwards is whole.

    python -m tests.bench.kills [--kills 500] [--seed 0]

Stories of a few versions (tests/training_child.py) are killed again and again until they reach their
end, in two ways that take turns: from outside after a random time, and from inside before a random
piece of work on files, which also hits what takes only a moment. After every kill the folder is
looked at, and at the end of a story every version is trained once more in one go: the weights must
be the same. Prints the number of kills by what was going on, and every fault.
"""

import argparse
import json
import math
import multiprocessing
import random
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cl import files
from cl.model.base_model import BaseModel
from cl.model.versions import ADAPTER, BadVersion, VersionStore
from tests import tiny_model
from tests.training_child import PLACES, play, retrain

VERSIONS = 2  # a story
_SHARE = 0.2  # of a story: the longest life of a process that is to be killed
_LET_THROUGH = 2  # a step broken off so often may be finished: at the third time it is given up
_PATIENCE = 300
_TRAINING = ("training", "checkpointing", "writing the candidate")

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["tests.training_child"])


@dataclass
class Story:
    """What an undisturbed one takes here: the kills must fall within it on any machine."""

    seconds: float
    worked: dict[str, int]  # on files, by place


@dataclass
class Report:
    kills: Counter[str] = field(default_factory=Counter)  # by what was going on
    versions: int = 0
    killed_trainings: int = 0  # runs whose training was hit, and which were deployed
    faults: list[str] = field(default_factory=list)


def kill(scratch: Path, kills: int, seed: int) -> Report:
    """As many stories as it takes."""
    base = tiny_model.build(scratch / "base" / "model")
    calm, report, dice = _undisturbed(scratch / "calm", base), Report(), random.Random(seed)
    while report.kills.total() < kills and not report.faults:
        folder = scratch / "story"
        _one_story(folder, base, calm, report, kills, dice)
        shutil.rmtree(folder)
    return report


def _undisturbed(folder: Path, base: BaseModel) -> Story:
    first = _PROCESSES.Process()  # does nothing; the server it comes from takes seconds to start
    first.start()
    first.join()
    began = time.monotonic()
    process = _PROCESSES.Process(target=play, args=(folder, base, VERSIONS))
    process.start()
    process.join()
    return Story(time.monotonic() - began, json.loads((folder / "end").read_text()))


def _one_story(
    folder: Path, base: BaseModel, calm: Story, report: Report, kills: int, dice: random.Random
) -> None:
    hit: set[int] = set()  # runs whose training was killed
    while not (folder / "end").exists():
        is_last = report.kills.total() >= kills
        before = _open_run(folder)
        is_free = not is_last and before.attempts < _LET_THROUGH
        place = dice.choice(PLACES) if is_free and dice.random() < 0.5 else ""
        dies_at = dice.randint(1, math.ceil(calm.worked[place] / VERSIONS / 2)) if place else 0
        process = _PROCESSES.Process(target=play, args=(folder, base, VERSIONS, place, dies_at))
        process.start()
        if not is_free and not is_last:
            _let_through(process, folder, before)
        process.join(_PATIENCE if is_last or place else dice.uniform(0.01, _SHARE) * calm.seconds)
        process.kill()
        process.join()
        report.faults += _how_it_ended(process.exitcode, is_last)
        if process.exitcode == -9:
            doing = _doing(folder)
            report.kills[doing] += 1
            hit |= {_open_run(folder).id} if doing in _TRAINING else set()
        report.faults += _check(folder, base)
        if report.faults:
            return
    report.faults += _check_end(folder, base)
    report.versions += VERSIONS
    report.killed_trainings += len(hit)


def _let_through(process: Any, folder: Path, before: "_Run") -> None:
    """Until the open run has got further."""
    while process.is_alive() and _is_as_far(_open_run(folder), before):
        time.sleep(0.005)


def _how_it_ended(code: int | None, is_last: bool) -> list[str]:
    if code == 0 or (code == -9 and not is_last):
        return []
    return ["the story does not end" if code == -9 else f"ended with {code}"]


# -- what is there -----------------------------------------------------------------------------


def _rows(folder: Path, query: str) -> list[tuple[Any, ...]]:
    """What the database says, read from outside; nothing before there are tables."""
    if not (folder / "usage.db").exists():
        return []
    connection = sqlite3.connect(folder / "usage.db")
    try:
        return connection.execute(query).fetchall()
    except sqlite3.OperationalError:
        return []
    finally:
        connection.close()


@dataclass(frozen=True)
class _Run:
    id: int = 0
    status: str = ""
    attempts: int = 0  # how often this step was begun


def _open_run(folder: Path) -> _Run:
    query = "SELECT id, status, attempts FROM training_run WHERE ended_at IS NULL"
    return next((_Run(*row) for row in _rows(folder, query)), _Run())


def _is_as_far(run: _Run, before: _Run) -> bool:
    """Whether it would be given up if it were broken off now."""
    same = (run.id, run.status) == (before.id, before.status)
    return same and run.attempts >= before.attempts


def _doing(folder: Path) -> str:
    """What the process was at when it was killed."""
    run = _open_run(folder)
    left = {path.name.split("-", 2)[2] for path in folder.rglob(f"{files.TEMPORARY}*-*")}
    if run.status == "generated":
        if "checkpoint.pt" in left:
            return "checkpointing"
        writes = "candidate" in left or (folder / f"runs/{run.id:04d}/candidate").exists()
        return "writing the candidate" if writes else "training"
    if run.status == "trained":
        judged = _rows(folder, f"SELECT result FROM training_run WHERE id = {run.id}")[0][0]
        return "publishing" if '"gate"' in judged else "measuring"
    known = {"requested": "generating", "published": "deploying", "": "between trainings"}
    return known[run.status]


def _check(folder: Path, base: BaseModel) -> list[str]:
    """What must hold after every kill; the faults."""
    faults = []
    if (folder / "usage.db").exists() and _rows(folder, "PRAGMA quick_check") != [("ok",)]:
        faults.append("the database is damaged")
    if len(_rows(folder, "SELECT id FROM training_run WHERE ended_at IS NULL")) > 1:
        faults.append("two open runs")
    for status, why in _rows(
        folder, "SELECT status, outcome FROM training_run WHERE ended_at IS NOT NULL"
    ):
        if status != "deployed":
            faults.append(f"a run ended {status}: {why}")
    stages = Counter(stage for (stage,) in _rows(folder, "SELECT stage FROM version"))
    faults += [f"{stages[s]} of {s}" for s in ("champion", "challenger") if stages[s] > 1]
    store = VersionStore(folder / "models", base.sha256)
    for name, sha256 in _rows(folder, "SELECT name, sha256 FROM version"):
        try:
            if store.check(name) != sha256:
                faults.append(f"{name} is another one than its row says")
        except BadVersion as problem:
            faults.append(str(problem))
    return faults


def _check_end(folder: Path, base: BaseModel) -> list[str]:
    """What must hold when the story has come to its end."""
    runs = _rows(folder, "SELECT version, status FROM training_run ORDER BY id")
    faults = []
    if runs != [(f"v{n:04d}", "deployed") for n in range(1, VERSIONS + 1)]:
        faults.append(f"the runs are {runs}")
    if left := [path.name for path in folder.rglob(f"{files.TEMPORARY}*")]:
        faults.append(f"not swept up: {left}")
    faults += [f"{name} trained again is another one" for name in _other_weights(folder)]
    return faults


def _other_weights(folder: Path) -> Iterator[str]:
    """Published versions whose weights are not those of the same job done in one go."""
    for run, name in _rows(folder, "SELECT id, version FROM training_run"):
        again = folder / "again" / name
        retrain(folder / "runs" / f"{run:04d}" / "job.json", again)
        weights = [again / "candidate" / ADAPTER, folder / "models" / name / ADAPTER]
        if len({files.sha256(path) for path in weights}) != 1:
            yield name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with TemporaryDirectory() as scratch:
        report = kill(Path(scratch), options.kills, options.seed)
    print(f"{report.kills.total()} kills, {report.versions} versions, {len(report.faults)} faults")
    for doing, count in report.kills.most_common():
        print(f"    {doing:<24}{count:>5}")
    print(f"{report.killed_trainings} trainings were killed and gave the weights of one in one go")
    for fault in report.faults:
        print(f"FAULT: {fault}")


if __name__ == "__main__":
    main()
