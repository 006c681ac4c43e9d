"""Chats that a person deleted, and who has been told what a version learned from them."""

from peewee import AutoField, BooleanField, CharField, Model


def up(migrator, db):
    migrator.migrate(
        migrator.add_column("conversation", "hidden", BooleanField(default=False)),
    )

    class Told(Model):
        id = AutoField()
        user = CharField(max_length=64)
        version = CharField(max_length=64)

        class Meta:
            database = db
            table_name = "told"
            indexes = ((("user", "version"), True),)

    db.create_tables([Told])


def down(migrator, db):
    migrator.migrate(
        migrator.drop_table("told"),
        migrator.drop_column("conversation", "hidden"),
    )
