"""What staff do all day, and that none of it is lost."""

from collections.abc import Callable

from playwright.sync_api import expect

from tests.running import App
from tests.stage import ADMIN, OTHER, SAYS, STAFF
from tests.web.browser.looking import MARKUP, Visit, eventually, rows

Open = Callable[..., Visit]

# A network that takes its time.
SLOW = """() => { const before = window.fetch; window.fetch = async (...asked) => {
  await new Promise((go) => setTimeout(go, 300)); return before(...asked); }; }"""


def test_an_answer_grows_is_stopped_and_what_was_written_stays(stage: App, open_page: Open) -> None:
    visit = open_page(stage, STAFF)
    visit.ask("Tell me a story")
    expect(visit.page.locator("#chat .user.message")).to_have_text(["Tell me a story"])
    lengths: set[int] = set()
    while len(lengths) < 3:
        lengths.add(len(visit.answer.inner_text()))
    assert max(lengths) < len(SAYS["story"])
    # What is typed meanwhile stays where it is.
    visit.page.keyboard.type("And then?")
    visit.page.keyboard.press("Escape")
    expect(visit.answer).to_contain_text("(stopped)")
    stopped = visit.answer.inner_text()
    visit.page.wait_for_timeout(1000)
    assert visit.answer.inner_text() == stopped
    assert len(stopped) < len(SAYS["story"])
    expect(visit.box).to_have_value("And then?")
    query = "SELECT status, answer FROM interaction WHERE prompt = 'Tell me a story'"
    ((status, answer),) = rows(stage, query)
    assert status == "cancelled"
    assert stopped.startswith(answer.strip()[:100])
    visit.page.reload()
    visit.page.locator("#hist .name").first.click()
    expect(visit.answer).to_have_text(stopped)


def test_what_is_typed_right_after_enter_is_the_next_message(stage: App, open_page: Open) -> None:
    visit = open_page(stage, STAFF)
    visit.ready()
    visit.box.fill("A code, please")
    visit.page.keyboard.press("Enter")
    visit.page.keyboard.type("One more thing")
    expect(visit.page.locator("#chat .user.message")).to_have_text(["A code, please"])
    expect(visit.thumb("Like")).to_be_visible()
    expect(visit.box).to_have_value("One more thing")


def test_what_is_asked_right_after_new_chat_is_asked_there(stage: App, open_page: Open) -> None:
    visit, asked = open_page(stage, OTHER), "#chat .user.message"
    visit.chat("A code in the first chat")
    visit.page.evaluate(SLOW)
    visit.page.click("#new-chat")
    visit.page.keyboard.type("A table in the second")
    visit.page.keyboard.press("Enter")
    visit.page.keyboard.press("Enter")  # impatient; it is sent once
    expect(visit.page.locator(asked)).to_have_text(["A table in the second"])
    expect(visit.thumb("Like")).to_be_visible()
    expect(visit.page.locator("[data-testid=toast-body]")).to_have_count(0)
    visit.page.locator("#hist .name", has_text="A code in the first chat").click()
    visit.box.fill("One more thing in the first")
    visit.page.keyboard.press("Enter")
    expect(visit.page.locator(asked)).to_have_text(
        ["A code in the first chat", "One more thing in the first"]
    )
    expect(visit.thumb("Like")).to_be_visible()


def test_an_answer_is_written_on_while_another_chat_is_open(stage: App, open_page: Open) -> None:
    visit, stop = open_page(stage, OTHER), "#composer .stop-button"
    visit.ask("Begin a story")
    expect(visit.answer).to_contain_text("word3")
    visit.new_chat()
    visit.chat("A code meanwhile")  # its own answer, and nothing of the story
    visit.page.locator("#hist .name", has_text="Begin a story").click()
    expect(visit.page.locator("#chat .user.message")).to_have_text(["Begin a story"])
    lengths: set[int] = set()
    while len(lengths) < 3:
        lengths.add(len(visit.answer.inner_text()))
    visit.box.fill("Not yet")
    visit.page.keyboard.press("Enter")
    visit.toast("An answer is being written. Wait for it, or stop it.")
    expect(visit.box).to_have_value("Not yet")
    visit.page.click(stop)
    expect(visit.answer).to_contain_text("(stopped)")
    visit.page.locator("#hist .name", has_text="A code meanwhile").click()
    expect(visit.page.locator("#chat .user.message")).to_have_text(["A code meanwhile"])
    visit.settle()
    expect(visit.page.locator("#chat .user.message")).to_have_text(["A code meanwhile"])
    expect(visit.page.locator(stop)).to_have_count(0)


