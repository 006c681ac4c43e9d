"""Messages and ratings in other people's words."""

import unicodedata
from datetime import UTC, datetime
from typing import Any

import pytest

from cl.records import Feedback
from cl.rules.exchange.chat_messages import (
    Said,
    exchanges_of,
    read_feedback,
    read_message,
    read_text,
    read_time,
    said_all,
)
from cl.rules.text import clean


@pytest.mark.parametrize("name", ["feedback", "rating", "thumb", "thumbs", "vote", "score"])
@pytest.mark.parametrize(
    ("value", "thumb"),
    [
        *((v, 1) for v in (1, 1.0, True, "1", "+1", "true", "Like", "thumbs_up", "Thumbs-Up")),
        *((v, 1) for v in ("thumbs up", "thumbsUp", "up", " GOOD ", "positive", "👍")),
        *((v, -1) for v in (-1, -1.0, False, "-1", "false", "dislike", "thumbs_down")),
        *((v, -1) for v in ("thumbsDown", "down", "bad", "negative", "👎")),
        *((v, 0) for v in (0, 0.0, None, "", "none", "neutral")),
    ],
)
def test_a_rating_in_any_of_the_usual_words_is_a_thumb(name: str, value: Any, thumb: int) -> None:
    assert read_feedback({name: value}) == Feedback(thumb=thumb)


@pytest.mark.parametrize("value", [5, -2, 0.5, "meh", "yes!", [], {"rating": "so so"}, "1 2"])
def test_an_unknown_rating_is_an_error_not_silence(value: Any) -> None:
    with pytest.raises(ValueError, match="must be up or down"):
        read_feedback({"rating": value})


def test_the_first_rating_that_is_filled_counts() -> None:
    assert read_feedback({"feedback": None, "rating": -1, "score": 1}).thumb == -1


def test_a_rating_may_be_an_object_with_what_was_said() -> None:
    said = {"rating": -1, "comment": "Wrong.", "reason": "not_factually_correct"}
    assert read_feedback({"annotation": said}) == Feedback(thumb=-1, comment="Wrong.")
    said["comment"] = ""
    assert read_feedback({"annotation": said}).comment == "not_factually_correct"


@pytest.mark.parametrize(
    ("role", "found"),
    [
        *((r, "user") for r in ("user", "human", "Human", "prompter")),
        *((r, "assistant") for r in ("assistant", "gpt", "chatgpt", "bot", "model")),
        *((r, None) for r in ("system", "developer", "tool", "function_call", "observation")),
    ],
)
def test_roles_have_many_names(role: str, found: str | None) -> None:
    for names in ("role", "content"), ("from", "value"):
        said = read_message(dict(zip(names, (role, "text"), strict=True)))
        assert (said and said.role) == found


@pytest.mark.parametrize("value", [None, 5, {}, {"role": "boss"}, {"role": 1}, {"content": "x"}])
def test_a_message_without_a_known_role_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="needs a role"):
        said_all([value])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "a text is None"),
        (5, "a text is 5"),
        ({"a": 1}, "a text is an object"),
        ([{"type": "text", "text": "a"}, {"type": "image_url"}], "holds 'image_url', not only"),
        ([{"content_type": "image_asset_pointer"}], "holds 'image_asset_pointer'"),
        ([{"type": "text", "text": None}], "holds 'text', not only text"),
        ([5], "holds None"),
    ],
)
def test_content_that_is_no_text_is_refused(content: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        read_message({"role": "user", "content": content})


def test_content_in_parts_is_one_text() -> None:
    parts = [
        {"type": "text", "text": "a\0"},
        "b",
        {"content_type": "audio_transcription", "text": "c"},
        {"content_type": "audio_asset_pointer"},
    ]
    assert read_text(parts) == "a\nb\nc"
    assert read_text([]) == ""


def test_every_character_is_cleaned_as_anywhere_else() -> None:
    for number in range(0x110000):
        text = f"a{chr(number)}"
        if unicodedata.category(chr(number)) in ("Cc", "Cs"):
            assert read_text(text) == clean(text)
        else:
            assert read_text(text) is text


def said(*turns: tuple[str, str]) -> list[Said]:
    return [Said(role, text) for role, text in turns]


def test_messages_in_a_row_are_one_and_a_greeting_is_left_out() -> None:
    found = exchanges_of(
        said(
            ("assistant", "Welcome!"),
            ("user", "Hi"),
            ("user", "Where is it?"),
            ("assistant", "Let me look."),
            ("assistant", ""),
            ("assistant", "There."),
            ("user", "And now?"),
        )
    )
    assert [(e.prompt, e.answer) for e in found] == [
        ("Hi\n\nWhere is it?", "Let me look.\n\nThere.")
    ]


def test_of_several_messages_of_one_answer_the_last_rating_counts() -> None:
    messages = [Said("user", "a?")]
    messages += [Said("assistant", str(t), Feedback(thumb=t)) for t in (1, -1, 0)]
    assert [e.feedback.thumb for e in exchanges_of(messages)] == [-1]


def test_a_message_that_only_calls_a_tool_is_no_answer() -> None:
    messages = [
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        {"role": "tool", "content": {"rain": True}},
        {"role": "assistant", "content": "Yes."},
    ]
    assert [(e.prompt, e.answer) for e in exchanges_of(said_all(messages))] == [("Rain?", "Yes.")]


@pytest.mark.parametrize(
    ("value", "hour"),
    [
        ("2026-01-31T09:30:00+00:00", 9),
        ("2026-01-31T09:30:00", 9),
        ("2026-01-31T09:30:00Z", 9),
        ("2026-01-31T10:30:00+01:00", 9),
        (1769851800, 9),
        (1769851800.0, 9),
        (1769851800000, 9),
    ],
)
def test_times_come_in_several_forms(value: Any, hour: int) -> None:
    assert read_time(value) == datetime(2026, 1, 31, hour, 30, tzinfo=UTC)


@pytest.mark.parametrize("value", ["yesterday", True, 1e300, [], "9999-12-31T23:59:59-14:00"])
def test_what_is_no_time_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="must be an ISO 8601 time"):
        read_time(value)
