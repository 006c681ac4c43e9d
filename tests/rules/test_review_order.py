"""What a reviewer looks at first: the doubtful and the weighty, and a fair sample of the rest."""

from collections import Counter
from dataclasses import replace
from datetime import date

import pytest

from cl.records import Message, Status
from cl.rules import quality
from cl.rules.examples import Example
from cl.rules.review_order import (
    CONFLICT,
    CORRECTION,
    DRAWN,
    LIKED,
    OFTEN,
    UNCERTAIN,
    Draw,
    ReviewItem,
    in_order,
    learnable,
    uncertainty,
    waiting,
)

TODAY = Draw(seed=0, day=date(2026, 1, 5))


def example(n: int, **changes: object) -> Example:
    """A liked answer of its own."""
    standard = {
        "interaction_id": n,
        "conversation_id": n,
        "user": "ana",
        "prompt": f"Question {n}?",
        "answer": f"Answer {n}.",
        "version": "base",
    }
    return Example(**{**standard, **changes})  # type: ignore[arg-type]


def scored(n: int, score: float, **changes: object) -> Example:
    return example(n, quality=score, scorer="s0001", **changes)


def corrected(n: int, **changes: object) -> Example:
    return example(n, rejected=f"Wrong {n}.", thumb=-1, **changes)


def ids(items: list[ReviewItem]) -> list[int]:
    return [item.example.interaction_id for item in items]


def why(items: list[ReviewItem]) -> dict[int, str]:
    return {item.example.interaction_id: item.why for item in items}


# -- what waits --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, ""),
        ({"thumb": -1}, "liked or corrected"),
        ({"thumb": 0}, "liked or corrected"),
        ({"learn": False}, "asked not to learn"),
        ({"learn": False, "rejected": "Wrong."}, "asked not to learn"),
        ({"status": Status.CANCELLED}, "not complete: cancelled"),
        ({"status": Status.ERROR, "rejected": "Wrong.", "thumb": -1}, ""),
        ({"thumb": -1, "rejected": "Wrong."}, ""),
        ({"thumb": 0, "rejected": ""}, ""),  # of an answer that stayed empty
    ],
)
def test_what_can_be_learned_waits_and_nothing_else(changes: dict[str, object], told: str) -> None:
    found = example(1, **changes)
    assert told in learnable(found)
    assert bool(learnable(found)) is bool(told)
    assert len(waiting([found], set())) == (0 if told else 1)


def test_the_same_content_waits_once_as_its_newest_example() -> None:
    same = [example(n, prompt="Who?", answer="Mirela.", user=f"u{n}") for n in (9, 5, 2)]
    (item,) = waiting([*same, example(1)], {example(1).key})
    assert (item.example.interaction_id, item.times) == (9, 3)


def test_other_turns_before_make_it_another_example() -> None:
    before = (
        Message(role="user", content="Hello"),
        Message(role="assistant", content="Hello!"),
    )
    same = {"prompt": "Who?", "answer": "Mirela."}
    found = waiting([example(2, context=before, **same), example(1, **same)], set())
    assert sorted(ids(found)) == [1, 2]
    assert all(item.times == 1 for item in found)


def test_what_is_decided_does_not_wait() -> None:
    found = waiting([example(2), example(1)], {example(2).key})
    assert ids(found) == [1]


def test_an_empty_log_has_no_queue() -> None:
    assert waiting([], set()) == []
    assert in_order([], 50, TODAY) == []


# -- why, and in which order ----------------------------------------------------------------------


def test_each_item_says_why_it_is_shown() -> None:
    disliked = example(8, prompt="Question 7?", answer="Answer 7.", thumb=-1, user="ben")
    often = [example(n, prompt="Again?", answer=f"{n}") for n in (30, 31, 32)]
    found = why(
        waiting(
            [*often, disliked, example(7), corrected(5), scored(4, 0.55), scored(3, 0.95)], set()
        )
    )
    assert found == {
        7: CONFLICT,
        5: CORRECTION,
        4: UNCERTAIN,
        3: LIKED,
        30: OFTEN,
        31: OFTEN,
        32: OFTEN,
    }


def test_the_answer_somebody_corrected_and_disliked_is_in_conflict_with_its_like() -> None:
    liked = example(1)
    corrected_elsewhere = corrected(2, prompt=liked.prompt)
    corrected_elsewhere = replace(corrected_elsewhere, rejected=liked.answer)
    assert why(waiting([corrected_elsewhere, liked], set())) == {2: CORRECTION, 1: CONFLICT}


def test_a_correction_stands_against_a_dislike() -> None:
    disliked = example(2, prompt="Question 1?", answer="Answer 1.", thumb=-1)
    assert why(waiting([disliked, corrected(1)], set())) == {1: CORRECTION}


def test_only_examples_count_for_how_often_a_question_was_asked() -> None:
    same = {"prompt": "Again?"}
    disliked = [example(n, thumb=-1, **same) for n in (3, 4, 5)]
    (item,) = waiting([*disliked, example(1, **same)], set())
    assert (item.times, item.why) == (1, LIKED)


