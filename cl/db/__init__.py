"""The database room: tables, connection, migrations, and read-only reports."""
