"""Reads a conversation and an answer with the base model and leaves a short list of numbers.

The reader never changes while the base model stays the same, so its numbers are made once per
answer and kept; everything that is learned from thumbs is a small model over them
(`cl.model.discriminator`). The texts are laid out the other way round, the answer first and then
the question: what the model makes of a question after it has read the answer tells more about
whether they belong together than the opposite order, and the lower half of the layers is enough.

The numbers of a pair: what can be counted (`cl.rules.answer_features`), how well the words match
in the model's own word vectors, two states of the model in the middle of its layers, and which
words were used.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cl.model.base_model import BaseModel, one_at_a_time
from cl.model.engine.conversation import plain_ids
from cl.records import Message
from cl.rules import answer_features
from cl.rules.text import clean

VERSION = 2  # of everything below that changes the numbers
MATCHES = 9  # numbers that say how well the words match
SCALARS = len(answer_features.NAMES) + MATCHES  # the first columns; the states come after them
WORDS = answer_features.HASHED  # the last columns
STATES = 2
_WIDTH = 576  # most numbers of one state; those of wider models are mixed down to it
_SHARE_OF_LAYERS = 0.53
_ANSWER, _QUESTION = 80, 32  # most tokens of each that the layers read
_MATCHED = 320  # most tokens of an answer whose words are compared
_PIECE, _HEAD, _TAIL = 16, 32, 16  # tokens: how an answer that is too long is cut
_LEAST_BEFORE = 8  # fewer tokens of an earlier turn than this say nothing
_CHARACTERS = 6000  # of one text; more than these tokens ever need
_ROWS = 8  # read at the same time
_LARGEST = 60_000.0  # fits into float16

Pair = tuple[Sequence[Message], str]
Tell = Callable[[str, int, int], None]
Numbers = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class _Text:
    """What the layers read of a pair; the question is ids[question:]."""

    ids: list[int]
    question: int
    match: Numbers


class Reader:
    """The lower layers of the base model. Not for several threads at a time."""

    def __init__(self, base: BaseModel) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(base.folder, local_files_only=True)
        with one_at_a_time():
            self._model: Any = AutoModel.from_pretrained(
                base.folder, dtype=torch.bfloat16, local_files_only=True, use_safetensors=True
            ).eval()
        self._layer = _cut_off(self._model)
        _make_fast(self._model)
        _let_go_of_the_file(self._model)
        embedding = self._model.get_input_embeddings().weight
        self._words = _WordVectors(embedding)
        self._opening, self._turn = _wrappers(self._tokenizer)
        self._mix = _mixing(embedding.shape[1])
        self.name = f"reader-{VERSION}-{base.sha256[:12]}"
        self.size: int = SCALARS + STATES * self._mix.shape[1] + WORDS

    def read(self, pairs: Sequence[Pair], tell: Tell = lambda text, done, of: None) -> Numbers:
        """The numbers of each pair: (n, size), the same alone and in company up to rounding."""
        found = np.zeros((len(pairs), self.size), np.float32)
        texts = []
        for row, (conversation, answer) in zip(found, pairs, strict=True):
            texts.append(self._lay_out(conversation, answer))
            counted = answer_features.features(conversation, answer)
            row[:SCALARS] = np.concatenate([counted, texts[-1].match])
            row[-WORDS:] = answer_features.hashed(conversation, answer)
        done = 0
        for rows in _of_like_length([len(text.ids) for text in texts]):
            found[rows, SCALARS:-WORDS] = self._states([texts[i] for i in rows])
            done += len(rows)
            tell("Reading answers", done, len(pairs))
        bounded: Numbers = np.clip(np.nan_to_num(found), -_LARGEST, _LARGEST)
        return bounded

    def _lay_out(self, conversation: Sequence[Message], answer: str) -> _Text:
        last = max((i for i, m in enumerate(conversation) if m["role"] == "user"), default=-1)
        # What the person wrote last, and what tools said to it.
        newest = [m["content"] for m in conversation[last:]] if last >= 0 else []
        asked = self._ids("\n".join(newest))[-_QUESTION:]
        said = self._ids(answer[:_CHARACTERS])
        similar = self._words.similarity(asked, said[:_MATCHED])
        # What was said besides, as far as there is room: it tells what "it" means.
        others = [m["content"] for m in conversation[: max(last, 0)]]
        room = _QUESTION - len(asked)
        besides = self._ids("\n".join(others[-3:]))[-room:] if room >= _LEAST_BEFORE else []
        kept = _choose(said, similar.sum(0))
        ids = [*self._opening, *kept, *self._turn, *besides, *asked]
        question = len(ids) - max(1, len(asked))
        return _Text(ids, question, self._words.match(asked, said[:_MATCHED], similar))

    def _ids(self, text: str) -> list[int]:
        return plain_ids(self._tokenizer, clean(text[-_CHARACTERS:]))

    def _states(self, texts: list[_Text]) -> Numbers:
        """The mean over the question and the last token, mixed down: (n, STATES x width)."""
        import torch

        ids = torch.zeros((len(texts), max(len(text.ids) for text in texts)), dtype=torch.long)
        for row, text in zip(ids, texts, strict=True):
            row[: len(text.ids)] = torch.tensor(text.ids)
        with torch.inference_mode():
            # Filled up on the right: no token looks ahead, so what is there changes nothing.
            out = self._model(input_ids=ids, use_cache=False, output_hidden_states=self._layer > 0)
            states = out.hidden_states[self._layer] if self._layer else out.last_hidden_state
            states = states.float().numpy()
        found = [
            [h[text.question : len(text.ids)].mean(0), h[len(text.ids) - 1]]
            for h, text in zip(states, texts, strict=True)
        ]
        mixed: Numbers = (np.asarray(found, np.float32) @ self._mix).reshape(len(texts), -1)
        return mixed


class _WordVectors:
    """The model's input embeddings as word vectors, and how rare each word is.

    Their mean and the three directions they share are taken out (Mu, Viswanath 2018: all but the
    top); a word's weight comes from its place in the vocabulary, where common words come first.
    """

    def __init__(self, embedding: Any) -> None:
        import torch

        self._table = embedding.detach()
        vectors = self._table.to(torch.float32, copy=True).numpy()
        self._mean = vectors.mean(0)
        vectors -= self._mean
        self._shared = np.linalg.eigh(vectors.T @ vectors)[1][:, -3:].astype(np.float32)
        self._weights = (np.log1p(np.arange(len(vectors))) / np.log(len(vectors))) ** 4

    def similarity(self, asked: list[int], said: list[int]) -> Numbers:
        """Weighted cosine of each word of the question to each of the answer: (asked, said)."""
        cosine = self._unit(asked) @ self._unit(said).T
        weighted: Numbers = (cosine * self._weights[asked][:, None]).astype(np.float32)
        return weighted

    def match(self, asked: list[int], said: list[int], similar: Numbers) -> Numbers:
        """MATCHES numbers, most of them sums of best matches (MaxSim, Khattab, Zaharia 2020)."""
        if not asked or not said:
            return np.zeros(MATCHES, np.float32)
        weights, own = self._weights[asked], self._weights[said]
        total, best = weights.sum() + 1e-6, similar.max(1)
        back = (similar / (weights[:, None] + 1e-6)).max(0)
        starts = range(0, max(1, len(said) - 16), 16)
        windows = [similar[:, i : i + 32].max(1).sum() / total for i in starts]
        mean = self._unit(asked).T @ weights
        missed = np.sort(weights - best)[-3:]
        numbers = [
            best.sum() / total,
            (own * back).sum() / (own.sum() + 1e-6),
            similar[:, :24].max(1).sum() / total,
            max(windows),
            float(np.mean(windows)),
            _cosine(mean, self._unit(said).T @ own),
            _cosine(mean, self._unit(said[:24]).T @ own[:24]),
            np.sort(best)[:4].mean(),
            missed.mean(),
        ]
        return np.asarray(numbers, np.float32)

    def _unit(self, ids: list[int]) -> Numbers:
        vectors = self._table[ids].float().numpy() - self._mean
        vectors = vectors - (vectors @ self._shared) @ self._shared.T
        unit: Numbers = vectors / (np.linalg.norm(vectors, axis=1, keepdims=True) + 1e-6)
        return unit


def _cosine(a: Numbers, b: Numbers) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-6))


def _choose(said: list[int], relevant: Numbers) -> list[int]:
    """The beginning, the end and the pieces between that match the question best."""
    if len(said) <= _ANSWER:
        return said
    end = len(said) - _TAIL
    starts = list(range(_HEAD, min(end, len(relevant)), _PIECE))
    worth = [relevant[i : i + _PIECE].sum() if len(relevant) else 0.0 for i in starts]
    pieces = (_ANSWER - _HEAD - _TAIL) // _PIECE
    best = sorted(sorted(range(len(starts)), key=lambda k: -worth[k])[:pieces])
    middle = [i for k in best for i in said[starts[k] : min(end, starts[k] + _PIECE)]]
    return [*said[:_HEAD], *middle, *said[end:]]


def _of_like_length(lengths: list[int]) -> Iterator[list[int]]:
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    for start in range(0, len(order), _ROWS):
        yield order[start : start + _ROWS]


def _cut_off(model: Any) -> int:
    """Drop the upper layers where that is possible. Returns which hidden state to take; 0: the last."""
    import torch

    layers = getattr(model, "layers", None)
    if isinstance(layers, torch.nn.ModuleList) and hasattr(model, "norm"):
        kept = max(1, round(_SHARE_OF_LAYERS * len(layers)))
        model.layers = layers[:kept]
        model.config.num_hidden_layers = kept
        model.norm = torch.nn.Identity()
        return 0
    return max(1, round(_SHARE_OF_LAYERS * int(model.config.num_hidden_layers)))


def _make_fast(model: Any) -> None:
    """Weights in the order in which oneDNN reads them; float32 where bf16 is not multiplied."""
    import torch

    from cl.model.engine.ops import TorchOps, can_prepack

    if not can_prepack(model.get_input_embeddings().weight):
        model.float()
        return

    class Packed(torch.nn.Module):
        def __init__(self, linear: torch.nn.Linear) -> None:
            super().__init__()
            bias = None if linear.bias is None else linear.bias.detach()
            self.forward = TorchOps(torch.bfloat16).linear(linear.weight.detach(), bias)

    for parent in list(model.modules()):
        for name, part in list(parent.named_children()):
            if type(part) is torch.nn.Linear:
                setattr(parent, name, Packed(part))


def _let_go_of_the_file(model: Any) -> None:
    """Copy what is still needed: one tensor that lies in the mapped file keeps all of it in memory."""
    for tensor in model.parameters():
        tensor.data = tensor.data.clone()


def _wrappers(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The chat template's tokens before an answer, and those before the question that follows it."""
    mark = "\ue000\ue001"
    turns = [{"role": role, "content": mark} for role in ("user", "assistant", "user")]
    parts = tokenizer.apply_chat_template(turns, tokenize=False).split(mark)
    opening, turn = (tokenizer(p, add_special_tokens=False)["input_ids"] for p in parts[1:3])
    return list(opening), list(turn)


def _mixing(width: int) -> Numbers:
    """(width, at most _WIDTH): nothing, or a fixed random projection (Johnson, Lindenstrauss 1984)."""
    if width <= _WIDTH:
        return np.eye(width, dtype=np.float32)
    dice = np.random.default_rng(0)
    mix: Numbers = (dice.standard_normal((width, _WIDTH)) / np.sqrt(width)).astype(np.float32)
    return mix
