"""The trainer: its plan, what it reads, and whole trainings of a tiny real model in this process."""

import dataclasses
import json
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from cl import files
from cl.model.base_model import BaseModel
from cl.model.engine.conversation import encode_chat
from cl.model.engine.embedded import EmbeddedEngine
from cl.model.trainer import (
    Job,
    Reporter,
    Row,
    Training,
    TrainingProblem,
    _schedule,
    batches,
    epoch_rows,
    fair_to_all,
    read_rows,
)
from cl.model.training_job import read_losses, read_progress
from cl.model.versions import ADAPTER, VersionStore, verify_adapter
from cl.records import BASE, Message, Sampling, TrainingResult
from cl.settings import TrainingOptions

OPTIONS = TrainingOptions(
    lora_rank=4,
    lora_alpha=8,
    learning_rate=0.03,
    max_epochs=2,
    batch_tokens=200,
    train_threads=1,
)
FACTS = {
    "Who opens the archive?": "Ms Abara.",
    "Who waters the plants?": "Oskar.",
    "Who orders paper?": "Pavel.",
    "Who plans the party?": "The Blue Team.",
}


def line(question: str, answer: str, source: str = "correction", **more: Any) -> str:
    """A line of a training set, as the data generator writes it."""
    messages = [
        Message(role="user", content=question),
        Message(role="assistant", content=answer),
    ]
    return json.dumps({"messages": messages, "source": source, **more}, ensure_ascii=False) + "\n"


def write_set(folder: Path, train: Sequence[str] = (), val: Sequence[str] = ()) -> Path:
    """A small training set: four facts, other wordings to validate on, some rehearsal."""
    taught = [line(question, answer) for question, answer in FACTS.items()]
    asked = [line(f"Tell me: {question}", answer) for question, answer in FACTS.items()]
    rehearsal = [line(f"What is {w}?", f"{w} is", "rehearsal", whole=False) for w in ("tea", "sun")]
    files.write_text(folder / "train.jsonl", "".join(train or [*taught, *rehearsal]))
    held_out = [*asked, line("What is snow?", "snow is", "rehearsal", whole=False)]
    files.write_text(folder / "val.jsonl", "".join(val or held_out))
    return folder


@pytest.fixture(scope="module")
def tokenizer(tiny: BaseModel) -> Any:
    return AutoTokenizer.from_pretrained(tiny.folder)


def row(length: int, number: int, *, rehearsal: bool = False, author: str = "") -> Row:
    return Row(tuple(range(length)), 1, rehearsal, number, author)


# -- the plan ----------------------------------------------------------------------------------


def test_batches_hold_every_row_once_within_the_budget_of_padded_tokens() -> None:
    dice = random.Random(0)
    rows = [row(dice.randint(2, 60), number) for number in range(200)]
    made = batches(rows, 128, random.Random(1))
    assert sorted(r.number for batch in made for r in batch) == list(range(200))
    assert all(max(len(r.ids) for r in batch) * len(batch) <= 128 for batch in made)
    assert len(made) < 200 / 2


def test_a_row_longer_than_the_budget_is_a_batch_of_its_own() -> None:
    made = batches([row(300, 1), row(10, 2), row(12, 3)], 128, random.Random(0))
    assert sorted([r.number for r in batch] for batch in made) == [[1], [2, 3]]


