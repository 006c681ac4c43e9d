"""Text as it may enter the house, and the two ways of asking whether texts are the same."""

import hashlib
import re
import unicodedata
from functools import lru_cache

_WORD = re.compile(r"\w+(?:[:.,'-]\w+)*")


def clean(text: str) -> str:
    """Text any database and tokenizer can hold: no NUL, no lone surrogates, no stray controls.

    PostgreSQL refuses NUL, UTF-8 cannot encode a lone surrogate; everything else people type stays.
    """
    text = text.encode("utf-8", "replace").decode("utf-8")
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc")


def words(text: str) -> list[str]:
    """The words of a text, in lower case and compatibility form: `14:15` and `don't` are one each."""
    return _WORD.findall(_plain(text))


def content_key(*parts: str) -> str:
    """The same for texts that differ only in case, spacing and punctuation."""
    return hashlib.sha256("\x1f".join(map(_essence, parts)).encode()).hexdigest()


def _plain(text: str) -> str:
    if text.isascii():  # most texts are, and have one form only
        return text.lower()
    return unicodedata.normalize("NFKC", text).lower().replace("’", "'")


def _counts(c: str) -> bool:
    """Letters, digits, marks and symbols: C# is not C++, and a thumb up is not a thumb down."""
    return unicodedata.category(c)[0] in "LNMS" or c in "#%&@/"


_BLANKED = {code: " " for code in range(128) if not _counts(chr(code))}


@lru_cache(256)  # the turns of a conversation come again with each of its examples
def _essence(text: str) -> str:
    plain = _plain(text)
    if plain.isascii():  # ten times as fast, and most texts are
        essence = plain.translate(_BLANKED)
    else:
        essence = "".join(c if _counts(c) else " " for c in plain)
    return " ".join(essence.split())


def shorten(text: str, limit: int) -> str:
    """A text on one line of at most `limit` characters, for titles and tables."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"
