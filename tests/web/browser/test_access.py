"""Who may see and do what, asked with a browser's own cookies."""

from collections.abc import Callable

from playwright.sync_api import APIRequestContext, expect

from tests.running import App
from tests.stage import ADMIN, OTHER, STAFF
from tests.web.browser.looking import Visit, everything, rows

Open = Callable[..., Visit]
REFUSED = (401, 403, 404)
# All that the page is sent, piece by piece, streams included.
OVERHEAR = """() => { window.overheard = []; const before = window.fetch;
  window.fetch = async (...asked) => { const answer = await before(...asked);
    const [kept, given] = answer.body ? answer.body.tee() : [null, null];
    if (kept) (async () => { const reader = kept.pipeThrough(new TextDecoderStream()).getReader();
      for (let part; !(part = await reader.read()).done;) window.overheard.push(part.value); })();
    const copy = new Response(given, answer);
    Object.defineProperty(copy, 'url', {value: answer.url});
    return copy; }; }"""


def events(client: APIRequestContext, app: App, path: str) -> list[int]:
    """The numbers of all events of a page, as its config has them."""
    found = client.get(f"{app.address}{path}config").json()["dependencies"]
    return [event["id"] for event in found]


def attempts(client: APIRequestContext, app: App, numbers: list[int]) -> list[int]:
    """The statuses of everything one could try on the admin page."""
    base = f"{app.address}/admin"
    headers = {"Origin": app.address}
    found = [
        client.get(f"{base}{path}", max_redirects=0).status
        for path in ("/config", "/gradio_api/info", "/gradio_api/queue/data?session_hash=x")
    ]
    found += [client.get(f"{base}/{name}.csv").status for name in ("audit", "ratings")]
    for number in numbers:
        body = {"fn_index": number, "data": ["promote"] * 9, "session_hash": "x"}
        found.append(
            client.post(f"{base}/gradio_api/queue/join", data=body, headers=headers).status
        )
    for path in ("call/confirm", "run/confirm", "component_server", "run/predict"):
        body = {"data": [], "fn_index": numbers[0]}
        found.append(client.post(f"{base}/gradio_api/{path}", data=body, headers=headers).status)
    return found


def test_the_admin_page_is_closed_to_staff_and_strangers_whatever_they_ask_for(
    stage: App, open_page: Open
) -> None:
    admin = open_page(stage, ADMIN, "/admin/")
    numbers = events(admin.page.request, stage, "/admin/")
    assert len(numbers) > 50
    admin.page.get_by_role("button", name="Sign out").click()
    expect(admin.page.locator("#name")).to_be_visible()
    before = everything(stage)

    for path in ("/", "/admin/"):
        admin.page.goto(stage.address + path)
        expect(admin.page).to_have_url(f"{stage.address}/signin")
    assert set(attempts(admin.page.request, stage, numbers)) <= set(REFUSED)

    staff = open_page(stage, STAFF)
    assert staff.page.request.get(f"{stage.address}/admin/").status == 403
    assert set(attempts(staff.page.request, stage, numbers)) <= set(REFUSED)
    assert everything(stage) == before
    staff.page.goto(f"{stage.address}/admin/")
    expect(staff.page.get_by_text("Your account is not an admin's.")).to_be_visible()
    staff.faults.clear()  # a page of status 403, as it should be


def test_nobody_touches_a_conversation_of_somebody_else(stage: App, open_page: Open) -> None:
    mine = open_page(stage, OTHER)
    mine.chat("A table of mine, please")
    (number,) = rows(stage, "SELECT MAX(id) FROM conversation WHERE user = ?", OTHER)[0]
    theirs = open_page(stage, STAFF)
    client = theirs.page.request
    before, answers = everything(stage), rows(stage, "SELECT id, answer FROM interaction")
    config = client.get(f"{stage.address}/config").json()["dependencies"]
    tried = 0
    for event in config:
        if not event["backend_fn"]:
            continue
        many = len(event["inputs"])
        for data in ([str(number)] * many, ["hello", str(number), False, ""][:many]):
            for said in (
                {"act": "open", "id": number},
                {"act": "rename", "id": number, "title": "mine now"},
                {"act": "delete", "id": number},
                {"index": 1, "liked": True, "value": "x"},
            ):
                body = {"fn_index": event["id"], "data": data, "session_hash": f"s{tried}"}
                answer = client.post(
                    f"{stage.address}/gradio_api/queue/join",
                    data={**body, "event_data": said},
                    headers={"Origin": stage.address},
                )
                assert answer.status == 200
                stream = client.get(
                    f"{stage.address}/gradio_api/queue/data?session_hash=s{tried}", timeout=30_000
                )
                assert "A table of mine" not in stream.text()
                tried += 1
    assert tried > 80
    # What was said to nobody in particular began chats of their own; nothing of the other's changed.
    after = everything(stage)
    assert [row for row in after["conversation"] if row[1] == OTHER] == [
        row for row in before["conversation"] if row[1] == OTHER
    ]
    assert after["feedback"] == before["feedback"]
    assert rows(stage, "SELECT id, answer FROM interaction")[: len(answers)] == answers
    theirs.faults.clear()


def test_other_sites_are_refused_and_the_session_is_in_a_cookie_alone(
    stage: App, open_page: Open
) -> None:
    visit = open_page(stage, STAFF)
    for path in ("/gradio_api/queue/join", "/signin", "/signout"):
        answer = visit.page.request.post(
            stage.address + path, data={}, headers={"Origin": "https://elsewhere.example"}
        )
        assert answer.status == 403
    (cookie,) = visit.page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Lax")
    addresses: list[str] = []
    visit.page.on("request", lambda request: addresses.append(request.url))
    visit.page.reload()
    visit.chat("A code, please")
    assert addresses
    assert not [url for url in addresses if cookie["value"] in url or "token" in url]


def test_staff_are_never_told_which_version_answers(lived: App, open_page: Open) -> None:
    visit = open_page(lived, STAFF)
    visit.page.evaluate(OVERHEAR)
    for _ in range(3):
        visit.chat("Who approves travel expenses?")
        visit.new_chat()
    visit.page.locator("#hist .name").first.click()
    visit.page.wait_for_timeout(500)
    told = [visit.page.content(), visit.page.request.get(f"{lived.address}/config").text()]
    told.append(visit.page.evaluate("window.overheard.join(' ')"))
    assert len(told[-1]) > 1000
    visit.faults.clear()  # of hearing twice
    assert any("Mirela" in text for text in told)
    for name in ("v0001", "v0004", "v0005", "challenger", "champion", "adapter"):
        assert not any(name in text for text in told)
