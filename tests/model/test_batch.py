"""One step's work: single tokens first, then pieces of prompts, each part by version."""

import random

import pytest
import torch

from cl.model.engine.batch import Batch, Feed, Group, Segment

CPU = torch.device("cpu")


def batch_of(*feeds: Feed) -> Batch:
    return Batch(feeds, CPU)


def test_single_tokens_come_first_and_each_part_is_ordered_by_version() -> None:
    batch = batch_of(
        Feed(0, "v0002", [10, 11, 12], 0, False),
        Feed(1, "v0001", [20], 5, True),
        Feed(2, "base", [30, 31], 7, True),
        Feed(3, "base", [40], 0, True),
    )
    assert batch.singles == 2
    assert batch.tokens.tolist() == [40, 20, 30, 31, 10, 11, 12]
    assert batch.slots.tolist() == [3, 1, 2, 2, 0, 0, 0]
    assert batch.positions.tolist() == [0, 5, 7, 8, 0, 1, 2]
    assert batch.rows == [(3, 1), (1, 6)]
    assert batch.segments == [Segment(2, 2, 4, 7), Segment(0, 4, 7, 0)]
    assert batch.groups == [
        Group("base", 0, 1),
        Group("v0001", 1, 2),
        Group("base", 2, 4),
        Group("v0002", 4, 7),
    ]
    assert batch.longest == 9


def test_what_is_wanted_comes_in_the_order_of_the_feeds() -> None:
    """The caller matches logits and rows by it."""
    batch = batch_of(
        Feed(0, "v0002", [10, 11, 12], 0, True),
        Feed(1, "v0001", [20], 5, True),
        Feed(2, "base", [30, 31], 7, False),
        Feed(3, "base", [40], 0, True),
    )
    assert batch.tokens[batch.wanted].tolist() == [12, 20, 40]


def test_a_version_on_both_sides_of_the_border_is_one_group() -> None:
    batch = batch_of(Feed(0, "base", [1], 0, True), Feed(1, "base", [2, 3], 0, True))
    assert batch.groups == [Group("base", 0, 3)]


def test_a_lone_prompt_has_no_singles_and_nothing_wanted_may_be_empty() -> None:
    batch = batch_of(Feed(4, "base", [1, 2, 3], 9, False))
    assert (batch.singles, batch.rows, batch.wanted) == (0, [], [])
    assert batch.segments == [Segment(4, 0, 3, 9)]


def test_the_mask_shows_each_slot_what_its_row_holds() -> None:
    batch = batch_of(Feed(3, "base", [1], 4, True), Feed(1, "base", [2], 1, True))
    assert batch.mask.shape == (4, 1, 1, 5)
    assert batch.mask[3, 0, 0].tolist() == [True] * 5
    assert batch.mask[1, 0, 0].tolist() == [True] * 2 + [False] * 3


def test_a_slot_without_a_row_looks_at_something() -> None:
    """A softmax over nothing is not a number, and would be computed all the same."""
    batch = batch_of(Feed(2, "base", [1], 0, True))
    assert batch.mask.any(-1).all()


@pytest.mark.parametrize("seed", range(20))
def test_every_token_is_in_one_group_of_its_version_and_at_its_place(seed: int) -> None:
    dice = random.Random(seed)
    feeds = [
        Feed(
            slot,
            dice.choice(["base", "v0001", "v0002"]),
            [100 * slot + i for i in range(dice.choice([1, 1, 1, 2, 5]))],
            dice.randrange(30),
            dice.random() < 0.7,
        )
        for slot in dice.sample(range(10), dice.randrange(1, 10))
    ]
    batch = batch_of(*feeds)
    by_slot = {feed.slot: feed for feed in feeds}
    version_at = [group.version for group in batch.groups for _ in range(group.begin, group.end)]
    assert len(batch.tokens) == sum(len(feed.tokens) for feed in feeds) == len(version_at)
    columns = zip(
        batch.tokens.tolist(),
        batch.slots.tolist(),
        batch.positions.tolist(),
        version_at,
        strict=True,
    )
    for token, slot, position, version in columns:
        feed = by_slot[slot]
        assert (feed.tokens[position - feed.position], feed.version) == (token, version)
    last = [feed.tokens[-1] for feed in feeds if feed.wants_next]
    assert batch.tokens[batch.wanted].tolist() == last
    for segment in batch.segments:
        assert batch.slots[segment.begin : segment.end].tolist() == [segment.slot] * (
            segment.end - segment.begin
        )
        assert batch.positions[segment.begin] == segment.position
