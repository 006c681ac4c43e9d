"""What an engine does, and how it says no."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, Protocol

from cl.records import Finish, Message, Piece, Sampling

SERVING_FILE = "serving.json"  # in the data folder: how the engine of the running app runs

BUSY = "Too many people are waiting for an answer. Please try again in a minute."
GREEDY = "You have many messages waiting already. Please wait for their answers."
CLOSING = "The model is shutting down."


class EngineError(RuntimeError):
    """An answer cannot be given; the text says why, in words for the person who asked."""


class Busy(EngineError):
    """Too many messages are waiting."""


class Engine(Protocol):
    """The only door to a model. A version is `base` or the name of a published adapter."""

    def chat(
        self, version: str, messages: Sequence[Message], sampling: Sampling, *, user: str = ""
    ) -> AsyncGenerator[Piece, None]:
        """The answer of `version`, piece by piece; the last piece carries the Finish.

        Closing the stream early ends the work on it. The queue is fair between users. Raises
        EngineError, Busy, or BadVersion for a version that is not there or not whole.
        """
        ...

    def ask_all(
        self,
        version: str,
        conversations: Sequence[Sequence[Message]],
        sampling: Sampling,
        tell: Callable[[int], None] = lambda done: None,
    ) -> list[tuple[str, Finish]]:
        """Answers to many conversations at once, in order. Blocks; people who chat go first.

        `tell` hears how many are done.
        """
        ...

    def ensure(self, version: str) -> None:
        """Have a version checked and loaded; running answers go on meanwhile. Raises BadVersion."""
        ...

    def drop(self, version: str) -> None:
        """Forget a version; answers it is writing are finished."""
        ...

    def loaded(self) -> list[str]:
        """The versions that can answer at once."""
        ...

    def is_busy(self) -> bool:
        """Whether somebody waits for an answer that this machine is writing."""
        ...

    def status(self) -> Mapping[str, Any]:
        """How it runs, as plain data: for `status`, the log and the Service tab."""
        ...

    def close(self) -> None:
        """End running answers with an EngineError and let go of everything."""
        ...


def failed(problem: Exception) -> EngineError:
    """What the person is told; the reason, which may name versions and paths, comes behind it."""
    error = EngineError("The answer failed. Please try again.")
    error.__cause__ = problem
    return error
