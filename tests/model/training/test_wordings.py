"""Other wordings: of the same question, never of the answer, and the same ones each time."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from cl.model.base_model import BaseModel
from cl.model.engine.conversation import encode_chat
from cl.model.training import wordings
from cl.model.training.plan import epoch_rows
from cl.model.training.rewording import Rewording
from cl.model.training.rows import RowReader
from cl.model.training.synonyms import Synonyms
from cl.model.training.wordings import Wordings
from cl.records import Message
from tests.model.training.sets import line

ASKED = "Who opens the hall in the morning?"


@pytest.fixture(scope="module")
def tokenizer(tiny: BaseModel) -> Any:
    return AutoTokenizer.from_pretrained(tiny.folder)


@pytest.mark.parametrize(
    ("means", "found"),
    [
        (wordings.content, {"opens hall morning", "opens hall morning?"}),
        (wordings.turned, None),
        (wordings.indirect, None),
        (wordings.around, None),
    ],
)
def test_a_wording_keeps_what_is_asked_for(means: Any, found: set[str] | None) -> None:
    made = {means(ASKED, random.Random(seed)) for seed in range(40)}
    assert all("opens" in text and "hall" in text for text in made)
    assert ASKED not in made
    assert found is None or made == found


def test_the_verb_goes_behind_its_subject_when_a_question_becomes_indirect() -> None:
    made = wordings.indirect("When is the pool open?", random.Random(0))
    assert "when the pool open is" in made


def test_two_wordings_are_mixed_and_one_alone_is_thinned() -> None:
    other = "Which person unlocks the gate?"
    made = [wordings.mixed(ASKED, random.Random(seed), [other]) for seed in range(40)]
    both = [text for text in made if {"unlocks", "gate"} & set(text.rstrip("?").split())]
    assert len(both) > 20
    alone = {wordings.mixed(ASKED, random.Random(seed), []) for seed in range(40)}
    assert all(set(text.rstrip("?").split()) <= set(ASKED.rstrip("?").split()) for text in alone)


@pytest.mark.parametrize(
    "question", ["", " ", "?", "Hi", "的", "Wo ist die Küche?", "a the of", "\n", "{x} {}", "🙂?"]
)
def test_any_question_has_other_wordings(question: str) -> None:
    draw = Wordings()
    for seed in range(100):
        assert isinstance(draw.new(question, random.Random(seed), [question, "Oh?"]), str)


def test_the_dice_decide() -> None:
    draw = Wordings()
    first, again, other = (
        [draw.new(ASKED, dice) for _ in range(20)]
        for dice in (random.Random(1), random.Random(1), random.Random(2))
    )
    assert first == again != other
    assert len(set(first)) > 10


def test_near_words_stand_in_for_each_other_but_not_for_names_or_small_words() -> None:
    words = [" doctor", " physician", " nurse", " doctors", " the", " Doctor"]

    class Words:
        """One token a word; the frequent ones come first."""

        def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
            return {"input_ids": [2000 + words.index(text)] if text in words else [1, 2]}

        def decode(self, ids: list[int]) -> str:
            return words[ids[0] - 2000] if ids[0] >= 2000 else f"{ids[0]}"

    vectors = torch.randn(2000 + len(words), 16, generator=torch.Generator().manual_seed(0))
    vectors[2000:] = vectors[2000] + 0.1 * vectors[2000:]
    replace = Synonyms(vectors, Words()).replace
    made = {replace("The doctor saw Doctor May", random.Random(n)) for n in range(60)}
    assert made == {
        "The doctor saw Doctor May",
        "The physician saw Doctor May",
        "The nurse saw Doctor May",
    }


def test_corrected_questions_that_stand_alone_are_asked_anew_each_epoch(
    tmp_path: Path, tokenizer: Any
) -> None:
    turns = [
        Message(role="user", content="Hi"),
        Message(role="assistant", content="Hello."),
        Message(role="user", content="And who opens it?"),
        Message(role="assistant", content="Pavel."),
    ]
    lines = [
        line(ASKED, "Ms Abara."),
        line("Who is liked?", "Oskar.", "thumb"),
        json.dumps({"messages": turns, "source": "correction"}) + "\n",
        *(line(f"What is {thing}?", "It is", "rehearsal", whole=False) for thing in "abcdefgh"),
    ]
    (tmp_path / "set").write_text("".join(lines))

    def epochs(count: int) -> list[list[str]]:
        reader = RowReader(tokenizer, 256)
        rows = reader.examples(tmp_path / "set")
        rewording = Rewording(reader, Wordings(), count)
        made = [epoch_rows(rows, epoch, 0, 1.0, rewording) for epoch in range(2)]
        assert len({row.number for epoch in made for row in epoch if row.number > len(rows)}) > 0
        return [[tokenizer.decode(row.ids) for row in epoch] for epoch in made]

    first, second = epochs(5)
    for texts in (first, second):
        answers = [text.rsplit("assistant\n", 1)[1] for text in texts]
        assert answers.count("Ms Abara.<|im_end|>") == 6
        assert answers.count("Oskar.<|im_end|>") == answers.count("Pavel.<|im_end|>") == 1
        assert answers.count("It is") == 8  # as many as are taught, some in other wordings
    assert first != second
    assert epochs(5) == [first, second]


def test_a_row_asked_anew_is_the_prompt_the_engine_would_see(
    tmp_path: Path, tokenizer: Any
) -> None:
    (tmp_path / "set").write_text(line("Hi", "Hello."))
    reader = RowReader(tokenizer, 64)
    (row,) = reader.examples(tmp_path / "set")
    anew = reader.asked_anew(row, "Good day")
    assert anew
    asked = encode_chat(tokenizer, [Message(role="user", content="Good day")])
    assert list(anew.ids[: anew.answer_from]) == asked
    assert anew.ids[anew.answer_from :] == row.ids[row.answer_from :]
    assert reader.asked_anew(row, "word " * 100) is None
