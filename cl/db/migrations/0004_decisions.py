"""What experiments may count, the watch after a promotion, and who answered in whose stead."""

from peewee import (
    AutoField,
    BooleanField,
    CharField,
    FloatField,
    IntegerField,
    Model,
)


def up(migrator, db):
    migrator.migrate(
        migrator.add_column("interaction", "failed", CharField(null=True, max_length=64)),
        migrator.add_column("experiment", "kind", CharField(default="test", max_length=16)),
        migrator.add_column("check", "last_observation", IntegerField(default=0)),
        migrator.add_column("check", "acted", BooleanField(default=False)),
    )

    class Observation(Model):
        id = AutoField()
        experiment_id = IntegerField()
        interaction_id = IntegerField()
        conversation_id = IntegerField()
        arm = CharField(max_length=16)
        quality = FloatField(null=True)
        latency_s = FloatField(null=True)
        thumb = IntegerField(default=0)
        is_error = BooleanField(default=False)

        class Meta:
            database = db
            table_name = "observation"
            indexes = ((("experiment_id", "id"), False),)

    db.create_tables([Observation])
    # A test that goes on counts what it has seen so far.
    db.execute_sql(_SEEN)


_SEEN = """
INSERT INTO observation (experiment_id, interaction_id, conversation_id, arm, quality, latency_s,
                         thumb, is_error)
SELECT i.experiment_id, i.id, i.conversation_id, i.arm,
       CASE WHEN i.scorer = e.scorer THEN i.quality END, i.latency_s, COALESCE(f.thumb, 0),
       CASE WHEN i.status = 'error' THEN TRUE ELSE FALSE END
FROM interaction i JOIN experiment e ON i.experiment_id = e.id
LEFT JOIN feedback f ON f.interaction_id = i.id
WHERE e.ended_at IS NULL AND (i.status IN ('complete', 'error')
      OR (i.status = 'cancelled' AND i.first_token_s IS NOT NULL))
ORDER BY i.id
"""


def down(migrator, db):
    migrator.migrate(
        migrator.drop_table("observation"),
        migrator.drop_column("check", "acted"),
        migrator.drop_column("check", "last_observation"),
        migrator.drop_column("experiment", "kind"),
        migrator.drop_column("interaction", "failed"),
    )
