"""The admin page: only for admins, whatever is there to show, and every text harmless."""

import inspect
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gradio as gr
import pytest

from cl.house import House
from cl.records import Role, State
from cl.web.admin import AdminPage
from cl.worker import Problem
from tests.fakes import talk
from tests.test_walkthrough import FACTS, steps, teach
from tests.web.admin import stories
from tests.web.admin.conftest import IDA, event, handlers, shown, tab
from tests.web.admin.reading import read_whole, statements
from tests.web.pages import ADMIN, Page, Site, everything_stored

NASTY = "<script>alert(1)</script><img src=x onerror=\"alert('1')\">"
OTHERS = ("staff", "former", "visitor-0123456789ab", "stranger", "", None)


def others(house: House) -> None:
    accounts = house.books.accounts
    accounts.add("staff", Role.STAFF, "system")
    accounts.add("former", Role.ADMIN, "system")
    accounts.set_active("former", False, "ida")


def call(handler: Callable[..., Any], request: gr.Request) -> Any:
    """With something for every field of the page."""
    fields = set(inspect.signature(handler).parameters) - {"request"}
    values: dict[str, Any] = dict.fromkeys(fields, "promote")
    if "event" in fields:
        values["event"] = event(act="promote", name="1", id=1)
    return handler(**values, request=request)


# -- who -------------------------------------------------------------------------------------


def test_every_handler_is_refused_to_all_but_active_admins(house: House, page: AdminPage) -> None:
    others(house)
    stories.running_test(house)
    before = everything_stored()
    assert len(handlers(page)) > 30
    for who in OTHERS:
        for name, handler in handlers(page).items():
            with pytest.raises(gr.Error, match="Admins only"):
                call(handler, gr.Request(username=who))
            assert name
    assert everything_stored() == before


def test_whatever_the_page_is_wired_to_refuses_staff(site: Site) -> None:
    """Every function of the built page, so that a new one without a lock is found."""
    site.browser(ADMIN)
    others(site.house)
    before = everything_stored()
    blocks = next(r for r in site.app.routes if getattr(r, "path", "") == "/admin").app.get_blocks()
    wired = [f.fn for f in blocks.fns.values() if f.fn]  # the others run in the browser alone
    unasked = [fn for fn in wired if "request" not in inspect.signature(fn).parameters]
    assert len(wired) > 50
    for who in OTHERS:
        for fn in wired:
            if fn not in unasked:
                with pytest.raises(gr.Error, match="Admins only"):
                    call(fn, gr.Request(username=who))
    assert everything_stored() == before
    # Only the way back out of a question does not ask: it hides the question.
    (back,) = unasked
    assert back().visible is False


def test_an_admin_made_staff_is_refused_at_the_next_click(house: House, page: AdminPage) -> None:
    house.books.accounts.add("other", Role.ADMIN, "system")
    page.head(IDA)
    house.books.accounts.set_role("ida", Role.STAFF, "other")
    with pytest.raises(gr.Error, match="Admins only"):
        page.head(IDA)


# -- showing ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "story",
    [stories.nothing, stories.a_training_asked_for, stories.running_test, stories.promoted],
)
def test_every_part_of_the_page_can_be_shown(
    house: House, page: AdminPage, story: Callable[[House], None]
) -> None:
    story(house)
    found = shown(page)
    assert all(text.strip() for text in found.values())
    assert "ida" in found["head"]
    assert not re.search(r">None<|\bnan\b", "".join(found.values()))


def test_an_empty_database_has_a_text_in_every_block(page: AdminPage) -> None:
    found = shown(page)
    for name, text in (
        ("Overview", "Nobody has written yet."),
        ("drawings", "No test has been looked at yet."),
        ("Data", "No training set has been made yet."),
        ("Review", "Nothing waits for a decision."),
        ("Review", "Nothing has been decided yet."),
        ("ratings", "Nothing of this kind has been said."),
        ("Training", "No training has been run yet."),
        ("Training", "Nothing has been written yet."),
        ("Versions", "No version has been trained yet."),
        ("Versions", "No test has been run yet."),
        ("Versions", "Nobody has looked yet."),
        ("Audit", "The loop has not looked yet."),
    ):
        assert text in found[name]


