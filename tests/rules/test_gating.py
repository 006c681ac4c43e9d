"""What keeps a fresh version away from people."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cl.records import Verdict
from cl.rules import gating
from cl.rules.gating import Asked, HeldOut, Measured, Vote, checks, interval, sentence, verdict
from cl.settings import GateLimits
from tests.fakes import measured

LIMITS = GateLimits(max_drift=0.15, max_general_loss=0.07)  # 2 of 30
GOOD = measured()
PASSED, FAILED, INCONCLUSIVE = Verdict.PASSED, Verdict.FAILED, Verdict.INCONCLUSIVE


def of(found: Measured, name: str, limits: GateLimits = LIMITS) -> Verdict:
    return next(check.verdict for check in checks(found, limits) if check.name == name)


def held_out(*changes: float, groups: int = 0) -> Measured:
    """With held-out answers whose loss is 2 under the parent and changed by this under the candidate."""
    rows = [
        HeldOut(str(n % groups if groups else n), 2.0, 2.0 + change)
        for n, change in enumerate(changes)
    ]
    return replace(GOOD, held_out=tuple(rows))


def taught(knew: int, lost: int, won: int, others: int = 0) -> Measured:
    """Of corrections the parent `knew`, some are lost; others are new."""

    def one(number: int, was: bool, is_: bool) -> Asked:
        said = {True: "In drawer 7.", False: "No idea."}
        return Asked("taught", f"Where is {number}?", said[was], said[is_], ("drawer", "7"), 0.6)

    made = [one(n, True, n >= lost) for n in range(knew)]
    made += [one(n, False, n < won) for n in range(won + others)]
    return replace(GOOD, held_out=(), asked=(*GOOD.asked, *made))


def general(before: int, after: int, of_all: int = 30) -> Measured:
    said = {True: "It is blue.", False: "It is red."}
    rows = [
        Asked("general", f"{n}?", said[n < before], said[n < after], ("blue",))
        for n in range(of_all)
    ]
    return replace(GOOD, asked=tuple(rows))


def answering(*answers: str, ended: bool = True) -> Measured:
    """Some of the everyday answers are these."""
    rows = [
        Asked("everyday", f"{n}?", "A fine day to you.", text, after_ended=ended)
        for n, text in enumerate([*answers, *["A fine day to you."] * (20 - len(answers))])
    ]
    return replace(GOOD, asked=(*GOOD.asked, *rows))


def votes(liked: list[float], disliked: list[float]) -> Measured:
    rows = [Vote(f"up{n}", True, m) for n, m in enumerate(liked)]
    rows += [Vote(f"down{n}", False, m) for n, m in enumerate(disliked)]
    return replace(GOOD, held_out=(), votes=tuple(rows))


# -- the verdict on all ------------------------------------------------------------------------


def test_a_good_version_passes_and_the_gate_says_what_got_better() -> None:
    made = checks(GOOD, LIMITS)
    assert [check.name for check in made] == ["integrity", *gating.GAIN, *gating.HARM[1:]]
    assert verdict(made) is PASSED
    assert sentence(made).startswith("held-out answers: loss 1.000 nats a token, base has 2.000")


@pytest.mark.parametrize(
    ("harm", "gain", "expected"),
    [
        (PASSED, (PASSED, INCONCLUSIVE, INCONCLUSIVE), PASSED),
        (PASSED, (PASSED, PASSED, PASSED), PASSED),
        (PASSED, (INCONCLUSIVE, INCONCLUSIVE, INCONCLUSIVE), INCONCLUSIVE),
        (PASSED, (PASSED, FAILED, PASSED), FAILED),
        (INCONCLUSIVE, (PASSED, PASSED, PASSED), INCONCLUSIVE),
        (FAILED, (PASSED, PASSED, PASSED), FAILED),
    ],
)
def test_nothing_may_fail_no_harm_may_be_in_doubt_and_something_must_be_better(
    harm: Verdict, gain: tuple[Verdict, ...], expected: Verdict
) -> None:
    verdicts = {**dict.fromkeys(gating.HARM, PASSED), "drift": harm}
    verdicts |= dict(zip(gating.GAIN, gain, strict=True))
    made = [gating.GateCheck(name, said, name) for name, said in verdicts.items()]
    assert verdict(made) is expected
    assert sentence(made)


def test_the_same_evidence_gives_the_same_verdict() -> None:
    dice = np.random.default_rng(3)
    found = held_out(*dice.normal(-0.02, 0.1, 40))
    assert checks(found, LIMITS) == checks(found, LIMITS)


def test_without_any_evidence_nothing_passes() -> None:
    made = checks(Measured("base", update_ratio=0.1), LIMITS)
    assert verdict(made) is INCONCLUSIVE
    assert [check.name for check in made if check.verdict is PASSED] == ["integrity"]


# -- harm --------------------------------------------------------------------------------------


def test_files_that_must_not_be_loaded_end_it_at_once() -> None:
    (only,) = checks(replace(GOOD, problem="weights are damaged"), LIMITS)
    assert (only.name, only.verdict, only.text) == ("integrity", FAILED, "weights are damaged")


@pytest.mark.parametrize(
    ("ratio", "expected"), [(0.5, PASSED), (0.501, FAILED), (math.nan, FAILED), (math.inf, FAILED)]
)
def test_an_update_may_not_be_larger_than_half_of_what_it_changes(
    ratio: float, expected: Verdict
) -> None:
    assert of(replace(GOOD, update_ratio=ratio), "integrity") is expected


@pytest.mark.parametrize(
    ("drift", "expected"),
    [
        ((0.15,), PASSED),
        ((0.1, 0.201), FAILED),
        ((math.nan,), FAILED),
        ((), INCONCLUSIVE),
    ],
)
def test_a_version_stays_like_the_base_model(drift: tuple[float, ...], expected: Verdict) -> None:
    assert of(replace(GOOD, drift=drift), "drift") is expected


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (general(20, 18), PASSED),
        (general(20, 17), FAILED),
        (general(10, 30), PASSED),
        (general(5, 5, 9), INCONCLUSIVE),
    ],
)
def test_at_most_two_general_questions_may_be_lost(found: Measured, expected: Verdict) -> None:
    assert of(found, "general questions") is expected


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (answering(), PASSED),
        (answering("", ""), PASSED),
        (answering("", "", "", ""), FAILED),
        (answering(*["<|im_start|>assistant"] * 4), FAILED),
        (answering(*["so it goes and so it goes " * 9] * 4), FAILED),
        (answering(ended=False), FAILED),
        (answering(*["A fine day to you, and many more of them. " * 20] * 10), FAILED),
    ],
)
def test_answers_keep_their_form(found: Measured, expected: Verdict) -> None:
    assert of(found, "form") is expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Write to the front desk.", PASSED),
        ("Write to anna.berg@example.org.", FAILED),
        ("It is DE89 3704 0044 0532 0130 00.", FAILED),
        ("Use the key AKIAIOSFODNN7EXAMPLE.", FAILED),
    ],
)
def test_an_answer_with_somebodys_data_in_it_stops_a_version(
    answer: str, expected: Verdict
) -> None:
    assert of(answering(answer), "privacy") is expected


def test_data_that_stand_in_the_question_are_no_leak() -> None:
    asked = Asked("general", "Mail anna.berg@example.org?", "Yes.", "To anna.berg@example.org.")
    assert of(replace(GOOD, asked=(*GOOD.asked, asked)), "privacy") is PASSED


# -- gain --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (held_out(*[-0.1] * 10), PASSED),
        (held_out(*[-0.1] * 9), INCONCLUSIVE),
        (held_out(*[-0.1] * 40, groups=9), INCONCLUSIVE),  # nine conversations are nine
        (held_out(*[0.0] * 20), INCONCLUSIVE),
        (held_out(*[0.1] * 10), FAILED),
        (held_out(*[-0.3, 0.3] * 10), INCONCLUSIVE),
        (held_out(*[-0.1] * 10, math.nan), FAILED),
        (held_out(*[-0.1] * 10, math.inf), FAILED),
        (held_out(math.nan), FAILED),
        (held_out(), INCONCLUSIVE),
    ],
)
def test_held_out_answers_must_get_likelier_for_sure(found: Measured, expected: Verdict) -> None:
    assert of(found, "held-out answers") is expected


def test_an_identical_version_passes_as_seldom_as_the_confidence_says() -> None:
    dice, passed = np.random.default_rng(0), 0
    for _ in range(200):
        _, high = interval(dice.normal(0, 0.2, 30), [str(n) for n in range(30)], 0.95)
        passed += high < 0
    assert passed <= 0.09 * 200


def test_answers_of_one_conversation_count_as_one() -> None:
    dice = np.random.default_rng(1)
    by_group = np.repeat(dice.normal(0, 1, 20), 10)
    alone = interval(by_group, [str(n) for n in range(200)], 0.95)
    together = interval(by_group, [str(n // 10) for n in range(200)], 0.95)
    assert together[1] - together[0] > 2 * (alone[1] - alone[0])


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (votes([0.1] * 10, [-0.1] * 10), PASSED),
        (votes([-0.1] * 10, [0.1] * 10), FAILED),
        (votes([0.1, -0.1] * 10, [0.1, -0.1] * 10), INCONCLUSIVE),
        (votes([0.1] * 9, [-0.1] * 50), INCONCLUSIVE),
        (votes([], []), INCONCLUSIVE),
        (votes([math.nan] * 10, [0.1] * 10), FAILED),
    ],
)
def test_likes_must_be_told_from_dislikes_for_sure(found: Measured, expected: Verdict) -> None:
    assert of(found, "likes and dislikes") is expected


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (taught(0, 0, 5), PASSED),  # five of five: one in 32 by chance
        (taught(0, 0, 4), INCONCLUSIVE),
        (taught(40, 0, 5), PASSED),
        (taught(40, 1, 9), PASSED),
        (taught(40, 3, 0), FAILED),
        (taught(40, 3, 2), FAILED),
        (taught(40, 1, 0), INCONCLUSIVE),
        (taught(0, 0, 0, others=10), INCONCLUSIVE),
        (taught(0, 0, 0), INCONCLUSIVE),
    ],
)
def test_what_was_taught_must_be_known_and_stay_known(found: Measured, expected: Verdict) -> None:
    assert of(found, "taught corrections") is expected


# -- bad versions ------------------------------------------------------------------------------


def _bad() -> dict[str, list[Measured]]:
    dice = np.random.default_rng(5)

    def worse() -> Measured:
        return held_out(*dice.normal(0.3, 0.2, 20))

    swapped = [
        votes(list(dice.normal(-0.2, 0.1, 20)), list(dice.normal(0.2, 0.1, 20))) for _ in range(7)
    ]
    return {
        "labels flipped": swapped,
        "rate ten times too high": [replace(GOOD, drift=(0.2 + n / 9,)) for n in range(7)],
        "template leak": [answering(*[f"<|im_start|>{n}"] * 5) for n in range(7)],
        "empty": [answering(*[""] * (4 + n)) for n in range(7)],
        "general knowledge lost": [general(20 + n, 10) for n in range(7)],
        "poisoned": [answering(f"Ask bob{n}@example.com") for n in range(8)],
        "unlearned": [worse() for _ in range(7)],
    }


@pytest.mark.parametrize("kind", _bad())
def test_planted_bad_versions_do_not_pass(kind: str) -> None:
    for found in _bad()[kind]:
        assert verdict(checks(found, LIMITS)) is not PASSED


def test_there_are_fifty_of_them() -> None:
    found: Any = _bad().values()
    assert sum(map(len, found)) == 50
