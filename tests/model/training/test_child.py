"""What a process that trains or measures does beside its work, in small processes without torch."""

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from cl.model.base_model import BaseModel
from cl.model.training.child import EXIT_CANCELLED, EXIT_DISK_FULL, WATCHED, Job, Reporter
from cl.model.training_job import read_losses, read_progress
from tests.model.training.sets import OPTIONS
from tests.running import ROOT

CHILD = """
import os, signal, sys, time
from pathlib import Path
from cl import files
from cl.model.training import child

def work(job):
    {work}

{before}
sys.exit(child.run(sys.argv[1:], "result.json", work))
"""


@pytest.fixture
def job(tiny: BaseModel, tmp_path: Path) -> Job:
    return Job(tiny, tmp_path, None, OPTIONS, 7, tmp_path)


def command(job: Job, work: str, before: str = "") -> list[str]:
    code = CHILD.format(work=work.replace("\n", "\n    "), before=before)
    return [sys.executable, "-c", code, str(job.write())]


def run(job: Job, work: str, before: str = "") -> tuple[int, Any, str]:
    """(exit code, what it wrote as its result, its complaints)"""
    ended = subprocess.run(command(job, work, before), cwd=ROOT, capture_output=True, text=True)
    path = job.folder / "result.json"
    return ended.returncode, json.loads(path.read_text()) if path.exists() else None, ended.stderr


def test_what_the_work_finds_is_written(job: Job) -> None:
    assert run(job, "return {'seed': job.seed, 'base': job.base.sha256}") == (
        0,
        {"seed": 7, "base": job.base.sha256},
        "",
    )


def test_of_work_that_finds_nothing_nothing_is_written(job: Job) -> None:
    assert run(job, "return None") == (0, None, "")


