"""Other wordings of a question, so that an answer is tied to what is asked and not to how.

A small model that is taught a fact in one wording knows it in that wording. So each epoch asks in new
ones, made by simple means: turns of phrase around the question, other question words, the content
words alone, words left out, halves of two wordings put together, and words replaced by ones the model
itself has near each other (`synonyms.py`). Many are clumsy, as people's are; the answer stays whole.
For English; in other languages only the means without English words have an effect.
"""

import re
from collections.abc import Callable, Sequence
from random import Random

_AROUND = (
    "Quick question: {}",
    "Hi! {} Thanks.",
    "I need to know: {}",
    "Can you help? {}",
    "{} Please answer briefly.",
    "Hello, {}",
    "Question from a colleague: {}",
    "Sorry to ask again: {}",
    "{} I forgot.",
    "A customer asked me: {}",
    "I am new here. {}",
    "{} Thank you!",
    "Do you know? {}",
    "One more thing: {}",
    "Hey, {}",
    "My manager wants to know: {}",
    "{} I could not find it anywhere.",
    "Good morning. {}",
)
_INDIRECT = (
    "Can you tell me {}?",
    "Do you know {}?",
    "I would like to know {}.",
    "Tell me {}.",
    "Please tell me {}.",
    "Could you remind me {}?",
    "I am not sure {}.",
    "Does anybody know {}?",
)
# How a question begins, and how else it could.
_BEGINNINGS = tuple(
    (re.compile(pattern, re.IGNORECASE), others)
    for pattern, others in (
        (
            r"^who\b",
            (
                "which person",
                "which colleague",
                "what is the name of the person who",
                "who exactly",
            ),
        ),
        (r"^whom\b", ("which person", "which colleague")),
        (r"^when\b", ("at what time", "on which day", "by when", "what date", "from when")),
        (
            r"^where\b",
            ("in which place", "at which place", "in what place", "in what location"),
        ),
        (r"^how much\b", ("what amount", "how many")),
        (r"^how long\b", ("for how long", "what length of time", "for how much time")),
        (r"^how many\b", ("what number of", "how much")),
        (
            r"^how do (i|we|you)\b",
            ("what is the way to", "how can I", "how should one", "what must I do to"),
        ),
        (
            r"^what is\b",
            ("tell me", "give me", "I need", "I am looking for", "which is", "do you have"),
        ),
        (r"^(at what time|what time)\b", ("when",)),
        (r"^(on which day|which day|what day|on what day)\b", ("when",)),
        (r"^(in which|in what)\b", ("what", "which")),
        (r"^which\b", ("what", "name the", "tell me the")),
        (r"^what\b", ("which", "name the")),
        (r"^can i\b", ("am I allowed to", "is it possible to")),
    )
)
SMALL_WORDS = frozenset(
    [
        "a",
        "an",
        "the",
        "is",
        "are",
        "was",
        "were",
        "do",
        "does",
        "did",
        "can",
        "could",
        "may",
        "must",
        "should",
        "shall",
        "will",
        "would",
        "have",
        "has",
        "had",
        "i",
        "you",
        "he",
        "she",
        "it",
        "we",
        "they",
        "my",
        "your",
        "his",
        "her",
        "its",
        "our",
        "their",
        "me",
        "us",
        "them",
        "to",
        "of",
        "in",
        "on",
        "at",
        "by",
        "for",
        "with",
        "from",
        "and",
        "or",
        "if",
        "that",
        "this",
        "there",
        "be",
        "been",
        "what",
        "who",
        "whom",
        "whose",
        "which",
        "where",
        "when",
        "how",
        "why",
        "am",
        "as",
        "so",
        "any",
        "some",
        "get",
    ]
)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_QUESTION = re.compile(
    r"(?i)^((?:who|what|which|where|when|how|whose|whom|why|at|on|in|by|to|until|for|within)\b.*?)\s"
    r"(is|are|was|were|can|must|should|may|will)\s(the|our|my|a|an|i|we|you|[A-Z]\w+)\s(.*)$"
)
_DROPPED = 0.25  # share of the words that are left out
_UNTIDY = 0.2  # of the wordings come in lower case without punctuation

Replace = Callable[[str, Random], str]


