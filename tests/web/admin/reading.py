"""What the pages ask of the database, and what of it SQLite has to read whole."""

import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import gradio as gr

from cl.db.ratings import VOTES
from cl.house import utc_now
from cl.records import Role
from cl.web.admin import AdminPage
from cl.web.chat import ChatPage
from tests.fakes import fake_books, fake_house
from tests.web.admin.conftest import IDA, event, shown

_LARGE = r"SCAN (interaction|feedback|conversation|observation)\b"


def read_whole(data: Path) -> list[str]:
    """Statements of the pages that read a large table from end to end, without a bound of their own."""
    found = set()
    asked = statements(data)
    with closing(sqlite3.connect(data / "usage.db")) as log:
        for sql in asked:
            for *_, step in log.execute(f"EXPLAIN QUERY PLAN {sql}", [None] * sql.count("?")):
                if re.match(_LARGE, step) and "LIMIT" not in sql:
                    found.add(f"{step}: {sql[:300]}")
    return sorted(found)


def statements(data: Path) -> list[str]:
    """All that the pages ask of this database, everything opened once."""
    books = fake_books(data, utc_now)
    house = fake_house(books)
    asked: list[str] = []
    execute = books.database.execute_sql

    def hear(sql: str, params: Any = None, *rest: Any) -> Any:
        asked.append(sql)
        return execute(sql, params, *rest)

    page, chat = AdminPage(house), ChatPage(house)
    page.dialog.asked = [None] * 7
    if books.accounts.find("ida") is None:
        books.accounts.add("ida", Role.ADMIN, "system")
    house.books.ab_test.compare_models()
    shown(page)  # what is added up once, is now
    books.database.execute_sql = hear
    try:
        shown(page)
        for vote in VOTES:
            page.data.review.ratings.show(vote, "waiting", "Incorrect", "base", IDA)
        (user,) = execute('SELECT "user" FROM conversation LIMIT 1').fetchone() or ("ida",)
        me = gr.Request(username=user)
        chat.load(me)
        chat.sidebar.listed("budget", None, me)
        for group in chat.sidebar.listed("", None, me)["groups"][:1]:
            chat.pick("", None, event(act="open", id=str(group["items"][0]["id"])), me)
    finally:
        books.database.execute_sql = execute
        books.database.close()
    return [sql for sql in dict.fromkeys(asked) if sql.startswith(("SELECT", "WITH", "\nWITH"))]
