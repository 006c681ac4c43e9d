"""Scoring: how good an answer is, judged in the background by the newest scorer.

A scorer is a discriminator (`model/discriminator.py`) trained on this installation's own thumbs.
It is trained anew before each training run and never changed afterwards: `scorer-0004`. Until
there are enough thumbs, `rules-1` judges by what can be seen in the text; its scores order the
review, and select nothing. Answers of a running experiment are judged by the scorer it started
with. Writes scorer and reading.
"""

import json
import logging
import os
import shutil
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from peewee import JOIN
from threadpoolctl import threadpool_limits

from cl.db import candidates
from cl.db.scorers import newest_scorer
from cl.db.tables import Experiment, Feedback, Reading, Scorer
from cl.db.tables import Interaction as Row
from cl.model import discriminator
from cl.model.discriminator import Discriminator
from cl.records import Message, Status
from cl.rules import quality
from cl.rules.examples import Example
from cl.rules.text import content_key
from cl.usage_logger import UsageLogger

log = logging.getLogger(__name__)
T = TypeVar("T")

PORTION = 16  # answers judged between two looks at the queue
MOST_LABELS = 5000  # the newest thumbs a scorer is trained on

Tell = Callable[[str], None]
Pair = tuple[Sequence[Message], str]


class Reader(Protocol):
    """The frozen base model as a reader: texts in, numbers out, always the same ones."""

    @property
    def name(self) -> str: ...

    def read(self, pairs: Sequence[Pair]) -> NDArray[np.float32]: ...


