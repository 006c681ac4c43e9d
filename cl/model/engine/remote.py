"""The engine over HTTP: any number of inference servers, each with the base model and all adapters.

One thread with an event loop of its own knows the servers and holds the places; web pages and
worker threads hand their work to it and hear back. A server is asked for a version only after it
was given that version and has said a few words with it. One that was restarted is given it again.
"""

import asyncio
import logging
import ssl
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from cl.model.base_model import BaseModel
from cl.model.engine.contract import CLOSING, EngineError, failed
from cl.model.engine.conversation import ChatTokenizer
from cl.model.engine.places import Places
from cl.model.engine.servers import DIALECTS, Question, Server, Trouble
from cl.model.versions import BadVersion, VersionStore
from cl.records import BASE, Finish, Message, Piece, Sampling
from cl.settings import ServingOptions

log = logging.getLogger(__name__)

T = TypeVar("T")

_LOOK_S = 1.0  # the longest wait for a sign of life
_HELLO = [Message(role="user", content="Hello")]


@dataclass(eq=False)
class _Answer:
    """What is asked, and how far the answer is."""

    version: str
    messages: Sequence[Message]
    sampling: Sampling
    emit: Callable[[Piece], None] = lambda piece: None
    user: str = ""
    later: bool = False  # nobody sits in front of it
    begun: bool = False
    reason: str = ""
    prompt_tokens: int = 0
    answer_tokens: int = 0
    _half: str = ""

    def begin(self, prompt_tokens: int) -> None:
        """At a server; the one before may have failed."""
        self.prompt_tokens, self.answer_tokens, self.reason, self._half = prompt_tokens, 0, "", ""

    def take(self, event: Any) -> None:
        """One event of a stream. What may be half a character waits for what comes next."""
        for choice in event["choices"]:
            text = self._half + (choice.get("text") or choice.get("delta", {}).get("content") or "")
            whole = text.rstrip("\ufffd")
            self._half = text[len(whole) :]
            if whole:
                self.begun = True
                self.answer_tokens += 1  # as long as the server does not count
                self.emit(Piece(whole))
            self.reason = choice.get("finish_reason") or self.reason
        if usage := event.get("usage"):
            self.prompt_tokens = usage["prompt_tokens"]
            self.answer_tokens = usage["completion_tokens"]

    def tell(self, place: int) -> None:
        self.emit(Piece("", place=place))

    def finish(self, queue_s: float) -> None:
        reason = self.reason if self.reason in ("length", "time") else "stop"
        self.emit(Piece("", Finish(reason, self.prompt_tokens, self.answer_tokens, queue_s)))


