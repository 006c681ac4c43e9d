"""What can be counted in a conversation and an answer to it: fixed lists of numbers per pair.

Each number is one that a reader would notice: how long, how much of the question comes back, does
it refuse, repeat itself, break off. All are bounded or logarithms, so that no text, however odd,
gives a number a linear model cannot take. What needs a language model is in `cl.model.reader`.
Beside them, `hashed` says which words were used, without a vocabulary: each word has a fixed place.
"""

import math
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cl.records import Message
from cl.rules import quality
from cl.rules.text import clean, words

_MOST_CHARACTERS = 6000  # of a text; what comes after them changes nothing
_PHRASES = {
    "refuses": ("i cannot", "i can't", "i'm unable", "i am unable", "as an ai", "i won't"),
    "does not know": ("i don't know", "i'm not sure", "i do not know", "i don't have", "no idea"),
    "asks for more": (
        "could you",
        "can you",
        "what kind",
        "do you want",
        "would you like",
        "which",
    ),
    "apologises": ("sorry", "apolog", "unfortunately"),
    "greets": ("hello", "hi ", "hi!", "hey", "good morning", "welcome"),
    "thanks": ("thank", "glad", "my pleasure", "happy to"),
    "encourages": ("great", "good idea", "sure", "of course", "absolutely", "yes"),
    "denies": ("no,", "no.", "not ", "n't"),
    "hedges": ("maybe", "perhaps", "might", "probably", "i think", "i guess", "it depends"),
    "explains": ("because", "for example", "such as", "so that", "which means", "therefore"),
    "instructs": ("first", "then", "next", "you should", "you can", "make sure", "try "),
    "links": ("http", "www.", ".com", ".gov", ".org"),
    "speaks of itself": ("i ", "i'm", "i've", "my "),
    "speaks to you": ("you", "your"),
}
_SENTENCE = re.compile(r"[.!?\n]+(?:\s|$)")
_LIST_ITEM = re.compile(r"^\s*(?:[-*•]|\d{1,2}[.)])\s", re.MULTILINE)
_NUMBER = re.compile(r"\d+")
_NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-zA-Z]+")  # a capital within a sentence
_SPOKEN = re.compile(r"\w+(?:'\w+)?|[?!.,]")
_MOST_SPOKEN = 400  # words and marks of a text that are hashed
_PLACES = (512, 256, 256)  # for the answer, the person's last message, and what was said before
HASHED_ANSWER, HASHED = _PLACES[0], sum(_PLACES)
_ASKS_BACK = re.compile(r"\b(?:no|wrong|not what|i said|i meant|again|that's not)\b")

NAMES: tuple[str, ...] = (
    "rules quality",
    "log words",
    "log words of the question",
    "log words to question",
    "log words squared",
    "log sentences",
    "words per sentence",
    "characters per word",
    "distinct words",
    "repeated triples",
    "question words that come back",
    "question words that come back early",
    "words that are from the question",
    "rare question words that come back",
    "question pairs that come back",
    "words from earlier turns",
    "repeats an earlier answer",
    "words that are from the conversation",
    "numbers that are from the conversation",
    "names that are from the conversation",
    "numbers that are from nowhere",
    "names that are from nowhere",
    "words of the last message that come back",
    "numbers of the last message that come back",
    "log words of the last message",
    "last message is not the person's",
    "question marks",
    "ends with a question",
    "exclamation marks",
    "ends like a sentence",
    "breaks off",
    "commas per word",
    "digits",
    "digits of the question that come back",
    "capitals",
    "not ASCII",
    "list items",
    "lines",
    "brackets and quotes",
    "begins in lower case",
    "turns so far",
    "question is a question",
    "person complains",
    *(f"{name}" for name in _PHRASES),
    "refuses at once",
    "affirms at once",
)


def features(conversation: Sequence[Message], answer: str) -> NDArray[np.float32]:
    """The numbers of one pair, in the order of NAMES: shape (len(NAMES),), finite, about 0 to 5."""
    answer = _readable(answer)
    asked = _readable(next((m["content"] for m in conversation[::-1] if m["role"] == "user"), ""))
    earlier = [_readable(m["content"]) for m in conversation[-7:-1]]
    said, question = words(answer), words(asked)
    values = [
        quality.score(asked, answer, None).score,
        *_size(answer, said, question),
        *_overlap(said, question, earlier, conversation),
        *_grounds(conversation, answer, said),
        *_look(answer, said, asked),
        math.log1p(len(conversation)),
        float("?" in asked),
        float(len(conversation) > 1 and bool(_ASKS_BACK.search(asked.lower()))),
        *_wording(answer, said),
    ]
    return np.asarray(values, dtype=np.float32)


def hashed(conversation: Sequence[Message], answer: str) -> NDArray[np.float32]:
    """Words and pairs of words, each part of length one: (HASHED,), HASHED_ANSWER of the answer.

    Signed feature hashing (Weinberger et al. 2009): words that share a place cancel out on average.
    """
    last = max((i for i, m in enumerate(conversation) if m["role"] == "user"), default=-1)
    asked = conversation[last]["content"] if last >= 0 else ""
    first = max(0, len(conversation) - 5)
    told = [m["content"][-400:] for i, m in enumerate(conversation) if i >= first and i != last]
    texts = (answer[:3000], asked[-1000:], "\n".join(told))
    parts = [_hashed(_readable(text), size) for text, size in zip(texts, _PLACES, strict=True)]
    return np.concatenate(parts)


