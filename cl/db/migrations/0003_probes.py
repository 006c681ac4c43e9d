"""Corrections that were learned once, and must be known ever after."""

from peewee import CharField, ForeignKeyField, Model


def up(migrator, db):
    class Interaction(Model):
        class Meta:
            database = db
            table_name = "interaction"

    class Probe(Model):
        interaction = ForeignKeyField(Interaction, primary_key=True, on_delete="CASCADE")
        version = CharField(max_length=64)

        class Meta:
            database = db
            table_name = "probe"

    db.create_tables([Probe])


def down(migrator, db):
    migrator.migrate(migrator.drop_table("probe"))
