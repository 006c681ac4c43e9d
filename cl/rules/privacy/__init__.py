"""Personal data and secrets are replaced before a text enters a training file.

Each rule is a pattern with the checksum of its kind where there is one. A rule runs only where
the text has what it cannot do without (a digit, an `@`, a keyword), so ordinary prose costs a few
microseconds. Digits, spaces and hyphens of other scripts are read as plain ones, and characters
without width as absent: hiding a number among them does not hide it from the rules.

Names are left alone unless people introduce themselves with both of them: finding names by a
model rewrites a quarter of the good answers, and most of them are what a company wants to teach.
So are addresses, PINs, passwords told without the word, and the address `::` that belongs to no
one. Version, section and object numbers such as "version 1.2.3.4" stay.
"""

import re

from cl.rules.privacy.patterns import PROTECTED, RULES

_HIDDEN = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
_SPACES = [0xA0, 0x1680, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000]
_HYPHENS = [*range(0x2010, 0x2016), 0x2212, 0xFE58, 0xFE63]
_FULL_WIDTH = range(0xFF01, 0xFF5F)
_ZEROS = (0x0660, 0x06F0, 0x0966)  # Arabic, Persian, Devanagari
_PLAIN = (
    dict.fromkeys(_SPACES, " ")
    | dict.fromkeys(_HYPHENS, "-")
    | {code: chr(code - 0xFEE0) for code in _FULL_WIDTH}
    | {zero + digit: str(digit) for zero in _ZEROS for digit in range(10)}
)
_UNUSUAL = re.compile(f"[{''.join(map(chr, _PLAIN))}]")

_DIGIT = re.compile("[0-9]")
_LONG_NUMBER = re.compile(r"\d(?:[ ()./A-Za-z-]{0,4}\d){6}")
_ALL_HINTS = {hint for rule in RULES if not rule.digits for hint in rule.hints}
_HINTS = tuple(hint for hint in _ALL_HINTS if not any(o in hint for o in _ALL_HINTS - {hint}))
# Stands for what was found until all rules have run: no rule takes it for a part of anything.
_GONE = "\0"


def scrub(text: str) -> tuple[str, list[str]]:
    """The text with findings replaced by `[KIND]`, and the kinds found, in order of the rules."""
    kinds: list[str] = []
    # What stands beside a finding may look like one after it: until a text stays as it is.
    while found := _find(text):
        kinds += [kind for _, _, kind in found]
        text = _put(text, sorted((start, end, f"[{kind}]") for start, end, kind in found))
    return text, kinds


def _find(text: str) -> list[tuple[int, int, str]]:
    if text.isascii():
        return _find_in(text)
    plain = text.translate(_PLAIN) if _UNUSUAL.search(text) else text
    if not _HIDDEN.search(plain):
        return _find_in(plain)
    places = [place for place, character in enumerate(plain) if not _HIDDEN.match(character)]
    shown = "".join(plain[place] for place in places)
    return [(places[start], places[end - 1] + 1, kind) for start, end, kind in _find_in(shown)]


def _find_in(text: str) -> list[tuple[int, int, str]]:
    small = text.lower()
    has_digit = _DIGIT.search(text) is not None
    if not has_digit and not _has_any(small, _HINTS):
        return []
    digits = 0 if not has_digit else 7 if _LONG_NUMBER.search(text) else 1
    longest = max(map(len, text.split()), default=0)
    found: list[tuple[int, int, str]] = []
    for rule in RULES:
        if (
            rule.digits > digits
            or rule.word > longest
            or (rule.hints and not _has_any(small, rule.hints))
            or (rule.shape and not rule.shape.search(text))
        ):
            continue
        spans = list(rule.find(text))
        if rule.kind != PROTECTED:
            found += [(start, end, rule.kind) for start, end in spans]
        if spans:
            text = _put(text, [(start, end, _GONE * (end - start)) for start, end in spans])
    return found


def _put(text: str, pieces: list[tuple[int, int, str]]) -> str:
    """The text with each stretch from start to end replaced."""
    parts, done = [], 0
    for start, end, piece in pieces:
        parts += [text[done:start], piece]
        done = end
    return "".join([*parts, text[done:]])


def _has_any(text: str, hints: tuple[str, ...]) -> bool:
    for hint in hints:  # noqa: SIM110 - any() takes twice as long
        if hint in text:
            return True
    return False
