"""The structure of a database in a form that can be compared."""

from typing import Any

from peewee import Database, SqliteDatabase


def schema(database: Database) -> dict[str, Any]:
    """Every table with its columns, keys and indexes, by name."""
    return {
        table: {
            "columns": {
                c.name: (c.data_type.upper(), c.null, c.primary_key)
                for c in database.get_columns(table)
            },
            "foreign keys": sorted(
                (k.column, k.dest_table, k.dest_column) for k in database.get_foreign_keys(table)
            ),
            "indexes": _indexes(database, table),
        }
        for table in sorted(database.get_tables())
    }


def _indexes(database: Database, table: str) -> Any:
    if isinstance(database, SqliteDatabase):  # peewee does not tell conditions
        found = database.execute_sql(
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = ?", (table,)
        ).fetchall()
        return {name: _plain(sql) for name, sql in found}
    found = database.execute_sql(
        "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = %s", (table,)
    ).fetchall()
    return {name: _plain(sql) for name, sql in found}


def _plain(sql: str | None) -> str:
    """Without what is a matter of style: case, quotes, brackets, spaces."""
    return "".join(c for c in (sql or "").lower().replace("if not exists", "") if c not in '"() ')
