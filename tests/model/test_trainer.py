"""The trainer: whole trainings of a tiny real model in this process."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from cl import files
from cl.model.base_model import BaseModel
from cl.model.engine.embedded import EmbeddedEngine
from cl.model.engine.loading import load_model
from cl.model.trainer import CHECKPOINT, Training
from cl.model.training.child import Job, Reporter, TrainingProblem
from cl.model.training.learner import Learner
from cl.model.training.plan import plan
from cl.model.training.rows import RowReader
from cl.model.training_job import read_losses, read_progress
from cl.model.versions import ADAPTER, VersionStore, verify_adapter
from cl.records import BASE, Message, Sampling, TrainingResult
from tests import tiny_model
from tests.model.training.sets import (
    FACTS,
    OPTIONS,
    PREFERRING,
    line,
    write_preferences,
    write_set,
)

Train = Callable[..., TrainingResult]


@pytest.fixture(scope="module")
def run(tiny: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one finished training, and its result in result.json."""
    folder = tmp_path_factory.mktemp("run")
    job = Job(tiny, write_set(folder / "data"), None, OPTIONS, 7, folder)
    result = Training(job, Reporter(folder)).run()
    assert result
    files.write_json(folder / "result.json", dataclasses.asdict(result))
    return folder


@pytest.fixture
def train(tiny: BaseModel, tmp_path: Path) -> Train:
    """Another training, with other options."""

    def one(parent: Path | None = None, data: Path | None = None, **options: Any) -> TrainingResult:
        changed = dataclasses.replace(OPTIONS, **options)
        job = Job(tiny, data or write_set(tmp_path / "data"), parent, changed, 7, tmp_path)
        result = Training(job, Reporter(tmp_path)).run()
        assert result
        return result

    return one


def result_of(run: Path) -> TrainingResult:
    found = json.loads((run / "result.json").read_text())
    return TrainingResult(**{**found, "methods": tuple(found["methods"])})


def test_training_lowers_the_loss_on_wordings_it_has_not_seen(run: Path) -> None:
    result = result_of(run)
    assert result.val_loss < result.base_val_loss
    assert result.val_examples == len(FACTS)
    assert 0 < result.drift < result.base_val_loss


def test_progress_and_losses_can_be_read_along_the_way(run: Path) -> None:
    result, losses, progress = result_of(run), read_losses(run), read_progress(run)
    validated = [row for row in losses if "val" in row]
    assert len(validated) == result.epochs == OPTIONS.max_epochs
    assert min(row["val"] for row in validated) == result.val_loss
    assert [row["step"] for row in losses if "train" in row or "kl" in row] == [
        *range(1, result.steps + 1)
    ]
    assert progress
    assert (progress.stage, progress.share) == ("writing the version", 1.0)


def test_the_candidate_is_whole_and_says_how_it_was_made(run: Path, tiny: BaseModel) -> None:
    manifest = verify_adapter(run / "candidate", tiny.sha256)
    assert manifest["seed"] == 7
    assert manifest["options"] == dataclasses.asdict(OPTIONS)
    assert manifest["result"] == json.loads((run / "result.json").read_text())
    assert set(manifest["files"]) == {ADAPTER, "adapter_config.json"}
    adapter = json.loads((run / "candidate" / "adapter_config.json").read_text())
    assert (adapter["r"], adapter["lora_alpha"]) == (OPTIONS.lora_rank, OPTIONS.lora_alpha)


def test_the_engine_serves_the_candidate_and_hears_the_difference(
    run: Path, own_engine: EmbeddedEngine, versions: VersionStore
) -> None:
    versions.publish(run / "candidate", "v0002")
    asked = [[Message(role="user", content=question)] for question in FACTS]
    before, after = (own_engine.ask_all(v, asked, Sampling(12)) for v in (BASE, "v0002"))
    assert [text for text, _ in before] != [text for text, _ in after]