class RemoteEngine:
    def __init__(
        self,
        urls: Sequence[str],
        dialect: str,
        base: BaseModel,
        versions: VersionStore,
        options: ServingOptions,
        *,
        key: str = "",
        patience_s: float = 60.0,
    ) -> None:
        """Each server writes `options.max_rows` answers at once. `patience_s`: longest silence."""
        logging.getLogger("httpx").setLevel(logging.WARNING)  # else a line for every request
        trusted = ssl.create_default_context()  # this machine's list: a company's own, too
        self._servers = [Server(url, key, patience_s, trusted) for url in urls]
        self._dialect = DIALECTS[dialect](base, versions)
        self._dialect_name = dialect
        self._base = base
        self._versions = versions
        self._options = options
        self._patience_s = patience_s
        self._places = Places(lambda: options.max_rows * self._up(), options.max_waiting)
        self._tokenizer: ChatTokenizer | None = None
        self._reading = threading.Lock()
        self._door = threading.Lock()
        self._closing = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="engine", daemon=True)
        self._thread.start()

    # -- the contract ----------------------------------------------------------------------

    async def chat(
        self, version: str, messages: Sequence[Message], sampling: Sampling, *, user: str = ""
    ) -> AsyncGenerator[Piece, None]:
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[Piece | Exception] = asyncio.Queue()

        def emit(piece: Piece | Exception) -> None:
            # The loop is closed when the app stops in the middle of an answer: nobody listens then.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(pieces.put_nowait, piece)

        work = self._start(self._deliver(_Answer(version, messages, sampling, emit, user), emit))
        try:
            while True:
                piece = await pieces.get()
                if isinstance(piece, Exception):
                    raise piece
                yield piece
                if piece.finish:
                    return
        finally:
            work.cancel()

    def ask_all(
        self,
        version: str,
        conversations: Sequence[Sequence[Message]],
        sampling: Sampling,
        tell: Callable[[int], None] = lambda done: None,
    ) -> list[tuple[str, Finish]]:
        work = [self._start(self._collect(version, c, sampling)) for c in conversations]
        answers: list[tuple[str, Finish]] = []
        try:
            for answer in work:
                answers.append(_result(answer))
                tell(len(answers))
        finally:
            for answer in work:
                answer.cancel()
        return answers

    def ensure(self, version: str) -> None:
        """On every server, also where another one is in trouble, which is raised then."""
        _result(self._start(self._give_all(version)))

    def drop(self, version: str) -> None:
        if version != BASE:  # stays: versions are made of it
            _result(self._start(self._take_all(version)))

    def loaded(self) -> list[str]:
        """The versions that every server holds at this moment; none when one gives no answer."""
        try:
            return _result(self._start(self._look()))
        except EngineError:  # closed
            return []

    def is_busy(self) -> bool:
        return False  # answers are written elsewhere

    def status(self) -> Mapping[str, Any]:
        loaded = self.loaded()  # looks at the servers
        servers = [{"url": s.url, "ok": not s.trouble, "running": s.running} for s in self._servers]
        return {
            "kind": "remote",
            "stage": self._dialect_name,
            "why": " ".join(server.trouble for server in self._servers if server.trouble),
            "servers": servers,
            "waiting": self._places.waiting(),
            "loaded": loaded,
        }

    def close(self) -> None:
        with self._door:
            if self._closing:
                return
            self._closing = True
            ending = asyncio.run_coroutine_threadsafe(self._end_all(), self._loop)
        ending.result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # -- handing work to the thread --------------------------------------------------------

    def _start(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        with self._door:
            if not self._closing:
                return asyncio.run_coroutine_threadsafe(work, self._loop)
        work.close()
        raise EngineError(CLOSING)

    async def _deliver(self, answer: _Answer, emit: Callable[[Exception], None]) -> None:
        """Write an answer; who asked hears how it failed, too."""
        try:
            await self._answer(answer)
        except (EngineError, BadVersion) as problem:
            emit(problem)
        except asyncio.CancelledError:
            emit(EngineError(CLOSING))  # or the one who asked has left, and does not hear it
            raise
        except Exception as problem:
            log.exception("an answer failed")
            emit(failed(problem))

    async def _collect(
        self, version: str, messages: Sequence[Message], sampling: Sampling
    ) -> tuple[str, Finish]:
        pieces: list[Piece] = []
        await self._answer(_Answer(version, messages, sampling, pieces.append, later=True))
        assert pieces[-1].finish
        return "".join(piece.text for piece in pieces), pieces[-1].finish

    async def _end_all(self) -> None:
        running = asyncio.all_tasks() - {asyncio.current_task()}
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for server in self._servers:
            await server.close()
        await self._loop.shutdown_default_executor()

    # -- answering -------------------------------------------------------------------------

    async def _answer(self, answer: _Answer) -> None:
        """Wait for a place, have one of the servers write, and say how it ended."""
        arrived = time.monotonic()
        async with self._places.take(answer.user, answer.later, answer.tell):
            queue_s = time.monotonic() - arrived
            try:
                async with asyncio.timeout(answer.sampling.max_seconds):
                    await self._find_writer(answer)
            except TimeoutError:
                if not answer.begun:
                    raise EngineError("The model took too long. Please try again.") from None
                answer.reason = "time"
            answer.finish(queue_s)

    async def _find_writer(self, answer: _Answer) -> None:
        """The server with the fewest answers to write; the next one where it cannot begin."""
        trouble = None
        for server in self._best_first(answer.version):
            server.running += 1
            try:
                return await self._write_again_if_forgotten(server, answer)
            except Trouble as problem:
                if problem.status == 0 or problem.status >= 500:
                    server.note(str(problem))
                if answer.begun:
                    raise failed(problem) from problem
                trouble = problem
            finally:
                server.running -= 1
        raise EngineError(
            "The model gives no answer now. Please try again in a minute."
        ) from trouble

    def _best_first(self, version: str) -> list[Server]:
        return sorted(
            self._servers, key=lambda s: (bool(s.trouble), version not in s.ready, s.running)
        )

    async def _write_again_if_forgotten(self, server: Server, answer: _Answer) -> None:
        if answer.version not in server.ready:
            await self._give(server, answer.version)
        try:
            await self._write(server, answer)
        except Trouble as problem:
            if problem.status != 404:
                raise
            server.ready.discard(answer.version)  # it was restarted
            await self._give(server, answer.version)
            await self._write(server, answer)

    async def _write(self, server: Server, answer: _Answer) -> None:
        """One answer from its first token to its last. Raises Trouble."""
        context = int(min(self._options.max_context, server.context))
        question = await asyncio.to_thread(self._read, answer, context)
        sampling = answer.sampling
        answer.begin(question.prompt_tokens)
        body = {
            "model": self._dialect.name(server, answer.version),
            "max_tokens": min(sampling.max_tokens, context - question.prompt_tokens),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            **question.body,
        }
        async with aclosing(server.stream(question.path, body)) as events:
            async for event in events:
                with server.told():
                    answer.take(event)
        if answer.reason in ("", "abort", "error"):
            raise Trouble(f"{server.url} broke off in the middle of an answer.")

    def _read(self, answer: _Answer, context: int) -> Question:
        with self._reading:  # the first one loads it, which takes a while
            self._tokenizer = self._tokenizer or ChatTokenizer(self._base)
        return self._dialect.question(self._tokenizer, answer.messages, context, answer.sampling)

    # -- versions --------------------------------------------------------------------------

    async def _give_all(self, version: str) -> None:
        giving = [self._give(server, version) for server in self._servers]
        for problem in await asyncio.gather(*giving, return_exceptions=True):
            if problem:
                raise problem

    async def _give(self, server: Server, version: str) -> None:
        """Have the server hold the version, and hear it speak. Raises Trouble or BadVersion."""
        async with server.loading:
            if version in server.ready and not server.trouble:
                return
            await asyncio.to_thread(self._check, version)
            try:
                async with asyncio.timeout(self._patience_s):
                    await self._dialect.load(server, version)
                    await self._write(server, _Answer(version, _HELLO, Sampling(max_tokens=4)))
            except TimeoutError:
                raise Trouble(f"{server.url} does not answer.") from None
            server.ready.add(version)
            server.note("")

    def _check(self, version: str) -> None:
        if version == BASE:  # was checked when it was prepared
            return
        try:
            self._versions.check(version)
        except LookupError as problem:
            raise BadVersion(str(problem)) from None

    async def _take_all(self, version: str) -> None:
        await asyncio.gather(*(self._take(server, version) for server in self._servers))

    async def _take(self, server: Server, version: str) -> None:
        server.ready.discard(version)
        try:
            await self._dialect.unload(server, version)
        except Trouble as problem:
            if problem.status != 404:  # gone already
                log.warning("%s was not unloaded: %s", version, problem)

    async def _look(self) -> list[str]:
        held = await asyncio.gather(*map(self._look_at, self._servers))
        self._places.let_in()  # a server that is back brings places
        return sorted(set.intersection(*held))

    async def _look_at(self, server: Server) -> set[str]:
        try:
            async with asyncio.timeout(_LOOK_S):
                held = await self._dialect.held(server)
        except (Trouble, TimeoutError) as problem:
            server.note(str(problem) or f"{server.url} does not answer.")
            return set()
        server.note("")
        server.ready &= held
        return held

    def _up(self) -> int:
        """How many servers can be used; one when none can, so that somebody hears why."""
        return max(1, sum(not server.trouble for server in self._servers))


def _result(work: "Future[T]") -> T:
    try:
        return work.result()
    except CancelledError:
        raise EngineError(CLOSING) from None
