"""The engine: the only door to a model.

    chat(version, messages, sampling) -> async stream of Pieces
    ensure(version), drop(version), loaded()

One thread owns the models. It lets waiting requests in between two steps and writes all answers
of a version together, one token a step: reading the weights once serves every row. Rows of
different length share one cache, aligned at their right edge; a mask hides the empty left part.
A version is the base model with its adapter merged in, so no request pays for the adapter.
"""

import asyncio
import copy
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from cl.model.base_model import BaseModel, quiet_transformers
from cl.model.versions import BadVersion, VersionStore
from cl.records import BASE, Finish, Message, Piece, Sampling
from cl.rules.text import clean

log = logging.getLogger(__name__)

_SMALLEST_ROOM = 16  # tokens of context an answer must at least have


class EngineError(RuntimeError):
    """An answer cannot be given; the text says why, in words for the person who asked."""


class Busy(EngineError):
    """Too many messages are waiting."""


@dataclass(eq=False)
class _Request:
    version: str
    messages: Sequence[Message]
    sampling: Sampling
    emit: Callable[[Piece | Exception], None]
    arrived: float = field(default_factory=time.monotonic)
    cancelled: bool = False
    # From here on owned by the engine's thread.
    started: float = 0.0
    most_tokens: int = 0
    prompt: list[int] = field(default_factory=list)
    answer: list[int] = field(default_factory=list)
    decoder: Any = None
    generator: Any = None