def _hashed(text: str, size: int) -> NDArray[np.float32]:
    spoken = _SPOKEN.findall(text.lower().replace("’", "'"))[:_MOST_SPOKEN]
    found = np.zeros(size, np.float32)
    for term, times in Counter([*spoken, *_pairs(["<", *spoken, ">"])]).items():
        place = zlib.crc32(term.encode())
        found[(place >> 1) % size] += (1 if place & 1 else -1) * (1 + math.log(times))
    return found / max(float(np.linalg.norm(found)), 1e-6)


def _readable(text: str) -> str:
    return clean(text[:_MOST_CHARACTERS])


def _size(answer: str, said: list[str], question: list[str]) -> list[float]:
    length, asked = math.log1p(len(said)), math.log1p(len(question))
    sentences = max(1, len([s for s in _SENTENCE.split(answer) if s.strip()]))
    return [
        length,
        asked,
        length - asked,
        length**2 / 5,
        math.log1p(sentences),
        min(5.0, len(said) / sentences / 10),
        min(3.0, sum(map(len, said)) / max(1, len(said)) / 5),
        len(set(said)) / max(1, len(said)),
        quality.repetition(said),
    ]


def _overlap(
    said: list[str], question: list[str], earlier: list[str], conversation: Sequence[Message]
) -> list[float]:
    asked, answered = {_stem(w) for w in question}, [_stem(w) for w in said]
    content = [stem for stem in asked if len(stem) > 3]
    rare = [stem for stem in asked if len(stem) > 5]
    before = {_stem(w) for text in earlier for w in words(text)}
    own = [_readable(m["content"]) for m in conversation[-7:] if m["role"] == "assistant"]
    return [
        quality.relevance(question, said),
        _share(content, set(answered[:25])),
        _share(answered, asked),
        _share(rare, set(answered)),
        _share(_pairs(question), set(_pairs(said))),
        _share([stem for stem in answered if len(stem) > 3], before),
        max((_share(_pairs(said), set(_pairs(words(text)))) for text in own), default=0.0),
    ]


def _grounds(conversation: Sequence[Message], answer: str, said: list[str]) -> list[float]:
    """How much of what the answer says stands in the conversation, results of tools included."""
    last = _readable(conversation[-1]["content"]) if conversation else ""
    told = "\n".join(_readable(m["content"]) for m in conversation[-12:])
    known = {_stem(w) for w in words(told)}
    numbers, names = set(_NUMBER.findall(answer)), {n.lower() for n in _NAME.findall(answer)}
    from_numbers = numbers & set(_NUMBER.findall(told))
    from_names = {name for name in names if name in told.lower()}
    last_stems = [stem for w in words(last) if len(stem := _stem(w)) > 3]
    return [
        _share([stem for w in said if len(stem := _stem(w)) > 3], known),
        len(from_numbers) / max(1, len(numbers)),
        len(from_names) / max(1, len(names)),
        math.log1p(len(numbers - from_numbers)),
        math.log1p(len(names - from_names)),
        _share(last_stems, {_stem(w) for w in said}),
        _share(_NUMBER.findall(last), numbers),
        math.log1p(len(last.split())) / 2,
        float(bool(conversation) and conversation[-1]["role"] != "user"),
    ]


def _look(answer: str, said: list[str], asked: str) -> list[float]:
    count, size, end = max(1, len(said)), max(1, len(answer)), answer.rstrip()[-1:]
    numbers = set(_NUMBER.findall(answer))
    return [
        math.log1p(answer.count("?")),
        float(end == "?"),
        math.log1p(answer.count("!")),
        float(end in tuple(".!?\"')")),
        float(len(said) > 8 and end.isalnum()),
        min(1.0, answer.count(",") / count * 5),
        min(1.0, sum(c.isdigit() for c in answer) / size * 5),
        _share(sorted(set(_NUMBER.findall(asked))), numbers),
        min(1.0, sum(c.isupper() for c in answer) / size * 5),
        sum(not c.isascii() for c in answer) / size,
        math.log1p(len(_LIST_ITEM.findall(answer))),
        math.log1p(answer.count("\n")),
        math.log1p(sum(answer.count(c) for c in '()[]"“”')),
        float(answer.lstrip()[:1].islower()),
    ]


def _wording(answer: str, said: list[str]) -> list[float]:
    text = " ".join(answer.lower().replace("’", "'").split()) + " "
    start, scale = text[:40], math.log1p(len(said) / 20) + 1
    found = [math.log1p(sum(text.count(p) for p in phrases)) for phrases in _PHRASES.values()]
    return [
        *(number / scale for number in found),
        float(any(p in start for p in _PHRASES["refuses"] + _PHRASES["apologises"])),
        float(any(p in start for p in _PHRASES["encourages"])),
    ]


def _stem(word: str) -> str:
    return word[: max(4, len(word) - 3)]


def _pairs(found: list[str]) -> list[str]:
    return [f"{a} {b}" for a, b in pairwise(found)]


def _share(of: Sequence[str], among: set[str]) -> float:
    """Which part of `of` is in `among`; 0 if there is nothing."""
    return sum(one in among for one in of) / len(of) if of else 0.0
