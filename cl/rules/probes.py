"""Probes: whether an answer holds what it should, told by key strings.

A shipped question names its keys, and one of them is enough. What a person taught has none: its
keys are the words that make the better answer better, those which neither the question nor the
answer that was corrected hold, and most of them must come back.
"""

import math
from collections.abc import Sequence

from cl.rules.quality import STOP_WORDS
from cl.rules.text import words

MOST_NEEDED = 0.6  # share of a taught answer's keys; the rest may be said in other words
_MOST_KEYS = 12


def keys_of(question: str, reference: str, rejected: str = "") -> tuple[str, ...]:
    """The words that tell whether somebody knows `reference`, in its order, each once."""
    said = [word for word in dict.fromkeys(words(reference)) if word not in STOP_WORDS]
    for known in ({*words(question), *words(rejected)}, set(words(question)), set()):
        if found := [word for word in said if word not in known]:
            return tuple(found[:_MOST_KEYS])
    return tuple(dict.fromkeys(words(reference)))[:_MOST_KEYS]


def is_known(answer: str, keys: Sequence[str], needed: float = 0.0) -> bool:
    """Whether the answer holds this share of the keys, at least one, case ignored."""
    text = answer.lower()
    found = sum(key.lower() in text for key in keys)
    return found >= max(1, math.ceil(needed * len(keys)))
