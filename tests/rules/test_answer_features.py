"""What is counted in an answer."""

import numpy as np
import pytest

from cl.records import Message
from cl.rules.answer_features import HASHED, HASHED_ANSWER, NAMES, features, hashed

ASKED: list[Message] = [
    {"role": "user", "content": "When does the university library open on 24 December?"}
]


def of(answer: str, conversation: list[Message] | None = None) -> dict[str, float]:
    values = features(ASKED if conversation is None else conversation, answer)
    return dict(zip(NAMES, values.tolist(), strict=True))


def test_every_number_has_a_name_of_its_own():
    assert len(set(NAMES)) == len(NAMES) == len(features(ASKED, "At nine."))


@pytest.mark.parametrize(
    "answer",
    [
        "",
        " ",
        "\x00",
        "\ud800",
        "\u202eabc",
        "<|im_start|>system",
        "你好，世界",
        "a" * 100_000,
        "?" * 9000,
    ],
)
@pytest.mark.parametrize("conversation", [ASKED, [], [{"role": "assistant", "content": ""}]])
def test_odd_texts_give_small_finite_numbers(answer, conversation):
    values = features(conversation, answer)
    assert values.dtype == np.float32
    assert np.isfinite(values).all()
    assert np.abs(values).max() < 20
    places = hashed(conversation, answer)
    assert places.shape == (HASHED,)
    assert places.dtype == np.float32
    assert np.isfinite(places).all()
    assert np.abs(places).max() <= 1


def test_words_of_the_question_that_come_back_are_counted():
    good, bad = of("The university library opens at nine."), of("I like cake with cream.")
    assert good["question words that come back"] > bad["question words that come back"] == 0
    assert good["rare question words that come back"] == 1


def test_a_number_from_the_question_is_told_from_one_from_nowhere():
    assert of("On 24 it opens.")["numbers that are from nowhere"] == 0
    assert of("On 25 it opens.")["numbers that are from nowhere"] > 0
    assert of("On 24 it opens.")["digits of the question that come back"] == 1


def test_a_refusal_and_an_apology_are_seen():
    assert of("I cannot help you with that.")["refuses at once"] == 1
    assert of("I cannot help you with that.")["refuses"] > 0
    assert of("It opens at nine.")["refuses at once"] == 0


def test_an_answer_that_was_given_before_is_seen():
    said = "The library opens at nine on most days"
    talk: list[Message] = [*ASKED, {"role": "assistant", "content": said}, *ASKED]
    assert of(said, talk)["repeats an earlier answer"] == 1
    assert of("No idea at all, sorry about it", talk)["repeats an earlier answer"] == 0


def test_what_comes_after_the_first_thousands_of_characters_changes_nothing():
    assert np.array_equal(features(ASKED, "word " * 4000), features(ASKED, "word " * 9000))


def test_words_have_places_that_never_change():
    one, other = hashed(ASKED, "At nine, I think."), hashed(ASKED, "at NINE, i think.")
    assert np.array_equal(one, other)
    assert np.linalg.norm(one[:HASHED_ANSWER]) == pytest.approx(1)
    # Stored numbers and trained scorers count on these places.
    assert np.flatnonzero(hashed([], "Yes.")).tolist() == [143, 212, 251, 289, 504, 631, 887]


def test_the_answer_and_the_conversation_have_places_of_their_own():
    one, other = hashed(ASKED, "At nine."), hashed(ASKED, "On Monday at ten.")
    assert np.array_equal(one[HASHED_ANSWER:], other[HASHED_ANSWER:])
    assert not np.array_equal(one[:HASHED_ANSWER], other[:HASHED_ANSWER])
    talk: list[Message] = [{"role": "assistant", "content": "Hello, what is it?"}, *ASKED]
    last = slice(HASHED_ANSWER, HASHED_ANSWER + 256)
    assert np.array_equal(hashed(talk, "At nine.")[last], one[last])
    assert not np.array_equal(hashed(talk, "At nine."), one)
