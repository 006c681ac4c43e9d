"""Which conversations are kept for validation."""

from itertools import pairwise

import pytest

from cl.rules.splitting import validation_conversations


def test_the_share_is_close_to_what_was_asked() -> None:
    assert len(validation_conversations(range(10_000), 0.15, 0)) == pytest.approx(1500, abs=110)


def test_what_was_validation_stays_validation_as_the_log_grows() -> None:
    early = validation_conversations(range(1000), 0.15, 0)
    late = validation_conversations(range(3000), 0.15, 0)
    assert early == {c for c in late if c < 1000}


def test_order_and_repetition_of_the_conversations_do_not_matter() -> None:
    ids = list(range(50))
    chosen = validation_conversations(ids, 0.15, 0)
    assert chosen == validation_conversations([*reversed(ids), *ids], 0.15, 0)
    assert chosen < set(ids)


def test_another_seed_keeps_others() -> None:
    first, second = (validation_conversations(range(1000), 0.15, seed) for seed in (0, 1))
    assert len(first & second) < 60  # by chance 1000 * 0.15 * 0.15


@pytest.mark.parametrize("ids", [[], [7], [7, 7, 7]])
def test_one_conversation_alone_is_never_split(ids: list[int]) -> None:
    assert validation_conversations(ids, 0.15, 0) == set()


@pytest.mark.parametrize(("count", "size"), [(2, 1), (3, 1), (7, 1), (8, 2), (16, 4), (100, 4)])
def test_few_conversations_are_filled_up_to_a_quarter_or_four(count: int, size: int) -> None:
    assert len(validation_conversations(range(count), 0.0, 0)) == size


def test_those_filled_up_are_the_next_lowest_so_a_smaller_choice_is_part_of_a_larger() -> None:
    sets = [validation_conversations(range(100), share, 0) for share in (0.0, 0.1, 0.2, 0.4)]
    for smaller, larger in pairwise(sets):
        assert smaller < larger