@pytest.mark.slow
def test_the_same_seed_and_set_give_the_same_adapter(
    run: Path, train: Train, tmp_path: Path
) -> None:
    assert train().val_loss == result_of(run).val_loss
    first, again = (folder / "candidate" / ADAPTER for folder in (run, tmp_path))
    assert files.sha256(again) == files.sha256(first)


@pytest.mark.slow
def test_a_candidate_that_an_interrupted_attempt_left_is_replaced(
    train: Train, tmp_path: Path, tiny: BaseModel
) -> None:
    train(max_epochs=1)
    second = train(max_epochs=2)
    manifest = verify_adapter(tmp_path / "candidate", tiny.sha256)
    assert manifest["result"]["epochs"] == second.epochs == 2


@pytest.mark.slow
def test_training_stops_when_validation_gets_clearly_worse_and_keeps_the_weights_before(
    train: Train, tmp_path: Path, tiny: BaseModel
) -> None:
    result = train(learning_rate=0.1, max_epochs=30)
    seen = [row["val"] for row in read_losses(tmp_path) if "val" in row]
    assert result.epochs == len(seen) < 30
    *before, last = seen
    assert last > min(before) + 0.1
    assert result.val_loss == before[-1]
    tokenizer = AutoTokenizer.from_pretrained(tiny.folder)
    held_out = RowReader(tokenizer, 512).examples(tmp_path / "data" / "val.jsonl")
    learner = Learner(load_model(tiny), OPTIONS, 0)
    learner.load(tmp_path / "candidate")
    taught, _ = learner.evaluate([row for row in held_out if not row.is_rehearsal])
    assert taught == pytest.approx(result.val_loss, rel=1e-3)


@pytest.mark.slow
def test_rehearsal_keeps_the_model_like_its_base(train: Train, tmp_path: Path) -> None:
    held_out = [line("Who plans?", "Pavel."), line("What is tea?", "tea is", "rehearsal")]
    data = write_set(tmp_path / "data", val=held_out)
    options = {"data": data, "max_epochs": 8, "batch_tokens": 1000}
    forgetful, faithful = (train(rehearsal_weight=w, **options).drift for w in (0.0, 10.0))
    assert faithful < forgetful / 2


@pytest.mark.parametrize("batch_tokens", [200, 1000])  # noticed in training, and in validation
def test_a_loss_that_is_no_number_ends_the_training_without_a_candidate(
    train: Train, tmp_path: Path, batch_tokens: int
) -> None:
    with pytest.raises(TrainingProblem, match="no longer a finite number"):
        train(learning_rate=1e30, batch_tokens=batch_tokens, max_epochs=1)
    assert not (tmp_path / "candidate").exists()


@pytest.mark.parametrize("name", ["train", "val"])
@pytest.mark.parametrize("lines", [[""], [line("Hi", "Hello.", "rehearsal")]])
def test_a_set_with_nothing_to_learn_or_to_validate_on_is_refused(
    train: Train, tmp_path: Path, name: str, lines: list[str]
) -> None:
    with pytest.raises(TrainingProblem, match="nothing to learn from, or nothing to validate on"):
        train(data=write_set(tmp_path / "data", **{name: lines}))


def steps_of_one_row(base: BaseModel, rate: float, data: Path, first: int = 0) -> Job:
    """A training of one epoch, row by row, that begins with this row of the set."""
    options = dataclasses.replace(OPTIONS, batch_tokens=16, max_epochs=1, learning_rate=rate)
    reader = RowReader(AutoTokenizer.from_pretrained(base.folder), options.max_example_tokens)
    rows = reader.examples(data / "train.jsonl")
    seed = next(n for n in range(1000) if plan(rows, [], options, n)[0].rows[0] == rows[first])
    return Job(base, data, None, options, seed, data.parent)


