"""The loop's phases."""

import pytest

from cl.records import RunStatus
from cl.rules.phases import PHASES, phase_of


@pytest.mark.parametrize(
    ("run", "experiment", "verdict", "phase"),
    [
        (None, None, None, "Collecting"),
        ("requested", None, None, "Training"),
        ("generated", None, None, "Training"),
        ("trained", None, None, "Evaluating"),
        ("published", None, None, "A/B test"),
        (None, "test", None, "A/B test"),
        (None, "test", "continue", "A/B test"),
        (None, "test", "promote", "Decision"),
        (None, "watch", None, "Decision"),
        (None, "watch", "continue", "Decision"),
        ("requested", "watch", "continue", "Training"),
    ],
)
def test_the_phase_follows_from_run_and_experiment(
    run: str | None, experiment: str | None, verdict: str | None, phase: str
) -> None:
    assert phase_of(run, experiment, verdict) == phase


def test_every_open_run_is_in_a_phase() -> None:
    still_open = list(RunStatus)[:4]
    assert {phase_of(status, None, None) for status in still_open} <= set(PHASES)
