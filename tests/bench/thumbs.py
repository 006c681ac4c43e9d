"""What thumbs alone can teach: nobody writes a better answer, people only say which ones they like.

    python -m tests.bench.thumbs [--data DIR] [--seed N] [--json]

The rule they go by is written below and never told to the model: an answer is good when it ends by
itself and takes at most WORDS words. The base model answers that way sometimes. Each of the taught
questions is answered several times as the chat samples, every answer gets its thumb by the rule, and
the loop does the rest: funnel, training, gate. Then other questions about other things are asked, of
the base model and of the new version, with the same sampling; and the shipped general questions, to
see what it cost.
"""

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cl.demo import script
from cl.house import House, open_books, open_house
from cl.records import BASE, Arm, Finish, Message, Outcome, Route, Sampling, Status
from cl.settings import load_settings

WORDS = 80
RULE = f"An answer is good when it ends by itself and takes at most {WORDS} words."
TAUGHT = (
    "What is {}?",
    "Tell me about {}.",
    "Why do people like {}?",
    "Explain {} to a colleague.",
)
OTHER = ("Describe {}.", "What should I know about {}?", "Can you say something on {}?")
THINGS = (
    *("coffee", "a contract", "chess", "rain", "a budget", "music", "a meeting", "bicycles"),
    *("bread", "an invoice", "gardening", "a library", "winter", "a bank", "a museum", "tea"),
    *("photography", "a deadline", "swimming", "a train", "glass", "a diary", "cheese", "a bridge"),
    *("a hospital", "football", "wood", "a newspaper", "the sea", "a passport", "soap", "a candle"),
)
OTHER_THINGS = (
    *("a lighthouse", "honey", "an umbrella", "a theatre", "snow", "insurance", "a violin"),
    *("a warehouse", "paper", "hiking", "a password", "a kitchen", "a map", "a clock", "salt"),
    *("a garden", "a market", "a printer", "a holiday", "a river"),
)
SAMPLES = 4
ANSWER = {"max_tokens": 96, "temperature": 0.9, "top_p": 0.95}
PEOPLE = 12


def is_good(answer: str, finish: Finish) -> bool:
    """See RULE."""
    return finish.reason == "stop" and 0 < len(answer.split()) <= WORDS


def ask(house: House, version: str, questions: list[str], seed: int) -> list[tuple[str, Finish]]:
    asked = [[Message(role="user", content=q)] for q in questions]
    return house.engine.ask_all(version, asked, Sampling(**ANSWER, seed=seed))


def rate(house: House, seed: int) -> tuple[int, int]:
    """Put every answer and its thumb into the log. Returns (liked, all)."""
    questions = [wording.format(thing) for thing in THINGS for wording in TAUGHT]
    logger, liked = house.books.logger, 0
    for sample in range(SAMPLES):
        found = ask(house, BASE, questions, seed * 1000 + sample)
        for number, (question, (answer, finish)) in enumerate(zip(questions, found, strict=True)):
            user = f"user{(number + sample) % PEOPLE}"
            conversation = logger.open_conversation(user, question)
            interaction = logger.log(user, conversation, question, Route(BASE, Arm.DEFAULT))
            logger.finish(interaction, Outcome(Status.COMPLETE, answer, 1.0, finish=finish))
            is_liked = is_good(answer, finish)
            logger.record_feedback(interaction, user, thumb=1 if is_liked else -1)
            liked += is_liked
    while house.books.scoring.score_pending():
        pass
    return liked, len(questions) * SAMPLES


def share_good(house: House, version: str) -> float:
    questions = [wording.format(thing) for thing in OTHER_THINGS for wording in OTHER]
    found = ask(house, version, questions, 77)
    return sum(is_good(answer, finish) for answer, finish in found) / len(found)


def general(house: House, version: str) -> int:
    questions = script.read_general()
    asked = [[Message(role="user", content=q.text)] for q in questions]
    answers = house.engine.ask_all(version, asked, Sampling(max_tokens=64))
    return sum(script.is_right(a, q.keys) for q, (a, _) in zip(questions, answers, strict=True))


def measure(house: House, seed: int) -> dict[str, Any]:
    liked, rated = rate(house, seed)
    _say(f"{liked} of {rated} answers were liked")
    house.loop.request_training("bench", "thumbs only")
    steps = []
    house.worker.run_until_quiet(lambda report: (steps.append(report), _say(report.reason)))
    version = steps[-1].details.get("version") or "none"
    champion = house.books.ab_test.champion()
    found: dict[str, Any] = {"rule": RULE, "liked": liked, "rated": rated, "version": version}
    if champion is None:
        return {**found, "published": False, "reason": steps[-1].reason}
    before, after = (share_good(house, name) for name in (BASE, champion.name))
    gained = (after - before) / (1 - before)
    known = {"before": general(house, BASE), "after": general(house, champion.name)}
    return {
        **found,
        "published": True,
        "good": {"before": before, "after": after, "of_what_was_missing": gained},
        "general": known,
    }


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--data", type=Path, help="a folder with models/ to use")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--json", action="store_true")
    args = arguments.parse_args()
    with TemporaryDirectory() as folder:
        if args.data:
            Path(folder, "models").symlink_to((args.data / "models").resolve())
        settings = load_settings({}, data_dir=folder, seed=str(args.seed))
        books = open_books(settings)
        house = open_house(books)
        try:
            found = measure(house, args.seed)
        finally:
            house.close()
    print(json.dumps(found) if args.json else json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
