"""The engine of this process: one thread that owns the model, and a queue in front of it.

Between two steps the thread lets waiting requests in and rows that have ended out, whoever's turn
it is; what a step does is the business of the writer (`writers.py`). People go before questions
nobody sits in front of, and among people it is fair.
"""

import asyncio
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from cl.model.base_model import BaseModel
from cl.model.engine.contract import BUSY, CLOSING, GREEDY, Busy, EngineError, failed
from cl.model.engine.conversation import ChatTokenizer, Text
from cl.model.engine.rows import Row
from cl.model.versions import BadVersion, VersionStore
from cl.records import BASE, Finish, Message, Piece, Sampling
from cl.rules.queueing import turn_order
from cl.settings import ServingOptions

if TYPE_CHECKING:
    from cl.model.engine.loading import Loaded

log = logging.getLogger(__name__)
T = TypeVar("T")
Emit = Callable[[Piece | Exception], None]


@dataclass(eq=False)
class _Request:
    user: str
    row: Row
    text: Text
    emit: Emit
    arrived: float
    gone: threading.Event  # set when nobody waits for the answer any more
    started: float = 0.0
    place: int = 0  # told last; 0: none yet
    ended: bool = False

    @property
    def cancelled(self) -> bool:
        return self.gone.is_set()


@dataclass
class _Counters:
    """What the Service tab shows; written by the thread, read by anybody."""

    steps: int = 0
    tokens: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    answers: Counter[str] = field(default_factory=Counter)  # by how they ended
    step_s: deque[float] = field(default_factory=lambda: deque(maxlen=256))