def test_what_cannot_be_sent_says_why_and_stays_in_the_box(stage: App, open_page: Open) -> None:
    visit = open_page(stage, STAFF)
    visit.ask("x" * 9000)
    visit.toast("This message has 9000 characters; at most 8000 can be sent.")
    expect(visit.box).to_have_value("x" * 9000)
    visit.box.fill("   ")
    visit.page.keyboard.press("Enter")
    visit.toast("Write a message first.")
    expect(visit.page.get_by_text("How can I help?")).to_be_visible()  # not covered by an error


def test_a_thumb_is_kept_at_the_click_changed_explained_and_withdrawn(
    stage: App, open_page: Open
) -> None:
    visit = open_page(stage, OTHER)
    visit.chat("A table, please")
    query = (
        "SELECT f.thumb, f.reasons, f.comment, f.correction, i.version FROM feedback f "
        "JOIN interaction i ON i.id = f.interaction_id WHERE i.prompt = 'A table, please' AND f.user = ?"
    )
    visit.thumb("Like").click()
    expect(visit.page.locator("#thanks")).to_contain_text("Your thumb is saved.")
    visit.page.reload()
    visit.page.locator("#hist .name").first.click()
    visit.thumb("Liked").click()
    expect(visit.thumb("Like")).to_be_visible()
    eventually(stage, query, [(0, "[]", "", "", "base")], OTHER)

    visit.thumb("Dislike").click()
    expect(visit.page.locator("#feedback")).to_be_visible()
    assert rows(stage, query, OTHER)[0][0] == -1
    visit.page.get_by_label("Outdated").check()
    visit.page.fill("#better textarea", "The table of this year.")
    visit.page.fill("#comment textarea", "It is last year's.")
    visit.page.click("#feedback-send")
    expect(visit.page.locator("#feedback")).to_be_hidden()
    said = ('["Outdated"]', "It is last year's.", "The table of this year.", "base")
    assert rows(stage, query, OTHER) == [(-1, *said)]
    visit.page.reload()
    visit.page.locator("#hist .name").first.click()
    expect(visit.thumb("Disliked")).to_be_visible()


def test_what_was_renamed_deleted_edited_and_asked_again_is_so_after_a_reload(
    stage: App, open_page: Open
) -> None:
    visit = open_page(stage, OTHER)
    names, asked = visit.page.locator("#hist .name"), visit.page.locator("#chat .user.message")
    visit.chat("A code to be deleted")
    visit.new_chat()
    visit.chat("A code to be renamed")
    visit.chat("A table to be asked again")
    visit.page.locator("#chat button[aria-label='Retry']").click()
    expect(visit.page.locator("#composer .stop-button")).to_be_visible()
    expect(visit.page.locator("#composer .submit-button")).to_be_visible()
    asked.first.hover()
    visit.page.locator("#chat button[aria-label='Edit']").first.click()
    visit.page.locator("#chat textarea").fill("A picture instead of code")
    visit.page.locator("#chat button[aria-label='Submit']").click()
    expect(asked).to_have_text(["A picture instead of code"])
    expect(visit.thumb("Like")).to_be_visible()
    item = visit.page.locator("#hist li.open")
    item.hover()
    item.get_by_title("Rename", exact=True).click()
    visit.page.keyboard.type("Renamed by Ben")
    visit.page.keyboard.press("Enter")
    expect(names.first).to_have_text("Renamed by Ben")
    other = visit.page.locator("#hist li", has_text="A code to be deleted")
    other.hover()
    other.get_by_title("Delete", exact=True).click()
    other.get_by_role("button", name="Yes").click()
    expect(other).to_have_count(0)

    visit.page.reload()
    expect(names.first).to_have_text("Renamed by Ben")
    expect(names.filter(has_text="A code to be deleted")).to_have_count(0)
    visit.page.get_by_label("Search chats").press_sequentially("renamed by")
    expect(names).to_have_text(["Renamed by Ben"])
    names.first.click()
    expect(asked).to_have_text(["A picture instead of code"])
    kept = rows(stage, "SELECT prompt FROM interaction WHERE user = ? ORDER BY id", OTHER)
    assert [p for (p,) in kept if "asked again" in p] == ["A table to be asked again"] * 2


