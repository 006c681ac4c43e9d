"""Does the product learn? Facts are taught by corrections, then asked in wordings never seen.

    python -m tests.bench.learning [--facts FILE] [--general FILE] [--first N] [--seed N]
                                   [--data DIR] [--json]

Everything goes through the product's own doors: the base model answers every taught question, each
wrong answer is corrected as a person would, the loop makes the set and trains, and base and version
are asked the unseen wordings and the general questions, greedily. The settings are those of
production, but that one person may teach. `--data` names a data folder that holds a fetched base
model, and perhaps what it said to the rehearsal questions; it is only read. Every run works in a
folder of its own. The trainer takes only idle time: processor seconds are what to compare.

A line of FILE is {"answer", "keys", "questions", "unseen"}, or {"question", "keys"} for general
ones. An answer is right when it holds one of the keys, case ignored.
"""

import argparse
import asyncio
import json
import resource
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cl.demo.script import is_right
from cl.house import House, open_books, open_house
from cl.records import BASE, IterationReport, Message, Sampling, Step
from cl.settings import Settings, load_settings

HERE = Path(__file__).parent / "facts"
ANSWER_TOKENS = 64
AT_ONCE = 16
QUESTIONS_A_PERSON = 6  # so that nobody has more than their share of the set
_MOST_STEPS = 8


@dataclass(frozen=True)
class Asked:
    text: str
    keys: tuple[str, ...]
    answer: str = ""  # the correction, where it is taught


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


@contextmanager
def working_folder(data: Path | None) -> Iterator[Path]:
    """A new data folder, with the base model of another one where there is one."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "models").mkdir()
        for found in sorted((data / "models").glob("*")) if data else ():
            if found.name.startswith(("base-", "kernels-")):
                (folder / "models" / found.name).symlink_to(found.resolve())
        for found in sorted(data.glob("rehearsal-*.jsonl")) if data else ():
            shutil.copy(found, folder)
        yield folder


def settings_for(folder: Path, seed: int, threads: int) -> Settings:
    return load_settings(
        data_dir=str(folder),
        seed=str(seed),
        train_threads=str(threads),
        temperature="0",
        max_answer_tokens="48",
        max_rows=str(AT_ONCE),
        min_users="1",
    )


def teach(house: House, taught: Sequence[Asked]) -> int:
    """Have every question answered, and every wrong answer corrected. Returns how many were."""
    corrected = 0
    for start in range(0, len(taught), AT_ONCE):
        portion = list(enumerate(taught))[start : start + AT_ONCE]
        corrected += sum(asyncio.run(_portion(house, portion)))
        while house.books.scoring.score_pending():
            pass
        say(f"asked and corrected {start + len(portion)} of {len(taught)}")
    return corrected


async def _portion(house: House, portion: Sequence[tuple[int, Asked]]) -> list[bool]:
    return await asyncio.gather(*(_turn(house, number, asked) for number, asked in portion))


async def _turn(house: House, number: int, asked: Asked) -> bool:
    user = f"person {number // QUESTIONS_A_PERSON}"
    conversation, interaction = house.assistant.begin(user, asked.text, None, f"learn-{number}")
    stream = house.assistant.answer(user, conversation, interaction)
    answer = "".join([piece.text async for piece in stream])
    logger = house.books.logger
    if is_right(answer, asked.keys):
        logger.record_feedback(interaction, user, thumb=1)
        return False
    logger.record_feedback(
        interaction, user, thumb=-1, reasons=("Incorrect",), correction=asked.answer
    )
    return True


def train(house: House) -> dict[str, Any]:
    """One run of the loop, up to a version that can be asked, whatever the gate says of it."""
    run = house.loop.request_training("bench", "does it learn?")
    told: dict[str, Any] = {"gate": "passed"}
    for _ in range(_MOST_STEPS):
        before, began = _children(), time.monotonic()
        report: IterationReport = house.loop.run_iteration()
        say(f"{report.step}: {report.reason}")
        if report.step is Step.GENERATED:
            told |= {"train": report.details["train"], "val": report.details["val"]}
        elif report.step is Step.TRAINED:
            told["version"] = report.details["version"]
            told["cpu_seconds"] = round(_children() - before, 1)
            told["seconds"] = round(time.monotonic() - began, 1)
        elif report.step is Step.REJECTED:
            told["gate"] = report.reason
        if not report.goes_on:
            break
    if "version" not in told:
        raise SystemExit(f"nothing was trained: {report.reason}")
    candidate = house.books.runs / f"{run:04d}" / "candidate"
    if candidate.exists():
        house.versions.publish(candidate, told["version"])
    return told


def _children() -> float:
    """Processor seconds of the child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def right(house: House, version: str, questions: Sequence[Asked]) -> list[bool]:
    house.engine.ensure(version)
    talks = [[Message(role="user", content=q.text)] for q in questions]
    answers = house.engine.ask_all(version, talks, Sampling(max_tokens=ANSWER_TOKENS))
    found = [is_right(a, q.keys) for (a, _), q in zip(answers, questions, strict=True)]
    for (answer, _), q, is_so in zip(answers, questions, found, strict=True):
        if not is_so and version != BASE:
            say(f"  wrong: {q.text} => {' '.join(answer.split())[:100]}")
    return found


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    facts = read(args.facts)[: args.first]
    taught = [Asked(q, tuple(f["keys"]), f["answer"]) for f in facts for q in f["questions"]]
    kinds = {
        "facts": [Asked(q, tuple(f["keys"])) for f in facts for q in f["unseen"]],
        "taught": taught,
        "general": [Asked(r["question"], tuple(r["keys"])) for r in read(args.general)],
    }
    house = open_house(open_books(settings_for(folder, args.seed, args.threads)))
    try:
        say("asking the base model")
        before = {kind: right(house, BASE, questions) for kind, questions in kinds.items()}
        corrected = teach(house, taught)
        trained = train(house)
        told: dict[str, Any] = {"facts_taught": len(facts), "corrected": corrected, **trained}
        for kind, questions in kinds.items():
            after = right(house, trained["version"], questions)
            told[kind] = {
                "asked": len(questions),
                "right_before": sum(before[kind]),
                "right_after": sum(after),
            }
    finally:
        house.close()
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--facts", type=Path, default=HERE / "clinic.jsonl")
    parser.add_argument("--general", type=Path, default=HERE / "general_1.jsonl")
    parser.add_argument("--first", type=int, default=None, help="only so many facts of the file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", type=Path, help="a data folder that holds the base model")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with working_folder(args.data) as folder:
        told = measure(args, folder)
    if args.json:
        print(json.dumps(told))
        return
    for kind in ("facts", "taught", "general"):
        n = told[kind]
        print(
            f"{kind:<8} right before {n['right_before']}, after {n['right_after']}, of {n['asked']}"
        )
    print(f"trained in {told['cpu_seconds']} CPU-seconds; gate: {told['gate']}")


if __name__ == "__main__":
    main()
