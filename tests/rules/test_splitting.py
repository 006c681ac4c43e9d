"""Which conversations are kept for validation."""

from itertools import pairwise

import pytest

from cl.rules.splitting import sides, validation_conversations


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


def split(
    count: int,
    twins: tuple[tuple[int, int], ...] = (),
    held: frozenset[int] = frozenset(),
    *,
    resembling: tuple[tuple[int, int], ...] = (),
    corrected: tuple[int, ...] = (),
) -> tuple[set[int], set[int]]:
    return sides(range(count), twins, resembling, held, 0.15, 0, corrected)


def test_twins_are_on_one_side() -> None:
    pairs = tuple((n, n + 500) for n in range(500))
    val, out = split(1000, pairs)
    assert 100 < len(val) < 200
    assert {c % 500 for c in val} == {c for c in val if c < 500}
    assert out == set()


def test_splitting_again_with_what_was_held_out_changes_nothing() -> None:
    for count in (2, 3, 5, 8, 16, 40, 400):
        val, _ = split(count, corrected=(1, 2))
        assert split(count, held=frozenset(val), corrected=(1, 2)) == (val, set())


def test_who_resembles_a_held_out_conversation_follows_it() -> None:
    val, _ = split(100)
    held, free = min(val), min(set(range(100)) - val)
    after, out = split(100, ((held, free),), frozenset(val))
    assert free in after
    assert held in after
    assert out == set()


def test_a_held_out_conversation_that_many_resemble_is_left_out_of_both_sides() -> None:
    val, _ = split(100)
    held = min(val)
    many = tuple((held, c) for c in sorted(set(range(100)) - val)[:40])
    after, out = split(100, many, frozenset(val))
    assert out == {held}
    assert after == val - {held}


def test_what_half_of_all_resemble_is_trained_on() -> None:
    chain = tuple((n, n + 1) for n in range(50))
    val, _ = split(100, chain)
    assert val.isdisjoint(range(51))
    assert val


def test_resemblance_joins_small_groups_only() -> None:
    chain = tuple((n, n + 1) for n in range(99))
    val, _ = split(100, resembling=chain)
    assert 3 <= len(val) < 40  # one group of a hundred could not be split at all
    alone = tuple((n, n + 500) for n in range(500))
    val, _ = split(1000, resembling=alone)
    assert {c % 500 for c in val} == {c for c in val if c < 500}


def test_some_corrections_are_held_out_however_few_they_are() -> None:
    for corrected in ((3, 4), (7, 8, 9), (90, 91)):
        assert split(100, corrected=corrected)[0] & set(corrected)
    assert not split(100, corrected=(3,))[0] & {3}  # the only one is learned from


def test_nothing_is_split_from_nothing() -> None:
    assert split(0) == split(1) == (set(), set())