def test_a_dislike_in_a_chat_not_to_be_learned_from_is_not_heard() -> None:
    unheard = example(2, prompt="Question 1?", answer="Answer 1.", thumb=-1, learn=False)
    assert why(waiting([unheard, example(1)], set())) == {1: LIKED}


def test_doubt_and_influence_come_first() -> None:
    often = [example(n, prompt="Again?", answer=f"Answer {n}.") for n in range(40, 48)]
    found = waiting(
        [
            *often,
            corrected(9),
            corrected(8, answer="A longer better answer, which weighs more."),
            scored(7, 0.5),
            scored(6, 0.65),
            scored(5, 0.99),
            example(4),
        ],
        set(),
    )
    order = ids(found)
    assert order[:3] == [8, 9, 7]
    assert order.index(7) < order.index(40) < order.index(6) < order.index(5)
    assert order.index(6) < order.index(4)
    weights = [item.weight for item in found]
    assert weights == sorted(weights, reverse=True)


def test_equals_come_newest_first() -> None:
    assert ids(waiting([example(n) for n in (3, 5, 4)], set())) == [5, 4, 3]


def test_a_liked_answer_in_which_the_rules_see_faults_is_doubtful() -> None:
    assert uncertainty(scored(1, 0.5)) == 1.0
    assert 0 < uncertainty(scored(1, 0.6)) < 1
    assert uncertainty(scored(1, 0.6)) == pytest.approx(uncertainty(scored(1, 0.4)))
    assert uncertainty(scored(1, 0.75)) == uncertainty(scored(1, 0.1)) == 0
    assert uncertainty(example(1, quality=0.5, scorer=quality.SCORER)) == 0.5
    assert uncertainty(example(1, quality=1.0, scorer=quality.SCORER)) == 0
    assert uncertainty(example(1, quality=0.5)) == 0
    assert uncertainty(example(1, scorer="s0001")) == 0
    # The score is of the answer that was replaced.
    assert uncertainty(scored(1, 0.5, rejected="Wrong.")) == 0


# -- the drawn places -----------------------------------------------------------------------------


def pool(size: int = 200) -> list[ReviewItem]:
    return waiting([scored(n, 0.5 + n / 1000) for n in range(size, 0, -1)], set())


def test_every_tenth_place_is_drawn_and_nobody_stands_twice() -> None:
    items = pool()
    found = in_order(items, 50, TODAY)
    assert [place for place, i in enumerate(found, 1) if i.why == DRAWN] == [10, 20, 30, 40, 50]
    assert len(set(ids(found))) == 50
    by_weight = [i for i in found if i.why != DRAWN]
    assert [i.weight for i in by_weight] == sorted((i.weight for i in by_weight), reverse=True)


def test_the_whole_queue_holds_everything_once() -> None:
    items = pool(37)
    for limit in (37, 50, 2000):
        assert sorted(ids(in_order(items, limit, TODAY))) == sorted(ids(items))


def test_deciding_the_first_leaves_the_rest_where_it_was() -> None:
    items = pool()
    before = in_order(items, 60, TODAY)
    for done in range(1, 30):
        decided = {item.example.key for item in before[:done]}
        left = [item for item in items if item.example.key not in decided]
        assert in_order(left, 60 - done, replace(TODAY, before=done)) == before[done:]


def test_the_page_stands_still_for_a_day_and_then_draws_anew() -> None:
    items = pool()
    drawn = {
        day: ids(in_order(items, 100, Draw(seed, date(2026, 1, day))))[9::10]
        for day, seed in ((5, 0), (6, 0), (7, 1))
    }
    assert drawn[5] == ids(in_order(items, 100, TODAY))[9::10]
    assert len({tuple(found) for found in drawn.values()}) == 3


def test_each_that_waits_has_the_same_chance_of_a_drawn_place() -> None:
    items = pool(30)
    seen = Counter(ids(in_order(items, 10, Draw(seed, TODAY.day)))[9] for seed in range(2100))
    heaviest = set(ids(items)[:9])  # have their places already
    assert set(seen) == set(ids(items)) - heaviest
    assert all(60 <= count <= 145 for count in seen.values())  # 100 each, five deviations


def test_the_propensity_makes_an_unbiased_estimate_possible() -> None:
    items = pool(40)
    bad = {item.example.interaction_id for item in items if item.example.interaction_id % 3 == 0}

    def estimate(seed: int) -> float:
        """How many of all that wait are bad, from the first ten places alone."""
        *first, drawn = in_order(items, 10, Draw(seed, TODAY.day))
        assert all(item.propensity == 1 for item in first)
        assert drawn.propensity == pytest.approx(1 / 31)
        known = sum(item.example.interaction_id in bad for item in first)
        return known + (drawn.example.interaction_id in bad) / drawn.propensity

    found = [estimate(seed) for seed in range(2000)]
    assert sum(found) / len(found) == pytest.approx(len(bad), abs=1.0)
