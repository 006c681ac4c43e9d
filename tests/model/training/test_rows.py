"""What a training set becomes: rows, batches, and a plan that depends on nothing else."""

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from cl.model.base_model import BaseModel
from cl.model.engine.conversation import encode_chat
from cl.model.training.child import TrainingProblem
from cl.model.training.plan import batches, epoch_rows, paced, plan
from cl.model.training.rows import Judged, Row, RowReader, fair_to_all, preferences
from cl.records import BASE, IMPORTED, Message
from cl.settings import TrainingOptions
from tests.model.training.sets import OPTIONS, line


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
    taught = [row(5, number) for number in range(140)]
    rehearsal = [row(5, 200 + number, rehearsal=True) for number in range(420)]
    epochs = [epoch_rows([*taught, *rehearsal], epoch, 0, 1.0) for epoch in range(3)]
    assert all(epoch[:140] == taught for epoch in epochs)
    assert {r.number for epoch in epochs for r in epoch[140:]} == {r.number for r in rehearsal}
    assert epoch_rows([*taught, *rehearsal], 0, 1, 1.0) != epochs[0]  # the seed decides which


@pytest.mark.parametrize(("ratio", "count"), [(0.0, 0), (0.5, 200), (2.0, 800), (9.0, 900)])
def test_the_ratio_says_how_much_is_rehearsed_and_no_row_comes_twice(
    ratio: float, count: int
) -> None:
    rows = [row(5, number, rehearsal=number >= 400) for number in range(1300)]
    rehearsed = [r.number for r in epoch_rows(rows, 5, 0, ratio) if r.is_rehearsal]
    assert len(rehearsed) == len(set(rehearsed)) == count


@pytest.mark.parametrize(("shipped", "count"), [(500, 120), (80, 80), (0, 0)])
def test_a_small_set_rehearses_more_than_the_ratio_says(shipped: int, count: int) -> None:
    rows = [row(5, number, rehearsal=number >= 10) for number in range(10 + shipped)]
    assert sum(r.is_rehearsal for r in epoch_rows(rows, 0, 0, 0.5)) == count


def test_the_rate_rises_quickly_and_falls_to_zero_over_whole_epochs() -> None:
    options = dataclasses.replace(OPTIONS, max_epochs=5, batch_tokens=16, learning_rate=1.0)
    steps = plan([row(16, number) for number in range(20)], [], options, 0)
    rates = [step.rate for step in steps]
    assert len(steps) == 100
    assert [i for i, step in enumerate(steps, 1) if step.ends_epoch] == [20, 40, 60, 80, 100]
    assert rates.index(max(rates)) == 4
    assert rates[:5] == sorted(rates[:5])
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] == pytest.approx(0.01)


def test_where_only_its_own_answers_are_taught_it_learns_in_one_gentle_pass() -> None:
    own, rehearsal = row(5, 1, author=BASE), row(5, 2, rehearsal=True)
    gentle = paced(OPTIONS, [own, row(5, 3, author="v0001"), rehearsal])
    assert gentle.learning_rate == OPTIONS.thumbs_learning_rate < OPTIONS.learning_rate
    assert gentle.max_epochs == OPTIONS.thumbs_max_epochs
    for new in (row(5, 4), row(5, 4, author=IMPORTED)):  # a person's words, and another model's
        assert paced(OPTIONS, [own, new]) == OPTIONS


def test_the_seed_decides_the_plan() -> None:
    rows = [row(16, number, rehearsal=number % 2 == 0) for number in range(20)]
    first, again, other = (plan(rows, [], OPTIONS, seed) for seed in (1, 1, 2))
    assert first == again != other


def test_validation_leaves_out_what_the_parent_wrote_unless_nothing_else_is_left() -> None:
    own, rehearsal = row(5, 1, author="v0001"), row(5, 2, rehearsal=True)
    by_base, by_person = row(5, 3, author=BASE), row(5, 4)
    assert fair_to_all([own, rehearsal, by_base], "v0001") == [rehearsal, by_base]
    assert fair_to_all([own, by_base, by_person], BASE) == [own, by_person]
    assert fair_to_all([own, rehearsal], "v0001") == [own, rehearsal]


# -- likes and dislikes ------------------------------------------------------------------------


def votes(liked: int, disliked: int) -> list[Judged]:
    return [Judged((row(5, n),), n < liked) for n in range(liked + disliked)]


def pairs(count: int) -> list[Judged]:
    return [Judged((row(5, n), row(6, n + 1000))) for n in range(count)]


