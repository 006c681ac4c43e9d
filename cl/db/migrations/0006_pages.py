"""Thresholds changed on the admin page, what was before a change, and numbers that are added up once."""

from peewee import (
    BigIntegerField,
    CharField,
    CompositeKey,
    FloatField,
    IntegerField,
    Model,
    TextField,
)


def up(migrator, db):
    migrator.migrate(
        migrator.add_column("audit", "before", TextField(default="")),
        migrator.add_column("audit", "after", TextField(default="")),
        migrator.add_index("audit", ("action", "id")),
        migrator.drop_index("interaction", "interaction_version_id"),
        migrator.add_index("interaction", ("version", "scorer", "id")),
    )

    class Setting(Model):
        name = CharField(primary_key=True, max_length=32)
        value = TextField()
        actor = CharField(max_length=64)
        at = BigIntegerField()

        class Meta:
            database = db
            table_name = "setting"

    class Digest(Model):
        block = IntegerField()
        version = CharField(max_length=64)
        messages = IntegerField(default=0)
        answers = IntegerField(default=0)
        errors = IntegerField(default=0)
        scored = IntegerField(default=0)
        quality = FloatField(default=0.0)
        ups = IntegerField(default=0)
        downs = IntegerField(default=0)
        corrections = IntegerField(default=0)

        class Meta:
            database = db
            table_name = "digest"
            primary_key = CompositeKey("block", "version")

    db.create_tables([Setting, Digest])


def down(migrator, db):
    migrator.migrate(
        migrator.drop_table("digest"),
        migrator.drop_table("setting"),
        migrator.drop_index("interaction", "interaction_version_scorer_id"),
        migrator.add_index("interaction", ("version", "id")),
        migrator.drop_index("audit", "audit_action_id"),
        migrator.drop_column("audit", "after"),
        migrator.drop_column("audit", "before"),
    )
