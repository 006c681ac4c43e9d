"""What a training costs the people who chat meanwhile, and what they cost the training.

    python -m tests.bench.chat_while_training [--rounds 3] [--seconds 60] [--data DIR] [--patience 30]

The real engine answers questions that come at random moments, and in turns, side by side in one run:

    idle            nothing else runs: the training is stopped
    alone           a training runs and nobody asks: what its speed is compared with
    lowest priority a training runs, in the processor's idle time only (SCHED_IDLE)
    held            the same, and it is stopped (SIGSTOP) while an answer is written, as in the app

One training goes through all of it. Prints the time to the first token and to the end of the answers, each beside idle, and the steps a
minute of the training. A training in idle time stands still while anybody else computes, so a phase
in which others used the processors is made again, for so many minutes in all.
"""

import argparse
import asyncio
import json
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from cl import files
from cl.demo.script import read_facts
from cl.model.base_model import BaseModel, prepare
from cl.model.engine.embedded import EmbeddedEngine
from cl.model.rehearsal import RehearsalBuffer
from cl.model.training_job import Progress, TrainingCancelled, TrainingJob
from cl.model.versions import VersionStore
from cl.records import BASE, Message, Sampling
from cl.settings import DEFAULT_MODEL, ServingOptions, TrainingOptions
from tests.bench.serving import percentile, question

ANSWER_TOKENS = 64
MEAN_PAUSE = 4.0  # seconds from one question to the next
EPOCHS = 12  # of a demo's training set: half an hour
SETTLING = 2.0  # seconds between two phases
TARGET = 1.5  # times the idle time to the first token, 95th percentile
MOST_OTHERS = 0.15  # of one processor
PHASES = ("idle", "alone", "lowest priority", "held")


@dataclass
class Found:
    """What was measured in a phase, or in all of its rounds."""

    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    steps: int = 0
    seconds: float = 0.0
    others: float = 0.0  # of one processor

    def add(self, other: "Found") -> None:
        self.first += other.first
        self.whole += other.whole
        self.steps += other.steps
        self.seconds += other.seconds
        self.others = max(self.others, other.others)

    @property
    def steps_a_minute(self) -> float:
        return 60 * self.steps / self.seconds if self.seconds else 0.0


# -- the training ------------------------------------------------------------------------------


def write_set(folder: Path, engine: EmbeddedEngine, base: BaseModel) -> Path:
    """The facts of the demo as corrections, and the rehearsal texts of the base model."""

    def line(asked: str, answer: str, source: str, **more: Any) -> str:
        messages = [
            Message(role="user", content=asked),
            Message(role="assistant", content=answer),
        ]
        return json.dumps({"messages": messages, "source": source, **more}) + "\n"

    rehearsed = RehearsalBuffer(engine, folder, base.sha256).rows()
    facts = read_facts()
    rows = [line(r.prompt, r.answer, "rehearsal", whole=r.whole) for r in rehearsed]
    taught = [line(q, fact.answer, "correction") for fact in facts for q in fact.questions]
    asked = [line(q, fact.answer, "correction") for fact in facts for q in fact.unseen]
    files.write_text(folder / "train.jsonl", "".join([*taught, *rows[30:]]))
    files.write_text(folder / "val.jsonl", "".join([*asked, *rows[:30]]))
    return folder


@contextmanager
def training(job: TrainingJob, data: Path, folder: Path) -> Iterator[Callable[[], int]]:
    """A training that is at work within the block; gives how many steps it has made so far.

    Before its first step it asks the base model what it makes of the rehearsal texts: minutes.
    """
    at, stop = Progress("starting"), threading.Event()

    def follow(progress: Progress) -> bool:
        nonlocal at
        at = progress
        return not stop.is_set()

    def run() -> None:
        try:
            job.train(data, folder, BASE, follow)
        except TrainingCancelled:
            return
        raise RuntimeError("the training ended before the phase did")

    folder.mkdir(parents=True)
    thread = threading.Thread(target=run)
    thread.start()
    try:
        while at.stage != "training" or at.step < 3:
            assert thread.is_alive(), (folder / "trainer.log").read_text()
            time.sleep(0.1)
        yield lambda: at.step
        assert thread.is_alive()
    finally:
        stop.set()
        thread.join()


# -- the chat ----------------------------------------------------------------------------------


async def _ask(engine: EmbeddedEngine, number: int, found: Found) -> None:
    began, first = time.perf_counter(), 0.0
    asked = [Message(role=m["role"], content=m["content"]) for m in question(number)]  # type: ignore[typeddict-item]
    async for piece in engine.chat(BASE, asked, Sampling(max_tokens=ANSWER_TOKENS)):
        if piece.text and not first:
            first = time.perf_counter() - began
    found.first.append(first)
    found.whole.append(time.perf_counter() - began)


async def _chat(engine: EmbeddedEngine, number: int, pauses: list[float], found: Found) -> None:
    asking = []
    for pause in pauses:
        await asyncio.sleep(pause)
        number += 1
        asking.append(asyncio.create_task(_ask(engine, number, found)))
    await asyncio.gather(*asking)


def _pauses(seconds: float, dice: random.Random) -> list[float]:
    made: list[float] = []
    while sum(made) < seconds:
        made.append(dice.expovariate(1 / MEAN_PAUSE))
    return made


