"""The values that travel between parts: frozen, typed, without behaviour of their own."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, TypedDict

NOBODY = "imported"  # the user of imported histories that name none
IMPORTED = "imported"  # stands for a version that was not ours
BASE = "base"  # the name of the untouched base model wherever a version is named


class Message(TypedDict):
    """One turn of a conversation in the chat format every model library uses."""

    role: str
    content: str


class Status(StrEnum):
    """How far the answer of an interaction got."""

    STARTED = "started"
    COMPLETE = "complete"
    CANCELLED = "cancelled"  # by the person, or because the page was closed
    INTERRUPTED = "interrupted"  # the program stopped while answering
    ERROR = "error"


class Arm(StrEnum):
    """Which side of the router answered."""

    DEFAULT = "default"  # no experiment: the version in service
    CHAMPION = "champion"
    CHALLENGER = "challenger"


class Role(StrEnum):
    STAFF = "staff"
    ADMIN = "admin"


class State(StrEnum):
    """The deployment state; derived from the version rows, never stored."""

    NO_CHAMPION = "NO_CHAMPION"
    CHAMPION = "CHAMPION"
    TESTING = "TESTING"
    NEW_CHAMPION = "NEW_CHAMPION"


class Stage(StrEnum):
    """Where a version is in its life."""

    CANDIDATE = "candidate"  # published, not yet in traffic
    CHALLENGER = "challenger"
    CHAMPION = "champion"
    RETIRED = "retired"


class RunStatus(StrEnum):
    """How far a training run got. The first four are open, the rest final."""

    REQUESTED = "requested"
    GENERATED = "generated"
    TRAINED = "trained"
    PUBLISHED = "published"
    DEPLOYED = "deployed"
    NOT_ENOUGH_DATA = "not_enough_data"
    REJECTED = "rejected"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Decision(StrEnum):
    """What a reviewer made of an example."""

    KEEP = "keep"
    EXCLUDE = "exclude"
    EDIT = "edit"


class Step(StrEnum):
    """What one iteration of the loop did."""

    WAITED = "waited"
    REQUESTED = "requested"
    GENERATED = "generated"
    NOT_ENOUGH_DATA = "not_enough_data"
    TRAINED = "trained"
    PUBLISHED = "published"
    REJECTED = "rejected"
    DEPLOYED = "deployed"
    KEPT_TESTING = "kept_testing"
    PROMOTED = "promoted"
    RETIRED = "retired"
    ROLLED_BACK = "rolled_back"
    KEPT = "kept"  # the watch over a new champion ended without harm
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class User:
    id: int
    name: str
    role: Role
    active: bool = True

    @property
    def is_admin(self) -> bool:
        return self.role is Role.ADMIN


@dataclass(frozen=True)
class Route:
    """Which version answers a conversation, and in which experiment."""

    version: str
    arm: Arm
    experiment_id: int | None = None


@dataclass(frozen=True)
class Sampling:
    """How to draw an answer. Temperature 0 takes the likeliest token each time."""

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    max_seconds: float = 120.0


@dataclass(frozen=True)
class Piece:
    """A part of an answer as it is written; the last one carries `finish`.

    While the request waits there is no text yet, but its `place` in the queue; 1 is the next one.
    A piece that begins `anew` makes the text before it void: another version answers instead.
    """

    text: str
    finish: "Finish | None" = None
    place: int | None = None
    anew: bool = False


@dataclass(frozen=True)
class Finish:
    """Why an answer ended ("stop", "length", "time") and what it cost."""

    reason: str
    prompt_tokens: int = 0
    answer_tokens: int = 0
    queue_s: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """How an answer ended; seconds from the moment the message arrived."""

    status: Status
    answer: str
    latency_s: float
    first_token_s: float | None = None
    finish: Finish | None = None
    error: str | None = None
    answered_by: str | None = None  # the version that answered in the stead of one that failed


@dataclass(frozen=True)
class Feedback:
    thumb: int = 0  # +1, -1, or 0 for none
    reasons: tuple[str, ...] = ()
    comment: str = ""
    correction: str = ""


@dataclass(frozen=True)
class Interaction:
    """One message, its answer, and everything measured about it."""

    id: int
    user: str
    conversation_id: int
    prompt: str
    answer: str
    status: Status
    version: str
    arm: Arm
    created_at: datetime
    experiment_id: int | None = None
    quality: float | None = None
    scorer: str | None = None
    latency_s: float | None = None
    first_token_s: float | None = None
    answer_tokens: int | None = None
    finish_reason: str | None = None
    error: str | None = None
    regenerates: int | None = None  # the interaction in whose stead this one was asked
    feedback: Feedback = field(default_factory=Feedback)


@dataclass(frozen=True)
class Reviewed:
    """A decision on an example, remembered by its content; an edit says what it was changed to."""

    key: str
    decision: Decision
    prompt: str
    answer: str
    actor: str
    reason: str
    at: datetime
    interaction_id: int | None = None


@dataclass(frozen=True)
class Conversation:
    id: int
    title: str
    updated_at: datetime
    learn: bool = True  # False: the person asked not to learn from this chat


@dataclass(frozen=True)
class Version:
    """One published adapter. `parent` is what it had to beat, not what it was trained from."""

    name: str
    stage: Stage
    parent: str
    run_id: int | None
    created_at: datetime
    champion_since: datetime | None = None
    val_loss: float | None = None
    parent_val_loss: float | None = None
    tainted: bool = False  # learned from texts that were erased since


@dataclass(frozen=True)
class Gauge:
    """One trigger's reading. `value` is None while there is too little to read it."""

    name: str
    value: float | None
    threshold: float
    unit: str
    fires: bool
    text: str


