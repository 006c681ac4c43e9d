"""The first schema. A frozen copy, on purpose independent of the tables as they are today."""

from peewee import (
    BigIntegerField,
    BooleanField,
    CharField,
    FloatField,
    ForeignKeyField,
    IntegerField,
    JSONField,
    Model,
    TextField,
)


def up(migrator, db):
    class Audit(Model):
        at = BigIntegerField()
        actor = CharField(max_length=64)
        action = CharField(max_length=32)
        subject = CharField(max_length=128, default="")
        reason = TextField(default="")

        class Meta:
            database = db
            table_name = "audit"

    db.create_tables([Audit])

    class Experiment(Model):
        champion = CharField(max_length=64)
        challenger = CharField(max_length=64)
        share = FloatField()
        limits = JSONField()
        scorer = CharField(max_length=32)
        started_at = BigIntegerField()
        ended_at = BigIntegerField(null=True)
        outcome = CharField(null=True, max_length=16)
        reason = TextField(default="")

        class Meta:
            database = db
            table_name = "experiment"

    db.create_tables([Experiment])

    class Check(Model):
        experiment = ForeignKeyField(Experiment, on_delete="CASCADE")
        at = BigIntegerField()
        decision = CharField(max_length=16)
        reason = CharField(max_length=32)
        lift = FloatField(null=True)
        numbers = JSONField()

        class Meta:
            database = db
            table_name = "check"

    db.create_tables([Check])

    class Conversation(Model):
        user = CharField(max_length=64)
        title = CharField(max_length=80)
        external_id = CharField(unique=True, null=True, max_length=64)
        created_at = BigIntegerField()
        updated_at = BigIntegerField()

        class Meta:
            database = db
            table_name = "conversation"
            indexes = ((("user", "updated_at"), False),)

    db.create_tables([Conversation])

    class Due(Model):
        name = CharField(primary_key=True, max_length=32)
        last_at = BigIntegerField()

        class Meta:
            database = db
            table_name = "due"

    db.create_tables([Due])

    class Interaction(Model):
        request_id = CharField(unique=True, max_length=64)
        conversation = ForeignKeyField(Conversation, on_delete="CASCADE")
        user = CharField(max_length=64)
        prompt = TextField()
        answer = TextField(default="")
        status = CharField(max_length=16)
        version = CharField(max_length=64)
        arm = CharField(max_length=16)
        experiment_id = IntegerField(index=True, null=True)
        quality = FloatField(null=True)
        scorer = CharField(null=True, max_length=32)
        error = TextField(null=True)
        created_at = BigIntegerField(index=True)
        finished_at = BigIntegerField(null=True)
        latency_s = FloatField(null=True)
        first_token_s = FloatField(null=True)
        queue_s = FloatField(null=True)
        prompt_tokens = IntegerField(null=True)
        answer_tokens = IntegerField(null=True)
        finish_reason = CharField(null=True, max_length=16)

        class Meta:
            database = db
            table_name = "interaction"
            indexes = ((("version", "id"), False),)

    db.create_tables([Interaction])

    class Feedback(Model):
        interaction = ForeignKeyField(Interaction, unique=True, on_delete="CASCADE")
        user = CharField(max_length=64)
        thumb = IntegerField(default=0)
        reasons = JSONField(default=list)
        comment = TextField(default="")
        correction = TextField(default="")
        created_at = BigIntegerField()
        updated_at = BigIntegerField()

        class Meta:
            database = db
            table_name = "feedback"

    db.create_tables([Feedback])

    class Iteration(Model):
        at = BigIntegerField()
        step = CharField(max_length=24)
        reason = TextField()
        details = JSONField(default=dict)
        repeats = IntegerField(default=1)

        class Meta:
            database = db
            table_name = "iteration"

    db.create_tables([Iteration])

    class User(Model):
        name = CharField(unique=True, max_length=64)
        role = CharField(max_length=16)
        password = CharField(null=True)
        active = BooleanField(default=True)
        created_at = BigIntegerField()

        class Meta:
            database = db
            table_name = "user"

    db.create_tables([User])

    class Session(Model):
        token = CharField(unique=True, max_length=64)
        user = ForeignKeyField(User, on_delete="CASCADE")
        is_link = BooleanField(default=False)
        expires_at = BigIntegerField(index=True)

        class Meta:
            database = db
            table_name = "session"

    db.create_tables([Session])

    class TrainingRun(Model):
        trigger = CharField(max_length=32)
        reason = TextField()
        status = CharField(max_length=24)
        requested_by = CharField(max_length=64)
        last_interaction = IntegerField(default=0)
        version = CharField(null=True, max_length=64)
        data = JSONField(null=True)
        result = JSONField(null=True)
        outcome = TextField(default="")
        owner = CharField(max_length=128, default="")
        heartbeat_at = BigIntegerField(null=True)
        attempts = IntegerField(default=0)
        cancel = BooleanField(default=False)
        started_at = BigIntegerField()
        trained_at = BigIntegerField(null=True)
        ended_at = BigIntegerField(null=True)

        class Meta:
            database = db
            table_name = "training_run"

    db.create_tables([TrainingRun])

    class Version(Model):
        name = CharField(unique=True, max_length=64)
        stage = CharField(max_length=16)
        parent = CharField(max_length=64)
        run_id = IntegerField(null=True)
        sha256 = CharField(max_length=64)
        val_loss = FloatField(null=True)
        parent_val_loss = FloatField(null=True)
        created_at = BigIntegerField()
        champion_since = BigIntegerField(null=True)
        retired_at = BigIntegerField(null=True)

        class Meta:
            database = db
            table_name = "version"

    db.create_tables([Version])

    db.execute_sql(
        'CREATE UNIQUE INDEX IF NOT EXISTS "one_champion" ON "version" ("stage") WHERE stage = \'champion\''
    )
    db.execute_sql(
        'CREATE UNIQUE INDEX IF NOT EXISTS "one_challenger" ON "version" ("stage") WHERE stage = \'challenger\''
    )
    db.execute_sql(
        'CREATE UNIQUE INDEX IF NOT EXISTS "one_experiment" ON "experiment" (("ended_at" IS NULL)) WHERE ended_at IS NULL'
    )
    db.execute_sql(
        'CREATE UNIQUE INDEX IF NOT EXISTS "one_open_run" ON "training_run" (("ended_at" IS NULL)) WHERE ended_at IS NULL'
    )


def down(migrator, db):
    migrator.migrate(migrator.drop_table("version"))
    migrator.migrate(migrator.drop_table("training_run"))
    migrator.migrate(migrator.drop_table("session"))
    migrator.migrate(migrator.drop_table("user"))
    migrator.migrate(migrator.drop_table("iteration"))
    migrator.migrate(migrator.drop_table("feedback"))
    migrator.migrate(migrator.drop_table("interaction"))
    migrator.migrate(migrator.drop_table("due"))
    migrator.migrate(migrator.drop_table("conversation"))
    migrator.migrate(migrator.drop_table("check"))
    migrator.migrate(migrator.drop_table("experiment"))
    migrator.migrate(migrator.drop_table("audit"))
