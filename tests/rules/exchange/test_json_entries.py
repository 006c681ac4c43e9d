"""JSON objects out of bytes, one by one."""

import json
import random
from typing import Any

import pytest

from cl.rules.exchange.json_entries import decode, list_entries


def cut(text: bytes, size: int, longest: int = 10_000) -> list[bytes | None]:
    return list(list_entries((text[i : i + size] for i in range(0, len(text), size)), longest))


def anything(dice: random.Random, depth: int = 3) -> Any:
    kind = dice.randrange(6 if depth else 3)
    if kind == 0:
        return dice.choice([None, True, -1.5, 12, ""])
    if kind < 3:
        return "".join(dice.choice('a"\\{}[],: \né🙂') for _ in range(dice.randrange(8)))
    if kind < 5:
        return [anything(dice, depth - 1) for _ in range(dice.randrange(4))]
    return {str(n): anything(dice, depth - 1) for n in range(dice.randrange(4))}


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_a_list_in_pieces_of_any_size_gives_its_entries(seed: int, size: int) -> None:
    dice = random.Random(seed)
    values = [anything(dice) for _ in range(5)]
    text = json.dumps(values, ensure_ascii=dice.random() < 0.5, indent=dice.choice([None, 1]))
    found = cut(text.encode(), size)
    assert [json.loads(entry or b"") for entry in found] == values


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_what_is_wrong_with_one_entry_does_not_touch_the_next(size: int) -> None:
    text = b'[{"a" 1}, {"b": nope}, {"c": "' + b"x" * 100 + b'"}, {"d": 4}]'
    assert cut(text, size, longest=50) == [b'{"a" 1}', b'{"b": nope}', None, b'{"d": 4}']


def test_a_list_that_breaks_off_gives_what_there_is_of_its_last_entry() -> None:
    assert cut(b'[{"a": 1}, {"b": ', 1000) == [b'{"a": 1}', b'{"b":']


def test_what_follows_the_list_is_an_entry_that_is_no_json() -> None:
    assert cut(b"[1] rest\n", 1000) == [b"1", b"rest"]
    assert cut(b" [ ] \n", 1000) == []


def test_an_object_is_read_and_anything_else_refused() -> None:
    assert decode('{"a": "\tü\\u0000"}'.encode()) == {"a": "\tü\0"}
    with pytest.raises(ValueError, match="must be a JSON object"):
        decode(b"[1]")
    with pytest.raises(ValueError, match="Infinity is not JSON"):
        decode(b'{"a": -Infinity}')
    with pytest.raises(ValueError, match="'b' is there twice"):
        decode(b'{"x": {"a": 1, "b": 2, "b": 2}}')
