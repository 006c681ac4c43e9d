"""Scorers, reviews, held-out conversations, erasures; chats that are not learned from."""

from peewee import (
    AutoField,
    BigIntegerField,
    BlobField,
    BooleanField,
    CharField,
    ForeignKeyField,
    IntegerField,
    JSONField,
    Model,
    TextField,
)


def up(migrator, db):
    migrator.migrate(
        migrator.add_column("conversation", "learn", BooleanField(default=True)),
        migrator.add_column("interaction", "regenerates", IntegerField(null=True)),
        migrator.add_column("version", "tainted", BooleanField(default=False)),
    )

    class Conversation(Model):
        class Meta:
            database = db
            table_name = "conversation"

    class Interaction(Model):
        class Meta:
            database = db
            table_name = "interaction"

    class Scorer(Model):
        id = AutoField()
        name = CharField(unique=True, max_length=32)
        stage = CharField(max_length=16)
        may_select = BooleanField()
        report = JSONField()
        sha256 = CharField(max_length=64)
        created_at = BigIntegerField()

        class Meta:
            database = db
            table_name = "scorer"

    class Reading(Model):
        interaction = ForeignKeyField(Interaction, primary_key=True, on_delete="CASCADE")
        reader = CharField(max_length=64)
        vector = BlobField()

        class Meta:
            database = db
            table_name = "reading"

    class Review(Model):
        id = AutoField()
        key = CharField(unique=True, max_length=64)
        decision = CharField(max_length=16)
        prompt = TextField(default="")
        answer = TextField(default="")
        interaction_id = IntegerField(null=True, index=True)
        user = CharField(max_length=64)
        actor = CharField(max_length=64)
        reason = TextField(default="")
        at = BigIntegerField()

        class Meta:
            database = db
            table_name = "review"

    class HeldOut(Model):
        conversation = ForeignKeyField(Conversation, primary_key=True, on_delete="CASCADE")

        class Meta:
            database = db
            table_name = "held_out"

    class Erasure(Model):
        id = AutoField()
        at = BigIntegerField()
        actor = CharField(max_length=64)
        interactions = IntegerField()
        runs = JSONField(default=list)
        versions = JSONField(default=list)
        rebuilt_by = IntegerField(null=True)

        class Meta:
            database = db
            table_name = "erasure"

    db.create_tables([Scorer, Reading, Review, HeldOut, Erasure])
    db.execute_sql(
        'CREATE INDEX IF NOT EXISTS "unscored" ON "interaction" ("id") '
        "WHERE quality IS NULL AND status = 'complete'"
    )
    db.execute_sql(
        'CREATE INDEX IF NOT EXISTS "regenerated" ON "interaction" ("regenerates") '
        "WHERE regenerates IS NOT NULL"
    )


def down(migrator, db):
    db.execute_sql('DROP INDEX "unscored"')
    db.execute_sql('DROP INDEX "regenerated"')
    for table in ("erasure", "held_out", "review", "reading", "scorer"):
        migrator.migrate(migrator.drop_table(table))
    migrator.migrate(
        migrator.drop_column("version", "tainted"),
        migrator.drop_column("interaction", "regenerates"),
        migrator.drop_column("conversation", "learn"),
    )
