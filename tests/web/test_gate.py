"""Who gets through the gate, over every route of the real app, and what its answers carry."""

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from fastapi.testclient import TestClient
from starlette.routing import Mount, Route

from cl.records import Role
from cl.web.gate import Gate
from cl.worker import Problem
from tests.web.pages import ADMIN, OTHER, STAFF, Page, Site

PAGES = ("/", "/admin", "/admin/")
OPEN = ("/signin", "/signout", "/healthz", "/favicon.ico")
STATIC = ("/assets/", "/static/", "/theme.css")
FOREIGN = (
    {"Origin": "https://elsewhere.example"},
    {"Origin": "null"},
    {"Origin": "http://["},
    {"Origin": "http://testserver.elsewhere.example"},
    {"Sec-Fetch-Site": "cross-site"},
)


def routes(app: FastAPI) -> list[tuple[str, str]]:
    """(method, path) of everything the app answers, what is mounted and included too."""

    def walk(found: list, prefix: str) -> Iterator[tuple[str, str]]:
        for route in found:
            if isinstance(route, Mount):
                yield from walk(route.routes, prefix + route.path)
            elif hasattr(route, "original_router"):  # how FastAPI keeps included routers
                yield from walk(route.original_router.routes, prefix)
            else:
                assert isinstance(route, Route), f"the gate does not stand before {route}"
                path = prefix + re.sub(r"{.*?}", "x", route.path)
                yield from ((method, path) for method in route.methods)

    return sorted(set(walk(app.routes, "")) | {("GET", "/admin")})


def is_static(path: str) -> bool:
    return path.removeprefix("/admin").startswith(STATIC)


def set_cookies(answer: Any) -> dict[str, str]:
    """Name -> attributes in lower case."""
    lines = answer.headers.get_list("set-cookie")
    return {line.split("=")[0]: line.split(";", 1)[1].lower() for line in lines}


