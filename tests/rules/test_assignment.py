"""Which conversations meet the challenger."""

import pytest

from cl.rules.assignment import position, sees_challenger


@pytest.mark.parametrize(
    ("experiment", "conversation", "place"),
    [  # the first eight bytes of sha256("experiment:conversation") / 2^64, by sha256sum
        (1, 1, 0.838708004977),
        (1, 2, 0.403242986777),
        (2, 1, 0.439994666630),
        (7, 123456, 0.667520394011),
    ],
)
def test_a_place_never_changes_not_even_with_a_new_release(
    experiment: int, conversation: int, place: float
) -> None:
    assert position(experiment, conversation) == pytest.approx(place, abs=1e-11)


@pytest.mark.parametrize("share", [0.05, 0.1, 0.5])
@pytest.mark.parametrize("experiment", [1, 2, 30])
def test_the_challenger_gets_the_share_that_was_asked(experiment: int, share: float) -> None:
    count = 10_000
    got = sum(sees_challenger(experiment, c, share) for c in range(count)) / count
    assert got == pytest.approx(share, abs=4 * (share * (1 - share) / count) ** 0.5)


def test_each_experiment_shuffles_anew() -> None:
    sides = [{c for c in range(4000) if sees_challenger(e, c, 0.5)} for e in (1, 2, 3)]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert len(sides[one] & sides[other]) / 4000 == pytest.approx(0.25, abs=0.03)


def test_a_larger_share_keeps_those_who_were_in() -> None:
    few = {c for c in range(1000) if sees_challenger(1, c, 0.1)}
    more = {c for c in range(1000) if sees_challenger(1, c, 0.3)}
    assert few < more


@pytest.mark.parametrize(("share", "sees"), [(0.0, False), (1.0, True)])
def test_no_share_means_nobody_and_the_whole_share_everybody(share: float, sees: bool) -> None:
    assert {sees_challenger(1, c, share) for c in range(1000)} == {sees}


def test_a_place_just_at_the_share_is_outside() -> None:
    assert not sees_challenger(1, 1, position(1, 1))
