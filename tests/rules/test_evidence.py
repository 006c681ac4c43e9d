"""The published vectors of the decision rule, each number to six digits and more."""

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from cl.rules.assignment import position, sees_challenger
from cl.rules.comparison import analyze
from cl.rules.evidence import log_e_rate, log_e_share, multiplier

VECTORS = Path(__file__).parents[1] / "data" / "decision_vectors.json"
FIRES = math.log(1000)


@cache
def vectors() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(VECTORS.read_text())
    return found


def names(kind: str) -> list[int]:
    return list(range(len(vectors()[kind])))


@pytest.mark.parametrize("number", names("multiplier"))
def test_multipliers(number: int) -> None:
    case = vectors()["multiplier"][number]
    found = multiplier(case["se"], case["alpha"], case["sigma"])
    assert found == pytest.approx(case["m"], rel=1e-9)


@pytest.mark.parametrize("number", names("guard"))
def test_guards(number: int) -> None:
    case = vectors()["guard"][number]
    found = log_e_rate(case["x"], case["n"], case["p0"])
    assert found == pytest.approx(case["log_e"], abs=1e-6)
    assert (found >= FIRES) is case["fires"]


@pytest.mark.parametrize("number", names("srm"))
def test_splits(number: int) -> None:
    case = vectors()["srm"][number]
    found = log_e_share(case["challenger"], case["champion"], case["share"])
    assert found == pytest.approx(case["log_e"], abs=1e-6)
    assert (found >= FIRES) is case["mismatch"]


@pytest.mark.parametrize("number", names("assignment"))
def test_assignments(number: int) -> None:
    case = vectors()["assignment"][number]
    found = position(case["experiment"], case["unit"])
    assert found == pytest.approx(case["bucket"], abs=1e-9)
    arm = "challenger" if sees_challenger(case["experiment"], case["unit"], 0.1) else "champion"
    assert arm == case["arm"]


@pytest.mark.parametrize("number", names("raw"), ids=[r["name"] for r in vectors()["raw"]])
def test_verdicts(number: int) -> None:
    case = vectors()["raw"][number]
    arms = {side: case[side] for side in ("champion", "challenger")}
    found, expected = analyze(arms, case["hours"], case["share"]), case["expected"]
    assert (found["decision"], found["reason"]) == (expected["decision"], expected["reason"])
    for name in ("lift", "se", "lower", "upper"):
        wanted = expected.get(name)
        if wanted is not None:
            assert found[name] == pytest.approx(wanted, rel=1e-6, abs=1e-9)
    for side, key in (("champion", "S"), ("challenger", "S")):
        if side in expected:
            assert found[side].score == pytest.approx(expected[side][key], rel=1e-9)
            assert found[side].variance == pytest.approx(expected[side]["var"], rel=1e-6, abs=1e-20)


def test_events_far_rarer_than_tolerable_are_no_evidence_and_no_error() -> None:
    assert log_e_rate(0, 100_000, 0.03) == -math.inf
    assert log_e_rate(100_000, 100_000, 0.9) > FIRES


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 1.5])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    nothing: dict[str, list[Any]] = {
        name: [] for name in ("quality", "feedback", "latency_s", "error", "conversation")
    }
    with pytest.raises(ValueError, match="share of traffic"):
        analyze({"champion": nothing, "challenger": nothing}, 48, share)


def test_hours_that_are_no_number_are_refused_and_a_clock_set_back_is_no_time() -> None:
    case = vectors()["raw"][0]
    arms = {side: case[side] for side in ("champion", "challenger")}
    with pytest.raises(ValueError, match="hours of a test"):
        analyze(arms, math.nan, 0.3)
    assert analyze(arms, -5, 0.3)["reason"] == "collecting"


def test_broken_latencies_are_left_out_and_told() -> None:
    case = vectors()["raw"][0]
    arms = {side: dict(case[side]) for side in ("champion", "challenger")}
    latencies = list(arms["champion"]["latency_s"])
    latencies[5:8] = [math.nan, -3.0, None]
    arms["champion"]["latency_s"] = latencies
    found = analyze(arms, 60, 0.3)
    assert "3 answers without a usable latency are left out" in found["text"]
    assert found["champion"].requests == 251
    assert math.isfinite(found["se"])


def test_columns_of_unlike_length_are_refused() -> None:
    case = vectors()["raw"][0]
    arms = {side: dict(case[side]) for side in ("champion", "challenger")}
    arms["champion"]["quality"] = arms["champion"]["quality"][:-1]
    with pytest.raises(ValueError, match="unlike lengths"):
        analyze(arms, 60, 0.3)
