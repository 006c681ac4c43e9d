"""Which examples say the same thing twice.

Exact duplicates share their content key (case, spacing and punctuation aside). Near-duplicates
have both a similar prompt and a similar answer, or the same prompt and an answer that shares half
as much. The two are measured apart, because different
wordings of one question with one answer are what a model generalises from. MinHash finds the texts
worth a look, the Jaccard similarity of their word triples decides; an answer that was cut short
repeats the whole one.
"""

from dataclasses import dataclass
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash, RMinHashLSH

from cl.rules.text import words

_PERMUTATIONS, _BANDS = 36, 12  # of two texts with Jaccard 0.75, 999 in 1000 are looked at
_MIX = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], np.uint64)
_SAME = 0.9  # Jaccard similarity of two questions that are one
_RESEMBLING = 0.6  # Jaccard similarity of question and answer taken together
_MOST_ALIKE = 50
_MOST_WORDS = 2000  # of one text; what two longer ones begin with decides


@dataclass(frozen=True)
class Look:
    """What one (prompt, answer) pair has in common with those before it."""

    repeats: int | None  # the first one it repeats
    resembles: tuple[int, ...]  # those it resembles as a whole; they belong on one side of a split


class NearDuplicates:
    """Looks at (prompt, answer) pairs one after the other; holds numbers, never the texts."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._index = RMinHashLSH(threshold=threshold, num_perm=_PERMUTATIONS, num_bands=_BANDS)
        self._seen: dict[int, tuple[bytes, bytes]] = {}

    def look(self, number: int, prompt: str, answer: str) -> Look:
        """Compare with what was seen before; what repeats nothing is remembered as `number`."""
        asked, said = _triples(prompt), _triples(answer)
        sketch = RMinHash(num_perm=_PERMUTATIONS, seed=1)
        both = np.concatenate([~asked, said])  # what is asked is not what is said
        sketch.update(both.view("V8").tolist())
        near = self._index.query(sketch)
        mine = (_short(asked), _short(said))
        alike = []
        for other in sorted(near)[:_MOST_ALIKE]:
            question, reply = (
                _Overlap.of(a, b) for a, b in zip(mine, self._seen[other], strict=True)
            )
            if self._is_repeated(question, reply):
                return Look(other, ())
            if question.shared + reply.shared >= _RESEMBLING * (question.all + reply.all):
                alike.append(other)
        if len(near) < _MOST_ALIKE:  # one answer to a thousand questions need not be kept so often
            self._index.insert(number, sketch)
            self._seen[number] = mine
        return Look(None, tuple(alike))

    def _is_repeated(self, question: "_Overlap", reply: "_Overlap") -> bool:
        # Two answers to the very same question need to share less to say the same.
        least = self._threshold / (2 if question.jaccard >= _SAME else 1)
        return question.jaccard >= self._threshold and (reply.jaccard >= least or reply.is_cut)


def _triples(text: str) -> NDArray[np.uint64]:
    """Hashes of the word triples, sorted, each once; a text of one or two words gives one."""
    found = " ".join(words(text)[:_MOST_WORDS]).encode().split()
    hashed = np.fromiter(map(crc32, found), np.uint64, len(found))
    if len(hashed) < 3:
        hashed = np.concatenate([hashed, np.zeros(3 - len(hashed), np.uint64)])
    mixed: NDArray[np.uint64] = (
        (hashed[:-2] * _MIX[0]) ^ (hashed[1:-1] * _MIX[1]) ^ (hashed[2:] * _MIX[2])
    )
    mixed.sort()
    is_new = np.diff(mixed, prepend=~mixed[:1]) != 0
    once: NDArray[np.uint64] = mixed[is_new]
    return once


def _short(triples: NDArray[np.uint64]) -> bytes:
    return (triples >> np.uint64(32)).astype(np.uint32).tobytes()


@dataclass(frozen=True, slots=True)
class _Overlap:
    """How many triples two texts share, have together, and have in the shorter and the longer one."""

    shared: int
    all: int
    shorter: int
    longer: int

    @classmethod
    def of(cls, a: bytes, b: bytes) -> "_Overlap":
        mine, other = np.frombuffer(a, np.uint32), np.frombuffer(b, np.uint32)
        shared = len(mine) if a == b else len(np.intersect1d(mine, other, assume_unique=True))
        sizes = sorted((len(mine), len(other)))
        return cls(shared, sum(sizes) - shared, *sizes)

    @property
    def jaccard(self) -> float:
        return self.shared / self.all

    @property
    def is_cut(self) -> bool:
        """Whether one is the other with a part left out."""
        return self.shared >= 0.9 * self.shorter and self.shorter >= 0.5 * self.longer
