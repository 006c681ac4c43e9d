"""The app on a stage: real pages, router, log, loop and web server; engine and trainer are actors.

    python -m tests.stage --data DIR --port 8000

What they do takes its time, so that a browser sees answers grow and a training move. People and their
password are fixed; `--history 21` has three weeks of the company's life in the log first.
"""

import argparse
import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from datetime import timedelta
from pathlib import Path

from cl.accounts import SignInError
from cl.db.tables import TABLES
from cl.house import House, build_house, sweep_up, utc_now
from cl.model.training.child import Reporter
from cl.model.training_job import Progress, TrainingCancelled
from cl.model.versions import VersionStore
from cl.records import Finish, Message, Piece, Role, Sampling, TrainingResult
from cl.web.address import take
from tests.fakes import BASE_SHA, FakeEngine, FakeTrainer, FixedRehearsal, fake_books

ADMIN, STAFF, OTHER = "ida", "ana", "ben"
PASSWORD = "correct horse battery"
STEPS = 60

# What the actor says when a message holds the word: everything an answer can look like.
SAYS = {
    "eighty words": " ".join(f"word{n}" for n in range(80)),
    "story": " ".join(f"word{n}" for n in range(400)),
    "table": "| Step | Who | Time |\n|---|---|---|\n| Revoke | Service desk | 15 min |\n| Enrol | Customer | 24 h |\n",
    "code": "Like this:\n\n```python\ndef reset(user: str) -> bool:\n    # revoke first\n    return revoke(user)\n```\n",
    "VPN": (
        "To reset a customer's **VPN token**:\n\n1. Open the *Identity portal* and search the account.\n"
        "2. Choose `Actions > Revoke token`.\n3. Ask the customer to enrol again within 24 hours.\n\n"
        "```python\ndef reset_token(user_id: str) -> bool:\n    # revoke first, then issue a new seed\n"
        "    revoke(user_id)\n    return enrol(user_id, ttl_hours=24)\n```\n\n"
        "| Step | Owner | Time |\n|---|---|---|\n| Revoke | Service desk | 15 min |\n| Enrol | Customer | 24 h |\n"
    ),
    "picture": "Here: ![secret](https://example.org/x.png?q=secret)",
    "nasty": "<img src=x onerror='window.__xss=1'><script>window.__xss=1</script> [x](javascript:window.__xss=1)",
}


class Actor(FakeEngine):
    """Says its part word by word; `pace` is the seconds between two words."""

    def __init__(self, versions: VersionStore, pace: float, places: int) -> None:
        super().__init__(versions)
        self._pace = pace
        self._places = asyncio.Semaphore(places)
        self._waiting = 0

    async def chat(
        self, version: str, messages: Sequence[Message], sampling: Sampling, *, user: str = ""
    ) -> AsyncGenerator[Piece, None]:
        if self._places.locked():
            self._waiting += 1
            yield Piece("", place=self._waiting)
        async with self._places:
            self._waiting = max(0, self._waiting - 1)
            text = self._answer(version, messages)
            words = text.split(" ")
            for word in words:
                await asyncio.sleep(self._pace)
                yield Piece(word + " ")
            yield Piece("", Finish("stop", 10 * len(messages), len(words)))

    def is_busy(self) -> bool:
        return self._places.locked()

    def _answer(self, version: str, messages: Sequence[Message]) -> str:
        asked = messages[-1]["content"]
        said = next((text for word, text in SAYS.items() if word in asked), None)
        return said if said is not None else super()._answer(version, messages)


class Rehearsing(FakeTrainer):
    """Goes through STEPS steps, with what a trainer writes meanwhile."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def train(
        self, data: Path, folder: Path, parent: str, keep_going: Callable[[Progress], bool]
    ) -> TrainingResult:
        reporter, pause = Reporter(folder), self.seconds / STEPS
        (folder / "trainer.log").write_text("The trainer is an actor.\n")
        for step in range(1, STEPS + 1):
            loss = 0.4 + 2.2 * math.exp(-step / 18) + 0.05 * math.sin(2.1 * step)
            reporter.tell("training", step, STEPS, loss=loss, seconds_left=pause * (STEPS - step))
            reporter.loss(step=step, train=loss, kl=0.02 * math.sqrt(step / STEPS))
            if step % 10 == 0:
                reporter.loss(step=step, val=loss + 0.12)
            progress = Progress("training", step, STEPS, pause * (STEPS - step), 900.0, loss)
            if not keep_going(progress):
                raise TrainingCancelled("The training was cancelled.")
            time.sleep(pause)
        found = super().train(data, folder, parent, keep_going)
        return TrainingResult(**{**vars(found), "steps": STEPS, "seconds": self.seconds})


def build(folder: Path, *, pace: float, seconds: float, places: int, **settings: object) -> House:
    """A house with actors in it."""
    books = fake_books(folder, utc_now, **settings)
    versions = VersionStore(books.models, BASE_SHA)
    engine = Actor(versions, pace, places)
    house = build_house(books, engine, Rehearsing(seconds), versions)
    house.data._rehearsal = FixedRehearsal()
    engine.ensure("base")
    return house


def people(house: House) -> None:
    """Everybody with their password."""
    accounts = house.books.accounts
    for name in (ADMIN, STAFF, OTHER):
        if accounts.find(name) is None:
            accounts.add(name, Role.ADMIN if name == ADMIN else Role.STAFF, "system")
        try:
            accounts.sign_in(name, PASSWORD, "the stage")
        except SignInError:
            accounts.redeem(accounts.new_link(name, "system"), PASSWORD)


def main() -> None:
    from cl.web import server  # noqa: PLC0415 (gradio is imported late)
    from tests import history  # noqa: PLC0415

    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--data", type=Path, required=True)
    arguments.add_argument("--port", type=int, required=True)
    arguments.add_argument("--pace", type=float, default=0.02, help="seconds between two words")
    arguments.add_argument("--seconds", type=float, default=6.0, help="a training takes")
    arguments.add_argument("--places", type=int, default=100, help="answers at the same time")
    arguments.add_argument("--history", type=float, default=0, help="days that have passed")
    arguments.add_argument("--taught", type=int, default=0, help="answers that were corrected")
    arguments.add_argument("--auth", default="accounts")
    args = arguments.parse_args()
    house = build(
        args.data,
        pace=args.pace,
        seconds=args.seconds,
        places=args.places,
        auth=args.auth,
        preset="production",
        min_users=1,
        min_examples=2,
        max_user_share=1.0,
    )
    people(house)
    sweep_up(house.books)
    if args.history and not house.books.logger.last_id():
        history.live(args.data, timedelta(days=args.history))
        house.books.database.bind(TABLES)  # they were another connection's
    if args.taught and not house.books.logger.last_id():
        history.teach(house, args.taught)
    server.serve(server.create_app(house), take("127.0.0.1", args.port))
    house.close()


if __name__ == "__main__":
    main()
