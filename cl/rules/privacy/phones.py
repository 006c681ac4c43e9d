"""Telephone numbers: how they are written, and the `phonenumbers` library for the unsure ones.

A number in the form of North America with brackets, hyphens or dots is one by its looks, and so
is one beside a word such as "call". Any other must be written like one, with a + or a leading 0,
and be one in the plan of its country, or order numbers would vanish from what is learned.
"""

import re
from collections.abc import Iterator

import phonenumbers

_GAP = r"(?:[ ./-]|\) ?| ?\()?"
_WORD = (
    r"(?i:\b(?:phone|tel|telephone|telefon|mobile|cell|handy|fax|whatsapp|hotline|call|dial|ring"
    r"|text|sms)\b)"
    r"(?:[ :.#]{1,3}(?i:me|us|him|her|them|back|number|no|nr|is|at|on|under|ist)\b){0,4}[ :.#]{1,3}"
)
_SHAPES = re.compile(
    rf"(?<![\w+])(?P<abroad>(?:\+ ?|00 ?)[1-9](?:{_GAP}\d){{6,14}})(?!\d)"
    r"|(?<!\d)(?<!\d[.-])(?P<sure>(?:\d{1,3}[ .-])?(?:\([2-9]\d\d\) ?[2-9]\d\d[ .-]"
    r"|[2-9]\d\d([.-])[2-9]\d\d\3)\d{4})(?![\w-]|\.\d)"
    r"|(?<![\w.,-])(?P<national>(?:1[ -])?[2-9]\d\d[ .-][2-9]\d\d[ .-]\d{4})(?![\w-]|\.\d)"
    # An area code, the five pairs of France, or a short area code and an unbroken number.
    rf"|(?<![\w.,:/-])(?P<home>\(?0[1-9]\d(?:{_GAP}\d){{6,9}}"
    r"|0[1-9](?:(?: \d\d){4}|(?:\.\d\d){4}|[ /-]\d{6,8}))(?!\d)"
    rf"|{_WORD}(?P<told>\(?\d(?:{_GAP}\d){{6,14}})(?!\w)"
)
_COUNTRIES = {
    "abroad": ("DE",),  # where 00 leads abroad; a number with + needs no country
    "national": ("US",),
    "home": ("GB", "DE", "FR", "JP", "IT", "NL", "CH", "AT", "AU", "IN", "IL"),
}


def find_phones(text: str) -> Iterator[tuple[int, int]]:
    """The start and end of each telephone number."""
    for match in _SHAPES.finditer(text):
        shape = match.lastgroup or ""
        start, end = match.span(shape)
        if shape in ("sure", "told"):
            yield start, end
        elif length := _length(match[shape], _COUNTRIES[shape]):
            yield start, start + length


def _length(written: str, countries: tuple[str, ...]) -> int:
    """How much of it is a number, longest first: a count or a year may follow it."""
    for group in reversed(list(re.finditer(r"\d+", written))):
        number = written[: group.end()]
        if sum(map(str.isdigit, number)) < 9:
            break
        if any(_is_in_plan(number, country) for country in countries):
            return group.end()
    # A number of an example, such as +1 555 123 4567, is in no plan, but the + is meant.
    is_meant = written.startswith("+") and _is_in_plan(written, countries[0], loosely=True)
    return len(written) if is_meant else 0


def _is_in_plan(number: str, country: str, *, loosely: bool = False) -> bool:
    try:
        parsed = phonenumbers.parse(number, country)
    except phonenumbers.NumberParseException:
        return False
    if loosely:
        return phonenumbers.is_possible_number(parsed)
    return phonenumbers.is_valid_number(parsed)