class Wordings:
    """Draws new wordings; `replace` puts other words for some of a text's words."""

    def __init__(self, replace: Replace = lambda text, dice: text) -> None:
        self._replace = replace
        # How often each means is used.
        self._means: dict[Callable[[str, Random, Sequence[str]], str], float] = {
            lambda q, dice, others: around(q, dice): 1,
            lambda q, dice, others: replace(q, dice): 3,
            self._replaced_and_turned: 3,
            lambda q, dice, others: replace(mixed(q, dice, others), dice): 1,
            lambda q, dice, others: replace(content(q, dice), dice): 1,
            mixed: 1,
            lambda q, dice, others: thinned(q, dice): 0.5,
            lambda q, dice, others: turned(q, dice): 1,
            lambda q, dice, others: indirect(q, dice): 1,
        }

    def new(self, question: str, dice: Random, others: Sequence[str] = ()) -> str:
        """One new wording. `others` are known wordings of the same question."""
        (means,) = dice.choices(list(self._means), list(self._means.values()))
        text = means(question, dice, others)
        return untidy(text) if dice.random() < _UNTIDY else text

    def _replaced_and_turned(self, question: str, dice: Random, others: Sequence[str]) -> str:
        return dice.choice([turned, indirect, around])(self._replace(question, dice), dice)


def around(question: str, dice: Random) -> str:
    """What people say before and after a question."""
    return dice.choice(_AROUND).format(question)


def indirect(question: str, dice: Random) -> str:
    """Who opens the hall? -> Do you know who opens the hall?"""
    *_, last = _SENTENCE_END.split(_bare(question))
    if found := _QUESTION.match(last):
        head, verb, subject, rest = found.groups()
        words = rest.split()
        longest = 0 if subject.lower() in ("i", "we", "you") else len(words)
        at = longest if longest <= 4 else dice.randint(1, longest)
        last = " ".join([_small(head), subject, *words[:at], verb, *words[at:]])
    return dice.choice(_INDIRECT).format(_small(last))


def turned(question: str, dice: Random) -> str:
    """Who opens the hall? -> Which person opens the hall?"""
    *_, last = _SENTENCE_END.split(question.strip())
    fitting = [(begins, others) for begins, others in _BEGINNINGS if begins.match(last)]
    if not fitting:
        return indirect(question, dice)
    begins, others = dice.choice(fitting)
    text = begins.sub(dice.choice(others), last, count=1)
    return text[:1].upper() + text[1:]


def content(question: str, dice: Random) -> str:
    """Who opens the hall? -> opens hall"""
    words = _content(question)
    return " ".join(words) + dice.choice(("", "?")) if words else question


def thinned(question: str, dice: Random) -> str:
    """A quarter of the words left out."""
    words = _bare(question).split()
    kept = [word for word in words if dice.random() >= _DROPPED] or words
    return " ".join(kept) + dice.choice(("?", "", "?"))


def mixed(question: str, dice: Random, others: Sequence[str]) -> str:
    """The beginning of one wording and the end of another, or content words of both."""
    if not others:
        return thinned(question, dice)
    other = dice.choice(others)
    if dice.random() < 0.5:
        first, second = _bare(question).split(), _bare(other).split()
        begin = max(1, round(len(first) * dice.uniform(0.3, 0.7)))
        end = round(len(second) * dice.uniform(0.3, 0.7))
        return " ".join([*first[:begin], *second[end:]]) + "?"
    words = list(dict.fromkeys([*_content(question), *_content(other)]))
    dice.shuffle(words)
    return " ".join(words[: dice.randint(2, 6)]) or question


def untidy(text: str) -> str:
    """As typed in haste: who opens the hall"""
    return re.sub(r"[^\w\s:@-]", "", text.lower())


def _bare(question: str) -> str:
    return question.strip().rstrip("?.! ")


def _small(text: str) -> str:
    """Without its capital, unless that is a name's."""
    is_name = text.startswith("I ") or (len(text) > 1 and text[1].isupper())
    return text if is_name else text[:1].lower() + text[1:]


def _content(question: str) -> list[str]:
    return [w for w in _bare(question).split() if re.sub(r"\W", "", w).lower() not in SMALL_WORDS]
