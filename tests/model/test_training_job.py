"""The training job: following the trainer's process, ending it, and saying how it ended."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from cl import files
from cl.model.base_model import BaseModel
from cl.model.training_job import (
    Progress,
    TrainingCancelled,
    TrainingFailed,
    TrainingJob,
    read_losses,
    read_progress,
)
from cl.model.versions import VersionStore, verify_adapter
from cl.records import BASE, Message
from cl.settings import TrainingOptions

OPTIONS = TrainingOptions(lora_rank=4, learning_rate=0.03, max_epochs=2, train_threads=1)
# Steps of one row, hundreds of them: long enough to be interrupted in the middle.
ENDLESS = TrainingOptions(lora_rank=4, batch_tokens=16, max_epochs=50, train_threads=1)


def write_set(folder: Path, examples: int = 4) -> Path:
    lines = []
    for number in range(examples):
        messages = [
            Message(role="user", content=f"Who has number {number}?"),
            Message(role="assistant", content="Oskar."),
        ]
        lines.append(json.dumps({"messages": messages, "source": "correction"}) + "\n")
    files.write_text(folder / "train.jsonl", "".join(lines))
    files.write_text(folder / "val.jsonl", lines[0])
    return folder


def trainers() -> list[psutil.Process]:
    """The trainer processes that this process has started and that are alive."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if "cl.model.trainer" in child.cmdline()]


def is_gone(process: psutil.Process) -> bool:
    """Dead, even if nobody is there to take note of it."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def once_training(act: Callable[[], bool]) -> Callable[[Progress], bool]:
    """Let the training go on until its first steps, then do something."""
    return lambda progress: True if progress.stage != "training" else act()


@pytest.fixture
def job(tiny: BaseModel, versions: VersionStore) -> Callable[[TrainingOptions], TrainingJob]:
    return lambda options: TrainingJob(tiny, versions, options, seed=7)


Jobs = Callable[[TrainingOptions], TrainingJob]


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


def test_a_training_is_ended_when_its_time_is_up(tmp_path: Path, job: Jobs) -> None:
    with pytest.raises(TrainingFailed, match="took longer than 1e-09 minutes"):
        job(TrainingOptions(max_train_minutes=1e-9)).train(
            write_set(tmp_path / "data"), tmp_path, BASE, lambda progress: True
        )
    assert not trainers()


@pytest.mark.slow
def test_a_training_leaves_a_candidate_its_result_and_no_process(
    tmp_path: Path, tiny: BaseModel, job: Jobs
) -> None:
    heard: list[str] = []
    data = write_set(tmp_path / "data")
    result = job(OPTIONS).train(
        data, tmp_path, "v0001", lambda progress: not heard.append(progress.stage)
    )
    assert heard[0] == "starting"
    assert result.val_loss < result.base_val_loss != result.parent_val_loss
    manifest = verify_adapter(tmp_path / "candidate", tiny.sha256)
    assert (manifest["base"], manifest["seed"]) == (tiny.source, 7)
    assert manifest["result"]["val_loss"] == result.val_loss
    assert [row["val"] for row in read_losses(tmp_path) if "val" in row][-1] == result.val_loss
    assert not trainers()


@pytest.mark.slow
def test_what_the_trainer_cannot_use_is_said_in_a_sentence(tmp_path: Path, job: Jobs) -> None:
    data = write_set(tmp_path / "data")
    (data / "train.jsonl").write_text("garbage\n")
    (tmp_path / "result.json").write_text('{"val_loss": 1.0}')  # of an earlier attempt
    with pytest.raises(
        TrainingFailed,
        match=r"^The training failed: train\.jsonl, line 1 is not a training example\.$",
    ):
        job(OPTIONS).train(data, tmp_path, BASE, lambda progress: True)


@pytest.mark.slow
def test_a_training_cancelled_in_the_middle_leaves_no_candidate(tmp_path: Path, job: Jobs) -> None:
    data = write_set(tmp_path / "data", 1000)
    with pytest.raises(TrainingCancelled):
        job(ENDLESS).train(data, tmp_path, BASE, once_training(lambda: False))
    assert not trainers()
    assert not (tmp_path / "candidate").exists()
    assert not (tmp_path / "result.json").exists()


@pytest.mark.slow
def test_a_trainer_killed_from_outside_is_a_failure_with_its_signal(
    tmp_path: Path, job: Jobs
) -> None:
    def kill() -> bool:
        for child in trainers():
            child.kill()
        return True

    data = write_set(tmp_path / "data", 1000)
    with pytest.raises(TrainingFailed, match="ended by signal 9, most likely for want of memory"):
        job(ENDLESS).train(data, tmp_path, BASE, once_training(kill))
    assert not (tmp_path / "candidate").exists()


APP = """
import sys
from pathlib import Path
from cl.model.base_model import prepare
from cl.model.training_job import TrainingJob
from cl.model.versions import VersionStore
from cl.settings import TrainingOptions

model, folder = prepare(sys.argv[1], Path(sys.argv[2])), Path(sys.argv[2])
options = TrainingOptions(lora_rank=4, batch_tokens=16, max_epochs=50, train_threads=1)
job = TrainingJob(model, VersionStore(folder, model.sha256), options, 7)
job.train(folder / "data", folder, "base", lambda progress: True)
"""


@pytest.mark.slow
def test_a_trainer_does_not_outlive_the_app(tmp_path: Path, tiny: BaseModel) -> None:
    write_set(tmp_path / "data", 1000)
    app = subprocess.Popen([sys.executable, "-c", APP, str(tiny.folder), str(tmp_path)])
    try:
        while (progress := read_progress(tmp_path)) is None or progress.stage != "training":
            assert app.poll() is None
            time.sleep(0.1)
        (trainer,) = trainers()
    finally:
        app.kill()
        app.wait()
    for _ in range(200):
        if is_gone(trainer):
            break
        time.sleep(0.1)
    else:
        trainer.kill()
        pytest.fail("the trainer went on without the app")
    assert not (tmp_path / "candidate").exists()