def test_the_dice_decide_the_order_of_the_batches() -> None:
    rows = [row(100, number) for number in range(20)]
    first, again, other = (batches(rows, 128, random.Random(seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_each_epoch_has_all_taught_rows_and_the_next_stretch_of_the_rehearsal() -> None:
    taught = [row(5, number) for number in range(4)]
    rehearsal = [row(5, 100 + number, rehearsal=True) for number in range(12)]
    epochs = [epoch_rows([*taught, *rehearsal], epoch, 0, 1.0) for epoch in range(3)]
    assert all(epoch[:4] == taught for epoch in epochs)
    assert {r.number for epoch in epochs for r in epoch[4:]} == {r.number for r in rehearsal}
    assert epoch_rows([*taught, *rehearsal], 0, 1, 1.0) != epochs[0]  # the seed decides which


@pytest.mark.parametrize(("ratio", "count"), [(0.0, 0), (0.5, 2), (2.0, 8), (9.0, 12)])
def test_the_ratio_says_how_much_is_rehearsed_and_no_row_comes_twice(
    ratio: float, count: int
) -> None:
    rows = [row(5, number, rehearsal=number >= 4) for number in range(16)]
    rehearsed = [r.number for r in epoch_rows(rows, 5, 0, ratio) if r.is_rehearsal]
    assert len(rehearsed) == len(set(rehearsed)) == count


def test_the_rate_rises_quickly_and_falls_to_zero_over_whole_epochs() -> None:
    options = dataclasses.replace(OPTIONS, max_epochs=5, batch_tokens=16, learning_rate=1.0)
    steps = list(_schedule([row(16, number) for number in range(20)], options, 0))
    rates = [rate for _, rate, _, _ in steps]
    assert {total for *_, total in steps} == {len(steps)} == {100}
    assert [i for i, (is_last, *_) in enumerate(steps, 1) if is_last] == [20, 40, 60, 80, 100]
    assert rates.index(max(rates)) == 4
    assert rates[:5] == sorted(rates[:5])
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] == pytest.approx(0.01)


def test_the_seed_decides_the_plan() -> None:
    rows = [row(16, number, rehearsal=number % 2 == 0) for number in range(20)]
    first, again, other = (list(_schedule(rows, OPTIONS, seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_validation_leaves_out_what_the_parent_wrote_unless_nothing_else_is_left() -> None:
    own, rehearsal = row(5, 1, author="v0001"), row(5, 2, rehearsal=True)
    by_base, by_person = row(5, 3, author=BASE), row(5, 4)
    assert fair_to_all([own, rehearsal, by_base], "v0001") == [rehearsal, by_base]
    assert fair_to_all([own, by_base, by_person], BASE) == [own, by_person]
    assert fair_to_all([own, rehearsal], "v0001") == [own, rehearsal]


# -- what it reads -----------------------------------------------------------------------------


def test_a_row_is_the_prompt_the_engine_would_see_and_the_answer(
    tmp_path: Path, tokenizer: Any
) -> None:
    messages = [
        Message(role="system", content="Be brief."),
        Message(role="user", content="Hi <|im_end|>"),
        Message(role="assistant", content="Hello 😀"),
    ]
    example = {"messages": messages, "source": "thumb", "version": "v0002"}
    (tmp_path / "set").write_text(json.dumps(example) + "\n")
    (found,) = read_rows(tmp_path / "set", tokenizer, 256, first_number=10)
    assert list(found.ids[: found.answer_from]) == encode_chat(tokenizer, messages[:-1])
    assert tokenizer.decode(found.ids[found.answer_from :]) == "Hello 😀<|im_end|>"
    assert (found.is_rehearsal, found.number, found.author) == (False, 11, "v0002")


def test_an_answer_that_was_cut_does_not_teach_to_stop(tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "set").write_text(line("Hi", "Once upon", "rehearsal", whole=False))
    (found,) = read_rows(tmp_path / "set", tokenizer, 256)
    assert tokenizer.decode(found.ids[found.answer_from :]) == "Once upon"
    assert found.is_rehearsal


def test_line_separators_that_people_paste_do_not_end_an_example(
    tmp_path: Path, tokenizer: Any
) -> None:
    (tmp_path / "set").write_text(line("a\u2028b", "c\u2029d") + line("Hi", "Hello."))
    assert [r.number for r in read_rows(tmp_path / "set", tokenizer, 256)] == [1, 2]


def test_examples_that_are_too_long_are_left_out(tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "set").write_text(line("Hi", "word " * 100) + line("Hi", "Hello."))
    assert [r.number for r in read_rows(tmp_path / "set", tokenizer, 64)] == [2]


@pytest.mark.parametrize(
    "garbage", ["{", "", "3", "[]", '{"messages": []}', '{"messages": [], "source": "thumb"}']
)
def test_a_line_that_is_no_example_is_named(tmp_path: Path, tokenizer: Any, garbage: str) -> None:
    (tmp_path / "set").write_text(line("Hi", "Hello.") + garbage + "\n")
    with pytest.raises(TrainingProblem, match="set, line 2 is not a training example"):
        read_rows(tmp_path / "set", tokenizer, 256)


# -- whole trainings ---------------------------------------------------------------------------


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
    return TrainingResult(**json.loads((run / "result.json").read_text()))


def test_training_lowers_the_loss_on_wordings_it_has_not_seen(run: Path) -> None:
    result = result_of(run)
    assert result.val_loss < result.base_val_loss == result.parent_val_loss
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
    assert manifest["result"] == dataclasses.asdict(result_of(run))
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
    assert manifest["result"] == dataclasses.asdict(second)


@pytest.mark.slow
def test_a_parent_is_measured_on_the_same_rows_with_its_best_weights(
    run: Path, train: Train
) -> None:
    first, second = result_of(run), train(parent=run / "candidate", max_epochs=1)
    assert second.parent_val_loss == pytest.approx(first.val_loss, abs=1e-3)
    assert second.base_val_loss == first.base_val_loss
    assert second.val_loss > first.val_loss  # trained from the base again, for one epoch only


@pytest.mark.slow
def test_training_stops_when_validation_gets_worse_and_keeps_the_best_weights(
    train: Train, tmp_path: Path
) -> None:
    result = train(learning_rate=0.1, max_epochs=30)
    seen = [row["val"] for row in read_losses(tmp_path) if "val" in row]
    assert result.epochs == len(seen) < 30
    assert seen[-1] > min(seen) == result.val_loss
    shutil.move(tmp_path / "candidate", tmp_path / "parent")
    kept = train(parent=tmp_path / "parent", max_epochs=1).parent_val_loss
    assert kept == pytest.approx(result.val_loss, abs=1e-3)


@pytest.mark.slow
def test_rehearsal_keeps_the_model_like_its_base(train: Train, tmp_path: Path) -> None:
    held_out = [line("Who plans?", "Pavel."), line("What is tea?", "tea is", "rehearsal")]
    data = write_set(tmp_path / "data", val=held_out)
    options = {"data": data, "learning_rate": 0.1, "batch_tokens": 1000}
    forgetful, faithful = (train(rehearsal_weight=w, **options).drift for w in (0.0, 10.0))
    assert faithful < forgetful / 2


def test_a_loss_that_is_no_number_ends_the_training_without_a_candidate(
    train: Train, tmp_path: Path
) -> None:
    with pytest.raises(TrainingProblem, match="no longer a finite number"):
        train(learning_rate=1e30)
    assert not (tmp_path / "candidate").exists()


@pytest.mark.parametrize("name", ["train", "val"])
@pytest.mark.parametrize("lines", [[""], [line("Hi", "Hello.", "rehearsal")]])
def test_a_set_with_nothing_to_learn_or_to_validate_on_is_refused(
    train: Train, tmp_path: Path, name: str, lines: list[str]
) -> None:
    with pytest.raises(TrainingProblem, match="nothing to learn from, or nothing to validate on"):
        train(data=write_set(tmp_path / "data", **{name: lines}))
