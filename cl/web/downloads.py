"""Tables to take away, as CSV: what people said, and the audit trail. For admins."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import StreamingResponse

from cl.accounts import Accounts
from cl.db import ratings, reports
from cl.web import signin
from cl.web.admin import audit
from cl.web.admin import ratings as ratings_tab

PATHS = (audit.CSV, ratings_tab.CSV)
_PAGE = 500
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def routes(accounts: Accounts) -> APIRouter:
    router = APIRouter()

    def refuse_others(request: Request) -> None:
        user = accounts.session(request.cookies.get(signin.COOKIE))
        if user is None or not user.is_admin:
            raise HTTPException(403, "Admins only.")

    @router.get(audit.CSV)
    def trail(request: Request) -> StreamingResponse:
        refuse_others(request)
        return _file("audit.csv", _AUDIT, _trail())

    @router.get(ratings_tab.CSV)
    def said(request: Request) -> StreamingResponse:
        refuse_others(request)
        return _file("ratings.csv", _RATINGS, _said(ratings_tab.parsed(request.url.query)))

    return router


_AUDIT = ("time_utc", "who", "did", "to", "before", "after", "why")
_RATINGS = (
    "interaction",
    "answered_utc",
    "who",
    "thumb",
    "reasons",
    "comment",
    "better_answer",
    "question",
    "answer",
    "version",
    "score",
    "scorer",
)


def _trail() -> Iterator[Sequence[object]]:
    below: int | None = None
    while page := reports.audit_trail("", below, _PAGE):
        for line in page:
            names = ("actor", "action", "subject", "before", "after", "reason")
            yield line["at"].isoformat(), *(line[name] for name in names)
        below = page[-1]["id"]


def _said(wanted: ratings.Wanted) -> Iterator[Sequence[object]]:
    for r in ratings.every(wanted):
        said = (r.thumb, "; ".join(r.reasons), r.comment, r.correction)
        yield (
            r.id,
            r.at.isoformat(),
            r.user,
            *said,
            r.prompt,
            r.answer,
            r.version,
            r.quality,
            r.scorer,
        )


def _file(name: str, headers: Sequence[str], rows: Iterable[Sequence[object]]) -> StreamingResponse:
    disposition = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(_lines(headers, rows), media_type="text/csv", headers=disposition)


def _lines(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    text = io.StringIO()
    writer = csv.writer(text)
    text.write("\ufeff")  # so that spreadsheets read it as UTF-8
    writer.writerow(headers)
    for number, row in enumerate(rows, start=1):
        writer.writerow([_harmless(value) for value in row])
        if number % _PAGE == 0:
            yield _taken(text)
    yield _taken(text)


def _taken(text: io.StringIO) -> str:
    found = text.getvalue()
    text.seek(0)
    text.truncate()
    return found


def _harmless(value: Any) -> Any:
    """What people wrote is no formula, whatever it begins with."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
