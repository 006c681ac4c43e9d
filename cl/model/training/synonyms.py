"""Words a model has near each other, found in its own table of word vectors.

Near is not the same: doctor and nurse are near, too. In a question that is good enough; it teaches
the model to answer from the whole of a question rather than from one word of it.
"""

import re
from functools import cache
from random import Random
from typing import Any

from torch import Tensor

from cl.model.training.wordings import SMALL_WORDS

_LEAST = 0.36  # cosine
_MOST = 6  # words for one
_LOOKED_AT = 50
_FREQUENT, _LEAST_FREQUENT = 1500, 0.55  # tokens that come early are near everything
_REPLACED = 0.5  # share of the words that could be
_WORD = re.compile(r"[A-Za-z]+")


class Synonyms:
    """`replace(text, dice)` puts near words for about half of those that have any."""

    def __init__(self, vectors: Tensor, tokenizer: Any) -> None:
        """`vectors`: (vocabulary, size), the model's input embeddings."""
        wide = vectors.detach().float()
        wide = wide - wide.mean(0)
        self._vectors = wide / wide.norm(dim=1, keepdim=True)
        self._tokenizer = tokenizer
        self.near = cache(self._near)

    def replace(self, text: str, dice: Random) -> str:
        def one(found: re.Match[str]) -> str:
            word = found[0]
            is_name = word[0].isupper() and found.start() > 0
            near = () if is_name else self.near(word.lower())
            if not near or dice.random() > _REPLACED:
                return word
            (other,) = dice.choices([w for w, _ in near], [nearness**4 for _, nearness in near])
            return other.capitalize() if word[0].isupper() else other

        return _WORD.sub(one, text)

    def _near(self, word: str) -> tuple[tuple[str, float], ...]:
        """(word, cosine) of those nearest to it; none for words of more than one token."""
        ids = self._tokenizer(" " + word, add_special_tokens=False)["input_ids"]
        if len(ids) != 1 or word in SMALL_WORDS or len(word) <= 2:
            return ()
        values, tokens = (self._vectors @ self._vectors[ids[0]]).topk(
            min(_LOOKED_AT, len(self._vectors))
        )
        found: list[tuple[str, float]] = []
        for nearness, token in zip(values.tolist(), tokens.tolist(), strict=True):
            other = self._tokenizer.decode([token])
            if nearness < _LEAST or len(found) == _MOST:
                break
            if token < _FREQUENT and nearness < _LEAST_FREQUENT:
                continue
            if re.fullmatch(r" [a-z]{3,}", other) and _is_another(other[1:], word):
                found.append((other[1:], nearness))
        return tuple(found)


def _is_another(other: str, word: str) -> bool:
    """Not the same word with another ending, and not one that says nothing."""
    stem = min(4, len(word) - 1)
    return other not in SMALL_WORDS and other[:stem] != word[:stem]
