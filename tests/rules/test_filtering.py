"""The funnel: what gets through each step, and why the rest does not."""

import random
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from cl.records import Arm, Feedback, FunnelStep, Interaction, Message, Status
from cl.rules.filtering import (
    Example,
    narrow,
    rejected_by_feedback,
    rejected_by_quality,
    rephrased,
    scrubbed,
    too_few,
    user_cap,
)
from cl.settings import DataLimits

LIMITS = DataLimits(
    min_quality=0.7,
    maybe_quality=0.5,
    maybe_score=0.8,
    near_duplicate=0.6,
    max_same_prompt=3,
    max_user_share=0.05,
    min_user_examples=10,
    min_users=3,
    min_examples=50,
    min_corrections=15,
)
BEFORE: tuple[Message, ...] = ({"role": "user", "content": "Who signs invoices?"},)


def row(
    quality: float | None = 0.9,
    status: Status = Status.COMPLETE,
    *,
    thumb: int = 0,
    correction: str = "",
) -> Interaction:
    return Interaction(
        id=1,
        user="ana",
        conversation_id=1,
        prompt="Who approves travel?",
        answer="Mirela Dorn.",
        status=status,
        version="base",
        arm=Arm.DEFAULT,
        created_at=datetime(2026, 1, 5, tzinfo=UTC),
        quality=quality,
        feedback=Feedback(thumb=thumb, correction=correction),
    )


def example(
    number: int,
    prompt: str = "",
    answer: str = "",
    source: str = "thumb",
    *,
    user: str = "ana",
    score: float = 1.0,
    context: tuple[Message, ...] = (),
) -> Example:
    return Example(
        interaction_id=number,
        conversation_id=number,
        user=user,
        prompt=prompt or f"question {number}",
        answer=answer or f"answer {number}",
        source=source,
        score=score,
        version="base",
        context=context,
    )


def kept(
    *examples: Example, disliked: frozenset[str] = frozenset(), limits: DataLimits = LIMITS
) -> list[int]:
    return [e.interaction_id for e in narrow(examples, set(disliked), limits)[0]]


def reasons(*examples: Example) -> dict[str, dict[str, int]]:
    """What each step dropped, by its name; steps that dropped nothing left out."""
    return {step.name: step.dropped for step in narrow(examples, set(), LIMITS)[1] if step.dropped}


@pytest.mark.parametrize(
    ("quality", "thumb", "newest", "why"),
    [
        (0.70, 0, 0.0, None),
        (0.69, 0, 1.0, "quality below 0.7"),
        (0.69, -1, 1.0, "quality below 0.7"),
        (0.69, 1, 0.79, "quality below 0.7"),
        (0.69, 1, 0.8, None),
        (0.50, 1, 0.8, None),
        (0.49, 1, 1.0, "quality below 0.7"),
        (0.0, 1, 1.0, "quality below 0.7"),
        (None, 1, 1.0, "not scored"),
    ],
)
def test_quality_decides_and_in_the_maybe_band_a_thumb_with_a_high_score(
    quality: float | None, thumb: int, newest: float, why: str | None
) -> None:
    assert rejected_by_quality(row(quality, thumb=thumb), newest, LIMITS) == why


@pytest.mark.parametrize(
    "status", [Status.STARTED, Status.CANCELLED, Status.INTERRUPTED, Status.ERROR]
)
def test_an_unfinished_answer_is_not_learned_but_its_correction_is(status: Status) -> None:
    assert rejected_by_quality(row(0.9, status, thumb=1), 1.0, LIMITS) == f"answer {status.value}"
    assert rejected_by_quality(row(None, status, correction="Ask her."), 0.0, LIMITS) is None


@pytest.mark.parametrize(
    ("thumb", "correction", "why"),
    [
        (1, "", None),
        (0, "", "no feedback"),
        (-1, "", "thumb down"),
        (-1, "Ask Mirela.", None),
        (0, "Ask Mirela.", None),
    ],
)
def test_a_thumb_up_or_a_correction_is_needed(thumb: int, correction: str, why: str | None) -> None:
    assert rejected_by_feedback(row(thumb=thumb, correction=correction)) == why