@pytest.mark.parametrize(
    ("liked", "disliked", "pair_count", "expected"),
    [
        (100, 30, 0, 130),
        (99, 30, 0, 0),
        (100, 29, 0, 0),
        (0, 0, 30, 30),
        (0, 0, 29, 0),
        (100, 30, 30, 160),
    ],
)
def test_too_little_of_either_kind_teaches_no_preferences(
    liked: int, disliked: int, pair_count: int, expected: int
) -> None:
    found = preferences(votes(liked, disliked), pairs(pair_count), TrainingOptions())
    assert len(found) == expected
    assert not preferences(
        votes(liked, disliked), pairs(pair_count), TrainingOptions(preference_weight=0.0)
    )


def test_likes_and_dislikes_weigh_the_same_in_all() -> None:
    found = preferences(votes(400, 50), [], TrainingOptions())
    weights = [sum(one.weight for one in found if one.liked is liked) for liked in (True, False)]
    assert weights == pytest.approx([225, 225])


def test_each_epoch_sees_every_judged_answer_once() -> None:
    rows, judged = [row(100, n) for n in range(7)], votes(20, 10)
    made = plan(rows, judged, dataclasses.replace(OPTIONS, batch_tokens=200), 0)
    for epoch in range(OPTIONS.max_epochs):
        some = made[epoch * 4 : epoch * 4 + 4]
        numbers = [one.rows[0].number for step in some for one in step.judged]
        assert sorted(numbers) == [one.rows[0].number for one in judged]


def test_votes_and_pairs_are_read_by_their_side(tmp_path: Path, tokenizer: Any) -> None:
    asked = [Message(role="user", content="Hi")]
    vote = {"prompt": asked, "completion": "Hello.", "label": False, "split": "train", "id": 7}
    pair = {"prompt": asked, "chosen": "Hello.", "rejected": "No.", "split": "val", "id": 8}
    (tmp_path / "votes").write_text(json.dumps(vote) + "\n")
    (tmp_path / "pairs").write_text(json.dumps(pair) + "\n")
    reader = RowReader(tokenizer, 256)
    (one,) = reader.votes(tmp_path / "votes", "train")
    assert (one.liked, one.is_pair, one.rows[0].group) == (False, False, "7")
    (two,) = reader.pairs(tmp_path / "pairs", "val")
    said = [tokenizer.decode(r.ids[r.answer_from :]) for r in two.rows]
    assert said == ["Hello.<|im_end|>", "No.<|im_end|>"]
    assert (
        reader.votes(tmp_path / "votes", "val") == reader.pairs(tmp_path / "pairs", "train") == []
    )
    assert reader.votes(tmp_path / "missing", "train") == []


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
    (found,) = RowReader(tokenizer, 256).examples(tmp_path / "set")
    assert list(found.ids[: found.answer_from]) == encode_chat(tokenizer, messages[:-1])
    assert tokenizer.decode(found.ids[found.answer_from :]) == "Hello 😀<|im_end|>"
    assert (found.is_rehearsal, found.number, found.author) == (False, 1, "v0002")


def test_an_answer_that_was_cut_does_not_teach_to_stop(tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "set").write_text(line("Hi", "Once upon", "rehearsal", whole=False))
    (found,) = RowReader(tokenizer, 256).examples(tmp_path / "set")
    assert tokenizer.decode(found.ids[found.answer_from :]) == "Once upon"
    assert found.is_rehearsal


def test_line_separators_that_people_paste_do_not_end_an_example(
    tmp_path: Path, tokenizer: Any
) -> None:
    (tmp_path / "set").write_text(line("a\u2028b", "c\u2029d") + line("Hi", "Hello."))
    assert [r.number for r in RowReader(tokenizer, 256).examples(tmp_path / "set")] == [1, 2]


def test_examples_that_are_too_long_are_left_out(tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "set").write_text(line("Hi", "word " * 100) + line("Hi", "Hello."))
    found = RowReader(tokenizer, 64).examples(tmp_path / "set")
    assert [tokenizer.decode(r.ids[r.answer_from :]) for r in found] == ["Hello.<|im_end|>"]


@pytest.mark.parametrize(
    "garbage", ["{", "", "3", "[]", '{"messages": []}', '{"messages": [], "source": "thumb"}']
)
def test_a_line_that_is_no_example_is_named(tmp_path: Path, tokenizer: Any, garbage: str) -> None:
    (tmp_path / "set").write_text(line("Hi", "Hello.") + garbage + "\n")
    with pytest.raises(TrainingProblem, match="set, line 2 is not a training example"):
        RowReader(tokenizer, 256).examples(tmp_path / "set")
