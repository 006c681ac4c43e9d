"""What is said in the story: the company's facts, its people, and who asks what when.

Pure: the same seed gives the same script. Facts and questions lie in `assets/demo/`. Two wordings
of each fact are kept back for the end and never asked before.
"""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ASSETS = Path(__file__).parents[2] / "assets" / "demo"

STAFF = ("ana", "ben", "carla", "deniz", "emil", "fatou", "greta", "hugo")
SMALL_TALK = (
    "Write a short thank-you note to a colleague.",
    "Give me one tip for a better presentation.",
    "Write one friendly sentence to welcome a new colleague.",
    "Explain in one sentence what a deadline is.",
    "Write a one-line reminder about the team meeting.",
    "Give me a polite way to end an email.",
)


@dataclass(frozen=True)
class Fact:
    """Something only the company knows, with the words an answer must hold to be right."""

    answer: str
    keys: tuple[str, ...]
    questions: tuple[str, ...]
    unseen: tuple[str, ...]


@dataclass(frozen=True)
class Question:
    """A question with the words a right answer holds."""

    text: str
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Turn:
    """One message of the script; `key` is its fixed name, so that a story cut off can go on."""

    key: str
    user: str
    text: str
    fact: Fact | None  # None: small talk


def read_facts() -> list[Fact]:
    rows = _rows("facts.jsonl")
    return [
        Fact(r["answer"], tuple(r["keys"]), tuple(r["questions"]), tuple(r["unseen"])) for r in rows
    ]


def read_general() -> list[Question]:
    return [Question(r["question"], tuple(r["keys"])) for r in _rows("general.jsonl")]


def is_right(answer: str, keys: Sequence[str]) -> bool:
    """The rule of the whole story: one of the keys occurs in the answer, case ignored."""
    return any(key.lower() in answer.lower() for key in keys)


def first_weeks(facts: Sequence[Fact], seed: int) -> list[Turn]:
    """The first half of the facts, every wording once, and some small talk."""
    asked = [(f, q) for f in facts[: len(facts) // 2] for q in f.questions]
    return _turns("first", asked, SMALL_TALK, seed)


def later_weeks(facts: Sequence[Fact], seed: int) -> list[Turn]:
    """The second half, every wording once, and one wording of each fact asked before."""
    half = len(facts) // 2
    asked = [(f, q) for f in facts[half:] for q in f.questions]
    asked += [(f, f.questions[0]) for f in facts[:half]]
    return _turns("later", asked, (), seed)


def test_days(facts: Sequence[Fact], seed: int) -> Iterator[list[Turn]]:
    """Ordinary traffic without end, in portions: all facts in wordings asked before."""
    number = 0
    while True:
        number += 1
        dice = random.Random(f"{seed}:test:{number}")
        asked = [(f, dice.choice(f.questions)) for f in dice.sample(list(facts), len(facts))]
        yield _turns(f"test{number}", asked, (), seed)


def _turns(
    phase: str, asked: Sequence[tuple[Fact, str]], small_talk: Sequence[str], seed: int
) -> list[Turn]:
    dice = random.Random(f"{seed}:{phase}")
    said: list[tuple[Fact | None, str]] = [*asked, *((None, text) for text in small_talk)]
    dice.shuffle(said)
    return [
        Turn(f"demo-{phase}-{i:03d}", dice.choice(STAFF), text, fact)
        for i, (fact, text) in enumerate(said)
    ]


def _rows(name: str) -> list[dict[str, str]]:
    text = (ASSETS / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]
