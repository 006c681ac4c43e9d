"""How the tests of an engine talk to it."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from cl.model.base_model import BaseModel
from cl.model.engine.embedded import EmbeddedEngine
from cl.model.versions import VersionStore
from cl.records import BASE, Finish, Message, Sampling
from cl.settings import ServingOptions

T = TypeVar("T")
FOREVER = Sampling(max_tokens=10**6)


@contextmanager
def started(base: BaseModel, versions: VersionStore, **options: Any) -> Iterator[EmbeddedEngine]:
    """An engine of one's own. Computes in float32 unless told otherwise: in bf16 the company a row
    has rounds it differently, and near ties would decide what tests compare."""
    wanted = {"max_rows": 4, "max_waiting": 40, "weights": "fp32", **options}
    engine = EmbeddedEngine(base, versions, ServingOptions(**wanted))
    try:
        yield engine
    finally:
        engine.close()


def said(*texts: str, system: str = "") -> list[Message]:
    """A conversation in which person and assistant take turns."""
    turns = [Message(role=("user", "assistant")[i % 2], content=t) for i, t in enumerate(texts)]
    return [Message(role="system", content=system), *turns] if system else turns


def ask(
    engine: EmbeddedEngine, conversation: Sequence[Message], version: str = BASE, **sampling: Any
) -> tuple[str, Finish]:
    wanted = Sampling(**{"max_tokens": 8, **sampling})
    return engine.ask_all(version, [conversation], wanted)[0]


async def hear(
    engine: EmbeddedEngine,
    conversation: Sequence[Message],
    sampling: Sampling,
    version: str = BASE,
    *,
    user: str = "",
    on_piece: Callable[[], object] = lambda: None,
) -> str:
    text = ""
    async for piece in engine.chat(version, conversation, sampling, user=user):
        text += piece.text
        on_piece()
    return text


def run(work: Coroutine[Any, Any, T]) -> T:
    """A stream that never ends fails instead of hanging."""
    return asyncio.run(asyncio.wait_for(work, 60))


async def until(is_so: Callable[[], object]) -> None:
    """Wait for what the engine's thread does by itself."""
    while not is_so():
        await asyncio.sleep(0.001)