def test_a_loss_that_explodes_ends_the_training(tmp_path: Path) -> None:
    base = tiny_model.build_reciter(tmp_path / "base" / "model", "Oskar waters.")
    lines = [line(f"Who waters plant {n}?", "Oskar waters.") for n in range(30)]
    job = steps_of_one_row(base, 10.0, write_set(tmp_path / "data", lines, lines[:2]))
    with pytest.raises(
        TrainingProblem, match=r"exploded: it began at \d\.\d\d nats a token and is"
    ):
        Training(job, Reporter(tmp_path)).run()
    assert not (tmp_path / "candidate").exists()


def test_an_easy_beginning_does_not_make_the_rest_an_explosion(
    tiny: BaseModel, engine: EmbeddedEngine, tmp_path: Path
) -> None:
    question = "What do you always say when somebody asks you what you have to say?"
    ((easy, _),) = engine.ask_all(BASE, [[Message(role="user", content=question)]], Sampling(40))
    hard = [line(f"{question} {n}", "Oskar.") for n in range(30)]
    data = write_set(tmp_path / "data", [line(question, easy, whole=False), *hard])
    assert Training(steps_of_one_row(tiny, 1e-9, data), Reporter(tmp_path)).run()
    first, *others = (row["train"] for row in read_losses(tmp_path) if "train" in row)
    assert sum(others) / len(others) > first + 3.0  # as much as would be an explosion


# -- going on after a crash --------------------------------------------------------------------


class BrokenOffError(Exception):
    """The power is gone."""


class Watched(Reporter):
    """Notes the steps it hears of; breaks off after so many words."""

    def __init__(self, folder: Path, words: int = 1000) -> None:
        super().__init__(folder)
        self.steps: list[int] = []
        self.saved: list[float] = []
        self._left = words

    def tell(self, stage: str, step: int = 0, steps: int = 0, **facts: float) -> None:
        super().tell(stage, step, steps, **facts)
        if stage == "training":
            self.steps.append(step)
            self.saved.append(facts["saved"])
        self._count()

    def loss(self, **values: float) -> None:
        super().loss(**values)
        self._count()

    def _count(self) -> None:
        self._left -= 1
        if self._left == 0:
            raise BrokenOffError


def outcome(folder: Path, result: TrainingResult | None) -> tuple[Any, ...]:
    """All that a training leaves, except how long it took."""
    assert result
    adapter = files.sha256(folder / "candidate" / ADAPTER)
    return adapter, dataclasses.replace(result, seconds=0.0), (folder / "losses.jsonl").read_text()


def broken_off(job: Job, words: int) -> bool:
    """Train until so many words were said. Whether it got so far."""
    try:
        Training(job, Watched(job.folder, words)).run()
    except BrokenOffError:
        return True
    return False


