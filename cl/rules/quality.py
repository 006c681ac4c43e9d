"""The quality of an answer from what can be seen in its text: `rules-1`.

An answer starts at 1 and loses points for faults a reader would notice: it is empty, repeats
itself, breaks off, says nothing about the question, parrots it, refuses, or shows broken
characters. It cannot tell a true answer from a false one, and does not claim to: it keeps
malformed answers out of the training set, and people's thumbs do the rest. Scores of different
scorers are never compared, so every score is stored with the scorer's name.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from cl.rules.text import words

SCORER = "rules-1"

STOP_WORDS = frozenset(
    [
        "a",
        "an",
        "and",
        "are",
        "as",
        "at",
        "be",
        "been",
        "but",
        "by",
        "can",
        "could",
        "did",
        "do",
        "does",
        "for",
        "from",
        "had",
        "has",
        "have",
        "how",
        "i",
        "if",
        "in",
        "is",
        "it",
        "its",
        "me",
        "my",
        "no",
        "not",
        "of",
        "on",
        "or",
        "our",
        "should",
        "so",
        "that",
        "the",
        "their",
        "them",
        "then",
        "there",
        "these",
        "they",
        "this",
        "to",
        "was",
        "we",
        "were",
        "what",
        "when",
        "where",
        "which",
        "who",
        "whom",
        "whose",
        "why",
        "will",
        "with",
        "would",
        "you",
        "your",
    ]
)
_REFUSALS = (
    "as an ai",
    "as a language model",
    "i cannot",
    "i can't",
    "i'm unable",
    "i am unable",
    "i'm not able",
)


_REPETITIVE, _ENDLESS = 0.1, 0.3  # share of word triples that occurred before


@dataclass(frozen=True)
class Quality:
    """A score in [0, 1] and the faults that lowered it, in words."""

    score: float
    faults: tuple[str, ...] = ()


def score(prompt: str, answer: str, finish_reason: str | None = "stop") -> Quality:
    """Quality of `answer` as a reply to `prompt`; `finish_reason` is the engine's."""
    if not answer.strip():
        return Quality(0.0, ("empty",))
    found = list(_faults(prompt, answer, finish_reason))
    return Quality(
        round(max(0.0, 1.0 - sum(points for points, _ in found)), 4),
        tuple(name for _, name in found),
    )


def _faults(prompt: str, answer: str, finish_reason: str | None) -> Iterator[tuple[float, str]]:
    asked, said = words(prompt), words(answer)
    repeated = repetition(said)
    if repeated > _REPETITIVE:
        yield min(0.6, repeated), "repeats itself"
    if finish_reason in ("length", "time"):
        yield 0.25, "breaks off"
    elif answer.rstrip()[-1].isalnum() and len(said) > 8:
        yield 0.1, "ends without punctuation"
    if len(asked) > 3 and len(said) > 3 and _jaccard(set(asked), set(said)) > 0.8:
        yield 0.35, "parrots the question"
    missed = 1.0 - relevance(asked, said)
    if missed > 0:
        yield (
            0.2 * missed,
            "leaves out words of the question" if missed < 1 else "says nothing about the question",
        )
    if any(phrase in answer.lower().replace("’", "'") for phrase in _REFUSALS):
        yield 0.2, "refuses"
    if _is_broken(answer):
        yield 0.4, "broken characters"


def malformed(answer: str) -> str | None:
    """The fault for which an answer is never learned, whatever people and scorers say of it."""
    if not answer.strip():
        return "empty"
    if repetition(words(answer)) > _ENDLESS:
        return "repeats itself"
    return "broken characters" if _is_broken(answer) else None


def _is_broken(answer: str) -> bool:
    return "\ufffd" in answer or "<|" in answer


def repetition(said: list[str]) -> float:
    """Share of the word triples that occurred before in the same answer, in [0, 1]."""
    triples = [tuple(said[i : i + 3]) for i in range(len(said) - 2)]
    return 1.0 - len(set(triples)) / len(triples) if triples else 0.0


def _jaccard(a: set[str], b: set[str]) -> float:
    return len(a & b) / len(a | b)


def relevance(asked: list[str], said: list[str]) -> float:
    """Share of the question's content words that come back, endings aside (approve, approval)."""
    stems = {word[: max(4, len(word) - 3)] for word in set(asked) - STOP_WORDS}
    return (
        sum(any(word.startswith(stem) for word in set(said)) for stem in stems) / len(stems)
        if stems
        else 1.0
    )
