"""The Audit tab: newest first, searched, page by page; and the tables to take away."""

import csv
import io

import pytest
from fastapi.testclient import TestClient

from cl.db import audit as trail
from cl.house import House
from cl.web.admin import AdminPage
from tests.fakes import talk
from tests.web.admin.conftest import IDA, tab
from tests.web.pages import ADMIN, STAFF, Site

FORMULA = '=HYPERLINK("http://example.org", "x")'


def fill(house: House, count: int) -> None:
    with house.books.database.atomic():
        for number in range(count):
            trail.record(
                house.books.clock(),
                "eva",
                "test",
                f"subject {number:03}",
                "because",
                (f"old{number}", "new"),
            )


def test_lines_come_page_by_page_and_hold_the_words_that_are_sought(
    house: House, page: AdminPage
) -> None:
    fill(house, 120)
    audit = tab(page, "Audit")
    table, below, older, latest, _ = audit.show("", IDA)
    assert "subject 119" in table
    assert "subject 069" not in table
    assert (older.interactive, latest.interactive) == (True, False)
    table, below, older, latest = audit.older("", below, IDA)
    assert "subject 069" in table
    assert "subject 019" not in table
    assert latest.interactive
    table, below, older, _ = audit.older("", below, IDA)
    assert (older.interactive, below) == (False, "")
    assert "subject 000" in table
    for words, found in (("OLD117", True), ("subject 117", True), ("eva", False), ("zzz", False)):
        assert ("subject 117" in audit.find(words, IDA)[0]) is (found or words == "eva")
    assert "Nothing of this kind" in audit.find("zzz", IDA)[0]
    for forged in ("x", "-1", 2**70, None):
        assert "subject 119" in audit.older("", forged, IDA)[0]


# -- tables to take away ---------------------------------------------------------------------


def table(browser: TestClient, path: str) -> list[dict[str, str]]:
    answer = browser.get(path)
    assert answer.headers["content-type"].startswith("text/csv")
    assert "attachment" in answer.headers["content-disposition"]
    return list(csv.DictReader(io.StringIO(answer.text.removeprefix("\ufeff"))))


def test_what_people_said_is_taken_away_whole_and_filtered(site: Site) -> None:
    talk(site.house, "cora", "Liked by Cora?", thumb=1)
    talk(site.house, "cora", FORMULA, thumb=-1, correction="=1+1, said\nCora")
    browser = site.browser(ADMIN)
    mine = [row for row in table(browser, "/admin/ratings.csv") if row["who"] == "cora"]
    assert [row["thumb"] for row in mine] == ["-1", "1"]
    assert mine[0]["question"] == f"'{FORMULA}"
    assert mine[0]["better_answer"] == "'=1+1, said\nCora"
    liked = table(browser, "/admin/ratings.csv?vote=up")
    assert {row["thumb"] for row in liked} == {"1"}
    assert any(row["question"] == "Liked by Cora?" for row in liked)
    assert len(table(browser, "/admin/ratings.csv?vote=nonsense")) >= len(mine)


def test_the_audit_trail_is_taken_away_whole(site: Site) -> None:
    fill(site.house, 600)
    found = table(site.browser(ADMIN), "/admin/audit.csv")
    mine = [row["to"] for row in found if row["did"] == "test"]
    assert mine == [f"subject {n:03}" for n in range(599, -1, -1)]
    assert found[0]["before"] == "old599"


@pytest.mark.parametrize("path", ["/admin/ratings.csv", "/admin/audit.csv"])
def test_others_take_nothing_away(site: Site, path: str) -> None:
    assert site.browser().get(path).status_code == 401
    assert site.browser(STAFF).get(path).status_code == 403
