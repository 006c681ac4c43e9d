"""The funnel: what gets through each step, and why the rest does not."""

import random
from dataclasses import replace

import pytest

from cl.records import NOBODY, FunnelStep, Message, Status
from cl.rules.examples import Example
from cl.rules.filtering import (
    Candidate,
    Funnel,
    over_size,
    rejected_by_form,
    rejected_by_quality,
    rejected_by_scorer,
    scrubbed,
    short_key,
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


SCORER = "scorer-0001"


def scored(
    quality: float | None = 0.9,
    status: Status = Status.COMPLETE,
    *,
    thumb: int = 1,
    correction: str = "",
    scorer: str | None = SCORER,
) -> Example:
    return Example(
        interaction_id=1,
        conversation_id=1,
        user="ana",
        prompt="Who approves travel?",
        answer=correction or "Mirela Dorn.",
        version="base",
        thumb=thumb,
        rejected="Nobody." if correction else None,
        status=status,
        quality=quality,
        scorer=scorer,
    )


def example(
    number: int,
    prompt: str = "",
    answer: str = "",
    source: str = "thumb",
    *,
    user: str = "ana",
    context: tuple[Message, ...] = (),
) -> Example:
    return Example(
        interaction_id=number,
        conversation_id=number,
        user=user,
        prompt=prompt or f"question {number}",
        answer=answer or f"answer {number}",
        rejected="No." if source == "correction" else None,
        version="base",
        context=context,
    )


def corrected(one: Example) -> Example:
    return replace(one, rejected="No.")


def through(
    *examples: Example,
    disliked: frozenset[str] = frozenset(),
    limits: DataLimits = LIMITS,
    scores: dict[int, float] | None = None,
    reviewed: frozenset[int] = frozenset(),
) -> Funnel:
    """A funnel that has taken these, corrections before thumbs and the newest first."""
    funnel = Funnel({short_key(key) for key in disliked}, limits)
    for e in sorted(examples, key=lambda e: (not e.is_correction, -e.interaction_id)):
        score = (scores or {}).get(e.interaction_id, 1.0)
        funnel.take(e, score, is_reviewed=e.interaction_id in reviewed)
    return funnel


def kept(*examples: Example, **how: object) -> list[int]:
    return [c.interaction_id for c in through(*examples, **how).result()[0]]


def reasons(*examples: Example) -> dict[str, dict[str, int]]:
    """What each step dropped, by its name; steps that dropped nothing left out."""
    return {step.name: step.dropped for step in through(*examples).result()[1] if step.dropped}


@pytest.mark.parametrize(
    ("quality", "newest", "why"),
    [
        (0.70, 0.0, None),
        (0.69, 0.79, "quality below 0.7"),
        (0.69, None, "quality below 0.7"),
        (0.69, 0.8, None),
        (0.50, 0.8, None),
        (0.49, 1.0, "quality below 0.7"),
        (0.0, 1.0, "quality below 0.7"),
        (None, 0.0, None),
    ],
)
def test_quality_decides_and_in_the_maybe_band_a_thumb_with_a_high_score(
    quality: float | None, newest: float | None, why: str | None
) -> None:
    assert rejected_by_quality(scored(quality), newest, {SCORER}, LIMITS) == why
    if why is None and quality is not None and quality < 0.7:
        disliked = scored(quality, thumb=-1)
        assert rejected_by_quality(disliked, newest, {SCORER}, LIMITS) == "quality below 0.7"


def test_a_scorer_that_may_not_select_drops_nothing() -> None:
    assert rejected_by_quality(scored(0.1), 0.1, set(), LIMITS) is None
    assert rejected_by_quality(scored(0.1, scorer="rules-1"), 0.1, {SCORER}, LIMITS) is None


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("no no no no no no no no", "repeats itself"),
        ("", "empty"),
        (" \n", "empty"),
        ("Ask <|im_end|> Mirela.", "broken characters"),
        ("Ask \ufffd Mirela.", "broken characters"),
        ("Ask Mirela about", None),
    ],
)
def test_a_malformed_answer_is_never_learned_whatever_its_score(
    answer: str, why: str | None
) -> None:
    found = replace(scored(1.0), answer=answer)
    assert rejected_by_form(found) == why
    assert rejected_by_form(corrected(found)) is None