def test_nothing_people_write_runs_in_any_page(stage: App, open_page: Open) -> None:
    visit = open_page(stage, STAFF)
    visit.page.on("dialog", lambda dialog: visit.faults.append(f"dialog: {dialog.message}"))
    visit.chat(f"Something nasty {MARKUP}")
    visit.thumb("Dislike").click()
    visit.page.locator("#feedback").wait_for(state="visible")
    visit.page.fill("#better textarea", f"better {MARKUP}")
    visit.page.fill("#comment textarea", f"comment {MARKUP}")
    visit.page.click("#feedback-send")
    expect(visit.page.locator("#feedback")).to_be_hidden()
    item = visit.page.locator("#hist li.open")
    item.hover()
    item.get_by_title("Rename", exact=True).click()
    visit.page.keyboard.type(MARKUP)
    visit.page.keyboard.press("Enter")
    expect(visit.page.locator("#hist .name").first).to_have_text(MARKUP)
    visit.page.get_by_label("Search chats").press_sequentially("<img src")
    expect(visit.page.locator("#hist .name").first).to_have_text(MARKUP)
    assert visit.page.evaluate("window.__xss") is None
    # The picture itself is a picture, from nowhere but this server.
    visit.faults[:] = [f for f in visit.faults if not (f.endswith("/x") or "404" in f)]

    admin = open_page(stage, ADMIN, "/admin/")
    admin.open("Data")
    for place in ("#said", "#review-card"):
        expect(admin.page.locator(place)).to_contain_text("better <img src=x")
    admin.page.locator("#said").get_by_role("button", name="Open").first.click()
    admin.open("Users")
    admin.page.fill("#user-name :is(input, textarea)", "<img src=x onerror=window.__xss=1>")
    admin.page.click("#user-add")
    admin.toast("cannot be a user name")
    admin.page.fill("#user-search :is(input, textarea)", MARKUP)
    admin.open("Audit")
    admin.page.fill("#audit-search :is(input, textarea)", MARKUP)
    admin.page.wait_for_timeout(300)
    assert admin.page.evaluate("window.__xss") is None


def test_a_picture_in_an_answer_is_not_fetched(stage: App, open_page: Open) -> None:
    visit = open_page(stage, STAFF)
    outside: list[str] = []
    visit.page.context.route(
        "https://example.org/**", lambda route: outside.append(route.request.url)
    )
    visit.chat("A picture, please")
    expect(visit.answer).to_contain_text("Here:")
    visit.page.wait_for_timeout(500)
    assert outside == []
    # Chromium says in the console what the page's policy has kept it from.
    assert all("Content Security Policy" in f or "example.org" in f for f in visit.faults)
    visit.faults.clear()


def test_the_eighth_tab_answers_like_the_first(stage: App, open_page: Open) -> None:
    visits = [open_page(stage, STAFF) for _ in range(8)]
    visits[-1].chat("A table in the eighth tab")
    visits[0].chat("A table in the first tab")
    for one in (visits[-1], visits[0]):
        expect(one.answer).to_contain_text("Service desk")


def test_after_a_restart_the_open_page_says_so_and_works_when_reloaded(
    restartable: App, open_page: Open
) -> None:
    visit = open_page(restartable, STAFF)
    visit.ask("Tell me a story")
    expect(visit.answer).to_contain_text("word20")
    restartable.kill()
    visit.page.locator("[data-testid=toast-body]").filter(has_text="onnection").first.wait_for()
    restartable.start()
    visit.page.reload()
    visit.ready()
    visit.page.locator("#hist .name").first.click()
    expect(visit.answer).to_contain_text("(interrupted)")
    visit.chat("A table, please")
    expect(visit.answer).to_contain_text("Service desk")
    # What was asked of a server that was gone.
    gone = (
        "CONNECTION_REFUSED",
        "INCOMPLETE_CHUNKED",
        "network error",
        "Failed to fetch",
        "errored",
    )
    visit.faults[:] = [fault for fault in visit.faults if not any(word in fault for word in gone)]


def test_who_waits_is_told_their_place(narrow: App, open_page: Open) -> None:
    first, second = open_page(narrow, STAFF), open_page(narrow, STAFF)
    first.ask("Tell me a story")
    expect(first.answer).to_contain_text("word3")
    second.ask("A table, please")
    expect(second.answer).to_contain_text("Others are being answered. You are next.")
    first.page.keyboard.press("Escape")
    expect(second.answer).to_contain_text("Service desk")


def test_new_chat_and_stop_are_keys(stage: App, open_page: Open) -> None:
    visit = open_page(stage, STAFF)
    visit.chat("A code, please")
    visit.page.keyboard.press("Control+Shift+O")
    expect(visit.page.locator("#chat .user.message")).to_have_count(0)
    visit.box.focus()
    visit.page.keyboard.type("line one")
    visit.page.keyboard.press("Shift+Enter")
    visit.page.keyboard.type("line two")
    expect(visit.box).to_have_value("line one\nline two")