class EmbeddedEngine:
    """See contract.Engine. The model is loaded at the first use, or by `ensure("base")`."""

    def __init__(self, base: BaseModel, versions: VersionStore, options: ServingOptions) -> None:
        self._base = base
        self._versions = versions
        self._options = options
        self._waiting: deque[_Request] = deque()
        self._later: deque[_Request] = deque()  # nobody sits in front of these
        self._rows: dict[Row, _Request] = {}
        self._wake = threading.Condition()
        self._loading = threading.Lock()
        self._stopping = False
        self._model: Loaded | None = None
        self._tokenizer: ChatTokenizer | None = None
        self._ready: set[str] = set()
        self._dropped: set[str] = set()
        self._preparing: Counter[str] = Counter()  # requests on their way, by version
        self._counted = _Counters()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    # -- the contract ----------------------------------------------------------------------

    async def chat(
        self, version: str, messages: Sequence[Message], sampling: Sampling, *, user: str = ""
    ) -> AsyncGenerator[Piece, None]:
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[Piece | Exception] = asyncio.Queue()
        self._refuse_crowd(user, 1)
        gone = threading.Event()
        try:
            # Loading a version and reading a long message take a while: not on the event loop.
            await asyncio.to_thread(
                self._take_in, version, messages, sampling, partial(_post, loop, pieces), user, gone
            )
            while True:
                piece = await pieces.get()
                if isinstance(piece, Exception):
                    raise piece
                yield piece
                if piece.finish:
                    return
        finally:
            gone.set()

    def ask_all(
        self,
        version: str,
        conversations: Sequence[Sequence[Message]],
        sampling: Sampling,
        tell: Callable[[int], None] = lambda done: None,
    ) -> list[tuple[str, Finish]]:
        results = [_Collected() for _ in conversations]
        gone = threading.Event()
        with self._kept(version):
            requests = [
                self._request(version, conversation, sampling, result.add, "", gone)
                for conversation, result in zip(conversations, results, strict=True)
            ]
            self._submit(requests, later=True)
        answers: list[tuple[str, Finish]] = []
        try:
            for result in results:
                answers.append(result.wait())
                tell(len(answers))
        finally:
            gone.set()
        return answers

    def ensure(self, version: str) -> None:
        model = self._loaded_model()
        if version == BASE or version in self._ready:
            return
        with self._loading:
            if version in self._ready:
                return
            try:
                folder = self._versions.path(version)
            except LookupError as problem:
                raise BadVersion(str(problem)) from None
            self._versions.check(version)
            with self._wake:  # the thread must not forget what is being loaded again
                self._dropped.discard(version)
            _aside(lambda: model.writer.load(version, folder))
            self._ready.add(version)

    def drop(self, version: str) -> None:
        if version in self._ready and version != BASE:
            with self._wake:
                self._ready.discard(version)
                self._dropped.add(version)
                self._wake.notify()

    def loaded(self) -> list[str]:
        return sorted(self._ready)

    def waiting(self) -> int:
        return len(self._waiting)

    def is_busy(self) -> bool:
        return bool(self._rows or self._waiting)

    def status(self) -> dict[str, Any]:
        model, counted = self._model, self._counted
        steps = sorted(counted.step_s)
        return {
            "kind": "embedded",
            "stage": model.stage if model else "loading",
            "why": model.why if model else "",
            "device": model.device if model else "",
            "loaded": self.loaded(),
            "rows": len(self._rows),
            "max_rows": model.writer.max_rows if model else 0,
            "waiting": len(self._waiting),
            "waiting_later": len(self._later),
            "steps": counted.steps,
            "step_ms": round(1000 * steps[len(steps) // 2], 2) if steps else None,
            "tokens": counted.tokens,
            "prompt_tokens": counted.prompt_tokens,
            "reused_tokens": counted.reused_tokens,
            "answers": dict(counted.answers),
        }

    def close(self) -> None:
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join(timeout=30)

    # -- in the caller's thread ------------------------------------------------------------

    def _loaded_model(self) -> "Loaded":
        from cl.model.engine.loading import load

        if self._model is not None:
            return self._model
        with self._loading:
            if self._model is None:
                self._tokenizer = ChatTokenizer(self._base)
                model = _aside(lambda: load(self._base, self._options, self._versions.folder))
                log.info("the model answers (%s). %s", model.stage, model.why)
                self._ready.add(BASE)
                self._model = model
            return self._model

    @contextmanager
    def _kept(self, version: str) -> Iterator[None]:
        """While its requests are on their way to the queue, a version is not forgotten."""
        with self._wake:
            self._preparing[version] += 1
        try:
            yield
        finally:
            with self._wake:
                self._preparing[version] -= 1
                self._wake.notify()

    def _take_in(
        self,
        version: str,
        messages: Sequence[Message],
        sampling: Sampling,
        emit: Emit,
        user: str,
        gone: threading.Event,
    ) -> None:
        if gone.is_set():  # left while this waited for a thread: loads nothing any more
            return
        with self._kept(version):
            self._submit([self._request(version, messages, sampling, emit, user, gone)])

    def _request(
        self,
        version: str,
        messages: Sequence[Message],
        sampling: Sampling,
        emit: Emit,
        user: str,
        gone: threading.Event,
    ) -> _Request:
        """Load the version, tokenize the conversation. Raises EngineError and BadVersion."""
        arrived = time.monotonic()
        try:
            self.ensure(version)
            assert self._tokenizer is not None
            context = self._loaded_model().writer.context
            prompt = self._tokenizer.encode(messages, context, sampling.max_tokens)
        except (EngineError, BadVersion):
            raise
        except Exception as problem:
            log.exception("a request could not be prepared")
            raise failed(problem) from problem
        row = Row(version, prompt, sampling, min(sampling.max_tokens, context - len(prompt)))
        return _Request(user, row, self._tokenizer.new_text(), emit, arrived, gone)

    def _submit(self, requests: Sequence[_Request], *, later: bool = False) -> None:
        with self._wake:
            if self._stopping:
                raise EngineError(CLOSING)
            if not later:
                self._refuse_crowd(requests[0].user, len(requests))
            (self._later if later else self._waiting).extend(requests)
            self._wake.notify()

    def _refuse_crowd(self, user: str, count: int) -> None:
        with self._wake:
            # Those who left while they waited take no place.
            self._waiting = deque(r for r in self._waiting if not r.cancelled)
            if len(self._waiting) + count > self._options.max_waiting:
                raise Busy(BUSY)
            mine = sum(r.user == user for r in self._waiting) if user else 0
            if mine + count > max(2, self._options.max_waiting // 4):
                raise Busy(GREEDY)

    # -- the thread ------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._serve()
            except Exception as problem:
                # Nobody may wait for a thread that is gone: all hear of it, and it goes on.
                log.exception("the engine stumbled")
                self._end_all(failed(problem))
        self._end_all(EngineError(CLOSING))

    def _serve(self) -> None:
        while True:
            with self._wake:
                while not (self._stopping or self._has_work()):
                    self._wake.wait()
                if self._stopping:
                    return
            # Who has just been answered counts once more: with one place, nobody would ever count.
            running = [request.user for request in self._rows.values()]
            self._let_out()
            self._let_in(running)
            self._forget()
            if self._rows:
                self._step()

    def _has_work(self) -> bool:
        return bool(self._waiting or self._later or self._rows or self._to_forget())

    def _step(self) -> None:
        assert self._model is not None
        began = time.monotonic()
        self._model.writer.step(list(self._rows), self._accept)
        self._counted.steps += 1
        self._counted.step_s.append(time.monotonic() - began)

    def _let_out(self) -> None:
        assert self._model is not None or not self._rows
        for row in [r for r, request in self._rows.items() if request.cancelled or request.ended]:
            request = self._rows.pop(row)
            if self._model is not None:
                self._model.writer.leave(row)
            if not request.ended:
                self._counted.answers["cancelled"] += 1

    def _let_in(self, running: Sequence[str]) -> None:
        """Give free rows to those whose turn it is; the last one is kept for a person."""
        if self._model is None:
            return
        room = self._model.writer.max_rows - len(self._rows)
        with self._wake:
            waiting = [r for r in self._waiting if not r.cancelled]
            turns = [waiting[i] for i in turn_order([r.user for r in waiting], running)]
            entering, turns = turns[: max(0, room)], turns[max(0, room) :]
            self._waiting = deque(r for r in waiting if r not in set(entering))
            reserved = min(1, self._model.writer.max_rows - 1)
            while room - len(entering) > reserved and self._later:
                if not (request := self._later.popleft()).cancelled:
                    entering.append(request)
        for request in entering:
            self._enter(request)
        for place, request in enumerate(turns, start=1):
            if request.place != place:
                request.place = place
                request.emit(Piece("", place=place))

    def _enter(self, request: _Request) -> None:
        assert self._model is not None
        request.started = time.monotonic()
        try:
            self._model.writer.enter(request.row)
        except Exception as problem:
            log.exception("a request could not be let in")
            request.emit(failed(problem))
            return
        self._rows[request.row] = request
        self._counted.prompt_tokens += len(request.row.prompt)
        self._counted.reused_tokens += request.row.fed

    def _accept(self, row: Row, token: int | Exception) -> bool:
        """Take a token into the answer, pass its text on; False when the answer has ended."""
        request = self._rows[row]
        if isinstance(token, Exception):
            self._count_out(request, "failed")
            request.emit(failed(token))
            return False
        assert self._model is not None
        if request.cancelled or self._stopping:
            return False
        assert self._tokenizer is not None
        if token in self._model.stop_tokens or token == self._tokenizer.end_of_text:
            self._finish(request, "stop")
            return False
        row.answer.append(token)
        self._counted.tokens += 1
        if text := request.text.add(token):
            request.emit(Piece(text))
        if len(row.answer) >= row.most_tokens:
            self._finish(request, "length")
        elif time.monotonic() - request.started > row.sampling.max_seconds:
            self._finish(request, "time")
        return not request.ended

    def _finish(self, request: _Request, reason: str) -> None:
        self._count_out(request, reason)
        row, queued = request.row, request.started - request.arrived
        request.emit(Piece("", Finish(reason, len(row.prompt), len(row.answer), queued)))

    def _count_out(self, request: _Request, reason: str) -> None:
        request.ended = True
        self._counted.answers[reason] += 1

    def _to_forget(self) -> set[str]:
        """Dropped versions that no answer is or will be written with."""
        busy = {request.row.version for request in (*self._waiting, *self._later)}
        busy |= {row.version for row in self._rows} | set(+self._preparing)
        return self._dropped - busy

    def _forget(self) -> None:
        with self._wake:
            for version in self._to_forget():
                if self._model is not None and version not in self._ready:
                    self._model.writer.drop(version)
                self._dropped.discard(version)

    def _end_all(self, problem: EngineError) -> None:
        with self._wake:
            ending = [*self._rows.values(), *self._waiting, *self._later]
            for row in self._rows:
                if self._model is not None:
                    self._model.writer.leave(row)
            self._waiting.clear()
            self._later.clear()
            self._rows.clear()
        for request in ending:
            if not request.ended:
                request.emit(problem)


class _Collected:
    """An answer gathered whole, for callers that wait."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._done: Future[Finish] = Future()

    def add(self, piece: Piece | Exception) -> None:
        if isinstance(piece, Exception):
            self._done.set_exception(piece)
            return
        self._text.append(piece.text)
        if piece.finish:
            self._done.set_result(piece.finish)

    def wait(self) -> tuple[str, Finish]:
        finish = self._done.result()
        return "".join(self._text), finish


def _aside(work: Callable[[], T]) -> T:
    """Do it in a thread that ends afterwards.

    A thread that has computed keeps helper threads (OpenMP), and once there are more of them than
    processors all of them sleep between two operations: steps then take three times as long.
    """
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as problem:  # noqa: BLE001 (raised again by whoever waits)
            done.set_exception(problem)

    thread = threading.Thread(target=run, name="engine-loading", daemon=True)
    thread.start()
    thread.join()
    return done.result()


def _post(
    loop: asyncio.AbstractEventLoop,
    pieces: "asyncio.Queue[Piece | Exception]",
    piece: Piece | Exception,
) -> None:
    # The loop is closed when the app stops while an answer is being written: nobody listens then.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(pieces.put_nowait, piece)
