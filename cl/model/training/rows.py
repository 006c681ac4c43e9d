"""Training sets as token ids."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cl.model.engine.conversation import encode_chat, plain_ids
from cl.model.training.child import TrainingProblem
from cl.records import Message
from cl.settings import TrainingOptions


@dataclass(frozen=True)
class Lesson:
    """One example as text."""

    prompt: tuple[Message, ...]
    answer: str
    is_whole: bool
    is_correction: bool

    @property
    def question(self) -> str:
        return self.prompt[-1]["content"]

    @property
    def stands_alone(self) -> bool:
        """Whether the question needs no turns before it."""
        return all(message["role"] == "system" for message in self.prompt[:-1])


@dataclass(frozen=True)
class Row:
    """One example as token ids; `answer_from` is where the answer begins.

    `author` is the version that wrote the answer, empty where a person did; `group` the interaction
    it comes from.
    """

    ids: tuple[int, ...]
    answer_from: int
    is_rehearsal: bool
    number: int
    author: str = ""
    group: str = ""
    lesson: Lesson | None = field(default=None, repr=False, compare=False)

    @property
    def answer_tokens(self) -> int:
        return len(self.ids) - self.answer_from


@dataclass(frozen=True)
class Judged:
    """What people preferred: one answer they liked or disliked, or a better and a worse one."""

    rows: tuple[Row, ...]
    liked: bool = True
    weight: float = 1.0

    @property
    def is_pair(self) -> bool:
        return len(self.rows) == 2


class RowReader:
    """Turns lines of a training set into rows, each with a number of its own."""

    def __init__(self, tokenizer: Any, longest: int) -> None:
        self.tokenizer = tokenizer
        self._longest = longest
        self._count = 0

    def examples(self, path: Path) -> list[Row]:
        """train.jsonl or val.jsonl. Examples that are too long are left out."""
        rows = []
        for line in _lines(path, ("messages", "source")):
            row = self._row(
                line["messages"][:-1],
                line["messages"][-1]["content"],
                is_rehearsal=line["source"] == "rehearsal",
                # An answer that was cut must not teach the model to stop there.
                is_whole=line.get("whole", True),
                is_correction=line["source"] == "correction",
                author=str(line.get("version", "")),
                group=str(line.get("id", "")),
            )
            rows += [row] if row else []
        return rows

    def votes(self, path: Path, split: str) -> list[Judged]:
        """The liked and the disliked answers of votes.jsonl."""
        found = []
        for line in _lines(path, ("prompt", "completion", "label", "split")):
            if line["split"] == split:
                row = self._row(line["prompt"], line["completion"], group=str(line.get("id", "")))
                found += [Judged((row,), bool(line["label"]))] if row else []
        return found

    def pairs(self, path: Path, split: str) -> list[Judged]:
        """The better and the worse answers of pairs.jsonl."""
        found = []
        for line in _lines(path, ("prompt", "chosen", "rejected", "split")):
            if line["split"] == split:
                group = str(line.get("id", ""))
                rows = [
                    self._row(line["prompt"], line[n], group=group) for n in ("chosen", "rejected")
                ]
                whole = tuple(row for row in rows if row)
                found += [Judged(whole)] if len(whole) == 2 else []
        return found

    def asked_anew(self, row: Row, question: str) -> Row | None:
        """The same answer to another wording of its question; None if it got too long."""
        lesson = row.lesson
        if lesson is None:
            return None
        prompt = [*lesson.prompt[:-1], Message(role="user", content=question)]
        return self._row(
            prompt,
            lesson.answer,
            is_rehearsal=row.is_rehearsal,
            is_whole=lesson.is_whole,
            is_correction=lesson.is_correction,
            author=row.author,
            group=row.group,
        )

    def _row(
        self,
        prompt: Sequence[Message],
        answer: str,
        *,
        is_rehearsal: bool = False,
        is_whole: bool = True,
        is_correction: bool = False,
        author: str = "",
        group: str = "",
    ) -> Row | None:
        before = encode_chat(self.tokenizer, prompt)
        ids = before + plain_ids(self.tokenizer, answer)
        ids += [self.tokenizer.eos_token_id] if is_whole else []
        if not len(before) < len(ids) <= self._longest:
            return None
        self._count += 1
        lesson = Lesson(tuple(prompt), answer, is_whole, is_correction)
        return Row(tuple(ids), len(before), is_rehearsal, self._count, author, group, lesson)


def _lines(path: Path, needed: Sequence[str]) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    # Not splitlines(): JSON leaves U+2028, which people paste, as it is.
    lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    for number, text in enumerate(lines if lines != [""] else [], 1):
        try:
            line = json.loads(text)
            texts = [line[name] for name in needed if name not in ("messages", "prompt", "label")]
            said = line["messages"] if "messages" in needed else line["prompt"]
            texts += [message[part] for message in said for part in ("role", "content")]
            if not said or not all(isinstance(value, str) for value in texts):
                raise ValueError
        except (ValueError, KeyError, IndexError, TypeError):
            raise TrainingProblem(f"{path.name}, line {number} is not a training example") from None
        yield line


def fair_to_all(held_out: Sequence[Row], parent: str) -> list[Row]:
    """The rows to validate on: without the parent's own answers, unless there are no others.

    A version finds its own words likelier than any other can, however good: nothing could ever
    beat it on them.
    """
    foreign = [row for row in held_out if row.author != parent]
    return list(held_out) if all(row.is_rehearsal for row in foreign) else foreign


def preferences(
    votes: Sequence[Judged], pairs: Sequence[Judged], options: TrainingOptions
) -> list[Judged]:
    """What is learned from likes and dislikes: nothing while there is too little of either.

    Likes and dislikes weigh the same in all, however many there are of each; on average 1.
    """
    found: list[Judged] = []
    if not options.preference_weight:
        return found
    liked = [one for one in votes if one.liked]
    disliked = [one for one in votes if not one.liked]
    if len(liked) >= options.min_liked and len(disliked) >= options.min_disliked:
        for some, others in ((liked, disliked), (disliked, liked)):
            weight = (len(some) + len(others)) / (2 * len(some))
            found += [Judged(one.rows, one.liked, weight) for one in some]
    return found + (list(pairs) if len(pairs) >= options.min_pairs else [])
