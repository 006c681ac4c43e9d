"""Small stand-ins that behave: a clock to set, an engine that knows what it was taught, a trainer
that writes real adapter files. With them the whole house runs in milliseconds."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from cl import files
from cl.db.database import open_database
from cl.house import Books, House, build_house, open_books
from cl.loop import Trainer
from cl.model.reader import SCALARS
from cl.model.rehearsal import RehearsalBuffer, RehearsalRow
from cl.model.training.measured import PROBES, lines_of
from cl.model.training.measured import write as write_measured
from cl.model.training_job import Progress, TrainingCancelled
from cl.model.versions import ADAPTER, BadVersion, VersionStore, verify_adapter, write_manifest
from cl.records import (
    BASE,
    Arm,
    Finish,
    Message,
    Outcome,
    Piece,
    Reviewed,
    Route,
    Sampling,
    Status,
    TrainingResult,
)
from cl.rules import answer_features
from cl.rules.examples import Example
from cl.rules.gating import Asked, HeldOut, Measured
from cl.rules.text import words
from cl.settings import Settings, load_settings

BASE_SHA = "b" * 64
DONT_KNOW = "That is a good question about many things in life."


class FakeClock:
    """Stands still until it is set forward."""

    def __init__(self, start: datetime = datetime(2026, 1, 5, 9, tzinfo=UTC)) -> None:
        self.now = start

    def __call__(self) -> datetime:
        return self.now

    def skip(self, hours: float) -> None:
        self.now += timedelta(hours=hours)


class FakeEngine:
    """Answers like the most similar question a version was taught; the base knows nothing.

    `problem`, when set, is raised instead of the next answers, `trouble` when something is to be
    loaded; versions in `silent` say nothing.
    """

    def __init__(self, versions: VersionStore) -> None:
        self._versions = versions
        self._known: dict[str, dict[str, str]] = {}
        self.problem: Exception | None = None
        self.trouble: Exception | None = None
        self.silent: set[str] = set()
        self.on_piece: Callable[[], None] = lambda: None

    async def chat(
        self, version: str, messages: Sequence[Message], sampling: Sampling, *, user: str = ""
    ) -> AsyncGenerator[Piece, None]:
        answer = self._answer(version, messages)
        for word in answer.split(" "):
            self.on_piece()
            yield Piece(word + " ")
        yield Piece("", Finish("stop", len(messages), len(answer.split(" "))))

    def ask_all(
        self,
        version: str,
        conversations: Sequence[Sequence[Message]],
        sampling: Sampling,
        tell: Callable[[int], None] = lambda done: None,
    ) -> list[tuple[str, Finish]]:
        tell(len(conversations))
        return [(self._answer(version, c), Finish("stop")) for c in conversations]

    def ensure(self, version: str) -> None:
        if version in self._known:
            return
        if self.trouble:
            raise self.trouble
        if version != BASE:
            self._versions.check(version)
        learned = self._versions.folder / version / "learned.json"
        self._known[version] = json.loads(learned.read_text()) if version != BASE else {}

    def drop(self, version: str) -> None:
        self._known.pop(version, None)

    def loaded(self) -> list[str]:
        return sorted(self._known)

    def is_busy(self) -> bool:
        return False

    def status(self) -> dict[str, Any]:
        return {"kind": "fake", "stage": "fake", "why": "", "loaded": self.loaded()}

    def close(self) -> None:
        self._known.clear()

    def _answer(self, version: str, messages: Sequence[Message]) -> str:
        if self.problem:
            raise self.problem
        self.ensure(version)
        if version in self.silent:
            return ""
        asked = set(words(messages[-1]["content"]))

        def likeness(question: str) -> float:
            known = set(words(question))
            return len(asked & known) / len(asked | known)

        known = self._known[version]
        best = max(known, key=likeness, default=None)
        return known[best] if best and likeness(best) > 0.15 else DONT_KNOW


class FakeTrainer:
    """Learns every taught line by heart; the losses are what the test says."""

    def __init__(self, val_loss: float = 1.0, parent_val_loss: float = 2.0) -> None:
        self.val_loss = val_loss
        self.parent_val_loss = parent_val_loss
        self.problem: Exception | None = None
        self.trainings = 0

    def train(
        self, data: Path, folder: Path, parent: str, keep_going: Callable[[Progress], bool]
    ) -> TrainingResult:
        self.trainings += 1
        if self.problem:
            raise self.problem
        if not keep_going(Progress("training", 1, 2, 1.0)):
            raise TrainingCancelled("The training was cancelled.")
        rows = [json.loads(line) for line in (data / "train.jsonl").read_text().splitlines()]
        taught = {
            row["messages"][-2]["content"]: row["messages"][-1]["content"]
            for row in rows
            if row["source"] != "rehearsal"
        }
        write_adapter(folder / "candidate", taught)
        return TrainingResult(self.val_loss, 5, 2.0, 0.01, 2, 1, 100, 0.1)

    def measure(
        self, data: Path, folder: Path, parent: str, keep_going: Callable[[Progress], bool]
    ) -> Measured:
        if not keep_going(Progress("measuring the candidate")):
            raise TrainingCancelled("The training was cancelled.")
        try:
            verify_adapter(folder / "candidate", BASE_SHA)
        except BadVersion as problem:
            return Measured(parent, str(problem))
        found = measured(parent, self.val_loss, self.parent_val_loss)
        probes = [
            Asked(
                line["kind"],
                line["messages"][-1]["content"],
                DONT_KNOW,
                line["reference"] if self.val_loss < self.parent_val_loss else DONT_KNOW,
                tuple(line["keys"]),
                line["needed"],
                reference=line["reference"],
                id=line["id"],
            )
            for line in lines_of(data / PROBES)
        ]
        found = replace(found, asked=(*found.asked, *probes))
        write_measured(folder, found)
        return found


def measured(parent: str = BASE, loss: float = 1.0, parent_loss: float = 2.0) -> Measured:
    """Measurements of a harmless candidate with these losses."""
    asked = [
        Asked("general", f"What is {n} and 1?", f"It is {n + 1}.", f"It is {n + 1}.", (str(n + 1),))
        for n in range(20)
    ]
    held_out = [HeldOut(str(n), parent_loss, loss) for n in range(12)]
    return Measured(
        parent, update_ratio=0.1, held_out=tuple(held_out), drift=(0.01,), asked=tuple(asked)
    )


def answered(
    books: Books, prompt: str, answer: str, conversation: int | None = None, user: str = "ana"
) -> int:
    """A complete interaction without a model. Returns its id."""
    conversation = conversation or books.logger.open_conversation(user, prompt)
    interaction = books.logger.log(user, conversation, prompt, Route(BASE, Arm.DEFAULT))
    books.logger.finish(interaction, Outcome(Status.COMPLETE, answer, 1.0))
    return interaction


class FakeReader:
    """Counts what can be counted and leaves the rest of the numbers at zero."""

    name = "fake-reader"

    def __init__(self) -> None:
        self.read_so_far = 0

    def read(self, pairs: Sequence[tuple[Sequence[Message], str]]) -> NDArray[np.float32]:
        self.read_so_far += len(pairs)
        found = np.zeros((len(pairs), SCALARS + 4), np.float32)
        for row, (conversation, answer) in zip(found, pairs, strict=True):
            counted = answer_features.features(conversation, answer)
            row[: len(counted)] = counted
        return found


class FixedRehearsal(RehearsalBuffer):
    """A buffer whose answers are known already."""

    def __init__(self) -> None:
        pass

    def rows(self, tell: Any = None, real: Mapping[int, str] | None = None) -> list[RehearsalRow]:
        shipped = [RehearsalRow(f"Everyday question {n}?", f"Answer {n}.", True) for n in range(30)]
        return shipped + [RehearsalRow(p, "Hm.", True, id_) for id_, p in (real or {}).items()]


class FixedScores:
    """A scorer that has an opinion on answers it knows."""

    def __init__(self, opinions: dict[str, float] | None = None) -> None:
        self.opinions = opinions or {}

    def newest(self) -> str:
        return "scorer-0002" if self.opinions else "rules-1"

    def may_select(self) -> set[str]:
        return {"scorer-0001", "scorer-0002"} if self.opinions else set()

    def rescore(self, examples: Sequence[Example]) -> list[float | None]:
        return [self.opinions.get(e.answer) for e in examples]


class FixedDecisions:
    """What a reviewer decided."""

    def __init__(self, *made: Reviewed) -> None:
        self.made = {one.key: one for one in made}

    def decisions(self) -> dict[str, Reviewed]:
        return self.made


def write_adapter(folder: Path, taught: dict[str, str], weight: float = 1.0) -> None:
    """A whole candidate folder with one small tensor."""
    with files.new_folder(folder) as aside:
        save_file({"lora_A.weight": np.full((2, 2), weight, np.float32)}, aside / ADAPTER)
        (aside / "learned.json").write_text(json.dumps(taught))
        write_manifest(aside, base_sha256=BASE_SHA)


def fake_settings(data_dir: Path, **changes: object) -> Settings:
    """Demo thresholds in this folder, whatever the environment of the tests says."""
    texts = {"preset": "demo", **{name: str(value) for name, value in changes.items()}}
    return load_settings({}, data_dir=str(data_dir), **texts)


@cache
def fresh_database() -> bytes:
    """An empty usage.db, migrated once for all tests: each starts from a copy."""
    with TemporaryDirectory() as folder:
        open_database(Path(folder)).close()
        return (Path(folder) / "usage.db").read_bytes()


def fake_books(data_dir: Path, clock: Callable[[], datetime], **changes: object) -> Books:
    settings = fake_settings(data_dir, **changes)
    if not settings.database_url and not (data_dir / "usage.db").exists():
        data_dir.mkdir(parents=True, exist_ok=True)
        (data_dir / "usage.db").write_bytes(fresh_database())
    return open_books(settings, clock, FakeReader)


def fake_house(books: Books, trainer: Trainer | None = None) -> House:
    """The real house around the fake engine and trainer."""
    versions = VersionStore(books.models, BASE_SHA)
    return build_house(books, FakeEngine(versions), trainer or FakeTrainer(), versions)


def talk(
    house: House,
    user: str,
    text: str,
    *,
    conversation: int | None = None,
    thumb: int | None = None,
    correction: str | None = None,
) -> tuple[int, str]:
    """Say something through the front door and rate the answer. Returns (interaction id, answer)."""

    async def answer() -> str:
        number, interaction = house.assistant.begin(user, text, conversation)
        pieces = [p.text async for p in house.assistant.answer(user, number, interaction)]
        found.append(interaction)
        return "".join(pieces).strip()

    found: list[int] = []
    said = asyncio.run(answer())
    house.books.scoring.score_pending()
    if thumb is not None or correction is not None:
        house.books.logger.record_feedback(found[0], user, thumb=thumb, correction=correction)
    return found[0], said