class Scoring:
    def __init__(
        self,
        logger: UsageLogger,
        folder: Path,
        open_reader: Callable[[], Reader],
        clock: Callable[[], datetime],
        seed: int = 0,
        pause: float = 2.0,
    ) -> None:
        """`pause` is how many seconds pass between two looks at an empty queue."""
        self._logger = logger
        self._folder = folder
        self._open_reader = open_reader
        self._now = clock
        self._seed = seed
        self._pause = pause
        self._reader: Reader | None = None
        self._reading = threading.Lock()
        self._known: dict[str, Discriminator] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread()  # not started: there is none yet
        self.problem = ""  # why nothing is scored at the moment, for the pages

    # -- what others ask -------------------------------------------------------------------

    def newest(self) -> str:
        return newest_scorer()

    def may_select(self) -> set[str]:
        """The scorers that were shown to tell good answers from bad ones."""
        rows: Any = Scorer.select(Scorer.name).where(Scorer.may_select).tuples()
        return {name for (name,) in rows}

    def report(self) -> dict[str, Any]:
        """The newest scorer and how good it is."""
        row = Scorer.get_or_none(Scorer.name == self.newest())
        if row is None:
            return {
                "name": quality.SCORER,
                "stage": "prior",
                "may_select": False,
                "text": "There are too few thumbs to train a scorer; rules about the text stand in. "
                "They order what is reviewed and select nothing.",
            }
        return {"name": row.name, "stage": row.stage, "may_select": row.may_select, **row.report}

    def rescore(self, examples: Sequence[Example]) -> list[float | None]:
        """The newest scorer's view of these answers; None where it has not read one yet."""
        name = self.newest()
        known = {e.interaction_id: e.quality for e in examples if e.scorer == name}
        others = [e.interaction_id for e in examples if e.interaction_id not in known]
        if others and name != quality.SCORER:
            vectors = self._stored(others)
            if vectors:
                scores = self._discriminator(name).score_features(np.stack(list(vectors.values())))
                known |= dict(zip(vectors, map(float, scores), strict=True))
        return [known.get(e.interaction_id) for e in examples]

    # -- training a scorer -----------------------------------------------------------------

    def retrain(self, tell: Tell = lambda text: None) -> str:
        """Train a scorer on the thumbs there are and publish it. Returns the newest one's name.

        Too few thumbs, or the same ones as last time, make no new scorer.
        """
        rated = self._rated()
        labels = [label for _, label, _ in rated]
        if discriminator.stage_for(labels) == "prior":
            return self.newest()
        vectors = _behind(lambda: self._read_all([id_ for id_, _, _ in rated], tell))
        rated = [row for row in rated if row[0] in vectors]
        tell(f"training a scorer on {len(rated)} thumbs")
        name = f"scorer-{self._count() + 1:04d}"
        with threadpool_limits(1):  # on matrices this small, more threads only wait for each other
            made = discriminator.train_on(
                np.stack([vectors[id_] for id_, _, _ in rated]),
                [label for _, label, _ in rated],
                [group for _, _, group in rated],
                name=name,
                seed=self._seed,
            )
        if made.stage != "prior" and not self._is_same(made):
            self._publish(made)
        return self.newest()

    def _rated(self) -> list[tuple[int, int, str]]:
        """(interaction, thumb, group) of the newest thumbs; one group an opening question."""
        found: list[tuple[int, int, str]] = []
        for page in candidates.newest_first(candidates.RATED, self._logger.last_id()):
            for e in page:
                if e.learn and e.status is Status.COMPLETE and len(found) < MOST_LABELS:
                    opening = e.context[0]["content"] if e.context else e.prompt
                    found.append((e.interaction_id, e.thumb, content_key(opening)[:16]))
            if len(found) >= MOST_LABELS:
                break
        return found[::-1]

    def _publish(self, made: Discriminator) -> None:
        folder = self._folder / made.name
        shutil.rmtree(folder, ignore_errors=True)  # of a crash before the row below was written
        made.save(folder)
        Scorer.create(
            name=made.name,
            stage=made.stage,
            may_select=made.may_select,
            report=asdict(made.report),
            sha256=made.sha256,
            created_at=self._now(),
        )
        self._known[made.name] = made
        log.info("%s judges answers from now on. %s", made.name, made.report.text)

    def _is_same(self, made: Discriminator) -> bool:
        """Whether nothing was learned that the newest scorer does not know."""
        row = Scorer.get_or_none(Scorer.name == self.newest())
        return row is not None and row.report == json.loads(json.dumps(asdict(made.report)))

    def _count(self) -> int:
        return int(Scorer.select().count())

    # -- the queue -------------------------------------------------------------------------

    def score_pending(self, limit: int = PORTION) -> int:
        """Judge some of the answers that wait for it. Returns how many."""
        waiting = self._logger.unscored(limit)
        if not waiting:
            return 0
        of_experiment = self._scorers_of(e for _, e in waiting if e is not None)
        newest = self.newest()
        by_scorer: dict[str, list[int]] = defaultdict(list)
        for id_, experiment in waiting:
            by_scorer[of_experiment.get(experiment or 0, newest)].append(id_)
        examples = candidates.by_id([id_ for id_, _ in waiting])
        for name, ids in by_scorer.items():
            scores = self._judge(name, [examples[id_] for id_ in ids if id_ in examples])
            self._logger.score((id_, score, name) for id_, score in scores.items())
        return len(waiting)

    def _judge(self, name: str, examples: Sequence[Example]) -> dict[int, float]:
        if name == quality.SCORER:
            return {
                e.interaction_id: quality.score(e.prompt, _given(e), e.finish_reason).score
                for e in examples
            }
        vectors = self._read(examples)
        scores = self._discriminator(name).score_features(vectors)
        return {e.interaction_id: float(s) for e, s in zip(examples, scores, strict=True)}

    def _scorers_of(self, experiments: Iterable[int]) -> dict[int, str]:
        ids = set(experiments)
        rows: Any = Experiment.select(Experiment.id, Experiment.scorer)
        return dict(rows.where(Experiment.id.in_(ids)).tuples()) if ids else {}

    # -- readings --------------------------------------------------------------------------

    def read_rated(self, limit: int = PORTION) -> int:
        """Read some rated answers that no reader has seen, for the scorers to come."""
        if self.newest() == quality.SCORER:
            return 0
        unread: Any = (
            Feedback.select(Feedback.interaction)
            .join(Row)
            .switch(Feedback)
            .join(Reading, JOIN.LEFT_OUTER, on=(Reading.interaction == Feedback.interaction))
            .where((Feedback.thumb != 0) & (Row.status == Status.COMPLETE))
            .where(Reading.interaction.is_null())
            .order_by(Feedback.interaction.desc())
            .limit(limit)
        )
        return len(self._read_all([id_ for (id_,) in unread.tuples()]))

    def _read_all(
        self, ids: Sequence[int], tell: Tell = lambda text: None
    ) -> dict[int, NDArray[np.float32]]:
        """The vectors of these interactions, read and stored if they were not yet."""
        vectors: dict[int, NDArray[np.float32]] = {}
        for start in range(0, len(ids), candidates.PAGE):
            vectors |= self._stored(ids[start : start + candidates.PAGE])
        missing = [id_ for id_ in ids if id_ not in vectors]
        for start in range(0, len(missing), PORTION):
            tell(f"reading rated answers, {start} of {len(missing)}")
            examples = list(candidates.by_id(missing[start : start + PORTION]).values())
            rows = self._read(examples)
            found = {e.interaction_id: row for e, row in zip(examples, rows, strict=True)}
            self._store(found)
            vectors |= found
        return vectors

    def _stored(self, ids: Sequence[int]) -> dict[int, NDArray[np.float32]]:
        mine = Reading.interaction.in_(list(ids)) & (Reading.reader == self._open().name)
        rows: Any = Reading.select(Reading.interaction, Reading.vector).where(mine).tuples()
        return {id_: np.frombuffer(v, np.float16).astype(np.float32) for id_, v in rows}

    def _store(self, vectors: Mapping[int, NDArray[np.float32]]) -> None:
        reader = self._open().name
        rows = [(id_, reader, v.astype(np.float16).tobytes()) for id_, v in vectors.items()]
        fields = [Reading.interaction, Reading.reader, Reading.vector]
        Reading.insert_many(rows, fields).on_conflict(
            conflict_target=[Reading.interaction], preserve=[Reading.reader, Reading.vector]
        ).execute()

    def _read(self, examples: Sequence[Example]) -> NDArray[np.float32]:
        pairs = [
            ([*e.context, Message(role="user", content=e.prompt)], _given(e)) for e in examples
        ]
        reader = self._open()
        with self._reading:
            # As they are stored: a scorer must judge what it was trained on.
            return reader.read(pairs).astype(np.float16).astype(np.float32)

    def _open(self) -> Reader:
        with self._reading:
            if self._reader is None:
                self._reader = self._open_reader()
            return self._reader

    def _discriminator(self, name: str) -> Discriminator:
        if name not in self._known:
            self._known[name] = Discriminator.load(self._folder / name)
        return self._known[name]

    # -- the thread ------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to judge in the background; again after a stop, too."""
        if not self._thread.is_alive():
            self._stop.clear()
            self._thread = threading.Thread(target=self._run, name="scoring", daemon=True)
            self._thread.start()

    def stop(self, timeout: float = 15.0) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        _step_back()
        while not self._stop.is_set():
            try:
                done = self.score_pending() or self.read_rated()
                self.problem = ""
            except Exception as problem:
                # Whatever fails, the thread lives, tries again, and the page says so.
                if not self.problem:
                    log.exception("answers could not be scored")
                done, self.problem = 0, str(problem) or type(problem).__name__
            if not done:
                self._stop.wait(self._pause)


def _behind(work: Callable[[], T]) -> T:
    """Do it in a thread of its own that steps back behind everything else."""
    with ThreadPoolExecutor(1, initializer=_step_back) as aside:
        return aside.submit(work).result()


def _step_back() -> None:
    """Only when nothing else wants the processor: the chat goes first."""
    with suppress(AttributeError, OSError):  # what other systems than Linux do not have
        os.sched_setscheduler(threading.get_native_id(), os.SCHED_IDLE, os.sched_param(0))


def _given(example: Example) -> str:
    """The answer the model gave, whatever it was corrected to."""
    return example.answer if example.rejected is None else example.rejected