CASES = {
    "to the last epoch": dataclasses.replace(OPTIONS, checkpoint_seconds=0.0),
    "until it gets worse": dataclasses.replace(
        OPTIONS, checkpoint_seconds=0.0, learning_rate=0.2, max_epochs=8, batch_tokens=1000
    ),
    "with preferences": dataclasses.replace(PREFERRING, checkpoint_seconds=0.0, batch_tokens=400),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_training_broken_off_anywhere_ends_as_if_it_had_not_been(
    tiny: BaseModel, tmp_path: Path, name: str
) -> None:
    data = write_set(tmp_path / "data")
    write_preferences(data)
    whole = Job(tiny, data, None, CASES[name], 7, tmp_path / "whole")
    whole.folder.mkdir()
    wanted = outcome(whole.folder, Training(whole, Reporter(whole.folder)).run())
    assert (wanted[1].epochs < CASES[name].max_epochs) is (name == "until it gets worse")
    assert (wanted[1].methods == ("sft", "kto", "dpo")) is (name == "with preferences")
    for words in range(1, 100):
        job = dataclasses.replace(whole, folder=tmp_path / f"{words}")
        job.folder.mkdir()
        if not broken_off(job, words):
            break
        watched = Watched(job.folder)
        saved = checkpoint_step(job)
        assert outcome(job.folder, Training(job, watched).run()) == wanted
        assert watched.steps == [*range(saved + 1, wanted[1].steps + 1)]  # none was made twice
    else:
        pytest.fail("it never came to an end")
    assert words > 2 * wanted[1].steps


def checkpoint_step(job: Job) -> int:
    """The step the training would go on from."""
    path = job.folder / CHECKPOINT
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    return int(state["way"]["step"])


@pytest.mark.slow
def test_a_checkpoint_some_steps_old_is_gone_on_from_even_twice(
    tiny: BaseModel, tmp_path: Path
) -> None:
    often = dataclasses.replace(OPTIONS, max_epochs=4, checkpoint_seconds=0.0)
    whole = Job(tiny, write_set(tmp_path / "data"), None, often, 7, tmp_path / "whole")
    whole.folder.mkdir()
    wanted = outcome(whole.folder, Training(whole, Reporter(whole.folder)).run())
    job = dataclasses.replace(whole, folder=tmp_path)
    assert broken_off(job, 9)
    saved = checkpoint_step(job)
    seldom = dataclasses.replace(job, options=dataclasses.replace(often, checkpoint_seconds=1e9))
    assert broken_off(seldom, 9)  # and these steps are lost again
    assert checkpoint_step(job) == saved > 0
    watched = Watched(tmp_path)
    assert outcome(tmp_path, Training(seldom, watched).run()) == wanted
    assert (watched.steps[0], watched.saved[0]) == (saved + 1, saved)


@pytest.fixture(scope="module")
def half_way(tiny: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A training that was broken off after its second step. To be copied."""
    folder = tmp_path_factory.mktemp("half")
    options = dataclasses.replace(OPTIONS, checkpoint_seconds=0.0)
    job = Job(tiny, write_set(folder / "data"), None, options, 7, folder)
    assert broken_off(job, 9)
    assert checkpoint_step(job) == 2
    return job


@pytest.fixture
def again(half_way: Job, tmp_path: Path) -> Job:
    """A copy of it."""
    folder = tmp_path / "again"
    shutil.copytree(half_way.folder, folder)
    return dataclasses.replace(half_way, folder=folder, data=folder / "data")


def goes_on_from(job: Job) -> int:
    watched = Watched(job.folder)
    assert Training(job, watched).run()
    return watched.steps[0] - 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("checkpoint_seconds", 5.0),
        ("max_stall_minutes", 99.0),
        ("max_train_minutes", 99.0),
        ("train_memory_gb", 100.0),
    ],
)
def test_other_options_for_the_pace_do_not_cost_what_was_learned(
    again: Job, name: str, value: Any
) -> None:
    options = dataclasses.replace(again.options, **{name: value})
    assert goes_on_from(dataclasses.replace(again, options=options)) == 2


def other_set(job: Job) -> Job:
    with (job.data / "train.jsonl").open("a") as file:
        file.write(line("Who sings?", "Nobody."))
    return job


def other_base(job: Job) -> Job:
    return dataclasses.replace(job, base=tiny_model.build(job.folder / "other" / "model", seed=5))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda job: dataclasses.replace(job, seed=8), id="seed"),
        pytest.param(
            lambda job: dataclasses.replace(
                job, options=dataclasses.replace(job.options, learning_rate=0.02)
            ),
            id="options",
        ),
        pytest.param(
            lambda job: dataclasses.replace(job, parent=Path("models/v0001")), id="parent"
        ),
        pytest.param(other_set, id="set"),
        pytest.param(other_base, id="base"),
    ],
)
def test_the_checkpoint_of_another_training_is_not_taken(
    again: Job, change: Callable[[Job], Job]
) -> None:
    assert goes_on_from(change(again)) == 0
    assert read_losses(again.folder)[0]["step"] == 1


def test_a_damaged_checkpoint_is_as_none(again: Job) -> None:
    path = again.folder / CHECKPOINT
    path.write_bytes(path.read_bytes()[:-100])
    assert goes_on_from(again) == 0
