"""The training job: following the trainer's process, ending it, and saying how it ended.

Where it does not matter what is learned, a launcher puts a small stand-in in the trainer's place.
"""

import dataclasses
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from cl import files
from cl.model import training_job
from cl.model.base_model import BaseModel
from cl.model.training.child import Job
from cl.model.training_job import (
    CHECKPOINT,
    Progress,
    TrainingCancelled,
    TrainingFailed,
    TrainingJob,
    read_losses,
    read_progress,
)
from cl.model.versions import ADAPTER, VersionStore, verify_adapter
from cl.records import BASE
from cl.settings import TrainingOptions
from tests import tiny_model
from tests.model.training.sets import OPTIONS, line, write_set
from tests.running import ROOT

# Steps of one row, hundreds of them: long enough to be interrupted in the middle.
ENDLESS = dataclasses.replace(OPTIONS, batch_tokens=16, max_epochs=50, checkpoint_seconds=0.0)
MANY = [line(f"Who has number {n}?", "Oskar.") for n in range(500)]


def trainers() -> list[psutil.Process]:
    """The trainer processes that this process has started and that are alive."""
    children = psutil.Process().children(recursive=True)
    alive = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in alive if "cl.model.trainer" in child.cmdline()]


def go_on(progress: Progress) -> bool:
    return True


def once_training(act: Callable[[], bool]) -> Callable[[Progress], bool]:
    """Let the training go on until its first steps, then do something."""
    return lambda progress: True if progress.stage != "training" else act()


Jobs = Callable[[TrainingOptions], TrainingJob]


@pytest.fixture
def job(tiny: BaseModel, shared_versions: VersionStore) -> Jobs:
    return lambda options: TrainingJob(tiny, shared_versions, options, seed=7)


@pytest.fixture
def stand_in(tmp_path: Path, job: Jobs) -> Callable[..., TrainingJob]:
    """A job whose trainer does this instead, with the manners of a child."""

    def one(work: str, **options: float) -> TrainingJob:
        script = tmp_path / "stand_in.py"
        script.write_text(
            "import os, signal, sys, time\n"
            f"sys.path.insert(0, {str(ROOT)!r})\n"
            "from cl.model.training import child\n"
            "def work(job):\n"
            "    report = child.Reporter(job.folder)\n"
            f"    {work}\n"
            "sys.exit(child.run(sys.argv[3:], 'result.json', work))\n"
        )
        launcher = f"{sys.executable} {script}"
        return job(dataclasses.replace(OPTIONS, train_launcher=launcher, **options))

    return one


# -- what it reads -----------------------------------------------------------------------------


@pytest.mark.parametrize("text", [None, "", "{", "3", '{"stage": "training", "unheard of": 1}'])
def test_progress_that_cannot_be_read_is_none(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "progress.json").write_text(text)
    assert read_progress(tmp_path) is None


def test_the_share_is_unknown_until_the_steps_are_known() -> None:
    assert Progress("loading the base model").share is None
    assert Progress("training", 3, 4).share == 0.75


def test_a_half_written_loss_is_not_read(tmp_path: Path) -> None:
    assert read_losses(tmp_path) == []
    (tmp_path / "losses.jsonl").write_text('{"step": 1, "train": 2.5}\n{"step": 2, "tra')
    assert read_losses(tmp_path) == [{"step": 1, "train": 2.5}]