@pytest.fixture
def gate_alone(site: Site) -> TestClient:
    """The gate in front of an app that answers everything."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    methods = ["GET", "HEAD", "POST"]
    app.add_api_route("/{path:path}", lambda path: "reached", methods=methods)
    app.middleware("http")(Gate(site.house.books.accounts, is_open=False, in_frame=False))
    alone = TestClient(app, follow_redirects=False)
    alone.portal = site.running.portal
    return alone


def test_the_walk_finds_the_routes_of_both_pages(site: Site) -> None:
    found = routes(site.app)
    for path in ("/config", "/gradio_api/queue/join", "/gradio_api/file=x", "/monitoring/summary"):
        assert {path, f"/admin{path}"} <= {found_path for _, found_path in found}
    assert ("POST", "/signin") in found


def test_the_gate_passes_nobody_but_to_sign_in_health_and_static_files(
    site: Site, gate_alone: TestClient
) -> None:
    found = routes(site.app)
    passed = {path for method, path in found if gate_alone.request(method, path).is_success}
    assert passed == {path for _, path in found if path in OPEN or is_static(path)}


def test_without_a_session_pages_lead_to_sign_in_and_all_else_is_401(site: Site) -> None:
    nobody = site.browser()
    for method, path in routes(site.app):
        if path in OPEN or is_static(path):
            continue
        answer = nobody.request(method, path)
        if method == "GET" and path in PAGES:
            assert (answer.status_code, answer.headers["location"]) == (303, "/signin")
        else:
            assert answer.status_code == 401, path


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/signin", 200),
        ("/healthz", 200),
        ("/favicon.ico", 200),
        ("/theme.css", 200),
        ("/admin/theme.css", 200),
        ("/assets/x", 404),
        ("/admin/static/x", 404),
    ],
)
def test_only_sign_in_health_and_static_files_are_open(site: Site, path: str, status: int) -> None:
    assert site.browser().get(path).status_code == status


@pytest.mark.parametrize(
    "path",
    [
        "/static/..%2fconfig",
        "/assets/%2e%2e/config",
        "/admin/static/..%2f..%2fconfig",
        "/theme.css/..%2fconfig",
        "/theme.cssx",
        "//config",
        "//admin/config",
        "/%61dmin/config",
        "/signin/..%2fconfig",
        "/healthz/x",
        "/static/..%2f..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
    ],
)
def test_no_spelling_of_a_path_slips_through(site: Site, path: str) -> None:
    answer = site.browser().get(f"http://testserver{path}")
    assert answer.status_code in (401, 403, 404)
    assert "components" not in answer.text
    assert "root:" not in answer.text


def test_staff_get_403_on_everything_of_the_admins(site: Site, gate_alone: TestClient) -> None:
    gate_alone.cookies = site.browser(STAFF).cookies
    for method, path in routes(site.app):
        if path.startswith("/admin"):
            expected = 200 if is_static(path) else 403
            assert gate_alone.request(method, path).status_code == expected, path
    assert site.browser(STAFF).get("/admin/config").status_code == 403  # and in the real app


def test_gradio_asks_for_the_role_itself(site: Site) -> None:
    gate = Gate(site.house.books.accounts, is_open=True, in_frame=False)

    def names(cookie: str) -> tuple[str | None, str | None]:
        request = Request({"type": "http", "headers": [(b"cookie", cookie.encode())]})
        return gate.staff(request), gate.admins(request)

    sessions = [site.browser(user).cookies["session"] for user in (ADMIN, STAFF)]
    assert [names(f"session={token}") for token in sessions] == [(ADMIN, ADMIN), (STAFF, None)]
    assert names(f"visitor={'x' * 32}")[1] is None
    assert names("visitor=short") == (None, None)


@pytest.mark.parametrize("path", ["/admin", "/admin/"])
def test_staff_who_open_the_admin_page_are_told_in_words(site: Site, path: str) -> None:
    answer = site.browser(STAFF).get(path)
    assert answer.status_code == 403
    assert "Admins only" in answer.text
    assert "href='/'" in answer.text


def test_the_chat_page_is_for_both_and_the_admin_page_for_admins(site: Site) -> None:
    staff, admin = site.browser(STAFF), site.browser(ADMIN)
    assert [b.get("/").status_code for b in (staff, admin)] == [200, 200]
    assert admin.get("/admin/").status_code == 200
    assert Page(admin, "/admin").config["title"].startswith("Admin")
    assert "/admin/" not in Page(staff).run("load")[0]
    assert "/admin/" in Page(admin).run("load")[0]


# -- requests from other sites ---------------------------------------------------------------


@pytest.mark.parametrize("headers", FOREIGN, ids=lambda h: " ".join(h.values()))
def test_a_post_from_another_site_is_403_everywhere(site: Site, headers: dict[str, str]) -> None:
    admin, nobody = site.browser(ADMIN), site.browser()
    posts = [path for method, path in routes(site.app) if method == "POST"]
    assert {"/signin", "/signout", "/gradio_api/queue/join"} <= set(posts)
    assert {admin.post(path, headers=headers).status_code for path in posts} == {403}
    assert nobody.post("/signin", headers=headers).status_code == 403
    assert admin.get("/config").status_code == 200  # still signed in


def test_a_post_from_our_own_page_passes(site: Site) -> None:
    own = {"Origin": "http://testserver", "Sec-Fetch-Site": "same-origin"}
    wrong = {"name": "nobody", "password": "guess"}
    assert site.browser().post("/signin", data=wrong, headers=own).status_code == 401


@pytest.mark.parametrize("path", ["/", "/config", "/admin/config", "/theme.css", "/signin"])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_no_other_site_is_allowed_to_read_answers(site: Site, method: str, path: str) -> None:
    asks = {"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "POST"}
    answer = site.browser(ADMIN).request(method, path, headers=asks)
    assert "access-control-allow-origin" not in answer.headers
    assert "access-control-allow-credentials" not in answer.headers


# -- what answers carry ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "path", "status"),
    [(STAFF, "/", 200), (ADMIN, "/admin/", 200), (STAFF, "/admin/", 403), ("", "/signin", 200)],
)
def test_pages_carry_the_security_headers(site: Site, user: str, path: str, status: int) -> None:
    answer = site.browser(user).get(path)
    policy = answer.headers["content-security-policy"]
    assert answer.status_code == status
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'self';" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "same-origin"
    assert answer.headers["cache-control"] == "no-store"


def test_refusals_and_data_carry_them_too(site: Site) -> None:
    answers = [site.browser().get("/config"), site.browser(STAFF).get("/config")]
    assert [a.status_code for a in answers] == [401, 200]
    assert all("content-security-policy" in a.headers for a in answers)


def test_assets_may_be_kept_for_ever(site: Site) -> None:
    page = site.browser(STAFF).get("/").text
    asset = re.search(r"\./(assets/[\w.-]+\.js)", page)
    assert asset
    answer = site.browser().get(f"/{asset[1]}")
    assert answer.status_code == 200
    assert "immutable" in answer.headers["cache-control"]


def test_what_is_missing_is_not_missing_for_ever(site: Site) -> None:
    answer = site.browser().get("/assets/nothing.js")
    assert answer.status_code == 404
    assert "immutable" not in answer.headers.get("cache-control", "")


@pytest.mark.parametrize("prefix", ["", "/admin"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/gradio_api/file=/etc/passwd"),
        ("HEAD", "/gradio_api/file=/etc/passwd"),
        ("GET", "/gradio_api/file=http://127.0.0.1:1/"),
        ("GET", "/gradio_api/file%3D/etc/passwd"),
        ("GET", "/gradio_api/file/etc/passwd"),
        ("GET", "/gradio_api/proxy=http://127.0.0.1:1/"),
        ("POST", "/gradio_api/upload"),
        ("GET", "/gradio_api/upload_progress"),
        ("POST", "/gradio_api/component_server"),
        ("POST", "/gradio_api/stream/x"),
        ("GET", "/gradio_api/stream/x/1/1/playlist.m3u8"),
        ("GET", "/gradio_api/runs"),
        ("POST", "/gradio_api/process_recording"),
        ("GET", "/gradio_api/deep_link"),
        ("GET", "/gradio_api/info"),
        ("GET", "/gradio_api/user"),
        ("GET", "/gradio_api/vibe-code"),
        ("GET", "/docs"),
        ("GET", "/redoc"),
    ],
)
def test_what_gradio_offers_and_nobody_needs_is_not_there_even_for_admins(
    site: Site, prefix: str, method: str, path: str
) -> None:
    assert site.browser(ADMIN).request(method, prefix + path).status_code == 404


@pytest.mark.parametrize("prefix", ["", "/admin"])
@pytest.mark.parametrize("path", ["", "/summary", "/x"])
def test_nobody_is_shown_gradios_monitoring(site: Site, prefix: str, path: str) -> None:
    assert site.browser(ADMIN).get(f"{prefix}/monitoring{path}").status_code in (403, 404)


@pytest.mark.parametrize("path", ["run", "api"])
def test_handlers_cannot_be_called_past_the_queue(site: Site, path: str) -> None:
    body = {"data": ["hello", None]}
    answer = site.browser(STAFF).post(f"/gradio_api/{path}/begin", json=body)
    assert answer.status_code == 404


# -- sessions --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "is_secure"), [({}, False), ({"X-Forwarded-Proto": "https"}, True)]
)
def test_the_session_cookie_is_for_this_site_only_and_secure_over_https(
    site: Site, headers: dict[str, str], is_secure: bool
) -> None:
    link = site.add(f"cookie-{is_secure}")
    answer = site.browser().post(
        "/signin", data={"link": link, "password": "long enough"}, headers=headers
    )
    cookie = set_cookies(answer)["session"]
    assert answer.status_code == 303
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert ("secure" in cookie) is is_secure


def test_in_a_frame_the_cookies_are_sent_there_and_only_over_https(open_site: Site) -> None:
    visitor = open_site.browser()
    link = {"link": open_site.add("framed"), "password": "long enough"}
    cookies = set_cookies(visitor.get("/")) | set_cookies(visitor.post("/signin", data=link))
    assert set(cookies) == {"visitor", "session"}
    for attributes in cookies.values():
        assert {"httponly", "samesite=none", "secure"} <= set(attributes.strip().split("; "))
    policy = visitor.get("/").headers["content-security-policy"]
    assert "frame-ancestors 'self' https://huggingface.co;" in policy


def test_signing_out_ends_the_session(site: Site) -> None:
    browser = signed_in(site, "leaver")
    token = browser.cookies["session"]
    answer = browser.post("/signout")
    assert (answer.status_code, answer.headers["location"]) == (303, "/signin")
    assert "session" not in browser.cookies
    browser.cookies["session"] = token  # kept by a thief
    assert browser.get("/config").status_code == 401


def test_a_link_elsewhere_cannot_sign_anybody_out(site: Site) -> None:
    browser = site.browser(STAFF)
    browser.get("/signout")
    browser.get("/logout")
    assert browser.get("/config").status_code == 200


def test_a_deactivated_person_is_out_at_once_and_stays_out(site: Site) -> None:
    browser, accounts = signed_in(site, "leaving"), site.house.books.accounts
    accounts.set_active("leaving", False, ADMIN)
    assert browser.get("/").status_code == 303
    assert browser.post("/gradio_api/queue/join", json={}).status_code == 401
    accounts.set_active("leaving", True, ADMIN)
    assert browser.get("/").status_code == 303


def test_an_admin_who_is_one_no_more_loses_the_admin_page_at_once(site: Site) -> None:
    site.browser(ADMIN)  # somebody has to stay
    browser = signed_in(site, "deputy", Role.ADMIN)
    assert browser.get("/admin/config").status_code == 200
    site.house.books.accounts.set_role("deputy", Role.STAFF, ADMIN)
    assert browser.get("/admin/config").status_code == 401


@pytest.mark.parametrize("token", ["", "x", "x" * 5000, "\x00", "' OR 1=1 --"])
def test_a_made_up_session_is_none(site: Site, token: str) -> None:
    browser = site.browser()
    assert browser.get("/config", headers={"Cookie": f"session={token}"}).status_code == 401


def test_a_one_time_link_is_no_session(site: Site) -> None:
    link = site.add("eager")
    browser = site.browser()
    assert browser.get("/config", headers={"Cookie": f"session={link}"}).status_code == 401


def signed_in(site: Site, name: str, role: Role = Role.STAFF) -> TestClient:
    """A new person's browser."""
    browser = site.browser()
    browser.post("/signin", data={"link": site.add(name, role), "password": "long enough"})
    return browser


