"""What a freshly trained version must show before it meets anyone."""

import math

from cl.records import GateCheck, TrainingResult
from cl.settings import GateLimits


def checks(
    result: TrainingResult, integrity_problem: str | None, limits: GateLimits
) -> tuple[GateCheck, ...]:
    """Every check with what it measured, its limit and its verdict."""
    loss, parent, drift = result.val_loss, result.parent_val_loss, result.drift
    return (
        GateCheck(
            "integrity",
            None,
            None,
            integrity_problem is None,
            integrity_problem or "files whole, weights finite",
        ),
        GateCheck(
            "validation loss is a number",
            loss,
            None,
            math.isfinite(loss),
            f"{loss:.4f} nats a token",
        ),
        GateCheck(
            "better than its parent",
            loss,
            parent,
            loss < parent,
            f"{loss:.4f} against {parent:.4f} on {result.val_examples} answers kept back",
        ),
        GateCheck(
            "stays like the base model",
            drift,
            limits.max_drift,
            drift <= limits.max_drift,
            f"{drift:.3f} nats a token away on rehearsal texts, at most {limits.max_drift:g}",
        ),
    )
