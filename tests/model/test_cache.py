"""Keys and values that are kept: which slot a prompt gets, and what it finds there."""

from collections.abc import Sequence

import pytest
import torch

from cl.model.engine.cache import Cache, Layout

FLAT = Layout(1, (2,), 1, (2,))
PACKED = Layout(32, (1, 32, 2), 2, (2, 2))  # as the compiled operations have it
LAYERS = 2


def cache_of(slots: int, layout: Layout = FLAT) -> Cache:
    return Cache(
        LAYERS,
        1,
        layout,
        slots=slots,
        context=4096,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )


@torch.inference_mode()
def fill(cache: Cache, slot: int, tokens: Sequence[int]) -> None:
    """As a step does: a key and a value for each token, after what the slot holds."""
    first = len(cache.slots[slot].tokens)
    cache.reserve(first + len(tokens))
    for position, token in enumerate(tokens, start=first):
        for layer in range(LAYERS):
            key_at(cache, layer, slot, position)[:] = token + layer / 2
            value_at(cache, layer, slot, position)[:] = -token - layer / 2
    cache.slots[slot].tokens += tokens


def key_at(cache: Cache, layer: int, slot: int, position: int) -> torch.Tensor:
    if cache.keys[layer].ndim == 4:
        return cache.keys[layer][slot, 0, position]
    return cache.keys[layer][slot, 0, position // 32, 0, position % 32]


def value_at(cache: Cache, layer: int, slot: int, position: int) -> torch.Tensor:
    if cache.values[layer].ndim == 4:
        return cache.values[layer][slot, 0, position]
    return cache.values[layer][slot, 0, position // 2, :, position % 2]


def held(cache: Cache, slot: int, count: int) -> list[int]:
    """The tokens whose keys and values lie in the slot, once both agree in all layers."""
    found = [int(key_at(cache, 0, slot, position)[0]) for position in range(count)]
    for layer in range(LAYERS):
        for position, token in enumerate(found):
            assert key_at(cache, layer, slot, position).tolist() == [token + layer / 2] * 2
            assert value_at(cache, layer, slot, position).tolist() == [-token - layer / 2] * 2
    return found


def answered(cache: Cache, version: str, tokens: list[int]) -> int:
    """A row that has come and gone; the slot it left its states in."""
    slot, shared = cache.take(version, [*tokens, 0])
    fill(cache, slot, tokens[shared:])
    cache.free(slot)
    return slot


BOTH = pytest.mark.parametrize("layout", [FLAT, PACKED], ids=["flat", "packed"])


def test_a_first_prompt_finds_nothing() -> None:
    assert cache_of(2).take("base", [1, 2, 3]) == (0, 0)


@BOTH
def test_the_next_turn_goes_on_where_the_last_one_ended(layout: Layout) -> None:
    cache = cache_of(3, layout)
    slot = answered(cache, "base", list(range(1, 71)))
    assert cache.take("base", [*range(1, 71), 99, 98]) == (slot, 70)
    assert held(cache, slot, 70) == list(range(1, 71))


def test_the_last_token_of_a_prompt_is_always_left_to_be_read() -> None:
    cache = cache_of(1)
    answered(cache, "base", [1, 2, 3, 4])
    assert cache.take("base", [1, 2, 3])[1] == 2
    cache.free(0)
    assert cache.take("base", [1])[1] == 0


def test_nothing_is_shared_between_versions() -> None:
    cache = cache_of(2)
    answered(cache, "v0001", [1, 2, 3, 4])
    assert cache.take("base", [1, 2, 3, 4, 5])[1] == 0
    assert cache.take("v0002", [1, 2, 3, 4, 5])[1] == 0


@BOTH
def test_a_busy_donor_is_copied_and_not_taken(layout: Layout) -> None:
    cache = cache_of(2, layout)
    donor, _ = cache.take("base", [*range(1, 51)])
    fill(cache, donor, list(range(1, 51)))
    mine, shared = cache.take("base", [*range(1, 41), 77, 78])
    assert (mine != donor, shared) == (True, 40)
    fill(cache, mine, [77, 78])
    assert held(cache, mine, 42) == [*range(1, 41), 77, 78]
    assert held(cache, donor, 50) == list(range(1, 51))
    assert cache.slots[donor].tokens == list(range(1, 51))


def test_a_conversation_of_which_little_is_shared_is_kept_for_its_next_turn() -> None:
    """The same system prompt at the start of another conversation copies it instead."""
    cache = cache_of(2)
    long = answered(cache, "base", list(range(100)))
    mine, shared = cache.take("base", [0, 1, 2, 77])
    assert (mine != long, shared) == (True, 3)
    assert cache.slots[long].tokens == list(range(100))


def test_a_slot_most_of_which_is_shared_is_taken_itself() -> None:
    cache = cache_of(2)
    slot = answered(cache, "base", list(range(100)))
    assert cache.take("base", [*range(51), 77]) == (slot, 51)
    assert cache.slots[slot].tokens == list(range(51))


def test_the_longest_common_beginning_is_found() -> None:
    cache = cache_of(4)
    for tokens in ([1, 2], [1, 2, 3, 4], [1, 9, 9, 9, 9, 9]):
        slot, shared = cache.take("base", [*tokens, 0])
        fill(cache, slot, tokens[shared:])
    mine, shared = cache.take("base", [1, 2, 3, 4, 5])
    assert (mine, shared, held(cache, mine, 4)) == (3, 4, [1, 2, 3, 4])


def test_the_slot_unused_for_longest_goes_first() -> None:
    cache = cache_of(3)
    first, second, third = (answered(cache, "base", [i, i, i]) for i in (10, 20, 30))
    assert {first, second, third} == {0, 1, 2}
    assert cache.take("base", [10, 10, 10, 5])[0] == first
    cache.free(first)
    assert cache.take("base", [40, 40])[0] == second
    assert cache.take("base", [50, 50])[0] == third


def test_a_forgotten_version_leaves_its_slots_first_and_gives_nothing_more() -> None:
    cache = cache_of(3)
    answered(cache, "base", [1, 1, 1])
    answered(cache, "v0001", [2, 2, 2])
    answered(cache, "base", [3, 3, 3])
    cache.forget("v0001")
    assert cache.take("v0001", [2, 2, 2, 2]) == (1, 0)


@BOTH
def test_a_wiped_slot_holds_nothing_and_gives_nothing(layout: Layout) -> None:
    cache = cache_of(2, layout)
    slot = answered(cache, "base", [1, 2, 3])
    with torch.inference_mode():
        key_at(cache, 1, slot, 2)[:] = float("nan")
        value_at(cache, 0, slot, 1)[:] = float("nan")
    other = cache.take("v0001", [5, 6])[0]
    fill(cache, other, [5])
    cache.wipe(slot)
    assert not any(bool(layer[slot].any()) for layer in (*cache.keys, *cache.values))
    assert held(cache, other, 1) == [5]
    assert cache.take("base", [1, 2, 3, 4]) == (slot, 0)


def test_two_rows_never_have_the_same_slot() -> None:
    cache = cache_of(4)
    taken = [cache.take("base", [1, 2, 3])[0] for _ in range(4)]
    assert sorted(taken) == [0, 1, 2, 3]
    cache.free(2)
    assert cache.take("base", [7, 8])[0] == 2


@BOTH
def test_growing_keeps_what_is_held(layout: Layout) -> None:
    cache = cache_of(2, layout)
    assert cache.capacity == 256
    tokens = list(range(1, 602))
    cache.take("base", [1000, 1001])
    fill(cache, 0, [1000])
    cache.take("base", tokens)
    for begin in range(0, 601, 67):
        fill(cache, 1, tokens[begin : begin + 67])
    assert cache.capacity == 1024
    assert held(cache, 1, 601) == tokens
    assert held(cache, 0, 1) == [1000]
    cache.reserve(1024)
    assert cache.capacity == 1024


def test_layers_do_not_share_their_memory() -> None:
    cache = cache_of(1)
    fill(cache, 0, [5])
    assert held(cache, 0, 1) == [5]
    assert cache.keys[0].data_ptr() != cache.keys[1].data_ptr()