# -- visitors --------------------------------------------------------------------------------


def name_of(site: Site, browser: TestClient) -> str:
    """Under which name this browser chats."""
    _, interaction, _ = Page(browser).chat("Who am I?")
    return next(site.house.books.logger.get_records(int(interaction) - 1)).user


def test_every_visitor_gets_a_name_and_keeps_it(open_site: Site) -> None:
    one, two = open_site.browser(), open_site.browser()
    assert [b.get("/").status_code for b in (one, two)] == [200, 200]
    names = {name_of(open_site, one), name_of(open_site, two)}
    assert len(names) == 2
    assert all(name.startswith("visitor-") for name in names)
    assert one.cookies["visitor"] not in name_of(open_site, one)
    assert "set-cookie" not in one.get("/").headers
    assert name_of(open_site, one) in names


def test_a_visitor_cannot_choose_a_guessable_token(open_site: Site) -> None:
    visitor = open_site.browser()
    visitor.cookies["visitor"] = "ana"
    assert visitor.post("/gradio_api/queue/join", json={}).status_code == 401
    assert "visitor" in set_cookies(visitor.get("/"))


def test_visitors_chat_and_see_only_their_own(open_site: Site) -> None:
    with_account, one, two = open_site.browser(STAFF), open_site.browser(), open_site.browser()
    pages = []
    for browser, text in ((with_account, "of staff"), (one, "of one"), (two, "of two")):
        browser.get("/")
        pages.append(Page(browser))
        pages[-1].chat(f"A secret {text}")
    staff, first, second = (json.dumps(page.run("load")[1]) for page in pages)
    assert "of staff" in staff
    assert "of one" in first
    assert "of two" not in first
    assert "of staff" not in first + second
    theirs = pages[0].chat("Another secret of staff")[0]
    for page in pages[1:]:
        told = page.refusal("pick", "", None, event_data={"id": theirs, "act": "open"})
        assert told == f"You have no conversation {theirs}."


