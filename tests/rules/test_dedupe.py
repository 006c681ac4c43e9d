"""Which examples repeat an earlier one."""

from collections.abc import Iterable

import pytest

from cl.rules.dedupe import NearDuplicates

ASK = "Who approves travel?"
ABCDE = "a b c d e"  # triples abc bcd cde


def near_duplicates(texts: Iterable[tuple[int, str, str]], threshold: float) -> set[int]:
    """The ids of those that repeat an earlier one."""
    seen = NearDuplicates(threshold)
    return {n for n, prompt, answer in texts if seen.look(n, prompt, answer).repeats is not None}


def repeated(*pairs: tuple[str, str], threshold: float = 0.6) -> set[int]:
    return near_duplicates(((i, *pair) for i, pair in enumerate(pairs)), threshold)


def test_nothing_repeats_in_an_empty_set_or_in_one_example() -> None:
    assert repeated() == set()
    assert repeated((ASK, ABCDE)) == set()


def test_the_first_of_each_kind_stays_whatever_the_ids_are() -> None:
    texts = [(9, ASK, ABCDE), (2, "Other", "f g h"), (5, ASK, "A, B c d e!"), (1, ASK, ABCDE)]
    assert near_duplicates(texts, 0.6) == {5, 1}


@pytest.mark.parametrize(("threshold", "found"), [(0.49, {1}), (0.5, {1}), (0.51, set())])
def test_likeness_is_shared_word_triples_over_all_of_them(
    threshold: float, found: set[int]
) -> None:
    # abc and bcd are shared, cde and cdx are not: two of four.
    one, other = "Who approves my travel to town?", "Who approves my travel to town please?"
    assert repeated((one, ABCDE), (other, "a b c d x"), threshold=threshold) == found


@pytest.mark.parametrize(("threshold", "found"), [(0.99, {1}), (1.0, {1}), (0.66, {1})])
def test_answers_to_the_very_same_question_need_to_share_half_as_much(
    threshold: float, found: set[int]
) -> None:
    assert repeated((ASK, ABCDE), (ASK, "a b c d x"), threshold=threshold) == found
    assert repeated((ASK, ABCDE), (ASK, "a b c x y"), threshold=threshold) == set()  # one of five


def test_an_answer_that_was_cut_short_repeats_the_whole_one() -> None:
    one, other = "Who approves my travel to town?", "Who approves my travel to town please?"
    whole = " ".join(f"w{i}" for i in range(40))
    cut = " ".join(whole.split()[:22])
    assert repeated((one, whole), (other, cut), threshold=0.8) == {1}
    assert repeated((one, cut), (other, whole), threshold=0.8) == {1}
    assert repeated((one, whole), (other, " ".join(whole.split()[:15])), threshold=0.8) == set()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((ASK, "Mirela Dorn approves it."), (ASK, "Nobody ever does that here.")),
        (("Who signs for a trip?", ABCDE), ("Where do I get my travel approved?", ABCDE)),
        (("", "one two three"), ("", "four five six")),
    ],
)
def test_question_and_answer_must_both_be_alike(
    one: tuple[str, str], other: tuple[str, str]
) -> None:
    assert repeated(one, other) == set()


def test_examples_are_compared_with_those_that_stay() -> None:
    # Each is half like the one before; the third is only a fifth like the first.
    chain = [(ASK, text) for text in ("a b c d e", "b c d e f", "c d e f g")]
    assert repeated(*chain, threshold=0.5) == {1}


def test_a_long_question_with_one_other_word_is_found_again() -> None:
    long = " ".join(f"w{i}" for i in range(60))
    assert repeated((long, ABCDE), (long + " please", ABCDE), ("short", ABCDE)) == {1}


def test_one_other_word_in_a_question_of_twenty_is_found_again() -> None:
    # Fifteen of twenty-one triples are shared; the sketches may miss a pair now and then.
    pairs = []
    for i in range(0, 100, 2):
        asked = [f"w{i}x{place}" for place in range(20)]
        pairs += [(" ".join(asked), ABCDE), (" ".join([*asked[:9], "other", *asked[10:]]), ABCDE)]
    found = repeated(*pairs)
    assert len(found) >= 48
    assert found <= set(range(1, 100, 2))


def test_texts_without_words_and_in_any_script_are_compared_too() -> None:
    assert repeated(("", ""), ("", ""), ("東京", "ответ"), ("東京", "ответ")) == {1, 3}


def test_among_many_others_every_copy_is_found() -> None:
    texts = [(i, f"what is thing {i} about", f"thing {i} is number {i}") for i in range(300)]
    copies = [(1000 + i, prompt, answer) for i, prompt, answer in texts[::7]]
    assert near_duplicates(texts + copies, 0.8) == {number for number, _, _ in copies}