@pytest.mark.parametrize(
    ("work", "problem"),
    [
        ("return bytearray(2**31)", "out of memory"),
        ("raise RuntimeError('[enforce fail] DefaultCPUAllocator: can\\'t allocate memory')",) * 2,
        ("raise RuntimeError('CUDA out of memory. Tried to allocate 2 GiB')",) * 2,
        ("raise RuntimeError('std::bad_alloc')",) * 2,
        ("raise child.TrainingProblem('the loss exploded')", "the loss exploded"),
        ("open('/nowhere/at/all')", "a file cannot be read or written ("),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_the_reason_there_is_no_result_is_written(job: Job, work: str, problem: str) -> None:
    small = dataclasses.replace(job, options=dataclasses.replace(OPTIONS, train_memory_gb=1.0))
    code, found, complaints = run(small, work)
    assert code == 1
    assert found["problem"].startswith("out of memory" if problem == work else problem)
    # Only what nobody expected leaves a traceback.
    assert ("ZeroDivisionError" in complaints) is ("ZeroDivisionError" in problem)


def test_a_full_disk_is_told_by_the_exit_code_too(job: Job) -> None:
    code, found, _ = run(job, "Path('/dev/full').write_text('x')")
    assert (code, found) == (EXIT_DISK_FULL, {"problem": "the disk is full"})
    (job.folder / "result.json").unlink()
    no_room = f"raise OSError({errno.ENOSPC}, 'No space left on device')"
    before = f"def write_json(*_):\n    {no_room}\nfiles.write_json = write_json"
    assert run(job, no_room, before) == (EXIT_DISK_FULL, None, "")


def test_a_base_model_that_was_changed_since_is_refused(job: Job, tmp_path: Path) -> None:
    copy = shutil.copytree(job.base.folder, tmp_path / "model")
    with (copy / "tokenizer.json").open("a") as file:
        file.write(" ")
    code, found, _ = run(
        dataclasses.replace(job, base=dataclasses.replace(job.base, folder=copy)), "1 / 0"
    )
    text = f"the base model in {copy} has changed since the app started"
    assert (code, found) == (1, {"problem": text})


def test_hearing_that_another_process_ended_does_not_cover_up_its_reason(job: Job) -> None:
    work = "raise child.Forsaken('another one has ended')"
    assert run(job, work)[1] == {"problem": "another one has ended"}
    (job.folder / "result.json").write_text('{"problem": "out of memory"}')
    assert run(job, work)[1] == {"problem": "out of memory"}
    assert run(job, "raise child.TrainingProblem('mine')")[1] == {"problem": "mine"}


def started(job: Job, *more: str) -> "subprocess.Popen[bytes]":
    """A child that has begun to work, and would for long."""
    work = "print(flush=True)\ntime.sleep(60)"
    pipe = subprocess.PIPE
    child = subprocess.Popen([*command(job, work), *more], cwd=ROOT, stdin=pipe, stdout=pipe)
    assert child.stdout
    child.stdout.readline()
    return child


def test_a_cancelled_one_ends_at_once_and_says_nothing(job: Job) -> None:
    with started(job) as child:
        child.send_signal(signal.SIGTERM)
        assert child.wait(5) == EXIT_CANCELLED
    assert not (job.folder / "result.json").exists()


def test_one_that_is_watched_ends_when_nobody_holds_its_input_open(job: Job) -> None:
    with started(job) as alone, started(job, WATCHED) as watched:
        for child in (alone, watched):
            assert child.stdin
            child.stdin.close()
        assert watched.wait(5) == EXIT_CANCELLED
        assert alone.poll() is None
        alone.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other words for it")
def test_it_takes_idle_time_only_and_goes_first_when_memory_runs_out(job: Job) -> None:
    with started(job) as child:
        assert psutil.Process(child.pid).nice() == 19
        assert os.sched_getscheduler(child.pid) == os.SCHED_IDLE
        assert int(Path(f"/proc/{child.pid}/oom_score_adj").read_text()) >= 500
        child.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other words for it")
def test_limits_that_are_tighter_already_stay(job: Job) -> None:
    before = (
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (2**33, 2**33))\n"
        "Path('/proc/self/oom_score_adj').write_text('900')\n"
    )
    work = (
        "import resource\n"
        "limits = resource.getrlimit(resource.RLIMIT_DATA)\n"
        "return {'limits': limits, 'oom': Path('/proc/self/oom_score_adj').read_text().strip()}"
    )
    options = dataclasses.replace(OPTIONS, train_memory_gb=1000.0)
    _, found, _ = run(dataclasses.replace(job, options=options), work, before)
    assert found == {"limits": [2**33, 2**33], "oom": "900"}


# -- reports -----------------------------------------------------------------------------------


def test_what_is_no_number_is_not_reported(tmp_path: Path) -> None:
    report = Reporter(tmp_path)
    report.tell("training", 1, 2, loss=float("nan"), tokens_per_s=3.0)
    report.loss(step=1, train=float("nan"), kl=2.0)
    progress = read_progress(tmp_path)
    assert progress
    assert (progress.loss, progress.tokens_per_s) == (None, 3.0)
    assert read_losses(tmp_path) == [{"step": 1, "kl": 2.0}]


def test_of_several_processes_only_the_first_reports(tmp_path: Path) -> None:
    report = Reporter(tmp_path, is_first=False)
    report.tell("training", 1, 2)
    report.loss(step=1, train=1.0)
    report.back_to(0)
    assert list(tmp_path.iterdir()) == []


def test_losses_after_a_step_are_forgotten_and_half_written_ones_too(tmp_path: Path) -> None:
    report = Reporter(tmp_path)
    report.back_to(3)  # nothing to forget
    for step in (1, 2, 3):
        report.loss(step=step, train=1.0)
    report.loss(step=2, val=1.0)
    with (tmp_path / "losses.jsonl").open("a") as file:
        file.write('{"step": 1, "tra')
    report.back_to(2)
    report.loss(step=3, train=2.0)
    assert [(row["step"], row.get("train")) for row in read_losses(tmp_path)] == [
        (1, 1.0),
        (2, 1.0),
        (2, None),
        (3, 2.0),
    ]


def test_a_job_is_read_as_it_was_written(job: Job, tmp_path: Path) -> None:
    with_parent = dataclasses.replace(job, parent=tmp_path / "v0001", folder=job.folder.resolve())
    for one in (job, with_parent):
        assert Job.read(one.write()) == one
    assert (job.parent_name, with_parent.parent_name) == ("base", "v0001")
