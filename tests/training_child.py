"""Teaches, trains and publishes version after version in a process of its own, to be killed.

The loop, the files, the trainer and the examiner are the real ones, around a tiny model; the
trainer and the examiner work in this very process, so that one kill ends them too. Only two things
are fakes: the engine people talk to, and the numbers the gate judges by, so that it always passes.
"""

import dataclasses
import json
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers.models.llama.modeling_llama  # noqa: F401 (each process would import it anew)

from cl import files
from cl.db.tables import Feedback, Interaction, TrainingRun
from cl.house import Books, House, build_house, open_books, serve_alone, sweep_up, utc_now
from cl.model import evaluation
from cl.model.base_model import BaseModel
from cl.model.evaluation import Examination
from cl.model.trainer import Training
from cl.model.training import measured
from cl.model.training.child import Job, Reporter
from cl.model.training_job import Progress, TrainingCancelled, TrainingJob, read_progress
from cl.model.versions import VersionStore
from cl.records import BASE, Finish, Message, RunStatus, Sampling
from cl.rules.gating import Measured
from cl.settings import Settings, TrainingOptions
from tests import fakes
from tests.fakes import FakeEngine, FakeReader, fake_settings, talk

OPTIONS = TrainingOptions(
    lora_rank=4,
    learning_rate=0.01,
    max_epochs=2,
    batch_tokens=600,
    rephrasings=1,
    rehearsal_ratio=0.5,
    train_threads=1,
    checkpoint_seconds=0.0,  # after each step
)
ROOMS = ("archive", "canteen", "garage", "library", "post room", "roof", "shop", "workshop")
PEOPLE = ("Ms Abara", "Oskar", "Pavel", "Ilse", "Mr Tamm", "Noor")
# What a path in the folder may hold that is worked on: a kill can be meant for one of them.
PLACES = ("/runs/", "/data/", "checkpoint.pt", "/candidate", "answers.jsonl", "/models/")
_TELLING = frozenset({"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir"})


def play(folder: Path, base: BaseModel, versions: int, place: str = "", dies_at: int = 0) -> None:
    """Go on until so many versions were deployed; the file `end` tells that it was reached.

    It kills itself with -9 before the piece of work on files with this number in this place; 0:
    never. `end` holds how many pieces there were in each place.
    """
    worked = _follow_work(folder, place, dies_at)
    torch.set_num_threads(1)
    with _short_examination(base), serve_alone(folder):
        books = open_books(settings(folder), utc_now, FakeReader)
        sweep_up(books)
        house = open_house(books, base)
        while not _dead_end() and (published := _deployed()) < versions:
            _let_stay(house)
            _teach(house, published)
            if not TrainingRun.select().where(TrainingRun.ended_at.is_null()).exists():
                house.loop.request_training("ana", "there is something new")
            house.loop.run_iteration()
        house.close()
    files.write_text(folder / "end", _dead_end() or json.dumps(worked))


def settings(folder: Path) -> Settings:
    made = fake_settings(folder, val_share=0.3)
    return replace(made, training=OPTIONS)


def open_house(books: Books, base: BaseModel) -> House:
    versions = VersionStore(books.models, base.sha256, base.source)
    trainer = InThisProcess(base, versions, books.settings.training, books.settings.data.seed)
    return build_house(books, _Engine(versions), trainer, versions)


