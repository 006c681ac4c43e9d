"""Putting the parts together: settings in, a house of working parts out.

`open_books` gives what needs the database only, in milliseconds; `open_house` adds the model, and
`build_house` joins the two, whoever the engine and the trainer are.
"""

import logging
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import NoReturn, Self

from filelock import FileLock, Timeout
from peewee import Database

from cl import files
from cl.ab_test import ABTestManager
from cl.accounts import Accounts
from cl.assistant import Assistant
from cl.db.database import open_database
from cl.forgetting import Forgetting
from cl.loop import ContinuousLearningLoop, Parts, Trainer
from cl.model.base_model import BaseModel, Say, prepare
from cl.model.engine.contract import Engine, EngineError
from cl.model.engine.embedded import EmbeddedEngine
from cl.model.engine.remote import RemoteEngine
from cl.model.reader import Reader
from cl.model.rehearsal import RehearsalBuffer
from cl.model.training_job import TrainingJob
from cl.model.versions import VersionStore
from cl.retrain_trigger import RetrainTrigger
from cl.reviewing import Reviews
from cl.scoring import Reader as TextReader
from cl.scoring import Scoring
from cl.settings import ServingOptions, Settings
from cl.thresholds import Thresholds
from cl.training_data import TrainingDataGenerator
from cl.usage_logger import UsageLogger
from cl.worker import Worker

Clock = Callable[[], datetime]


class AlreadyRunning(RuntimeError):
    """Another process serves this data folder."""


@dataclass(frozen=True)
class Books:
    """The parts that need no model."""

    settings: Settings
    clock: Clock
    database: Database
    thresholds: Thresholds
    accounts: Accounts
    logger: UsageLogger
    trigger: RetrainTrigger
    ab_test: ABTestManager
    forgetting: Forgetting
    reviews: Reviews
    scoring: Scoring

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *problem: object) -> None:
        self.database.close()

    @property
    def models(self) -> Path:
        return self.settings.data_dir / "models"

    @property
    def runs(self) -> Path:
        return self.settings.data_dir / "runs"


@dataclass(frozen=True)
class House:
    """Everything."""

    books: Books
    engine: Engine
    versions: VersionStore
    data: TrainingDataGenerator
    assistant: Assistant
    loop: ContinuousLearningLoop
    worker: Worker

    def close(self) -> None:
        """Stop the background threads, then the engine, then the database."""
        self.worker.stop()
        self.books.scoring.stop()
        self.engine.close()
        self.books.database.close()


def utc_now() -> datetime:
    return datetime.now(UTC)


def open_books(
    settings: Settings, clock: Clock = utc_now, reader: Callable[[], TextReader] | None = None
) -> Books:
    """`reader` opens what scorers read answers with; by default the base model."""
    database = open_database(settings.data_dir, settings.database_url)
    logger = UsageLogger(database, clock)
    accounts = Accounts(database, clock)
    thresholds = Thresholds(database, settings, clock)
    ab_test = ABTestManager(database, thresholds.experiment, clock)
    return Books(
        settings=settings,
        clock=clock,
        database=database,
        thresholds=thresholds,
        accounts=accounts,
        logger=logger,
        trigger=RetrainTrigger(thresholds.trigger, clock),
        ab_test=ab_test,
        forgetting=Forgetting(
            database, accounts, ab_test, clock, settings.data_dir, settings.retention_days
        ),
        reviews=Reviews(database, clock),
        scoring=Scoring(
            logger,
            settings.data_dir / "scorers",
            reader or partial(_open_reader, settings),
            clock,
            settings.data.seed,
        ),
    )


def _open_reader(settings: Settings) -> Reader:
    return Reader(prepare(settings.model, settings.data_dir / "models"))


def open_house(books: Books, say: Say = lambda text, share: None) -> House:
    """Add the model. Fetches it first if it is not there; `say` hears how far that is."""
    settings = books.settings
    base = prepare(settings.model, books.models, say)
    versions = VersionStore(books.models, base.sha256, base.source)
    engine = open_engine(base, versions, settings.serving)
    trainer = TrainingJob(base, versions, settings.training, settings.data.seed, engine.is_busy)
    return build_house(books, engine, trainer, versions)


def open_engine(base: BaseModel, versions: VersionStore, options: ServingOptions) -> Engine:
    """The engine the settings name: this process, or inference servers."""
    if not options.engine_urls:
        return EmbeddedEngine(base, versions, options)
    urls, dialect = options.engine_urls, options.engine_dialect
    return RemoteEngine(urls, dialect, base, versions, options, key=options.engine_key)


def build_house(books: Books, engine: Engine, trainer: Trainer, versions: VersionStore) -> House:
    """The whole house around an engine and a trainer. `versions` knows which base model they use."""
    settings = books.settings
    rehearsal = RehearsalBuffer(engine, settings.data_dir, versions.base_sha256)
    data = TrainingDataGenerator(
        books.logger,
        rehearsal,
        books.scoring,
        books.reviews,
        books.thresholds.data,
        settings.chat.system_prompt,
    )
    parts = Parts(
        database=books.database,
        logger=books.logger,
        scoring=books.scoring,
        data=data,
        trigger=books.trigger,
        ab_test=books.ab_test,
        forgetting=books.forgetting,
        trainer=trainer,
        engine=engine,
        versions=versions,
        thresholds=books.thresholds,
        runs=books.runs,
        clock=books.clock,
    )
    loop = ContinuousLearningLoop(parts)
    return House(
        books=books,
        engine=engine,
        versions=versions,
        data=data,
        assistant=Assistant(books.logger, books.ab_test, engine, settings.chat),
        loop=loop,
        worker=Worker(loop, books.clock, timedelta(minutes=settings.check_minutes)),
    )


def serve_alone(data_dir: Path) -> FileLock:
    """The right to serve from this data folder; held until released, or until this process dies.

    Raises AlreadyRunning. Whoever gets it may sweep up after a crash.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    lock = FileLock(data_dir / "app.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise AlreadyRunning(
            f"Another process is serving from {data_dir} already. Stop it first."
        ) from None
    return lock


def sweep_up(books: Books) -> None:
    """After a crash: half-written files go, and answers nobody writes any more say so."""
    files.sweep(books.settings.data_dir)
    books.logger.interrupt_unfinished()
    books.forgetting.write_anew_if_due()


def load_ahead(house: House) -> None:
    """Load the base model while the pages are being built."""

    def load() -> None:
        # The background thread tries again every few seconds, and the first message waits for it.
        with suppress(EngineError):
            house.engine.ensure("base")

    threading.Thread(target=load, daemon=True).start()


def leave(code: int) -> NoReturn:
    """End the process at once, when everything is closed.

    A model may still be loading in its thread. Python's own way out takes down the libraries such a
    thread computes with: now and then the process hung there.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
