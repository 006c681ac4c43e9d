"""The Users tab: who may sign in, and as what; never without an admin."""

import re

import gradio as gr
import pytest

from cl.db import reports
from cl.house import House
from cl.records import Role
from cl.web.admin import AdminPage
from tests.web.admin.conftest import IDA, REASON, ask, decide, event, tab
from tests.web.pages import everything_stored

NASTY = "<script>alert(1)</script>"


def last_line() -> tuple[str, ...]:
    line = reports.audit_trail()[0]
    names = ("actor", "action", "subject", "before", "after", "reason")
    return tuple(line[name] for name in names)


def test_a_person_is_added_with_a_link_that_works(house: House, page: AdminPage) -> None:
    users = tab(page, "Users")
    people, link, name = users.add(" emil ", "staff", "", IDA)
    assert "emil" in people
    assert name == ""
    token = re.search(r"/signin\?link=([\w-]+)<", link)
    assert token
    assert house.books.accounts.is_link(token[1])
    assert last_line() == ("ida", "add user", "emil", "", "", "as staff")
    newer = users.pick(event(act="link", name="emil"), IDA)[0]
    assert token[1] not in newer
    assert not house.books.accounts.is_link(token[1])


def test_a_person_who_cannot_be_added_is_refused(page: AdminPage) -> None:
    before = everything_stored()
    for name, role in (
        ("", "staff"),
        (None, "staff"),
        ("ida", "admin"),  # there already
        ("emil", "owner"),
        ("emil", None),
        ("visitor-x", "staff"),
        ("a b", "staff"),
        ("x" * 65, "staff"),
        (NASTY, "staff"),
    ):
        with pytest.raises(gr.Error):
            tab(page, "Users").add(name, role, "", IDA)
    assert everything_stored() == before


def test_people_are_deactivated_made_admin_and_back(house: House, page: AdminPage) -> None:
    accounts = house.books.accounts
    accounts.add("emil", Role.STAFF, "ida")
    for action, change in (
        ("deactivate", ("active", "not active")),
        ("activate", ("not active", "active")),
        ("make-admin", ("staff", "admin")),
        ("make-staff", ("admin", "staff")),
    ):
        question, typed = ask(page, action, "emil")
        assert typed == ("" if action == "activate" else "emil")
        decide(page, action, "emil")
        assert last_line()[2:] == ("emil", *change, REASON)
        with pytest.raises(gr.Error, match="already"):
            page.dialog.confirm(action, "emil", question, REASON, typed, IDA)
    found = accounts.find("emil")
    assert found
    assert (found.role, found.active) == (Role.STAFF, True)


def test_the_buttons_are_those_that_make_sense(house: House, page: AdminPage) -> None:
    house.books.accounts.add("emil", Role.STAFF, "ida")
    house.books.accounts.set_active("emil", False, "ida")
    shown, _ = tab(page, "Users").show("EMI", IDA)
    assert "ida (you)" not in shown
    assert re.findall(r"data-act='([\w-]+)' data-name='emil'", shown) == [
        "link",
        "make-admin",
        "activate",
    ]
    assert "Nobody of this name" in tab(page, "Users").show("nobody", IDA)[0]


def test_the_last_admin_cannot_lock_everybody_out(house: House, page: AdminPage) -> None:
    before = everything_stored()
    for action in ("deactivate", "make-staff"):
        with pytest.raises(gr.Error, match="ida is the last admin"):
            decide(page, action, "ida")
    assert everything_stored() == before


def test_strangers_get_neither_link_nor_role(page: AdminPage) -> None:
    for name in ("nobody", "", NASTY):
        for act in ("link", "deactivate", "activate", "make-admin", "make-staff"):
            with pytest.raises(gr.Error, match=r"There is no user|nothing to do"):
                tab(page, "Users").pick(event(act=act, name=name), IDA)
    with pytest.raises(gr.Error, match="nothing to do"):
        tab(page, "Users").pick(event(act="erase", name="ida"), IDA)


def test_of_very_many_people_some_are_shown(house: House, page: AdminPage) -> None:
    with house.books.database.atomic():
        for number in range(210):
            house.books.accounts.add(f"person{number}", Role.STAFF, "ida")
    shown, _ = tab(page, "Users").show("", IDA)
    assert "11 more: search for a name." in shown
    assert shown.count("data-act='link'") == 200
