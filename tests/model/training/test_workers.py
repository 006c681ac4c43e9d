"""Several processes that train together, launched as on a machine with several GPUs."""

import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from cl.model.base_model import BaseModel
from cl.model.trainer import Training
from cl.model.training.child import Job, Reporter, TrainingProblem
from cl.model.training.workers import Workers
from cl.model.training_job import (
    Progress,
    TrainingCancelled,
    TrainingFailed,
    TrainingJob,
    read_losses,
)
from cl.model.versions import ADAPTER, VersionStore, verify_adapter
from cl.records import BASE
from tests.model.training.sets import OPTIONS, PREFERRING, line, write_preferences, write_set

LAUNCHER = f"{sys.executable} -m torch.distributed.run --standalone --nproc-per-node 2"
# Steps of one row, hundreds of them: long enough to be interrupted in the middle.
ENDLESS = dataclasses.replace(
    OPTIONS, batch_tokens=16, max_epochs=50, train_launcher=LAUNCHER, checkpoint_seconds=1e9
)

pytestmark = pytest.mark.slow


def endless_set(folder: Path) -> Path:
    return write_set(folder, [line(f"Who has number {n}?", "Oskar.") for n in range(500)])


def workers() -> list[psutil.Process]:
    """The processes of a training that this process has started, without the launcher."""
    found = psutil.Process().children(recursive=True)
    return [p for p in found if "cl.model.trainer" in p.cmdline() and "RANK" in p.environ()]


def once_training(act: Callable[[], bool]) -> Callable[[Progress], bool]:
    return lambda progress: True if progress.stage != "training" else act()


def test_two_processes_train_what_one_trains(
    tiny: BaseModel, shared_versions: VersionStore, tmp_path: Path
) -> None:
    data = write_set(tmp_path / "data")
    write_preferences(data)
    options = dataclasses.replace(PREFERRING, train_launcher=LAUNCHER, learning_rate=0.01)
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    one = Training(Job(tiny, data, None, options, 7, folders[0]), Reporter(folders[0])).run()
    job = TrainingJob(tiny, shared_versions, options, 7)
    two = job.train(data, folders[1], BASE, lambda progress: True)
    assert one
    assert two.val_loss == pytest.approx(one.val_loss, abs=0.02)
    assert two.val_loss < two.base_val_loss - 0.5
    same = {"val_loss": 0.0, "base_val_loss": 0.0, "drift": 0.0, "seconds": 0.0}
    assert dataclasses.replace(two, **same) == dataclasses.replace(one, **same)
    assert two.methods == ("sft", "kto", "dpo")
    verify_adapter(folders[1] / "candidate", tiny.sha256)
    ours, theirs = (load_file(folder / "candidate" / ADAPTER) for folder in folders)
    # In bf16 the company a row has rounds it; the exact comparison is in test_learner.
    for name, tensor in ours.items():
        if "lora_B" in name:
            torch.testing.assert_close(theirs[name], tensor, rtol=0, atol=0.025)
            assert (
                torch.nn.functional.cosine_similarity(
                    theirs[name].flatten(), tensor.flatten(), dim=0
                )
                > 0.9
            )
    assert [row.keys() for row in read_losses(folders[1])] == [
        row.keys() for row in read_losses(folders[0])
    ]  # told by one of them
    assert not workers()


@pytest.mark.parametrize("theirs", ["the same", "something else"])
def test_processes_that_would_learn_different_things_do_not_begin(theirs: str) -> None:
    said: list[float] = []

    class OneOfTwo(Workers):
        def add_up(self, tensors: Sequence[Tensor]) -> None:
            said.append(tensors[0].item())
            tensors[0] += said[0]

    OneOfTwo(0, 2).agree("the same")
    if theirs == "the same":
        OneOfTwo(1, 2).agree(theirs)
    else:
        with pytest.raises(TrainingProblem, match="different things"):
            OneOfTwo(1, 2).agree(theirs)


def test_all_processes_are_gone_soon_after_a_training_was_cancelled(
    tiny: BaseModel, shared_versions: VersionStore, tmp_path: Path
) -> None:
    asked_at, seen = [], []

    def cancel() -> bool:
        seen.extend(workers())
        asked_at.append(time.monotonic())
        return False

    job = TrainingJob(tiny, shared_versions, ENDLESS, 7)
    with pytest.raises(TrainingCancelled):
        job.train(endless_set(tmp_path / "data"), tmp_path, BASE, once_training(cancel))
    psutil.wait_procs(seen, timeout=asked_at[0] + 5 - time.monotonic())
    assert [p.is_running() for p in seen] == [False, False]
    assert time.monotonic() < asked_at[0] + 5
    assert not (tmp_path / "candidate").exists()


def test_the_death_of_one_process_ends_them_all_with_a_reason(
    tiny: BaseModel, shared_versions: VersionStore, tmp_path: Path
) -> None:
    killed_at = []

    def kill() -> bool:
        if not killed_at:
            (second,) = (p for p in workers() if p.environ()["RANK"] == "1")
            second.kill()
            killed_at.append(time.monotonic())
        return True

    job = TrainingJob(tiny, shared_versions, ENDLESS, 7)
    with pytest.raises(TrainingFailed, match="another process of this training has ended"):
        job.train(endless_set(tmp_path / "data"), tmp_path, BASE, once_training(kill))
    assert time.monotonic() < killed_at[0] + 20
    assert not workers()


def test_what_one_process_cannot_go_on_for_is_the_reason_of_all(
    tiny: BaseModel, shared_versions: VersionStore, tmp_path: Path
) -> None:
    data = write_set(tmp_path / "data")
    (tmp_path / "alone.py").write_text(
        "import os, runpy, sys\n"
        "sys.path.insert(0, os.getcwd())\n"
        "from cl.model.training import learner\n"
        "from cl.settings import launched_processes\n"
        "step = learner.Learner.step\n"
        "def failing(self, some):\n"
        "    if launched_processes().rank == 1:\n"
        "        raise MemoryError\n"
        "    return step(self, some)\n"
        "learner.Learner.step = failing\n"
        "sys.argv = sys.argv[sys.argv.index('-m') + 1:]\n"
        "runpy.run_module('cl.model.trainer', run_name='__main__')\n"
    )
    options = dataclasses.replace(OPTIONS, train_launcher=f"{LAUNCHER} {tmp_path / 'alone.py'}")
    job = TrainingJob(tiny, shared_versions, options, 7)
    with pytest.raises(TrainingFailed, match=r"^The training failed: out of memory\.$"):
        job.train(data, tmp_path, BASE, lambda progress: True)
    assert not workers()


def test_a_launcher_that_is_not_there_is_said(
    tiny: BaseModel, shared_versions: VersionStore, tmp_path: Path
) -> None:
    options = dataclasses.replace(OPTIONS, train_launcher="no-such-launcher --nproc 2")
    with pytest.raises(TrainingFailed, match=r"cannot be started: .*no-such-launcher"):
        TrainingJob(tiny, shared_versions, options, 7).train(
            write_set(tmp_path / "data"), tmp_path, BASE, lambda progress: True
        )
