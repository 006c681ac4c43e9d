"""Assistant: answers one message. Route it, let the engine write, log what came of it.

The chat page, the demo and whatever else speaks for a person come through here.
"""

import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Protocol

from peewee import PeeweeException

from cl.ab_test import ABTestManager
from cl.model.engine.contract import Busy
from cl.records import Arm, Finish, Message, Outcome, Piece, Route, Sampling, Status
from cl.rules.examples import as_messages, standing, turns_before
from cl.rules.text import clean
from cl.settings import ChatOptions
from cl.usage_logger import UsageLogger

log = logging.getLogger(__name__)


class Model(Protocol):
    """What the assistant needs of the engine."""

    def chat(
        self, version: str, messages: Sequence[Message], sampling: Sampling, *, user: str = ""
    ) -> AsyncGenerator[Piece, None]: ...


class Unanswerable(ValueError):
    """This message cannot be answered; the text tells the person why."""


class Assistant:
    def __init__(
        self,
        logger: UsageLogger,
        ab_test: ABTestManager,
        engine: Model,
        options: ChatOptions,
    ) -> None:
        self._logger = logger
        self._ab_test = ab_test
        self._engine = engine
        self._options = options
        self._writing: set[int] = set()
        self.lost_rows = 0  # answers given that could not be logged; shown to the admin

    def begin(
        self,
        user: str,
        text: str,
        conversation_id: int | None,
        request_id: str | None = None,
        regenerates: int | None = None,
    ) -> tuple[int, int]:
        """Take a message in: check it, open the conversation, route it, write its row.

        `regenerates` is the interaction in whose stead this is asked, in the same words or others:
        what had followed it does not stand any more, and all of it stays in the log.
        Returns (conversation id, interaction id). Raises Unanswerable for an empty or too long
        message and while the last one is being answered, and LookupError for a conversation that
        is not one's own, or has no such turn.
        """
        text = clean(text).strip()
        if not text:
            raise Unanswerable("Write a message first.")
        if len(text) > self._options.max_message_chars:
            raise Unanswerable(
                f"This message has {len(text)} characters; at most {self._options.max_message_chars} can be sent."
            )
        with self._logger.at_once():
            if conversation_id is None:
                conversation_id = self._logger.open_conversation(user, text)
            else:
                turns = self._logger.turns(user, conversation_id)
                if self._writing.intersection(turn.id for turn in turns):
                    raise Unanswerable("An answer is being written. Wait for it, or stop it.")
                self.give_up(user, conversation_id)
            if regenerates is not None:
                stands = standing(self._logger.turns(user, conversation_id))
                if regenerates not in {turn.id for turn in stands}:
                    raise LookupError("This message is not there any more; please reload the page.")
            route = self._ab_test.route_request(conversation_id)
            interaction_id = self._logger.log(
                user, conversation_id, text, route, request_id, regenerates
            )
            return conversation_id, interaction_id

    async def answer(
        self, user: str, conversation_id: int, interaction_id: int
    ) -> AsyncGenerator[Piece, None]:
        """Write the answer of a message that was taken in, piece by piece, and finish its row.

        While it waits for its turn, the pieces have no text but a place in the queue. When a
        challenger fails, the champion answers anew; that counts against the challenger.

        The row is finished however this ends: when the stream is closed early, with what was
        written so far. Raises what the engine raises, after the row says so.
        """
        route, messages = self._look_up(user, conversation_id, interaction_id)
        self._writing.add(interaction_id)
        draft = _Draft()
        try:
            stream = self._written(route, messages, user, draft)
            async with aclosing(stream):
                async for piece in stream:
                    draft.add(piece)
                    if piece.text or piece.place or piece.anew:
                        yield piece
        except Exception as problem:
            draft.status, draft.error = Status.ERROR, _explain(problem)
            raise
        finally:
            self._close(interaction_id, draft.outcome())
            self._writing.discard(interaction_id)

    async def _written(
        self, route: Route, messages: Sequence[Message], user: str, draft: "_Draft"
    ) -> AsyncGenerator[Piece, None]:
        sampling = self._sampling()
        try:
            async with aclosing(
                self._engine.chat(route.version, messages, sampling, user=user)
            ) as stream:
                async for piece in stream:
                    yield piece
            return
        except Busy:
            raise
        except Exception as problem:
            draft.stand_in = self._ab_test.stand_in(route)
            if draft.stand_in is None:
                raise
            draft.error = f"{route.version} failed: {_explain(problem)}"
            log.warning("%s failed, %s answers instead", route.version, draft.stand_in)
        yield Piece("", anew=True)
        async with aclosing(
            self._engine.chat(draft.stand_in, messages, sampling, user=user)
        ) as stream:
            async for piece in stream:
                yield piece

    def give_up(self, user: str, conversation_id: int) -> None:
        """Close the rows of one's conversation whose answer was never begun: the page went away.

        Raises LookupError for a conversation that is not one's own.
        """
        for turn in self._logger.turns(user, conversation_id):
            if turn.status == Status.STARTED and turn.id not in self._writing:
                self._close(turn.id, Outcome(Status.CANCELLED, "", 0.0))

    def _look_up(
        self, user: str, conversation_id: int, interaction_id: int
    ) -> tuple[Route, list[Message]]:
        turns = {row.id: row for row in self._logger.turns(user, conversation_id)}
        row = turns.get(interaction_id)
        if row is None or row.status != Status.STARTED or interaction_id in self._writing:
            raise LookupError(f"There is no message {interaction_id} waiting for an answer.")
        messages = as_messages(turns_before(turns.values(), interaction_id, row.regenerates))
        if self._options.system_prompt:
            messages.insert(0, Message(role="system", content=self._options.system_prompt))
        messages.append(Message(role="user", content=row.prompt))
        return Route(row.version, Arm(row.arm), row.experiment_id), messages

    def _sampling(self) -> Sampling:
        options = self._options
        return Sampling(
            max_tokens=options.max_answer_tokens,
            temperature=options.temperature,
            top_p=options.top_p,
            max_seconds=options.max_answer_seconds,
        )

    def _close(self, interaction_id: int, outcome: Outcome) -> None:
        # Called while a stream is being torn down, where awaiting is not safe: a short write, here.
        # A person who got an answer keeps it, whether or not it could be logged.
        try:
            self._logger.finish(interaction_id, outcome)
        except LookupError:
            log.info("interaction %d was erased while it was answered", interaction_id)
        except PeeweeException:
            self.lost_rows += 1
            log.exception("an answer could not be logged")


class _Draft:
    """An answer in the making, and everything its row will say of it."""

    def __init__(self) -> None:
        self._arrived = time.monotonic()
        self._written: list[str] = []
        self._first: float | None = None
        self._finish: Finish | None = None
        self.status = Status.CANCELLED
        self.error: str | None = None
        self.stand_in: str | None = None  # the version that answers instead of the one routed to

    def add(self, piece: Piece) -> None:
        if piece.anew:
            self._written.clear()
        if piece.text:
            self._first = self._first or time.monotonic() - self._arrived
            self._written.append(piece.text)
        if piece.finish:
            self._finish, self.status = piece.finish, Status.COMPLETE

    def outcome(self) -> Outcome:
        latency = time.monotonic() - self._arrived
        text = "".join(self._written)
        return Outcome(
            self.status, text, latency, self._first, self._finish, self.error, self.stand_in
        )


def _explain(problem: Exception) -> str:
    """What the person was told, and what was behind it."""
    return f"{problem} ({problem.__cause__})" if problem.__cause__ else str(problem)