def test_a_person_with_an_account_keeps_their_name_among_visitors(open_site: Site) -> None:
    browser = open_site.browser(OTHER)
    browser.get("/")
    assert name_of(open_site, browser) == OTHER
    assert f"<b>{OTHER}</b>" in Page(browser).run("load")[0]


def test_visitors_are_kept_out_of_the_admin_page(open_site: Site) -> None:
    visitor = open_site.browser()
    visitor.get("/")
    assert "/admin/" not in Page(visitor).run("load")[0]
    for method, path in routes(open_site.app):
        if path.startswith("/admin") and not is_static(path):
            expected = 303 if method == "GET" and path in PAGES else 401
            assert visitor.request(method, path).status_code == expected, path


# -- health ----------------------------------------------------------------------------------


def test_the_health_check_tells_anybody_whether_the_threads_are_well(site: Site) -> None:
    nobody = site.browser()
    well = nobody.get("/healthz")
    assert (well.status_code, well.json()["ok"]) == (200, True)
    site.worker.problem = Problem(site.house.books.clock(), "OSError: disk full")
    failed = nobody.get("/healthz")
    assert "disk full" not in failed.text  # what went wrong is for admins
    site.worker.problem, site.worker.alive = None, False
    dead = nobody.get("/healthz")
    site.worker.alive, site.house.books.scoring.problem = True, "OSError: disk full"
    unscored = nobody.get("/healthz")
    site.house.books.scoring.problem = ""
    answers = (failed, dead, unscored)
    assert [(a.status_code, a.json()["ok"]) for a in answers] == [(503, False)] * 3


def test_the_health_check_holds_no_names_paths_or_tokens(site: Site) -> None:
    answer = site.browser(STAFF).get("/healthz").text
    for secret in (STAFF, str(site.house.books.settings.data_dir), *site.sessions.values()):
        assert secret not in answer


# -- browsers that leave ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last_word", "ends"), [("http.disconnect", True), ("http.request", False)]
)
def test_only_a_browser_that_left_excuses_an_endpoint_without_an_answer(
    site: Site, last_word: str, ends: bool
) -> None:
    async def said() -> dict[str, Any]:
        return {"type": last_word}

    async def no_answer(request: Request) -> Response:
        raise RuntimeError("No response returned.")

    scope = {"type": "http", "method": "GET", "path": "/signin", "headers": [], "query_string": b""}
    gate = Gate(site.house.books.accounts, is_open=False, in_frame=False)
    asked = gate(Request(scope, said), no_answer)
    if ends:
        assert asyncio.run(asked).status_code == 499
    else:
        with pytest.raises(RuntimeError):
            asyncio.run(asked)
