"""What a person sees: the real app, the real model, a real browser."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, ConsoleMessage, Page, expect, sync_playwright

from cl.settings import child_environment
from tests.running import ROOT, App, running_app

pytestmark = pytest.mark.slow

PATIENCE = 90_000  # milliseconds; the machine may be busy
PASSWORD = "correct horse battery"
# Gradio's client complains of its own hanging up when a page is left while something is on its way.
HUNG_UP = ("AbortError: signal is aborted", "Unexpected error Connection errored out.")
MARKUP = "<img src=x onerror='window.__xss=1'> **b** ${window.__xss=1} {{value}}"


@pytest.fixture(scope="module")
def app(real_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    folder = tmp_path_factory.mktemp("browser") / "data"
    folder.mkdir()
    (folder / "models").symlink_to(real_model)
    with running_app(folder, preset="demo", temperature="0") as app:
        yield app


@pytest.fixture
def browser() -> Iterator[BrowserContext]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    assert chromium, "this test needs Chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        context = browser.new_context(locale="en-US", viewport={"width": 1280, "height": 800})
        context.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        yield context
        browser.close()


def watched(context: BrowserContext, address: str) -> tuple[Page, list[str]]:
    """A page, and everything it does that it should not."""
    faults: list[str] = []
    page = context.new_page()

    def hear(message: ConsoleMessage) -> None:
        if message.type == "error" and not message.text.startswith(HUNG_UP):
            faults.append(message.text)

    page.on("console", hear)
    page.on(
        "request",
        lambda r: None if r.url.startswith((address, "data:", "blob:")) else faults.append(r.url),
    )
    page.on("pageerror", lambda error: faults.append(str(error)))
    return page, faults


NAMELESS = """() => [...document.querySelectorAll('button, a, input, textarea, select')]
  .filter((e) => e.checkVisibility() && !(e.innerText?.trim() || e.ariaLabel || e.title || e.placeholder
    || e.labels?.length || e.getAttribute('aria-labelledby') || e.querySelector('[aria-label]')))
  .map((e) => e.outerHTML.slice(0, 200))"""
FITS = "document.documentElement.scrollWidth <= innerWidth"


def ask(page: Page, text: str) -> None:
    page.locator("#hist :is(p, .name)").first.wait_for()  # the page has loaded, history and all
    page.fill("#composer textarea", text)
    page.keyboard.press("Enter")


def test_sign_in_chat_vote_correct_and_read_it_back_as_admin(
    app: App, browser: BrowserContext
) -> None:
    page, faults = watched(browser, app.address)

    page.goto(app.link())
    page.fill("#password", PASSWORD)
    page.click("button")

    ask(page, "What is the capital of France?")
    answer = page.locator("#chat .bot.message").last
    expect(answer).to_contain_text("Paris", timeout=PATIENCE)
    expect(page.locator("#hist .name").first).to_contain_text("capital of France")

    dislike = page.locator("#chat button[aria-label='Dislike']").last
    dislike.click()
    expect(page.locator("#feedback")).to_be_visible(timeout=PATIENCE)
    page.get_by_label("Incomplete").check()
    page.fill("#better textarea", "Paris, on the river Seine.")
    page.fill("#comment textarea", "It should name the river.")
    page.click("#feedback-send")
    expect(page.locator("#feedback")).to_be_hidden(timeout=PATIENCE)

    page.get_by_role("link", name="Admin").click()
    expect(page.locator("#status")).to_contain_text("The base model answers everybody")
    page.get_by_role("tab", name="Data").click()
    row = page.locator("#said tbody tr").first
    for text in ("What is the capital of France?", "Paris, on the river Seine.", "Incomplete"):
        expect(row).to_contain_text(text, timeout=PATIENCE)
    expect(row).to_contain_text("It should name the river.")
    expect(row).to_contain_text("down")

    page.get_by_role("link", name="Chat").click()
    page.locator("#hist .name").first.click()
    expect(page.locator("#chat .bot.message").last).to_contain_text("Paris")
    page.get_by_role("button", name="Sign out").click()
    expect(page).to_have_url(f"{app.address}/signin")
    assert faults == []


def sign_in(page: Page, app: App) -> None:
    page.goto(f"{app.address}/signin")
    page.fill("#name", "admin")
    page.fill("#password", PASSWORD)
    page.click("button")
    expect(page.locator("#composer textarea")).to_be_visible(timeout=PATIENCE)


def test_a_long_answer_can_be_stopped_and_two_tabs_do_not_disturb_each_other(
    app: App, browser: BrowserContext
) -> None:
    page, faults = watched(browser, app.address)
    sign_in(page, app)
    other, other_faults = watched(browser, app.address)
    other.goto(app.address)
    ask(page, "Write a very long story about a ship, a storm and a lighthouse.")
    ask(other, "What is the capital of France?")
    expect(page.locator("#chat .bot.message").last).not_to_be_empty(timeout=PATIENCE)
    # At once: waiting until the button stands still may take longer than the answer.
    page.locator("#composer button.stop-button").dispatch_event("click")
    expect(page.locator("#chat .bot.message").last).to_contain_text("(stopped)", timeout=PATIENCE)
    expect(other.locator("#chat .bot.message").last).to_contain_text("Paris", timeout=PATIENCE)
    ask(page, "What is the capital of France?")
    expect(page.locator("#chat .bot.message").last).to_contain_text("Paris", timeout=PATIENCE)
    assert faults == other_faults == []


def test_the_admin_starts_a_training_and_reads_why_it_ended(
    app: App, browser: BrowserContext
) -> None:
    page, faults = watched(browser, app.address)
    sign_in(page, app)
    page.goto(f"{app.address}/admin/")
    page.click("#retrain")
    expect(page.locator("#confirm")).to_contain_text("Start a training now")
    page.click("#confirm-yes")
    expect(page.get_by_text("Please write a reason")).to_be_visible(timeout=PATIENCE)
    page.fill("#reason textarea, #reason input", "to see what happens")
    page.click("#confirm-yes")
    page.get_by_role("tab", name="Training").click()
    expect(page.locator("#job")).to_contain_text("not enough data", timeout=PATIENCE)
    page.get_by_role("tab", name="Log").click()
    for text in ("admin", "retrain", "to see what happens"):
        expect(page.locator("#audit")).to_contain_text(text, timeout=PATIENCE)
    assert faults == []


def rated_by_others(app: App) -> None:
    """Three corrected answers, as a history from elsewhere."""
    lines = [
        {
            "conversation": [{"role": "user", "content": f"Where is file {n} kept? {MARKUP}"}],
            "response": "Somewhere.",
            "feedback": -1,
            "correction": f"In drawer {n}. {MARKUP}",
        }
        for n in range(3)
    ]
    file = app.log.parent / "history.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "cl",
        "import",
        str(file),
        "--data",
        str(app.log.parent / "data"),
    ]
    subprocess.run(command, cwd=ROOT, env=child_environment(), check=True, capture_output=True)


def test_the_admin_reviews_what_will_be_learned_and_a_reload_keeps_it(
    app: App, browser: BrowserContext
) -> None:
    rated_by_others(app)
    page, faults = watched(browser, app.address)
    sign_in(page, app)
    page.goto(f"{app.address}/admin/")
    page.get_by_role("tab", name="Data").click()
    card, heading = page.locator("#review-card"), page.locator("#review-heading")
    while "Where is file" not in card.inner_text():
        page.click("#review-later")
        page.wait_for_timeout(500)
    expect(card).to_contain_text(MARKUP, timeout=PATIENCE)
    excluded = card.locator(".learned").inner_text()
    page.fill("#review-reason input, #review-reason textarea", "nobody should know")
    page.click("#review-exclude")
    expect(heading).to_contain_text("0 kept, 1 excluded, 0 edited", timeout=PATIENCE)
    expect(card).not_to_contain_text(excluded)

    page.click("#review-change")
    page.fill("#review-answer textarea", "In the new cupboard.")
    page.click("#review-save")
    expect(heading).to_contain_text("0 kept, 1 excluded, 1 edited", timeout=PATIENCE)

    page.reload()
    page.get_by_role("tab", name="Data").click()
    expect(heading).to_contain_text("0 kept, 1 excluded, 1 edited", timeout=PATIENCE)
    decided = page.locator("#decided")
    for text in ("In the new cupboard.", excluded, "nobody should know"):
        expect(decided).to_contain_text(text)
    decided.get_by_role("button", name="Undo").last.click()
    expect(heading).to_contain_text("0 kept, 0 excluded, 1 edited", timeout=PATIENCE)
    assert page.evaluate("window.__xss") is None
    assert faults == []


def test_a_chat_that_is_not_to_be_learned_from_stays_so(app: App, browser: BrowserContext) -> None:
    page, faults = watched(browser, app.address)
    sign_in(page, app)
    switch = page.get_by_label("Don't learn from this chat")
    page.locator("#hist .name").first.wait_for()  # the page has loaded, history and all
    expect(switch).not_to_be_checked()
    page.locator("#composer textarea").focus()
    press_until_on(page, "Tab", "#private input")
    page.keyboard.press("Space")
    expect(switch).to_be_checked()
    ask(page, "What is the capital of France?")
    expect(page.locator("#chat .bot.message").last).to_contain_text("Paris", timeout=PATIENCE)
    page.click("#new-chat")
    expect(switch).not_to_be_checked(timeout=PATIENCE)
    page.reload()
    page.locator("#hist .name").first.click()
    expect(switch).to_be_checked(timeout=PATIENCE)
    page.locator("#hist .name").nth(1).click()
    expect(switch).not_to_be_checked(timeout=PATIENCE)
    assert faults == []


def test_chats_are_found_renamed_and_deleted_and_messages_asked_again(
    app: App, browser: BrowserContext
) -> None:
    page, faults = watched(browser, app.address)
    sign_in(page, app)
    names, asked = page.locator("#hist .name"), page.locator("#chat .user.message")
    for count, text in enumerate(("Name three colours.", "And three fruits?"), start=1):
        ask(page, text)
        expect(page.locator("#chat button[aria-label='Like']:visible")).to_have_count(count)

    page.locator("#chat button[aria-label='Retry']").click()
    expect(page.locator("#composer .stop-button")).to_be_visible()
    expect(page.locator("#composer .submit-button")).to_be_visible()
    expect(asked).to_have_count(2)
    asked.first.hover()
    page.locator("#chat button[aria-label='Edit']").first.click()
    page.locator("#chat textarea").fill("Name four animals.")
    page.locator("#chat button[aria-label='Submit']").click()
    expect(asked).to_have_text(["Name four animals."])
    expect(page.locator("#chat button[aria-label='Like']:visible")).to_have_count(1)

    item = page.locator("#hist li.open")
    item.hover()
    item.get_by_role("button", name="Rename").click()
    page.keyboard.type(MARKUP)
    page.keyboard.press("Enter")
    expect(names.first).to_have_text(MARKUP)
    page.reload()
    expect(names.first).to_have_text(MARKUP)
    names.first.click()
    expect(asked).to_have_text(["Name four animals."])

    search = page.get_by_label("Search chats")
    search.press_sequentially("FOUR anim")
    expect(names).to_have_count(1)
    search.press_sequentially("zzz")
    expect(page.locator("#hist p")).to_have_text("No chat holds these words.")
    for _ in range(3):
        page.keyboard.press("Backspace")
    expect(names).to_have_count(1)

    names.first.focus()  # by keyboard alone: on to Rename, on to Delete, on to Yes
    for key in ("Tab", "Tab", "Enter", "Shift+Tab", "Enter"):
        page.keyboard.press(key)
    expect(page.locator("#hist p")).to_have_text("No chat holds these words.")
    expect(asked).to_have_count(0)
    assert page.evaluate("window.__xss") is None
    assert faults == []


def test_the_pages_fit_a_phone_keep_the_dark_and_name_every_control(
    app: App, browser: BrowserContext
) -> None:
    page, faults = watched(browser, app.address)
    page.set_viewport_size({"width": 390, "height": 844})
    sign_in(page, app)
    expect(page.locator(".sidebar.open")).to_have_count(0)
    expect(page.locator("#composer textarea")).to_be_visible()
    page.get_by_role("button", name="Theme").click()
    for path in ("/", "/admin/"):
        page.goto(app.address + path)
        expect(page.locator("body.dark")).to_have_count(1)
        expect(page.locator("#hist :is(p, .name), #status .card").first).to_be_attached()
        assert page.evaluate(FITS)
        assert page.evaluate(NAMELESS) == []
    page.get_by_role("button", name="Theme").click()
    page.reload()
    expect(page.locator("#status .card").first).to_be_visible()
    expect(page.locator("body.dark")).to_have_count(0)
    assert faults == []


def press_until_on(page: Page, key: str, there: str) -> None:
    """Move by keyboard until the control has the focus."""
    for _ in range(30):
        if page.evaluate("there => document.activeElement.matches(there)", there):
            return
        page.keyboard.press(key)
    raise AssertionError(f"{there} is not reached with {key}")


def test_an_answer_is_disliked_and_corrected_by_keyboard_alone(
    app: App, browser: BrowserContext
) -> None:
    page, faults = watched(browser, app.address)
    sign_in(page, app)
    ask(page, "What is the capital of Italy?")
    dislike = page.locator("#chat button[aria-label='Dislike']:visible")
    expect(dislike).to_have_count(1)
    press_until_on(page, "Shift+Tab", "[aria-label='Dislike']")
    page.keyboard.press("Enter")
    expect(page.locator("#feedback")).to_be_visible()
    press_until_on(page, "Tab", "#better textarea")
    page.keyboard.type("Rome.")
    press_until_on(page, "Tab", "#feedback-send")
    page.keyboard.press("Enter")
    expect(page.locator("#feedback")).to_be_hidden()
    assert faults == []