def test_of_the_same_answer_liked_twice_the_later_stays() -> None:
    twice = example(1, "Who signs?", "Pavel."), example(2, "who SIGNS", "pavel")
    assert kept(*twice) == [2]
    assert reasons(*twice) == {"exact duplicates": {"the same again": 1}}


def test_of_two_corrections_of_one_question_the_later_counts() -> None:
    twice = (
        example(1, "Who signs?", "Pavel.", "correction"),
        example(2, "Who signs?", "Ms Abara since May.", "correction"),
    )
    assert kept(*reversed(twice)) == [2]
    assert reasons(*twice) == {"exact duplicates": {"corrected anew later": 1}}


def test_the_same_words_after_another_conversation_are_another_question() -> None:
    first = example(1, "And for travel?", "Pavel does it.", "correction")
    second = replace(first, interaction_id=2, answer="Mirela Dorn.", context=BEFORE)
    assert kept(first, second) == [1, 2]


def test_nearly_the_same_question_and_answer_is_learned_once() -> None:
    answer = "Please ask Mirela Dorn in the second floor office before you book anything"
    pair = example(1, "Who signs?", answer), example(2, "Who signs?", answer + " please")
    assert kept(*pair) == [2]
    assert reasons(*pair) == {"near-duplicates": {"nearly the same": 1}}
    assert kept(replace(pair[0], context=BEFORE), pair[1]) == [1, 2]


def test_a_correction_stays_whatever_thumb_says_the_same_or_nearly() -> None:
    answer = (
        "The travel policy says that you may spend up to {} euros per day on meals while abroad."
    )
    liked = example(1, "How much may I spend on meals?", answer.format(50))
    corrected = example(2, "How much may I spend on meals?", answer.format(60), "correction")
    assert kept(liked, corrected) == [2]
    liked_later = replace(corrected, interaction_id=3, source="thumb")
    assert kept(corrected, liked_later, disliked=frozenset({corrected.key})) == [2]


def test_an_answer_liked_by_one_and_disliked_by_another_is_set_aside() -> None:
    liked = example(1, "Who signs?", "Pavel.")
    voted_down = frozenset({example(9, "who signs", "PAVEL").key})
    assert kept(liked, disliked=voted_down) == []
    assert kept(replace(liked, source="correction"), disliked=voted_down) == [1]
    assert kept(example(2, "Who signs?", "Ms Abara."), disliked=voted_down) == [2]
    assert kept(replace(liked, context=BEFORE), disliked=voted_down) == [1]


def test_of_many_answers_to_one_prompt_corrections_stay_then_the_best_then_the_newest() -> None:
    said = "Pavel", "Ms Abara", "Oskar", "Mirela", "nobody"
    one, two, three, four, five = (example(i, "Who signs?", s) for i, s in enumerate(said, 1))
    assert kept(one, two, three, four, five) == [3, 4, 5]
    assert kept(one, two, three, four, replace(five, score=0.8)) == [2, 3, 4]
    assert kept(replace(one, source="correction", score=0.1), two, three, four) == [1, 3, 4]
    assert kept(one, two, three) == [1, 2, 3]


def test_who_gives_too_much_keeps_corrections_and_the_newest() -> None:
    limits = replace(LIMITS, max_user_share=0.25, min_user_examples=2)
    own = [example(i, source="correction" if i == 1 else "thumb") for i in range(1, 7)]
    others = [example(10 + i, user=f"user {i}") for i in range(6)]
    # Three of nine: a quarter of what is left, rounded up to a whole example.
    assert kept(*own, *others, limits=limits) == [1, 5, 6, *range(10, 16)]


@pytest.mark.parametrize(
    ("counts", "share", "floor", "cap"),
    [
        ([], 0.05, 10, 10),
        ([100], 0.05, 10, 10),
        ([100], 0.05, 1, 1),
        ([100], 1.0, 10, 100),
        ([100, 1, 1], 0.5, 1, 3),  # of five left half is two and a half
        ([8, 8], 0.5, 1, 8),
        ([50, *[1] * 380], 0.05, 10, 21),  # of 401: 20.05
        ([50, *[1] * 379], 0.05, 10, 20),  # of 399: 19.95; 21 would be of 400: 20
        ([50, *[1] * 361], 0.05, 10, 20),  # of 381: 19.05
        ([50, *[1] * 360], 0.05, 10, 19),  # of 379: 18.95; 20 would be of 380: 19
    ],
)
def test_the_most_of_one_person_is_their_share_of_what_is_left_rounded_up(
    counts: list[int], share: float, floor: int, cap: int
) -> None:
    limits = replace(LIMITS, max_user_share=share, min_user_examples=floor)
    assert user_cap(counts, limits) == cap


