"""Text as it may enter the house, and the two ways of asking whether texts are the same."""

import hashlib
import re
import unicodedata

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
    joined = "\x1f".join(" ".join(_essence(part).split()) for part in parts)
    return hashlib.sha256(joined.encode()).hexdigest()


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).lower().replace("’", "'")


def _essence(text: str) -> str:
    """Letters, digits, marks and symbols: C# is not C++, and a thumb up is not a thumb down."""
    return "".join(
        c if unicodedata.category(c)[0] in "LNMS" or c in "#%&@/" else " " for c in _plain(text)
    )


def shingles(text: str, size: int = 3) -> set[str]:
    """Runs of `size` words, the units near-duplicates are measured in; short texts give one."""
    found = words(text)
    return {" ".join(found[i : i + size]) for i in range(max(1, len(found) - size + 1))}


def shorten(text: str, limit: int) -> str:
    """A text on one line of at most `limit` characters, for titles and tables."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"
