"""Where the loop is on its way from conversations to a better version."""

from cl.records import RunStatus

PHASES = ("Collecting", "Training", "Evaluating", "A/B test", "Decision")
COLLECTING, TRAINING, EVALUATING, TEST, DECISION = PHASES

_OF_RUN = {
    RunStatus.REQUESTED: TRAINING,
    RunStatus.GENERATED: TRAINING,
    RunStatus.TRAINED: EVALUATING,
    RunStatus.PUBLISHED: TEST,
}


def phase_of(run: str | None, experiment: str | None, verdict: str | None) -> str:
    """`run` is the status of an open training run, `experiment` the kind of a running one.

    `verdict` is what its latest look decided. A promotion is decided for good when the watch ends.
    """
    if run is not None:
        return _OF_RUN[RunStatus(run)]
    if experiment is None:
        return COLLECTING
    is_decided = experiment == "watch" or verdict not in (None, "continue")
    return DECISION if is_decided else TEST