@dataclass(frozen=True)
class TriggerResult:
    """Whether to retrain, what fired, and every gauge, also when nothing fired."""

    fired: bool
    trigger: str | None
    reason: str
    gauges: tuple[Gauge, ...] = ()


@dataclass(frozen=True)
class FunnelStep:
    """How many examples came out of one step, and why the others did not."""

    name: str
    kept: int
    dropped: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class DataSet:
    """A generated training set: its folder and what went into it."""

    folder: str
    train: int
    val: int
    examples: int  # learned from people; without rehearsal
    corrections: int
    users: int
    funnel: tuple[FunnelStep, ...]
    sha256: str
    votes: int = 0  # rated answers, liked and disliked, for a preference loss
    pairs: int = 0  # a better and a worse answer to one prompt
    scorer: str = ""  # the newest one, which looked at every example
    enough: bool = True
    reason: str = ""


@dataclass(frozen=True)
class TrainingResult:
    """What the trainer reports. Losses are mean nats per answer token.

    `val_examples` answers were held out; `drift` is KL(base || new) on rehearsal texts.
    """

    val_loss: float
    val_examples: int
    base_val_loss: float
    drift: float
    steps: int
    epochs: int
    tokens: int
    seconds: float
    methods: tuple[str, ...] = ("sft",)


class Verdict(StrEnum):
    """What a check of the gate found; too little evidence is neither good nor bad."""

    PASSED = "passed"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class GateCheck:
    """One check of a fresh version: what was measured, the limit, and the verdict."""

    name: str
    verdict: Verdict
    text: str
    value: float | None = None
    limit: float | None = None


@dataclass(frozen=True)
class ArmScore:
    """One side of an experiment, in numbers."""

    version: str
    requests: int
    conversations: int
    scored: int
    rated: int
    positives: int
    errors: int
    quality: float | None  # Q, mean of the scored answers
    thumbs: float | None  # F, share of thumbs up, shrunk to the pooled rate
    p95_latency_s: float | None
    latency: float | None  # L, the same as a share of the latency budget, at most 1
    score: float | None  # S = 0.5 Q + 0.3 F - 0.2 L
    variance: float | None = None  # of S; None for a single conversation
    thumbs_variance: float | None = None  # the part of it that more thumbs would lower


@dataclass(frozen=True)
class Comparison:
    """One look at a running experiment and the verdict on it.

    `lower`, `upper` and `harm_upper` bound the difference of the scores; None without evidence.
    `guards` and `split_log_e` are log e-values: against a harmless challenger, by guardrail, and
    against the configured split of traffic.
    """

    experiment_id: int
    decision: str  # promote, retire or continue; of a watch: rollback, keep or continue
    reason: str  # one word, like collecting, better, worse, futile, guardrail_error
    text: str
    hours: float
    champion: ArmScore
    challenger: ArmScore
    lift: float | None
    se: float | None = None
    lower: float | None = None
    upper: float | None = None
    harm_upper: float | None = None
    guards: dict[str, float] = field(default_factory=dict)
    split_log_e: float | None = None
    mode: str = "auto"  # auto, approve or dry_run: what it takes to carry the verdict out
    acted: bool = False  # it was carried out


@dataclass(frozen=True)
class IterationReport:
    """What one step of the loop did, and why."""

    step: Step
    reason: str
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def goes_on(self) -> bool:
        """Whether another step can follow at once."""
        return self.step in _FOLLOWED


_FOLLOWED = (Step.REQUESTED, Step.GENERATED, Step.TRAINED, Step.PUBLISHED)