def test_the_most_of_one_person_is_the_largest_number_that_holds_for_its_own_outcome() -> None:
    dice = random.Random(5)
    for _ in range(300):
        part = dice.choice([1, 2, 4, 8, 20])
        counts = [dice.randrange(1, dice.choice([3, 60])) for _ in range(dice.randrange(1, 40))]
        holding = [
            cap
            for cap in range(1, max(counts) + 1)
            if cap <= -(-sum(min(count, cap) for count in counts) // part)  # rounded up
        ]
        limits = replace(LIMITS, max_user_share=1 / part, min_user_examples=1)
        assert user_cap(counts, limits) == max(holding)


def test_after_the_funnel_nobody_has_more_than_their_share() -> None:
    dice = random.Random(6)
    limits = replace(LIMITS, max_user_share=0.125, min_user_examples=1)
    for _ in range(8):
        users = [f"user {min(int(dice.expovariate(0.2)), 30)}" for _ in range(150)]
        left, _ = narrow([example(i, user=u) for i, u in enumerate(users)], set(), limits)
        given = [e.user for e in left]
        assert max(map(given.count, given)) <= -(-len(left) // 8)
        assert set(given) == set(users)


def test_at_each_step_the_kept_and_the_dropped_add_up() -> None:
    dice = random.Random(7)
    examples = [
        example(
            i,
            f"question {dice.randrange(15)}",
            f"answer {dice.randrange(6)} word word",
            dice.choice(["thumb", "correction"]),
            user=dice.choice(["ana", "ben"]),
        )
        for i in range(200)
    ]
    disliked = {e.key for e in examples[::9]}
    left, steps = narrow(examples, disliked, replace(LIMITS, max_same_prompt=2))
    assert len(steps) == 5
    for before, step in zip([FunnelStep("", 200), *steps], steps, strict=False):
        assert step.kept + sum(step.dropped.values()) == before.kept
    assert [e.interaction_id for e in left] == sorted({e.interaction_id for e in left})
    assert len(left) == steps[-1].kept > 0


def test_an_empty_log_goes_through_every_step() -> None:
    left, steps = narrow([], set(), LIMITS)
    assert (left, [step.kept for step in steps]) == ([], [0] * 5)


def test_personal_data_goes_from_prompt_answer_and_context_and_is_counted_by_kind() -> None:
    before: tuple[Message, ...] = ({"role": "user", "content": "I am a@b.de"},)
    (clean,), step = scrubbed([example(1, "c@d.de?", "10.0.0.1, a@b.de", context=before)])
    assert (clean.prompt, clean.answer) == ("[EMAIL]?", "[IP], [EMAIL]")
    assert clean.context == ({"role": "user", "content": "I am [EMAIL]"},)
    assert step == FunnelStep("personal data", 1, {"EMAIL replaced": 3, "IP replaced": 1})


def test_clean_examples_are_left_as_they_are() -> None:
    examples = [example(1), example(2, source="correction")]
    assert scrubbed(examples) == (examples, FunnelStep("personal data", 2))


@pytest.mark.parametrize(
    ("examples", "corrections", "users", "enough"),
    [
        (50, 0, 3, True),
        (49, 14, 3, False),
        (15, 15, 3, True),
        (1000, 1000, 2, False),
        (0, 0, 0, False),
    ],
)
def test_there_must_be_enough_people_and_enough_examples_or_corrections(
    examples: int, corrections: int, users: int, enough: bool
) -> None:
    assert (too_few(examples, corrections, users, LIMITS) == "") is enough


def test_rephrasings_keep_the_question_and_differ() -> None:
    question = "What does {x} mean, 100 % sure?"
    wordings = rephrased(question, 3)
    assert all(question in wording for wording in wordings)
    assert len({question, *wordings}) == 4
    assert rephrased(question, 0) == []