class Engine:
    def __init__(
        self, base: BaseModel, versions: VersionStore, *, max_rows: int = 8, max_waiting: int = 200
    ) -> None:
        self._base = base
        self._versions = versions
        self._max_rows = max_rows
        self._max_waiting = max_waiting
        self._waiting: deque[_Request] = deque()
        self._later: deque[_Request] = deque()  # nobody sits in front of these
        self._wake = threading.Condition()
        self._loading = threading.Lock()
        self._stopping = False
        self._models: dict[str, Any] = {}
        self._batches: dict[str, _Batch] = {}
        self._tokenizer: Any = None
        self._stop_tokens: set[int] = set()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    # -- the contract ----------------------------------------------------------------------

    async def chat(
        self, version: str, messages: Sequence[Message], sampling: Sampling
    ) -> AsyncGenerator[Piece, None]:
        """The answer of `version`, piece by piece; the last piece carries the Finish.

        Closing the stream early frees the row at the next step. Raises EngineError, Busy, or
        BadVersion for a version whose files are not whole.
        """
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[Piece | Exception] = asyncio.Queue()
        request = _Request(version, messages, sampling, lambda p: _post(loop, pieces, p))
        self._submit([request])
        try:
            while True:
                piece = await pieces.get()
                if isinstance(piece, Exception):
                    raise piece
                yield piece
                if piece.finish:
                    return
        finally:
            request.cancelled = True

    def ask_all(
        self,
        version: str,
        conversations: Sequence[Sequence[Message]],
        sampling: Sampling,
        tell: Callable[[int], None] = lambda done: None,
    ) -> list[tuple[str, Finish]]:
        """Answers to many conversations at once, in order. Blocks; not for the event loop.

        People go first: whoever chats meanwhile finds a place free. On an otherwise idle engine the
        same call gives the same answers. `tell` hears how many are done.
        """
        results = [_Collected() for _ in conversations]
        requests = [
            _Request(version, c, sampling, r.add)
            for c, r in zip(conversations, results, strict=True)
        ]
        self._submit(requests, later=True)
        answers: list[tuple[str, Finish]] = []
        try:
            for result in results:
                answers.append(result.wait())
                tell(len(answers))
        finally:
            for request in requests:
                request.cancelled = True
        return answers

    def ensure(self, version: str) -> None:
        """Load a version if it is not loaded, after checking its files. Raises BadVersion.

        Works in the caller's thread: answers that are being written go on meanwhile.
        """
        self._model(version)

    def drop(self, version: str) -> None:
        """Forget a version; answers it is writing are finished, a later request loads it again."""
        if version != BASE:
            self._models.pop(version, None)

    def loaded(self) -> list[str]:
        return sorted(self._models)

    def waiting(self) -> int:
        return len(self._waiting)

    def close(self) -> None:
        """Stop after the current step; running answers end with an EngineError."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join(timeout=30)

    # -- handing work to the thread --------------------------------------------------------

    def _submit(self, requests: Sequence[_Request], *, later: bool = False) -> None:
        with self._wake:
            if self._stopping or not self._thread.is_alive():
                raise EngineError("The model is shutting down.")
            # Those who left while they waited take no place.
            self._waiting = deque(r for r in self._waiting if not r.cancelled)
            if not later and len(self._waiting) + len(requests) > self._max_waiting:
                raise Busy(
                    "Too many people are waiting for an answer. Please try again in a minute."
                )
            (self._later if later else self._waiting).extend(requests)
            self._wake.notify()

    # -- the thread ------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._stopping or self._waiting or self._later or self._batches):
                    self._wake.wait()
                if self._stopping:
                    break
            self._admit()
            for version in list(self._batches):
                self._advance(version)
        self._end_all(EngineError("The model is shutting down."))

    def _admit(self) -> None:
        """Let waiting requests in while there is room, grouped by version."""
        room = self._max_rows - sum(len(b.rows) for b in self._batches.values())
        entering: dict[str, list[_Request]] = {}
        with self._wake:
            # The last place is kept for a person, if there is more than one.
            for queue, reserve in ((self._waiting, 0), (self._later, min(1, self._max_rows - 1))):
                while room > reserve and queue:
                    request = queue.popleft()
                    if not request.cancelled:
                        entering.setdefault(request.version, []).append(request)
                        room -= 1
        for version, requests in entering.items():
            ready = [r for r in requests if self._prepare(r)]
            if ready:
                self._guard(version, partial(self._enter, version, ready), ready)

    def _enter(self, version: str, requests: list[_Request]) -> None:
        if version not in self._batches:
            self._batches[version] = _Batch(self._model(version))
        self._batches[version].add(requests)

    def _prepare(self, request: _Request) -> bool:
        """Load the version, tokenize the conversation; on failure tell the one who asked."""
        try:
            model = self._model(request.version)
            request.started = time.monotonic()
            context = model.config.max_position_embeddings
            request.prompt = self._tokenize(request, context)
            request.most_tokens = min(request.sampling.max_tokens, context - len(request.prompt))
            request.decoder = self._new_decoder()
            request.generator = _generator(request.sampling)
        except (EngineError, BadVersion) as problem:
            request.emit(problem)
            return False
        except Exception as problem:
            log.exception("a request could not be prepared")
            request.emit(_failed(problem))
            return False
        return True

    def _advance(self, version: str) -> None:
        """One token for every row of a version, then let go of the rows that ended."""
        batch = self._batches[version]
        self._guard(version, lambda: self._step(batch))
        if not batch.rows:
            self._batches.pop(version, None)

    def _step(self, batch: "_Batch") -> None:
        stay: list[int] = []
        for index, (row, token) in enumerate(zip(batch.rows, batch.next_tokens(), strict=True)):
            if not row.cancelled and self._accept(row, token):
                stay.append(index)
        batch.keep(stay)
        if batch.rows:
            batch.forward()

    def _accept(self, row: _Request, token: int) -> bool:
        """Take a token into the answer, pass its text on; False when the answer has ended."""
        if token in self._stop_tokens:
            self._finish(row, "stop")
            return False
        row.answer.append(token)
        text = row.decoder.step(self._tokenizer.backend_tokenizer, token)
        if text:
            row.emit(Piece(text))
        if len(row.answer) >= row.most_tokens:
            self._finish(row, "length")
        elif time.monotonic() - row.arrived > row.sampling.max_seconds:
            self._finish(row, "time")
        else:
            return True
        return False

    def _finish(self, row: _Request, reason: str) -> None:
        queued = row.started - row.arrived
        row.emit(Piece("", Finish(reason, len(row.prompt), len(row.answer), queued)))

    def _guard(
        self, version: str, work: Callable[[], None], entering: Sequence[_Request] = ()
    ) -> None:
        """Whatever breaks in one version's batch ends its answers, not the engine."""
        try:
            work()
        except Exception as problem:
            log.exception("the batch of %s failed", version)
            batch = self._batches.pop(version, None)
            for row in {*entering, *(batch.rows if batch else ())}:
                row.emit(_failed(problem))

    def _end_all(self, problem: EngineError) -> None:
        with self._wake:
            waiting = [*self._waiting, *self._later]
            self._waiting.clear()
            self._later.clear()
        for request in (*(row for batch in self._batches.values() for row in batch.rows), *waiting):
            request.emit(problem)

    # -- models and tokens -----------------------------------------------------------------

    def _model(self, version: str) -> Any:
        if version != BASE:
            self._model(BASE)
        with self._loading:
            model = self._models.get(version)
            if model is None:
                model = self._load_base() if version == BASE else self._load_version(version)
                self._models[version] = model
            return model

    def _load_base(self) -> Any:
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(self._base.folder, local_files_only=True)
        model = load_model(self._base)
        stops = model.generation_config.eos_token_id
        self._stop_tokens = {
            *(stops if isinstance(stops, list) else [stops]),
            self._tokenizer.eos_token_id,
        }
        return model

    def _load_version(self, version: str) -> Any:
        from peft import PeftModel

        try:
            folder = self._versions.path(version)
        except LookupError as problem:
            raise BadVersion(str(problem)) from None
        self._versions.check(version)
        base = copy.deepcopy(self._models[BASE])
        try:
            adapted = PeftModel.from_pretrained(base, folder, local_files_only=True)
            return adapted.merge_and_unload().eval()
        except (RuntimeError, ValueError, KeyError) as problem:
            raise BadVersion(f"{folder} does not fit the base model: {problem}") from None

    def _tokenize(self, request: _Request, context: int) -> list[int]:
        """Token ids of the conversation; the oldest turns go when it is longer than the context."""
        messages = [Message(role=m["role"], content=clean(m["content"])) for m in request.messages]
        room = context - max(_SMALLEST_ROOM, min(request.sampling.max_tokens, context // 2))
        first = 1 if messages and messages[0]["role"] == "system" else 0
        while True:
            ids = encode_chat(self._tokenizer, messages)
            if len(ids) <= room:
                return ids
            if len(messages) - first <= 1:
                raise EngineError(
                    f"This message is too long for the model: {len(ids)} tokens, {room} fit."
                )
            del messages[first : first + 2]

    def _new_decoder(self) -> Any:
        from tokenizers.decoders import DecodeStream

        return DecodeStream(skip_special_tokens=True)


class _Batch:
    """The rows of one version that are written together.

    `_mask` is (rows, columns): 1 where a row's cache column holds a token. Every row's last token
    is in the last column; rows that are shorter have zeros at the left.
    """

    def __init__(self, model: Any) -> None:
        self.rows: list[_Request] = []
        self._model = model
        self._cache: Any = None
        self._mask: Any = None
        self._logits: Any = None  # (rows, vocabulary): what comes after the last token

    def add(self, requests: list[_Request]) -> None:
        """Read the prompts of new rows and put them beside the ones that are being written."""
        import torch
        from transformers import DynamicCache

        width = max(len(r.prompt) for r in requests)
        ids = torch.zeros((len(requests), width), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for index, request in enumerate(requests):
            ids[index, width - len(request.prompt) :] = torch.tensor(request.prompt)
            mask[index, width - len(request.prompt) :] = 1
        ids, mask = ids.to(self._model.device), mask.to(self._model.device)
        cache = DynamicCache(config=self._model.config)
        logits = self._forward(ids, mask, (mask.cumsum(1) - 1).clamp(min=0), cache)
        if self.rows:
            self._join(cache, mask, logits)
        else:
            self._cache, self._mask, self._logits = cache, mask, logits
        self.rows.extend(requests)

    def next_tokens(self) -> list[int]:
        """The token each row continues with, drawn as its request wants."""
        likeliest = self._logits.argmax(-1).tolist()
        return [
            _draw(self._logits[i], row) if row.sampling.temperature > 0 else likeliest[i]
            for i, row in enumerate(self.rows)
        ]

    def keep(self, indices: list[int]) -> None:
        """Let go of all other rows, and of the columns that only they needed."""
        if len(indices) == len(self.rows):
            return
        self.rows = [self.rows[i] for i in indices]
        if not self.rows:
            self._cache = self._mask = self._logits = None
            return
        self._cache.batch_select_indices(indices)
        self._mask, self._logits = self._mask[indices], self._logits[indices]
        unused = int(self._mask.any(0).int().argmax())
        if unused:
            self._mask = self._mask[:, unused:]
            for layer in self._cache.layers:
                layer.keys, layer.values = layer.keys[:, :, unused:], layer.values[:, :, unused:]

    def forward(self) -> None:
        """Feed every row its newest token."""
        import torch

        last = torch.tensor([[row.answer[-1]] for row in self.rows], device=self._mask.device)
        self._mask = torch.nn.functional.pad(self._mask, (0, 1), value=1)
        self._logits = self._forward(
            last, self._mask, self._mask.sum(1, keepdim=True) - 1, self._cache
        )

    def _forward(self, ids: Any, mask: Any, positions: Any, cache: Any) -> Any:
        import torch

        with torch.inference_mode():
            output = self._model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        return output.logits[:, -1].float()

    def _join(self, cache: Any, mask: Any, logits: Any) -> None:
        import torch

        width = max(self._mask.shape[1], mask.shape[1])

        def joined(mine: Any, other: Any) -> Any:
            return torch.cat([_widen(mine, width), _widen(other, width)])

        for layer, new in zip(self._cache.layers, cache.layers, strict=True):
            layer.keys, layer.values = (
                joined(layer.keys, new.keys),
                joined(layer.values, new.values),
            )
        self._mask = torch.cat([_pad_left(self._mask, width), _pad_left(mask, width)])
        self._logits = torch.cat([self._logits, logits])


class _Collected:
    """An answer gathered whole, for callers that wait."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._done: Future[Finish] = Future()

    def add(self, piece: Piece | Exception) -> None:
        if self._done.done():  # a batch that breaks also tells rows that ended in the same step
            return
        if isinstance(piece, Exception):
            self._done.set_exception(piece)
            return
        self._text.append(piece.text)
        if piece.finish:
            self._done.set_result(piece.finish)

    def wait(self) -> tuple[str, Finish]:
        finish = self._done.result()
        return "".join(self._text), finish


def _failed(problem: Exception) -> EngineError:
    """What the person is told; the reason, which may name versions and paths, comes behind it."""
    error = EngineError("The answer failed. Please try again.")
    error.__cause__ = problem
    return error


def load_model(base: BaseModel) -> Any:
    """The base model in bf16, ready to answer."""
    import torch
    from transformers import AutoModelForCausalLM

    quiet_transformers()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(
        base.folder, dtype=torch.bfloat16, local_files_only=True, use_safetensors=True
    )
    return model.eval().to(device)


def encode_chat(tokenizer: Any, messages: Sequence[Message], answer: bool = True) -> list[int]:
    """Token ids of a conversation up to where the answer begins.

    Role tokens that a person typed (`<|im_start|>`) stay plain text: the template is filled with
    marks in place of the texts, and each text is tokenized by itself without special tokens.
    """
    marks = [f"\ue000{i}\ue001" for i in range(len(messages))]
    marked = [{"role": m["role"], "content": mark} for m, mark in zip(messages, marks, strict=True)]
    rendered = tokenizer.apply_chat_template(marked, add_generation_prompt=answer, tokenize=False)
    ids: list[int] = []
    for message, mark in zip(messages, marks, strict=True):
        before, found, rendered = rendered.partition(mark)
        if not found:
            raise EngineError("The model's chat template does not show every message.")
        ids += tokenizer(before, add_special_tokens=False)["input_ids"]
        ids += plain_ids(tokenizer, message["content"])
    ids += tokenizer(rendered, add_special_tokens=False)["input_ids"]
    return ids


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text in which nothing is a special token."""
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


def _draw(logits: Any, row: _Request) -> int:
    """One token by temperature and nucleus sampling (Holtzman et al. 2020, arXiv 1904.09751)."""
    import torch

    probabilities, order = torch.softmax(logits / row.sampling.temperature, -1).sort(
        descending=True
    )
    outside = probabilities.cumsum(-1) - probabilities > row.sampling.top_p
    probabilities[outside] = 0.0
    return int(order[torch.multinomial(probabilities, 1, generator=row.generator)])


def _generator(sampling: Sampling) -> Any:
    import torch

    if sampling.seed is None:
        return None
    return torch.Generator(device="cuda" if torch.cuda.is_available() else "cpu").manual_seed(
        sampling.seed
    )


def _pad_left(mask: Any, width: int) -> Any:
    import torch

    return torch.nn.functional.pad(mask, (width - mask.shape[1], 0))


def _widen(states: Any, width: int) -> Any:
    """(rows, heads, columns, size) with empty columns added at the left."""
    import torch

    return torch.nn.functional.pad(states, (0, 0, width - states.shape[2], 0))


def _post(
    loop: asyncio.AbstractEventLoop,
    pieces: "asyncio.Queue[Piece | Exception]",
    piece: Piece | Exception,
) -> None:
    # The loop is closed when the app stops while an answer is being written: nobody listens then.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(pieces.put_nowait, piece)
