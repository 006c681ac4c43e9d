"""Who is answered when: so many at once, the others in a bounded queue that is fair between users.

Whose turn it is says `turn_order`. Questions that nobody sits in front of come after all people, and
one place is kept from them. For one event loop; it needs no lock.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from cl.model.engine.contract import BUSY, GREEDY, Busy
from cl.rules.queueing import turn_order


@dataclass(eq=False)
class _Guest:
    user: str
    tell: Callable[[int], None]
    let_in: "asyncio.Future[None]"
    number: int = 0


class Places:
    def __init__(self, most: Callable[[], int], most_waiting: int) -> None:
        """`most`: how many places there are; that may change."""
        self._most = most
        self._most_waiting = most_waiting
        self._taken: list[str] = []  # by these users
        self._people: list[_Guest] = []
        self._later: list[_Guest] = []

    def waiting(self) -> int:
        """How many people wait."""
        return len(self._people)

    @asynccontextmanager
    async def take(
        self, user: str, later: bool, tell: Callable[[int], None]
    ) -> AsyncGenerator[None, None]:
        """Wait for a place, then hold it. `tell` hears one's number in the queue when it changes."""
        if not later:
            self._refuse_crowd(user)
        queue = self._later if later else self._people
        guest = _Guest(user, tell, asyncio.get_running_loop().create_future())
        queue.append(guest)
        self.let_in()
        try:
            await guest.let_in
            yield
        finally:
            running = list(self._taken)
            if guest in queue:  # left while waiting
                queue.remove(guest)
            else:
                self._taken.remove(user)
            # The answer that ends counts once more: with a single place, none would ever count.
            self.let_in(running)

    def let_in(self, running: Sequence[str] | None = None) -> None:
        """Fill the free places, and tell those who still wait how far they are."""
        users = [guest.user for guest in self._people]
        order = turn_order(users, self._taken if running is None else running)
        waiting = [self._people[i] for i in order]
        while waiting and len(self._taken) < self._most():
            self._enter(waiting.pop(0), self._people)
        while self._later and len(self._taken) < max(1, self._most() - 1):
            self._enter(self._later[0], self._later)
        for number, guest in enumerate(waiting, 1):
            if guest.number != number:
                guest.number = number
                guest.tell(number)

    def _enter(self, guest: _Guest, queue: list[_Guest]) -> None:
        queue.remove(guest)
        self._taken.append(guest.user)
        guest.let_in.set_result(None)

    def _refuse_crowd(self, user: str) -> None:
        if len(self._people) >= self._most_waiting:
            raise Busy(BUSY)
        mine = sum(guest.user == user for guest in self._people) if user else 0
        if mine >= max(2, self._most_waiting // 4):
            raise Busy(GREEDY)
