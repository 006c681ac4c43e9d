"""Both sides of a test in figures."""

import pytest

from cl.rules.side_by_side import Seen, lines, percentile, side, wilson


def seen(thumb: int = 0, reason: str = "", first: float | None = 1.0, again: bool = False) -> Seen:
    return Seen("champion", thumb, (reason,) if reason else (), first, 10, again)


def test_a_side_counts_what_people_did() -> None:
    found = side(
        [seen(1), seen(1), seen(-1, "Incorrect"), seen(again=True, first=None), seen(0, "Outdated")]
    )
    assert (found.answers, found.rated) == (5, 3)
    assert found.liked == pytest.approx(2 / 3)
    assert found.regenerated == pytest.approx(1 / 5)
    assert found.dislikes == {"Incorrect": 1}
    assert (found.first_p50, found.tokens) == (1.0, 10)


def test_a_side_without_answers_has_no_figures() -> None:
    found = side([])
    assert (found.answers, found.liked, found.regenerated, found.first_p95) == (0, None, None, None)
    assert all(line.is_better is None for line in lines(found, found))


def test_each_figure_says_whether_the_change_is_for_the_better() -> None:
    old = side([seen(1), seen(-1, "Incorrect"), seen(-1, "Incorrect")])
    new = side([seen(1, first=2.0), seen(1, first=2.0), seen(-1, "Outdated", first=2.0)])
    found = {line.name: line.is_better for line in lines(old, new)}
    assert found["Liked"] is True
    assert found["First word, median"] is False
    assert found["Disliked: Incorrect"] is True
    assert found["Disliked: Outdated"] is False
    assert found["Asked again"] is None  # the same
    assert found["Ratings"] is None


def test_percentiles_are_values_that_were_seen() -> None:
    ranked = [float(n) for n in range(1, 101)]
    assert (percentile(ranked, 0.5), percentile(ranked, 0.95)) == (51.0, 96.0)
    assert percentile([3.0], 0.95) == 3.0
    assert percentile([], 0.5) is None


@pytest.mark.parametrize(
    ("positives", "of", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662)],
)
def test_the_interval_of_a_share_is_wilsons(
    positives: int, of: int, low: float, high: float
) -> None:
    """81 of 263: Newcombe 1998, Statistics in Medicine 17, table I, without continuity correction."""
    assert wilson(positives, of) == pytest.approx((low, high), abs=6e-5)
