"""The tables. Every door writes its own; README tells which. Times are UTC, stored as milliseconds.

At most one champion, one challenger, one running experiment and one open training run: partial
unique indexes make the database refuse a second one, whoever asks.
"""

import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any

from peewee import (
    SQL,
    AutoField,
    BigIntegerField,
    BlobField,
    BooleanField,
    CharField,
    CompositeKey,
    FloatField,
    ForeignKeyField,
    IntegerField,
    JSONField,
    Model,
    TextField,
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class UtcField(BigIntegerField):
    """An aware UTC time, kept as whole milliseconds since 1970."""

    def db_value(self, value: datetime | None) -> int | None:
        return None if value is None else (value - _EPOCH) // timedelta(milliseconds=1)

    def python_value(self, value: int | None) -> datetime | None:
        return None if value is None else _EPOCH + timedelta(milliseconds=value)


def _plain(value: Any) -> Any:
    """Without infinities and NaN, which no database takes for JSON: a missing number is None."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _PlainJson(JSONField):
    def __init__(self, **options: Any) -> None:
        super().__init__(dumps=lambda value: json.dumps(_plain(value)), **options)


class Table(Model):
    class Meta:
        legacy_table_names = False


class User(Table):
    id = AutoField()
    name = CharField(unique=True, max_length=64)
    role = CharField(max_length=16)
    password = CharField(null=True)  # scrypt; empty until the sign-in link was used
    active = BooleanField(default=True)
    created_at: Any = UtcField()


class Session(Table):
    """A sign-in, or a one-time link that becomes one. Only the token's hash is kept."""

    id = AutoField()
    token = CharField(unique=True, max_length=64)
    user = ForeignKeyField(User, on_delete="CASCADE")
    is_link = BooleanField(default=False)
    expires_at: Any = UtcField(index=True)


class Conversation(Table):
    id = AutoField()
    user = CharField(max_length=64)
    title = CharField(max_length=80)
    external_id = CharField(null=True, unique=True, max_length=64)  # where it was imported from
    learn = BooleanField(default=True)  # False: the person asked not to learn from this chat
    hidden = BooleanField(default=False)  # the person deleted it; the log keeps it for its time
    created_at: Any = UtcField()
    updated_at: Any = UtcField()

    class Meta:
        indexes = ((("user", "updated_at"), False),)


class Interaction(Table):
    id = AutoField()
    request_id = CharField(unique=True, max_length=64)  # makes a retried write harmless
    conversation = ForeignKeyField(Conversation, on_delete="CASCADE")
    user = CharField(max_length=64)
    prompt = TextField()
    answer = TextField(default="")
    status = CharField(max_length=16)
    version = CharField(max_length=64)
    arm = CharField(max_length=16)
    experiment_id = IntegerField(null=True, index=True)
    quality = FloatField(null=True)
    scorer = CharField(null=True, max_length=32)
    error = TextField(null=True)
    created_at: Any = UtcField(index=True)
    finished_at: Any = UtcField(null=True)
    latency_s = FloatField(null=True)
    first_token_s = FloatField(null=True)
    queue_s = FloatField(null=True)
    prompt_tokens = IntegerField(null=True)
    answer_tokens = IntegerField(null=True)
    finish_reason = CharField(null=True, max_length=16)
    regenerates = IntegerField(null=True)  # the interaction in whose stead this one was asked
    failed = CharField(null=True, max_length=64)  # the version in whose stead `version` answered

    class Meta:
        indexes = ((("version", "scorer", "id"), False),)


class Feedback(Table):
    """What one person said of one answer; at most one row each, changed in place."""

    id = AutoField()
    interaction = ForeignKeyField(Interaction, unique=True, on_delete="CASCADE")
    user = CharField(max_length=64)
    thumb = IntegerField(default=0)
    reasons: Any = _PlainJson(default=list)
    comment = TextField(default="")
    correction = TextField(default="")
    created_at: Any = UtcField()
    updated_at: Any = UtcField()


class Scorer(Table):
    """One trained discriminator; its files lie under `scorers/` in the data folder."""

    id = AutoField()
    name = CharField(unique=True, max_length=32)
    stage = CharField(max_length=16)
    may_select = BooleanField()  # whether it is good enough to decide what is learned
    report: Any = _PlainJson()
    sha256 = CharField(max_length=64)
    created_at: Any = UtcField()


class Reading(Table):
    """What the frozen base model makes of a rated answer: what scorers are trained on."""

    interaction = ForeignKeyField(Interaction, primary_key=True, on_delete="CASCADE")
    reader = CharField(max_length=64)
    vector = BlobField()  # float16


class Review(Table):
    """An admin's decision on an example, remembered by its content."""

    id = AutoField()
    key = CharField(unique=True, max_length=64)  # of conversation, prompt and answer
    decision = CharField(max_length=16)  # keep, exclude, edit
    prompt = TextField(default="")  # what it was edited to
    answer = TextField(default="")
    interaction_id = IntegerField(null=True, index=True)  # where it was seen
    user = CharField(max_length=64)  # whose interaction that was
    actor = CharField(max_length=64)
    reason = TextField(default="")
    at: Any = UtcField()


class HeldOut(Table):
    """Conversations that were validated on once, and are never trained on."""

    conversation = ForeignKeyField(Conversation, primary_key=True, on_delete="CASCADE")


class Erasure(Table):
    """A person's texts were removed; what had been made of them, and whether that is gone, too."""

    id = AutoField()
    at: Any = UtcField()
    actor = CharField(max_length=64)
    interactions = IntegerField()
    runs: Any = _PlainJson(default=list)  # training runs whose data sets held texts of the person
    versions: Any = _PlainJson(default=list)  # and the versions that came of them
    rebuilt_by = IntegerField(null=True)  # the first training run without them


class Probe(Table):
    """A corrected interaction that a published version has learned, and later ones must know."""

    interaction = ForeignKeyField(Interaction, primary_key=True, on_delete="CASCADE")
    version = CharField(max_length=64)  # the first that learned it


class Told(Table):
    """This person has been told what the version learned from them."""

    id = AutoField()
    user = CharField(max_length=64)
    version = CharField(max_length=64)

    class Meta:
        indexes = ((("user", "version"), True),)


class Version(Table):
    id = AutoField()
    name = CharField(unique=True, max_length=64)
    stage = CharField(max_length=16)
    parent = CharField(max_length=64)
    run_id = IntegerField(null=True)
    sha256 = CharField(max_length=64)  # of its manifest
    val_loss = FloatField(null=True)
    parent_val_loss = FloatField(null=True)
    tainted = BooleanField(default=False)  # learned from texts that were erased since
    created_at: Any = UtcField()
    champion_since: Any = UtcField(null=True)  # last time it entered service
    retired_at: Any = UtcField(null=True)


class Experiment(Table):
    """A test, or the watch over a version just promoted: there `champion` is the one before it."""

    id = AutoField()
    kind = CharField(default="test", max_length=16)  # test, watch
    champion = CharField(max_length=64)
    challenger = CharField(max_length=64)
    share = FloatField()  # of conversations that meet the challenger
    limits: Any = _PlainJson()  # the configuration, frozen at the start
    scorer = CharField(max_length=32)
    started_at: Any = UtcField()
    ended_at: Any = UtcField(null=True)
    outcome = CharField(null=True, max_length=16)  # promoted, retired, aborted; kept, rolled_back
    reason = TextField(default="")


class Check(Table):
    """One look at an experiment, with everything that was seen."""

    id = AutoField()
    experiment = ForeignKeyField(Experiment, on_delete="CASCADE")
    at: Any = UtcField()
    decision = CharField(max_length=16)
    reason = CharField(max_length=32)
    lift = FloatField(null=True)
    numbers: Any = _PlainJson()
    last_observation = IntegerField(default=0)  # the newest one it could see
    acted = BooleanField(default=False)  # whether the verdict was carried out


class Observation(Table):
    """What an experiment counts of one answer. Each change is a new row and the newest one counts,
    so that any look at the experiment can be repeated as it was. Holds no texts."""

    id = AutoField()
    experiment_id = IntegerField()
    interaction_id = IntegerField()
    conversation_id = IntegerField()
    arm = CharField(max_length=16)
    quality = FloatField(null=True)  # by the experiment's own scorer
    latency_s = FloatField(null=True)
    thumb = IntegerField(default=0)
    is_error = BooleanField(default=False)

    class Meta:
        indexes = ((("experiment_id", "id"), False),)


class TrainingRun(Table):
    id = AutoField()
    trigger = CharField(max_length=32)
    reason = TextField()
    status = CharField(max_length=24)
    requested_by = CharField(max_length=64)
    last_interaction = IntegerField(default=0)  # the watermark: what this run could see
    version = CharField(null=True, max_length=64)
    data: Any = _PlainJson(null=True)  # the DataSet with its funnel
    result: Any = _PlainJson(null=True)  # the TrainingResult and the gate's checks
    outcome = TextField(default="")
    owner = CharField(default="", max_length=128)  # the process at work on it
    heartbeat_at: Any = UtcField(null=True)
    attempts = IntegerField(default=0)
    cancel = BooleanField(default=False)
    started_at: Any = UtcField()
    trained_at: Any = UtcField(null=True)
    ended_at: Any = UtcField(null=True)


class Iteration(Table):
    """One step of the loop; equal waits in a row share one line."""

    id = AutoField()
    at: Any = UtcField()
    step = CharField(max_length=24)
    reason = TextField()
    details: Any = _PlainJson(default=dict)
    repeats = IntegerField(default=1)


class Audit(Table):
    """Who did what, when and why, and what was before; also alerts. Only ever added to."""

    id = AutoField()
    at: Any = UtcField()
    actor = CharField(max_length=64)
    action = CharField(max_length=32)
    subject = CharField(default="", max_length=128)
    before = TextField(default="")
    after = TextField(default="")
    reason = TextField(default="")

    class Meta:
        indexes = ((("action", "id"), False),)


class Setting(Table):
    """A threshold that an admin changed; it holds over what the environment says."""

    name = CharField(primary_key=True, max_length=32)
    value = TextField()
    actor = CharField(max_length=64)
    at: Any = UtcField()


class Digest(Table):
    """The numbers of one version in one block of the log, added up once; see `db/digests.py`."""

    block = IntegerField()
    version = CharField(max_length=64)  # empty: the block has been looked at
    messages = IntegerField(default=0)
    answers = IntegerField(default=0)
    errors = IntegerField(default=0)
    scored = IntegerField(default=0)
    quality = FloatField(default=0.0)  # the sum
    ups = IntegerField(default=0)
    downs = IntegerField(default=0)
    corrections = IntegerField(default=0)

    class Meta:
        primary_key = CompositeKey("block", "version")


class Due(Table):
    """When a repeated piece of work was last taken up; taking it is one compare-and-set."""

    name = CharField(primary_key=True, max_length=32)
    last_at: Any = UtcField()


def _only_one(table: type[Table], name: str, column: Any, condition: str) -> None:
    table.add_index(table.index(column, unique=True, where=SQL(condition), name=name))


_OPEN = SQL("(ended_at IS NULL)")  # PostgreSQL wants brackets around an expression

Interaction.add_index(
    Interaction.index(
        Interaction.id, where=SQL("quality IS NULL AND status = 'complete'"), name="unscored"
    )
)
Interaction.add_index(
    Interaction.index(
        Interaction.regenerates, where=SQL("regenerates IS NOT NULL"), name="regenerated"
    )
)
_only_one(Version, "one_champion", Version.stage, "stage = 'champion'")
_only_one(Version, "one_challenger", Version.stage, "stage = 'challenger'")
_only_one(Experiment, "one_experiment", _OPEN, "ended_at IS NULL")
_only_one(TrainingRun, "one_open_run", _OPEN, "ended_at IS NULL")

TABLES: tuple[type[Table], ...] = (
    User,
    Session,
    Conversation,
    Interaction,
    Feedback,
    Scorer,
    Reading,
    Review,
    HeldOut,
    Erasure,
    Probe,
    Told,
    Version,
    Experiment,
    Check,
    Observation,
    TrainingRun,
    Iteration,
    Audit,
    Setting,
    Digest,
    Due,
)
