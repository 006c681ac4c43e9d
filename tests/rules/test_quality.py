"""Which faults cost an answer how much, counted by hand."""

import random

import pytest

from cl.rules.quality import relevance, repetition, score

QUESTION = "Who approves travel?"  # two content words: approves, travel


def test_a_whole_answer_to_the_question_has_no_faults() -> None:
    found = score(QUESTION, "Mirela Dorn approves travel.")
    assert (found.score, found.faults) == (1.0, ())


@pytest.mark.parametrize("answer", ["", " \n\t"])
def test_an_empty_answer_is_worth_nothing(answer: str) -> None:
    found = score(QUESTION, answer)
    assert (found.score, found.faults) == (0.0, ("empty",))


@pytest.mark.parametrize(
    ("answer", "points", "fault"),
    [
        ("Mirela Dorn approves it.", 0.9, "leaves out words of the question"),
        ("Ask Mirela.", 0.8, "says nothing about the question"),
        ("...", 0.8, "says nothing about the question"),
        ("I can't say who approves travel.", 0.8, "refuses"),
        ("As an AI I cannot say who approves travel.", 0.8, "refuses"),
        ("Mirela� approves travel.", 0.6, "broken characters"),
        ("Mirela approves travel.<|im_end|>", 0.6, "broken characters"),
        # Seven triples, three different: four sevenths are repeated.
        ("Travel is approved travel is approved travel is approved.", 0.4286, "repeats itself"),
    ],
)
def test_one_fault_costs_its_points_once(answer: str, points: float, fault: str) -> None:
    found = score(QUESTION, answer)
    assert (found.score, found.faults) == (points, (fault,))


@pytest.mark.parametrize(
    ("reason", "points"), [("length", 0.75), ("time", 0.75), ("stop", 0.9), (None, 0.9)]
)
def test_an_answer_that_was_cut_off_loses_a_quarter_but_nothing_for_its_end(
    reason: str | None, points: float
) -> None:
    assert (
        score(QUESTION, "Mirela Dorn approves all of the travel here and", reason).score == points
    )


@pytest.mark.parametrize(
    ("answer", "points"),
    [
        ("Mirela Dorn approves all of the travel here", 1.0),  # eight words: a phrase
        ("Mirela Dorn approves all of the travel here today", 0.9),
        ("Mirela Dorn approves all of the travel here today.  ", 1.0),
        ("Mirela Dorn approves all of the travel here (today)", 1.0),
    ],
)
def test_only_a_long_answer_needs_punctuation_at_its_end(answer: str, points: float) -> None:
    assert score(QUESTION, answer).score == points


@pytest.mark.parametrize(
    ("asked", "answer", "points"),
    [
        ("Who approves travel", "Travel: who approves travel.", 1.0),  # three words are too few
        ("Who, who approves travel", "Who approves travel.", 1.0),
        ("Who approves travel here", "Who approves travel here.", 0.65),
        ("Who approves travel here", "Who approves travel here today.", 1.0),  # 4 of 5: not above
    ],
)
def test_an_answer_that_is_the_question_again_parrots(
    asked: str, answer: str, points: float
) -> None:
    assert score(asked, answer).score == points


def test_repetition_costs_at_most_six_tenths_and_nothing_goes_below_zero() -> None:
    assert score(QUESTION, "approves travel " * 200 + ".").score == 0.4
    worst = score(QUESTION, "la " * 50 + "<|", "length")
    assert worst.score == 0.0
    assert len(worst.faults) == 4


def test_one_repeated_triple_in_ten_is_still_good_style() -> None:
    assert score("", "a b c d e f g h i a b c.").score == 1.0
    assert score("", "a b c d e f g h a b c.").score == round(1 - 1 / 9, 4)


@pytest.mark.parametrize(
    ("said", "share"),
    [("", 0.0), ("a b", 0.0), ("a b c", 0.0), ("a a a a", 0.5), ("a b c a b c", 0.25)],
)
def test_repetition_is_the_share_of_triples_said_before(said: str, share: float) -> None:
    assert repetition(said.split()) == share


@pytest.mark.parametrize(
    ("asked", "said", "share"),
    [
        ("approve travel", "approval of travels", 1.0),
        ("approve travel", "travel", 0.5),
        ("approve travel", "", 0.0),
        ("what is it", "anything", 1.0),  # no content words: nothing can be missed
        ("", "", 1.0),
        ("vat", "vats", 1.0),
        ("vat", "va", 0.0),
    ],
)
def test_relevance_compares_content_words_endings_aside(
    asked: str, said: str, share: float
) -> None:
    assert relevance(asked.split(), said.split()) == share


def test_every_score_lies_between_nought_and_one_and_faults_explain_it() -> None:
    dice = random.Random(2)
    pieces = ["travel ", "approves ", "I cannot ", "東京 ", "� ", "<| ", "🙂", ".", "\n", "who "]
    for _ in range(300):
        answer = "".join(dice.choices(pieces, k=dice.randrange(30)))
        found = score(QUESTION, answer, dice.choice(["stop", "length", None]))
        assert 0.0 <= found.score <= 1.0
        assert (found.score < 1.0) == bool(found.faults)