def test_the_page_follows_the_story(house: House, page: AdminPage) -> None:
    teach(house, list(FACTS)[:6])
    steps(house)
    losses = '{"step": 7, "train": 2.5}\n{"step": 7, "val": 1.5}\n{"step": 8, "tra'  # being written
    (house.books.runs / "0001" / "losses.jsonl").write_text(losses)
    after = shown(page)
    assert "v0001 answers everybody" in after["Overview"]
    assert "Roll back to base" in after["Overview"]
    assert "v0001" in after["Versions"]
    assert "v0001 passed the gate" in after["Audit"]
    assert "passed" in after["Training"]
    assert '"y": [2.5]' in after["Training"]
    assert "step     7  loss 2.500" in after["Training"]
    assert "Mirela Dorn approves travel." in after["ratings"]


def test_the_overview_tells_what_is_wrong(house: House, page: AdminPage) -> None:
    assert "role='alert'" not in shown(page)["Overview"]
    house.worker.problem = Problem(house.books.clock(), "OSError: disk full")
    house.books.scoring.problem = "no memory for the reader"
    found = shown(page)["Overview"]
    assert found.count("role='alert'") == 2
    assert "OSError: disk full" in found
    assert "no memory for the reader" in found


def test_a_verdict_that_waits_for_a_yes_says_so(house: House, page: AdminPage) -> None:
    stories.running_test(house)
    ab_test = house.books.ab_test
    limits = replace(ab_test._limits(), decision_mode="approve")
    ab_test._limits = lambda: limits
    house.books.clock.skip(400)  # type: ignore[attr-defined]
    house.loop.run_iteration()
    assert "it waits for your yes" in shown(page)["Overview"]
    assert "<li aria-current=step>Decision</li>" in shown(page)["Overview"]
    assert ab_test.state() is State.TESTING


def test_the_watch_over_a_new_champion_is_told(house: House, page: AdminPage) -> None:
    stories.promoted(house)
    house.loop.run_iteration()
    found = shown(page)
    assert "v0001 keeps 10% of the conversations" in found["Overview"]
    assert "Watched for" in found["Overview"]
    assert "watch" in found["Versions"]


def test_nothing_people_write_becomes_markup(house: House, page: AdminPage) -> None:
    interaction, _ = talk(house, "ana", NASTY, thumb=-1, correction=NASTY)
    house.books.logger.record_feedback(interaction, "ana", comment=NASTY)
    house.loop.request_training("ida", NASTY)
    found = shown(page)
    for name in ("ratings", "Audit", "Overview", "Training"):
        assert "&lt;script&gt;" in found[name]
    assert not re.search("<script|<img", "".join(found.values()))


def test_every_tab_arrives_through_the_queue(site: Site) -> None:
    talk(site.house, "ana", "hello", thumb=1)
    page = Page(site.browser(ADMIN), "/admin")
    for name in ("overview", "data", "versions", "service", "settings"):
        assert page.run(f"open_{name}")
    for name in ("training", "users", "audit", "review"):
        assert page.run(f"open_{name}", "")
    assert "nothing to do that with" in page.refusal("ask_promote")


def test_a_tab_by_name_is_the_tab(page: AdminPage) -> None:
    names = ["Overview", "Data", "Training", "Versions", "Service", "Settings", "Users", "Audit"]
    assert [one.name for one in page.tabs] == names
    assert tab(page, "Users").name == "Users"


def test_no_page_reads_a_large_table_whole(house: House, page: AdminPage) -> None:
    teach(house, list(FACTS)[:6])
    steps(house)
    stories.deploy(house, "v0002")
    house.loop.run_iteration()
    asked = statements(house.books.settings.data_dir)
    assert len(asked) > 40
    assert any('FROM "interaction"' in sql for sql in asked)
    assert read_whole(house.books.settings.data_dir) == []