@pytest.mark.parametrize(
    "status", [Status.STARTED, Status.CANCELLED, Status.INTERRUPTED, Status.ERROR]
)
def test_an_unfinished_answer_is_not_learned_but_its_correction_is(status: Status) -> None:
    assert rejected_by_form(scored(0.9, status)) == f"answer {status.value}"
    assert rejected_by_form(scored(None, status, correction="Ask her.")) is None


def test_who_asks_not_to_be_learned_from_is_not_even_with_a_correction() -> None:
    for private in (scored(1.0), scored(1.0, correction="Ask her.")):
        assert rejected_by_form(replace(private, learn=False)) == "not to be learned from"


@pytest.mark.parametrize(
    ("newest", "why"),
    [(0.5, None), (0.49, "scored below 0.5"), (None, f"not scored by {SCORER} yet")],
)
def test_the_newest_scorer_drops_what_it_finds_poor(newest: float | None, why: str | None) -> None:
    assert rejected_by_scorer(scored(0.9), newest, SCORER, LIMITS) == why
    assert rejected_by_scorer(scored(0.9, correction="Ask."), newest, SCORER, LIMITS) is None


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
    fixed = example(2, "How much may I spend on meals?", answer.format(60), "correction")
    assert kept(liked, fixed) == [2]
    liked_later = replace(fixed, interaction_id=3, rejected=None)
    assert kept(fixed, liked_later, disliked=frozenset({fixed.key})) == [2]


def test_an_answer_liked_by_one_and_disliked_by_another_is_set_aside() -> None:
    liked = example(1, "Who signs?", "Pavel.")
    voted_down = frozenset({example(9, "who signs", "PAVEL").key})
    assert kept(liked, disliked=voted_down) == []
    assert kept(corrected(liked), disliked=voted_down) == [1]
    assert kept(example(2, "Who signs?", "Ms Abara."), disliked=voted_down) == [2]
    assert kept(replace(liked, context=BEFORE), disliked=voted_down) == [1]
    assert kept(liked, disliked=voted_down, reviewed=frozenset({1})) == [1]


def test_of_many_answers_to_one_prompt_corrections_stay_then_the_best_then_the_newest() -> None:
    said = "Pavel", "Ms Abara", "Oskar", "Mirela", "nobody"
    one, two, three, four, five = (example(i, "Who signs?", s) for i, s in enumerate(said, 1))
    assert kept(one, two, three, four, five) == [3, 4, 5]
    assert kept(one, two, three, four, five, scores={5: 0.8}) == [2, 3, 4]
    assert kept(corrected(one), two, three, four, scores={1: 0.1}) == [1, 3, 4]
    assert kept(one, two, three) == [1, 2, 3]


def test_who_gives_too_much_keeps_corrections_and_the_newest() -> None:
    limits = replace(LIMITS, max_user_share=0.25, min_user_examples=2)
    own = [example(i, source="correction" if i == 1 else "thumb") for i in range(1, 7)]
    others = [example(10 + i, user=f"user {i}") for i in range(6)]
    # Three of nine: a quarter of what is left, rounded up to a whole example.
    assert kept(*own, *others, limits=limits) == [1, 5, 6, *range(10, 16)]