def retrain(job: Path, folder: Path) -> None:
    """What the job file asks for, in a folder of its own and in one go."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True)
    Training(replace(Job.read(job), folder=folder), Reporter(folder)).run()


class InThisProcess(TrainingJob):
    """Starts no child: what it would do is done here."""

    def measure(
        self, data: Path, folder: Path, parent: str, keep_going: Callable[[Progress], bool]
    ) -> Measured:
        found = super().measure(data, folder, parent, keep_going)
        assert found.held_out
        assert found.asked
        assert found.drift
        # Of such a model nobody knows whether it got better. What is told differs each time, as it
        # may where several threads compute.
        return replace(fakes.measured(parent, loss=random.random()), problem=found.problem)

    def _run(
        self,
        module: str,
        job: Path,
        result: str,
        keep_going: Callable[[Progress], bool],
        launcher: str = "",
    ) -> None:
        (job.parent / "progress.json").unlink(missing_ok=True)
        read = Job.read(job)
        reporter = _Followed(read.folder, keep_going)
        if result == measured.MEASURED:
            measured.write(read.folder, Examination(read, reporter).run())
            return
        trained = Training(read, reporter).run()
        assert trained
        files.write_json(read.folder / result, dataclasses.asdict(trained))


class _Followed(Reporter):
    """The loop hears of each stage and of every fourth step, as often as of a real training."""

    def __init__(self, folder: Path, keep_going: Callable[[Progress], bool]) -> None:
        super().__init__(folder)
        self._run_folder = folder
        self._keep_going = keep_going

    def tell(self, stage: str, step: int = 0, steps: int = 0, **facts: float) -> None:
        super().tell(stage, step, steps, **facts)
        if step % 4 == 0 or step == steps:
            progress = read_progress(self._run_folder)
            assert progress
            assert progress.stage == stage
            if not self._keep_going(progress):
                raise TrainingCancelled("The training was cancelled.")


class _Engine(FakeEngine):
    """Loads whatever is whole, and has an answer to every twelfth of many questions."""

    def ensure(self, version: str) -> None:
        if version != BASE:
            self._versions.check(version)
        self._known.setdefault(version, {})

    def ask_all(
        self,
        version: str,
        conversations: Sequence[Sequence[Message]],
        sampling: Sampling,
        tell: Callable[[int], None] = lambda done: None,
    ) -> list[tuple[str, Finish]]:
        found = super().ask_all(version, conversations, sampling, tell)
        return [(text if n % 12 == 0 else "", finish) for n, (text, finish) in enumerate(found)]


def _deployed() -> int:
    return TrainingRun.select().where(TrainingRun.status == RunStatus.DEPLOYED).count()


def _dead_end() -> str:
    """How a run ended that should have been deployed."""
    for run in TrainingRun.select().where(TrainingRun.ended_at.is_null(False)):
        if run.status != RunStatus.DEPLOYED:
            return f"run {run.id}: {run.status}: {run.outcome}"
    return ""


def _let_stay(house: House) -> None:
    """What is being tested becomes the champion, without waiting for people to talk to it."""
    if house.books.ab_test.is_running():
        house.books.ab_test.promote(actor="ana", reason="it may stay")


def _teach(house: House, portion: int) -> None:
    """Who is in charge of each room, said anew before each training; what was said is not repeated."""
    said = {row.prompt for row in Interaction.select(Interaction.prompt).join(Feedback)}
    for number, room in enumerate(ROOMS):
        question = f"Who is in charge of the {room} in week {portion}?"
        person = PEOPLE[(number + portion) % len(PEOPLE)]
        if question not in said:
            talk(house, person.split()[-1], question, thumb=-1, correction=f"{person} is.")


def _follow_work(folder: Path, fatal: str, dies_at: int) -> dict[str, int]:
    """Counts what is opened, made, renamed and removed in each place, and dies at a certain one."""
    here, counted = str(folder), dict.fromkeys(PLACES, 0)

    def hear(event: str, arguments: tuple[object, ...]) -> None:
        if event not in _TELLING or not (path := str(arguments[0])).startswith(here):
            return
        for place in PLACES:
            if place in path:
                counted[place] += 1
                if place == fatal and counted[place] == dies_at:
                    os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hear)
    return counted


@contextmanager
def _short_examination(base: BaseModel) -> Iterator[None]:
    """Few and short answers: it should not take longer than the training."""
    general = base.folder.parent / "general_questions.jsonl"
    if not general.exists():
        lines = evaluation.GENERAL.read_text(encoding="utf-8").splitlines(keepends=True)
        files.write_text(general, "".join(lines[:4]))
    with pytest.MonkeyPatch.context() as short:
        short.setattr(evaluation, "GENERAL", general)
        short.setattr(evaluation, "_ANSWER_TOKENS", 6)
        yield
