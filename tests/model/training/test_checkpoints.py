"""Checkpoints: whole and of this very training, or as if there were none."""

from pathlib import Path
from typing import Any

import pytest
import torch

from cl.model.training import checkpoints


def state(**more: Any) -> dict[str, Any]:
    weights = {"a": torch.arange(1000.0)}
    return {"belongs_to": "this", "weights": weights, "way": {"best": (1.0, 2.0)}, **more}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A checkpoint's."""
    checkpoints.save(tmp_path / "checkpoint.pt", state())
    return tmp_path / "checkpoint.pt"


def test_what_is_saved_is_loaded(path: Path) -> None:
    found = checkpoints.load(path, "this")
    assert found is not None
    assert torch.equal(found.pop("weights")["a"], state()["weights"]["a"])
    assert found == {"belongs_to": "this", "way": {"best": (1.0, 2.0)}}


def test_a_later_one_takes_the_place_of_the_first(path: Path) -> None:
    checkpoints.save(path, state(step=2))
    found = checkpoints.load(path, "this")
    assert found is not None
    assert found["step"] == 2
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_one_that_cannot_be_written_leaves_the_one_before(path: Path) -> None:
    with pytest.raises((AttributeError, TypeError)):
        checkpoints.save(path, state(step=lambda: None))
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert checkpoints.load(path, "this") is not None


def test_that_of_another_training_and_none_at_all_are_none(path: Path) -> None:
    assert checkpoints.load(path, "that") is None
    assert checkpoints.load(path.with_name("other.pt"), "this") is None


@pytest.mark.parametrize("left", [0, 10, 0.5, -1])
def test_a_cut_one_is_none(path: Path, left: float) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(left * len(whole)) if left == 0.5 else int(left)])
    assert checkpoints.load(path, "this") is None


@pytest.mark.parametrize("text", [b"garbage" * 100, bytes(5000), b"{}"])
def test_garbage_is_none(path: Path, text: bytes) -> None:
    path.write_bytes(text)
    assert checkpoints.load(path, "this") is None


@pytest.mark.parametrize("place", [0, 0.2, 0.4, 0.6, 0.8, 0.99])
def test_a_flipped_bit_is_not_taken_for_a_weight(path: Path, place: float) -> None:
    whole = bytearray(path.read_bytes())
    whole[int(place * len(whole))] ^= 1
    path.write_bytes(whole)
    assert checkpoints.load(path, "this") is None


def test_a_digest_is_of_all_parts() -> None:
    parts = ("a", 1, ["b"])
    assert checkpoints.digest(*parts) == checkpoints.digest(*parts)
    assert len({checkpoints.digest(*p) for p in (parts, ("a", 1, ["c"]), ("a1", ["b"]))}) == 3
