"""What a text may contain, and when two texts are the same."""

import random

import pytest

from cl.rules.text import clean, content_key, shorten, words


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("", ""),
        ("a\x00b", "ab"),
        ("bell\x07 and escape\x1b[0m", "bell and escape[0m"),
        ("one\r\ntwo\tthree\n", "one\ntwo\tthree\n"),
        ("half an emoji \ud83d", "half an emoji ?"),
        ("Grüße 👩‍👩‍👧 東京 שלום", "Grüße 👩‍👩‍👧 東京 שלום"),
    ],
)
def test_only_what_no_database_can_hold_is_taken_out(text: str, kept: str) -> None:
    assert clean(text) == kept
    assert clean(kept).encode().decode() == kept


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("?! …", []),
        ("At 14:15, don't STOP!", ["at", "14:15", "don't", "stop"]),
        ("version 1.2.", ["version", "1.2"]),
        ("ﬁne １２", ["fine", "12"]),  # compatibility forms, as copied from a PDF
        ("Grüße aus 東京", ["grüße", "aus", "東京"]),
    ],
)
def test_words_keep_times_numbers_and_apostrophes_whole(text: str, found: list[str]) -> None:
    assert words(text) == found


@pytest.mark.parametrize("other", ["who signs it", "  WHO\n signs...\tit?! ", "“Who” signs – it"])
def test_case_spacing_and_punctuation_do_not_change_the_key(other: str) -> None:
    assert content_key("Who signs it?") == content_key(other)


def test_a_letter_with_a_separate_accent_has_the_same_key() -> None:
    assert content_key("caf\u00e9") == content_key("cafe\u0301")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("Who signs it?",), ("Who signed it?",)),
        (("a b", "c"), ("a", "b c")),
        (("a", ""), ("a",)),
        (("It is 14:15",), ("It is 14:45",)),
        (("b", "a"), ("a", "b")),
        (("How do I print in C#?",), ("How do I print in C++?",)),
        (("What is 30 + 4?",), ("What is 30 - 4?",)),
        (("👍",), ("👎",)),
        (("कि",), ("का",)),
    ],
)
def test_other_words_or_other_parts_have_another_key(
    one: tuple[str, ...], other: tuple[str, ...]
) -> None:
    assert content_key(*one) != content_key(*other)


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("", ""),
        ("exactly 10", "exactly 10"),
        ("eleven char", "eleven ch…"),
        ("two words cut", "two words…"),
        ("eight ch cut", "eight ch…"),
        ("a\n\n b\tc", "a b c"),
    ],
)
def test_a_long_text_is_cut_with_an_ellipsis(text: str, short: str) -> None:
    assert shorten(text, 10) == short


def test_a_shortened_text_is_never_longer_than_asked() -> None:
    dice = random.Random(1)
    for _ in range(300):
        text = "".join(dice.choices("ab é👍\n", k=dice.randrange(40)))
        limit = dice.randrange(1, 30)
        assert len(shorten(text, limit)) <= limit


def test_plain_text_has_the_same_key_as_the_same_text_beside_a_foreign_quotation_mark() -> None:
    for c in map(chr, range(128)):  # plain text is made short work of
        assert content_key(f"a{c}B") == content_key(f"a{c}B “")
