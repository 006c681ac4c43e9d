"""From a conversation to tokens, and from tokens back to text."""

import copy
import threading
from bisect import bisect_left
from collections.abc import Sequence
from functools import partial
from typing import Any

from cl.model.base_model import BaseModel
from cl.model.engine.contract import EngineError
from cl.records import Message
from cl.rules.text import clean

_SMALLEST_ROOM = 16  # tokens of context an answer must at least have


class ChatTokenizer:
    """The base model's tokenizer, for several threads."""

    def __init__(self, base: BaseModel) -> None:
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(base.folder, local_files_only=True)
        self.end_of_text: int | None = self._tokenizer.eos_token_id
        # Telling it how to treat special tokens changes the tokenizer: one thread at a time.
        self._one = threading.Lock()
        self._decoding = copy.deepcopy(self._tokenizer.backend_tokenizer)

    def encode(self, messages: Sequence[Message], context: int, most_tokens: int) -> list[int]:
        """Token ids of a conversation, without its oldest turns when it does not fit.

        Room for an answer of `most_tokens` is kept, but no more than half of the context. Raises
        EngineError when the last message alone is too long.
        """
        kept = [Message(role=m["role"], content=clean(m["content"])) for m in messages]
        first = 1 if kept and kept[0]["role"] == "system" else 0
        if len(kept) == first:
            raise EngineError("There is no message to answer.")
        room = context - max(_SMALLEST_ROOM, min(most_tokens, context // 2))
        with self._one:
            # As few of the oldest turns are left out as must be; two at a time keep the order of
            # speakers. Leaving out more never makes it longer, so the number is found by halving.
            turns = len(kept) - first
            starts = [*range(0, turns - 1, 2), turns - 1]
            ids = self._ids(kept, first, 0)
            if len(ids) > room:
                found = bisect_left(starts, -room, key=lambda s: -len(self._ids(kept, first, s)))
                ids = self._ids(kept, first, starts[min(found, len(starts) - 1)])
        if len(ids) > room:
            raise EngineError(
                f"This message is too long for the model: {len(ids)} tokens, {room} fit."
            )
        return ids

    def _ids(self, messages: list[Message], first: int, start: int) -> list[int]:
        return encode_chat(self._tokenizer, [*messages[:first], *messages[first + start :]])

    def new_text(self) -> "Text":
        return Text(self._decoding)


class Text:
    """An answer that grows token by token. A character of several tokens comes whole or not at all."""

    def __init__(self, tokenizer: Any) -> None:
        from tokenizers.decoders import DecodeStream

        self._new_stream = partial(DecodeStream, skip_special_tokens=True)
        self._stream = self._new_stream()
        self._tokenizer = tokenizer

    def add(self, token: int) -> str:
        """The text this token completes."""
        try:
            return self._stream.step(self._tokenizer, token) or ""
        except Exception:  # noqa: BLE001 (it raises bare ones: bytes that are no text)
            self._stream = self._new_stream()
            return self._stream.step(self._tokenizer, token) or ""


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
