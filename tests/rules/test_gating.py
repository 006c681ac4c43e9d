"""What keeps a fresh version away from people."""

import math
from dataclasses import replace

import pytest

from cl.records import TrainingResult
from cl.rules.gating import checks
from cl.settings import GateLimits

LIMITS = GateLimits(max_drift=0.15)
GOOD = TrainingResult(
    val_loss=1.0,
    parent_val_loss=2.0,
    val_examples=12,
    base_val_loss=2.0,
    drift=0.1,
    steps=10,
    epochs=2,
    tokens=1000,
    seconds=5.0,
)
INTEGRITY, NUMBER, PARENT, DRIFT = (
    "integrity",
    "validation loss is a number",
    "better than its parent",
    "stays like the base model",
)


def failed(result: TrainingResult, problem: str | None = None) -> list[str]:
    return [check.name for check in checks(result, problem, LIMITS) if not check.passed]


def test_a_good_version_passes_four_checks() -> None:
    assert [c.name for c in checks(GOOD, None, LIMITS)] == [INTEGRITY, NUMBER, PARENT, DRIFT]
    assert failed(GOOD) == []


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"val_loss": 1.9999}, []),
        ({"val_loss": 2.0}, [PARENT]),  # as good as its parent is not better
        ({"val_loss": 2.5}, [PARENT]),
        ({"val_loss": math.nan}, [NUMBER, PARENT]),
        ({"val_loss": math.inf}, [NUMBER, PARENT]),
        ({"val_loss": -math.inf}, [NUMBER]),
        ({"parent_val_loss": math.nan}, [PARENT]),
        ({"drift": 0.15}, []),
        ({"drift": 0.1501}, [DRIFT]),
        ({"drift": math.nan}, [DRIFT]),
    ],
)
def test_each_check_stops_what_it_is_for(changes: dict[str, float], names: list[str]) -> None:
    assert failed(replace(GOOD, **changes)) == names


def test_a_damaged_file_is_stopped_and_named() -> None:
    assert failed(GOOD, "adapter.safetensors is cut short") == [INTEGRITY]
    assert checks(GOOD, "adapter.safetensors is cut short", LIMITS)[0].text.endswith("cut short")


def test_checks_show_what_was_measured_against_what() -> None:
    _, _, parent, drift = checks(GOOD, None, LIMITS)
    assert (parent.value, parent.limit, drift.value, drift.limit) == (1.0, 2.0, 0.1, 0.15)
    assert parent.text.startswith("1.0000 against 2.0000")