def test_a_long_loss_curve_is_thinned_but_keeps_every_validation(tmp_path: Path) -> None:
    rows = [{"step": n, "val" if n % 700 == 0 else "train": 1.0} for n in range(1, 10_001)]
    (tmp_path / "losses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = read_losses(tmp_path)
    assert len(read) < 2100
    assert [row for row in read if "val" in row] == [row for row in rows if "val" in row]


# -- how it ends -------------------------------------------------------------------------------


def test_a_training_cancelled_at_once_ends_its_process(tmp_path: Path, job: Jobs) -> None:
    with pytest.raises(TrainingCancelled):
        job(OPTIONS).train(write_set(tmp_path / "data"), tmp_path, BASE, lambda progress: False)
    assert not trainers()


@pytest.mark.parametrize(
    ("work", "reason"),
    [
        ("raise child.TrainingProblem('the loss exploded')", "failed: the loss exploded."),
        ("os.kill(os.getpid(), 9)", "was ended by signal 9, most likely for want of memory."),
        ("os._exit(3)", "failed: exit code 3."),
        ("os.write(2, b'Bus error\\n=====\\n'); os._exit(3)", "failed: Bus error."),
        (
            "full = lambda *_: os.write(os.open('/dev/full', 1), b'x'); "
            "child.files.write_json = full; full()",
            "failed: the disk is full.",
        ),
        ("return None", "failed: exit code 0."),
    ],
)
def test_why_a_training_failed_is_said_in_a_sentence(
    tmp_path: Path, stand_in: Callable[..., TrainingJob], work: str, reason: str
) -> None:
    (tmp_path / "result.json").write_text('{"val_loss": 1.0}')  # of an earlier attempt
    with pytest.raises(TrainingFailed) as found:
        stand_in(work).train(write_set(tmp_path / "data"), tmp_path, BASE, go_on)
    assert str(found.value).endswith(reason)
    assert str(found.value).startswith("The train")
    assert not trainers()


def test_a_training_is_ended_when_its_time_is_up(
    tmp_path: Path, stand_in: Callable[..., TrainingJob]
) -> None:
    with pytest.raises(TrainingFailed, match=r"took longer than 0\.005 minutes"):
        stand_in("time.sleep(60)", max_train_minutes=0.005).train(
            write_set(tmp_path / "data"), tmp_path, BASE, go_on
        )
    assert not trainers()


def test_a_training_that_makes_no_step_is_ended_but_not_one_that_makes_some(
    tmp_path: Path, stand_in: Callable[..., TrainingJob]
) -> None:
    steps = "[(report.tell('training', n, 9), time.sleep({})) for n in range(7)]"
    data, minutes = write_set(tmp_path / "data"), 2 / 60
    with pytest.raises(TrainingFailed, match=r"made no step for 0\.0333333 minutes"):
        stand_in(steps.format(60), max_stall_minutes=minutes).train(data, tmp_path, BASE, go_on)
    with pytest.raises(TrainingFailed, match="exit code 0"):  # it came to its end
        stand_in(steps.format(0.5), max_stall_minutes=minutes).train(data, tmp_path, BASE, go_on)
    assert not trainers()


def test_a_trainer_that_does_not_listen_is_gone_five_seconds_after_it_was_cancelled(
    tmp_path: Path, stand_in: Callable[..., TrainingJob]
) -> None:
    asked_at = []

    def cancel() -> bool:
        asked_at.append(time.monotonic())
        return False

    deaf = "signal.signal(15, lambda *_: None); report.tell('training', 1, 2); time.sleep(60)"
    while_asleep = f"{deaf}; time.sleep(60)"
    with pytest.raises(TrainingCancelled):
        stand_in(while_asleep).train(
            write_set(tmp_path / "data"), tmp_path, BASE, once_training(cancel)
        )
    assert time.monotonic() - asked_at[0] < 5
    assert not trainers()


@pytest.mark.slow
def test_a_training_leaves_a_candidate_its_result_and_no_process(
    tmp_path: Path, tiny: BaseModel, job: Jobs
) -> None:
    """Ended, and the app killed before it noted so, it is not trained again; another one is."""
    heard: list[str] = []
    data, path = write_set(tmp_path / "data"), tmp_path / "candidate" / ADAPTER
    result = job(OPTIONS).train(
        data, tmp_path, "v0001", lambda progress: not heard.append(progress.stage)
    )
    assert heard[0] == "starting"
    assert result.val_loss < result.base_val_loss
    manifest = verify_adapter(tmp_path / "candidate", tiny.sha256)
    assert (manifest["base"], manifest["seed"]) == (tiny.source, 7)
    assert manifest["result"]["val_loss"] == result.val_loss
    assert [row["val"] for row in read_losses(tmp_path) if "val" in row][-1] == result.val_loss
    assert not (tmp_path / CHECKPOINT).exists()
    assert not trainers()

    written = path.stat().st_mtime_ns
    (tmp_path / CHECKPOINT).write_bytes(b"left by the kill")
    assert job(OPTIONS).train(data, tmp_path, "v0001", lambda progress: False) == result
    assert path.stat().st_mtime_ns == written
    assert not (tmp_path / CHECKPOINT).exists()
    other = dataclasses.replace(OPTIONS, learning_rate=0.02)
    for again, parent in ((job(other), "v0001"), (job(OPTIONS), BASE)):
        with pytest.raises(TrainingCancelled):
            again.train(data, tmp_path, parent, lambda progress: False)


@pytest.mark.parametrize("name", ["result.json", f"candidate/{ADAPTER}", "job.json"])
@pytest.mark.parametrize("text", ["", "{}", "[]", '{"problem": "out of memory"}'])
def test_a_result_that_is_not_whole_is_trained_again(
    tiny: BaseModel, job: Jobs, tmp_path: Path, name: str, text: str
) -> None:
    done = Job(tiny, write_set(tmp_path / "data"), None, OPTIONS, 7, tmp_path)
    tiny_model.write_random_adapter(tiny, done.candidate)
    done.write()
    numbers = ("val_loss", "base_val_loss", "drift", "seconds")
    counts = ("val_examples", "steps", "epochs", "tokens")
    result = {**dict.fromkeys(numbers, 1.0), **dict.fromkeys(counts, 1), "methods": ["sft"]}
    files.write_json(tmp_path / "result.json", result)
    assert job(OPTIONS).train(done.data, tmp_path, BASE, lambda progress: False).methods == ("sft",)
    (tmp_path / name).write_text(text)
    with pytest.raises(TrainingCancelled):
        job(OPTIONS).train(done.data, tmp_path, BASE, lambda progress: False)


@pytest.mark.slow
def test_a_training_that_was_killed_goes_on_from_its_checkpoint_and_can_be_cancelled(
    tmp_path: Path, job: Jobs
) -> None:
    data, saved, asked_at = write_set(tmp_path / "data", MANY), 0, 0.0

    def kill_once_saved(progress: Progress) -> bool:
        nonlocal saved
        if progress.saved:
            saved = progress.saved
            for child in trainers():
                child.kill()
        return True

    with pytest.raises(TrainingFailed, match="ended by signal 9, most likely for want of memory"):
        job(ENDLESS).train(data, tmp_path, BASE, kill_once_saved)
    heard: list[Progress] = []

    def cancel_once_training(progress: Progress) -> bool:
        nonlocal asked_at
        heard.append(progress)
        asked_at = time.monotonic()
        return progress.stage != "training"

    with pytest.raises(TrainingCancelled):
        job(ENDLESS).train(data, tmp_path, BASE, cancel_once_training)
    assert time.monotonic() - asked_at < 5
    assert heard[-1].step > saved > 0
    steps = [row["step"] for row in read_losses(tmp_path) if "train" in row]
    assert steps == [*range(1, len(steps) + 1)]  # none is missing, none was told twice
    assert not trainers()
    assert not (tmp_path / "candidate").exists()
    assert not (tmp_path / "result.json").exists()


@pytest.mark.slow
def test_a_candidate_is_measured_in_a_process_of_its_own(
    tmp_path: Path, tiny: BaseModel, job: Jobs
) -> None:
    tiny_model.write_random_adapter(tiny, tmp_path / "candidate", seed=5, fill=0.3)
    files.write_json(tmp_path / "measured.json", {"problem": "of an earlier attempt"})
    heard = set()
    found = job(OPTIONS).measure(
        write_set(tmp_path / "data"),
        tmp_path,
        "v0001",
        lambda progress: not heard.add(progress.stage),  # type: ignore[func-returns-value]
    )
    assert (found.parent, found.problem) == ("v0001", None)
    assert len(found.held_out) == 4
    assert len(found.of("general")) > 10
    assert "measuring the candidate" in heard


# -- who comes first ---------------------------------------------------------------------------


@pytest.mark.slow
def test_a_training_is_held_while_the_chat_is_busy_but_never_for_good(
    tmp_path: Path, tiny: BaseModel, shared_versions: VersionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a full disk, which is what ends this one, is told."""
    monkeypatch.setattr(training_job, "_MOST_HELD", 2.0)
    is_busy = threading.Event()
    seen: list[tuple[bool, float, int]] = []  # (whether it was stopped, when, at which step)

    def watch(progress: Progress) -> bool:
        if progress.stage != "training" or not trainers():
            return True
        is_held = trainers()[0].status() == psutil.STATUS_STOPPED
        seen.append((is_held, time.monotonic(), progress.step))
        if len(seen) == 1:
            assert not is_held
            is_busy.set()
        freed = [n for n in range(1, len(seen)) if seen[n - 1][0] and not seen[n][0]]
        if freed and is_busy.is_set():
            is_busy.clear()
        elif freed and not is_held and seen[-1][2] > seen[freed[0]][2]:
            losses = tmp_path / "losses.jsonl"
            losses.unlink()
            losses.symlink_to("/dev/full")
        return len(seen) < 100

    # Held as long as here, and not counting: that would be a stall.
    options = dataclasses.replace(ENDLESS, max_stall_minutes=30 / 60)
    job = TrainingJob(tiny, shared_versions, options, 7, is_busy.is_set)
    with pytest.raises(TrainingFailed, match="the disk is full"):
        job.train(write_set(tmp_path / "data", MANY), tmp_path, BASE, watch)
    held = [(at, step) for is_held, at, step in seen if is_held]
    assert len({step for _, step in held}) == 1  # nothing moved
    assert 0.5 < held[-1][0] - held[0][0] < 2.6
    assert not trainers()


APP = """
import sys
from pathlib import Path
from cl.model.base_model import prepare
from cl.model.training_job import TrainingJob, read_progress
from cl.model.versions import VersionStore
from cl.settings import TrainingOptions

def is_busy():
    progress = read_progress(folder)
    return progress is not None and progress.stage == "training"

model, folder = prepare(sys.argv[1], Path(sys.argv[2])), Path(sys.argv[2])
options = TrainingOptions(lora_rank=4, batch_tokens=16, max_epochs=50, train_threads=1)
job = TrainingJob(model, VersionStore(folder, model.sha256), options, 7, is_busy)
job.train(folder / "data", folder, "base", lambda progress: True)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a held one is let go by the system")
def test_a_held_trainer_does_not_outlive_the_app(tmp_path: Path, tiny: BaseModel) -> None:
    write_set(tmp_path / "data", MANY)
    app = subprocess.Popen([sys.executable, "-c", APP, str(tiny.folder), str(tmp_path)], cwd=ROOT)
    try:
        deadline = time.monotonic() + 120
        while not [p for p in trainers() if p.status() == psutil.STATUS_STOPPED]:
            assert app.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.25)
        (trainer,) = trainers()
    finally:
        app.send_signal(signal.SIGKILL)
        app.wait()
    _, left = psutil.wait_procs([trainer], timeout=5)
    # Dead, even if nobody is there to take note of it.
    if left and trainer.status() != psutil.STATUS_ZOMBIE:
        trainer.kill()
        pytest.fail("the trainer went on without the app")
    assert not (tmp_path / "candidate").exists()
