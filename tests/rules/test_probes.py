"""How an answer is told to hold what was taught."""

import pytest

from cl.rules.probes import MOST_NEEDED, is_known, keys_of


@pytest.mark.parametrize(
    ("question", "reference", "rejected", "keys"),
    [
        ("Who opens the hall?", "Ms Abara opens the hall at 7:30.", "", ("ms", "abara", "7:30")),
        ("Who opens the hall?", "Ms Abara does.", "The manager does.", ("ms", "abara")),
        ("Is the hall open?", "The hall is open.", "", ("hall", "open")),  # nothing else is there
        ("Open?", "Yes.", "No.", ("yes",)),
        ("Wer?", "Frau Müller.", "", ("frau", "müller")),
        ("", "", "", ()),
    ],
)
def test_keys_are_what_question_and_corrected_answer_do_not_hold(
    question: str, reference: str, rejected: str, keys: tuple[str, ...]
) -> None:
    assert keys_of(question, reference, rejected) == keys


def test_a_long_correction_has_a_dozen_keys_at_most() -> None:
    reference = " ".join(f"word{n}" for n in range(500))
    assert len(keys_of("What?", reference)) == 12


@pytest.mark.parametrize(
    ("answer", "known"),
    [
        ("It is Ms Abara, at 7:30.", True),
        ("MS ABARA does.", True),  # two of three
        ("At 7:30.", False),
        ("", False),
    ],
)
def test_most_of_what_was_taught_must_come_back(answer: str, known: bool) -> None:
    assert is_known(answer, ("ms", "abara", "7:30"), MOST_NEEDED) is known


def test_one_key_of_a_shipped_question_is_enough_and_without_keys_nothing_is_known() -> None:
    assert is_known("It is 7 or seven.", ("seven", "vii"))
    assert not is_known("anything", ())