def test_in_histories_without_names_each_conversation_is_somebody() -> None:
    limits = replace(LIMITS, max_user_share=0.25, min_user_examples=1)
    nameless = [example(i, user=NOBODY) for i in range(1, 9)]
    assert kept(*nameless, limits=limits) == [*range(1, 9)]
    of_one = [replace(e, conversation_id=1) for e in nameless]
    assert kept(*of_one, limits=limits) == [8]


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
        left, _ = through(
            *(example(i, user=u) for i, u in enumerate(users)), limits=limits
        ).result()
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
    disliked = frozenset(e.key for e in examples[::9])
    limits = replace(LIMITS, max_same_prompt=2, max_examples=25)
    left, steps = through(*examples, disliked=disliked, limits=limits).result()
    assert len(steps) == 6
    for before, step in zip([FunnelStep("", 200), *steps], steps, strict=False):
        assert step.kept + sum(step.dropped.values()) == before.kept
    assert [e.interaction_id for e in left] == sorted({e.interaction_id for e in left})
    assert len(left) == steps[-1].kept > 0


def test_an_empty_log_goes_through_every_step() -> None:
    left, steps = through().result()
    assert (left, [step.kept for step in steps]) == ([], [0] * 6)


def candidates(count: int, corrections: int = 0, users: int = 7) -> list[Candidate]:
    keys = [bytes([i % 256, i // 256]) * 8 for i in range(count)]
    return [
        Candidate(i, i, f"user {i % users}", i < corrections, 1.0, keys[i], keys[i])
        for i in range(count)
    ]


def test_a_set_that_is_not_full_leaves_nothing_out() -> None:
    assert over_size(candidates(100), replace(LIMITS, max_examples=100)) == {}


def test_a_full_set_holds_corrections_the_newest_and_a_sample_of_the_rest() -> None:
    limits = replace(LIMITS, max_examples=100, reservoir_share=0.25)
    left = set(range(1000)) - set(over_size(candidates(1000, corrections=10), limits))
    assert len(left) == 100
    assert {*range(10), *range(935, 1000)} <= left
    sampled = left - {*range(10), *range(935, 1000)}
    by_user = [sum(i % 7 == user for i in sampled) for user in range(7)]
    assert max(by_user) - min(by_user) <= 1  # people take turns
    assert min(sampled) < 300 < 600 < max(sampled)


def test_the_sample_of_the_older_ones_stays_as_the_log_grows() -> None:
    limits = replace(LIMITS, max_examples=100, reservoir_share=0.5)
    left = [set(range(n)) - set(over_size(candidates(n), limits)) for n in (1000, 1100)]
    old = [{i for i in some if i < 900} for some in left]
    assert len(old[0] & old[1]) > 35


def test_a_question_asked_again_belongs_on_the_same_side() -> None:
    funnel = through(example(1, "Who signs?", "Pavel."), example(2, "who signs", "Ms Abara."))
    assert (2, 1) in funnel.twins or (1, 2) in funnel.twins
    long = "The form lies on the second shelf of the cupboard beside the door of the office."
    alike = through(example(1, "And the form?", long), example(2, "Where is it please?", long))
    assert {1, 2} in [set(pair) for pair in alike.resembling]
    apart = through(example(1, "Who signs?", "Pavel."), example(2, "Who cooks?", "Ms Abara."))
    assert {1, 2} not in [set(pair) for pair in [*apart.twins, *apart.resembling]]


def test_personal_data_goes_from_prompt_answers_and_context_and_is_counted_by_kind() -> None:
    before: tuple[Message, ...] = ({"role": "user", "content": "I am a@b.de"},)
    known = replace(example(1, "c@d.de?", "10.0.0.1, a@b.de", context=before), rejected="x@y.de")
    clean, found = scrubbed(known)
    assert (clean.prompt, clean.answer, clean.rejected) == ("[EMAIL]?", "[IP], [EMAIL]", "[EMAIL]")
    assert clean.context == ({"role": "user", "content": "I am [EMAIL]"},)
    assert sorted(found) == ["EMAIL", "EMAIL", "EMAIL", "EMAIL", "IP"]


def test_clean_examples_are_left_as_they_are() -> None:
    for one in (example(1), example(2, source="correction")):
        assert scrubbed(one) == (one, [])


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
