"""Signing in by password and by link: what the page says, with which code, and to whom."""

from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from cl.house import Books
from cl.records import Role
from cl.web import signin
from cl.web.gate import Gate
from tests.fakes import FakeClock

PASSWORD = "correct horse"
NASTY = "\"><script>alert(1)</script><img src=x onerror='alert(1)'>"


@pytest.fixture
def client(books: Books) -> Iterator[TestClient]:
    """The sign-in page behind the gate, without the rest of the app."""
    app = FastAPI()
    app.include_router(signin.routes(books.accounts, in_frame=False))
    app.add_api_route("/config", lambda: "hello")
    app.middleware("http")(Gate(books.accounts, is_open=False, in_frame=False))
    with TestClient(app, follow_redirects=False) as found:
        yield found


@pytest.fixture
def link(books: Books) -> str:
    return books.accounts.add("ana", Role.STAFF, "system")


def enter(client: TestClient, **form: str) -> tuple[int, str]:
    answer = client.post("/signin", data=form)
    return answer.status_code, answer.text


def test_a_link_lets_one_choose_a_password_and_is_used_up(client: TestClient, link: str) -> None:
    assert "New password" in client.get("/signin", params={"link": link}).text
    assert "New password" in client.get("/signin", params={"link": link}).text  # only looked at
    first = client.post("/signin", data={"link": link, "password": PASSWORD})
    assert (first.status_code, first.headers["location"]) == (303, "/")
    assert client.get("/config").text == '"hello"'
    client.cookies.clear()

    status, page = enter(client, link=link, password="another password")
    assert (status, "has been used" in page) == (401, True)
    assert "has been used" in client.get("/signin", params={"link": link}).text
    assert enter(client, name="ana", password="another password")[0] == 401
    assert enter(client, name=" ana ", password=PASSWORD)[0] == 303


def test_a_short_password_is_refused_and_the_link_still_good(client: TestClient, link: str) -> None:
    status, page = enter(client, link=link, password="1234567")
    assert (status, "at least 8 characters" in page) == (400, True)
    assert f'value="{link}"' in page
    assert enter(client, link=link, password="12345678")[0] == 303


def test_a_new_link_ends_the_older_one_and_age_ends_both(
    client: TestClient, books: Books, clock: FakeClock, link: str
) -> None:
    newer = books.accounts.new_link("ana", "ida")
    assert "Sign in to chat" in client.get("/signin", params={"link": link}).text
    assert "New password" in client.get("/signin", params={"link": newer}).text
    clock.skip(hours=73)
    assert "Sign in to chat" in client.get("/signin", params={"link": newer}).text
    assert enter(client, link=newer, password=PASSWORD)[0] == 401


def test_a_wrong_password_and_an_unknown_name_look_the_same(client: TestClient, link: str) -> None:
    enter(client, link=link, password=PASSWORD)
    known, unknown = (enter(client, name=name, password="guess") for name in ("ana", "bob"))
    assert known[0] == 401
    assert "Wrong user name or password." in known[1]
    assert known == (unknown[0], unknown[1].replace("bob", "ana"))


def test_a_form_with_something_missing_is_refused(client: TestClient, link: str) -> None:
    for form in ({}, {"name": "ana"}, {"password": PASSWORD}, {"link": "x"}):
        assert enter(client, **form)[0] == 401


def test_what_was_typed_comes_back_escaped(client: TestClient) -> None:
    for form in ({"name": NASTY}, {"link": NASTY}, {"name": NASTY, "link": NASTY}):
        pages = [enter(client, password="123", **form)[1]]
        pages.append(client.get("/signin", params=form).text)
        assert "name" not in form or "&quot;&gt;&lt;script&gt;" in pages[0]
        assert not any("<script>" in page or "<img" in page for page in pages)


def test_after_five_wrong_passwords_even_the_right_one_has_to_wait(
    client: TestClient, clock: FakeClock, link: str
) -> None:
    enter(client, link=link, password=PASSWORD)
    for _ in range(5):
        assert "Wrong user name" in enter(client, name="ana", password="guess")[1]
    status, page = enter(client, name="ana", password=PASSWORD)
    assert (status, "Please wait 5 minutes" in page) == (401, True)
    assert "Wrong user name" in enter(client, name="bob", password="guess")[1]
    clock.skip(hours=5.1 / 60)
    assert enter(client, name="ana", password=PASSWORD)[0] == 303


def test_a_session_lasts_a_working_day(client: TestClient, clock: FakeClock, link: str) -> None:
    enter(client, link=link, password=PASSWORD)
    token = client.cookies["session"]
    clock.skip(hours=11.9)
    assert client.get("/config").status_code == 200
    clock.skip(hours=0.2)
    assert client.get("/config", headers={"Cookie": f"session={token}"}).status_code == 401


def test_each_sign_in_makes_a_session_of_its_own(client: TestClient, link: str) -> None:
    enter(client, link=link, password=PASSWORD)
    first = client.cookies["session"]
    enter(client, name="ana", password=PASSWORD)
    assert client.cookies["session"] != first


def test_a_deactivated_person_cannot_come_back_by_password_or_link(
    client: TestClient, books: Books, link: str
) -> None:
    books.accounts.add("ida", Role.ADMIN, "system")
    enter(client, link=link, password=PASSWORD)
    newer = books.accounts.new_link("ana", "ida")
    books.accounts.set_active("ana", False, "ida")
    assert "Wrong user name" in enter(client, name="ana", password=PASSWORD)[1]
    assert "too old" in enter(client, link=newer, password=PASSWORD)[1]