# -- the phases --------------------------------------------------------------------------------


class Bench:
    def __init__(self, models: Path, scratch: Path, data: Path | None, seconds: float) -> None:
        self._base = prepare(DEFAULT_MODEL, models)
        self._versions = VersionStore(models, self._base.sha256)
        self._scratch = scratch
        self._seconds = seconds
        self.engine = EmbeddedEngine(self._base, self._versions, ServingOptions())
        self.engine.ensure(BASE)
        self._data = data or write_set(scratch / "data", self.engine, self._base)
        self._phase = "alone"
        self._asked = 0

    def training(self) -> AbstractContextManager[Callable[[], int]]:
        # Learns next to nothing, so that it goes on until it is ended; every epoch has rehearsal
        # texts of its own, which take their time before the first step.
        options = TrainingOptions(learning_rate=1e-7, max_epochs=EPOCHS)
        job = TrainingJob(self._base, self._versions, options, 0, self._is_stopped)
        return training(job, self._data, self._scratch / "run")

    def run(self, phase: str, turn: int, steps: Callable[[], int]) -> Found:
        self._phase, found = phase, Found()
        time.sleep(SETTLING)
        # The same pauses in each phase of a turn, but other questions: a known one is read faster.
        pauses = _pauses(self._seconds, random.Random(turn))
        processors, began, before = Processors(), time.monotonic(), steps()
        if phase == "alone":
            time.sleep(self._seconds)
        else:
            self._chat(pauses, found)
        found.steps, found.seconds = steps() - before, time.monotonic() - began
        found.others = processors.others()
        return found

    def _is_stopped(self) -> bool:
        return self._phase == "idle" or (self._phase == "held" and self.engine.is_busy())

    def _chat(self, pauses: list[float], found: Found) -> None:
        asyncio.run(_chat(self.engine, self._asked, pauses, found))
        self._asked += len(pauses)


class Processors:
    """How much of one processor others have used since this was made."""

    def __init__(self) -> None:
        self._began, self._used = time.monotonic(), self._by_others()

    def others(self) -> float:
        return (self._by_others() - self._used) / (time.monotonic() - self._began)

    def _by_others(self) -> float:
        whole = psutil.cpu_times()
        busy = whole.user + whole.nice + whole.system + whole.irq + whole.softirq
        mine = [psutil.Process(), *psutil.Process().children(recursive=True)]
        return float(busy - sum(p.cpu_times().user + p.cpu_times().system for p in mine))


def report(found: dict[str, Found]) -> None:
    print(
        f"{'':<16}{'answers':>8}{'first token':>19}{'whole answer':>19}{'x idle':>16}{'steps':>8}"
    )
    print(f"{'':<24}{'p50':>10}{'p95':>9}{'p50':>10}{'p95':>9}{'first':>9}{'p95':>7}{'a min':>8}")
    idle = found["idle"]
    for phase, one in found.items():
        text = f"{phase:<16}{len(one.first):>8}"
        if one.first:
            for times in (one.first, one.whole):
                text += f"{1000 * median(times):7.0f} ms{1000 * percentile(times, 0.95):6.0f} ms"
            ratio = median(one.first) / median(idle.first)
            tail = percentile(one.first, 0.95) / percentile(idle.first, 0.95)
            text += f"{ratio:9.2f}{tail:7.2f}"
        else:
            text += " " * 54
        print(text + (f"{one.steps_a_minute:8.1f}" if one.steps else ""))
    alone = found["alone"].steps_a_minute
    for phase in ("lowest priority", "held"):
        share = found[phase].steps_a_minute / alone
        tail = percentile(found[phase].first, 0.95) / percentile(idle.first, 0.95)
        met = "met" if tail <= TARGET else "missed"
        print(
            f"{phase}: first token p95 {tail:.2f} x idle (at most {TARGET}: {met}), whole answer "
            f"{median(found[phase].whole) / median(idle.whole):.2f} x; the training keeps {share:.0%} of its speed"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each phase")
    parser.add_argument("--patience", type=float, default=30.0, help="minutes of trying in all")
    parser.add_argument("--models", type=Path, help="where the base model lies or is to lie")
    parser.add_argument("--data", type=Path, help="a training set; made from the demo if missing")
    options = parser.parse_args()
    found: dict[str, Found] = defaultdict(Found)
    until = time.monotonic() + 60 * options.patience
    with TemporaryDirectory() as name:
        scratch = Path(name)
        bench = Bench(options.models or scratch / "models", scratch, options.data, options.seconds)
        with bench.training() as steps:
            bench.run("idle", 0, steps)  # warms up
            for turn, phase in product(range(1, options.rounds + 1), PHASES):
                one = bench.run(phase, turn, steps)
                while one.others > MOST_OTHERS and time.monotonic() < until:
                    print(f"round {turn}, {phase}: others had {one.others:.0%}, again", flush=True)
                    one = bench.run(phase, turn, steps)
                print(f"round {turn}, {phase}: others had {one.others:.0%}", flush=True)
                found[phase].add(one)
        bench.engine.close()
    report(found)


if __name__ == "__main__":
    main()
