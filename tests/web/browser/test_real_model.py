"""What a person sees: the real app, the real model, a real browser."""

import json
import subprocess
import sys

from playwright.sync_api import BrowserContext, Page, expect

from cl.settings import child_environment
from tests.running import ROOT, App
from tests.web.browser.looking import MARKUP, PATIENCE, watched
from tests.web.browser.looking import sign_in as sign_in_as

PASSWORD = "correct horse battery"


def sign_in(page: Page, app: App) -> None:
    sign_in_as(page, app, "admin", PASSWORD)


def test_sign_in_chat_vote_correct_and_read_it_back_as_admin(
    app: App, browser: BrowserContext
) -> None:
    visit = watched(browser, app)
    page, faults = visit.page, visit.faults

    page.goto(app.link())
    page.fill("#password", PASSWORD)
    page.click("button")

    visit.ask("What is the capital of France?")
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


def test_a_long_answer_can_be_stopped_and_two_tabs_do_not_disturb_each_other(
    app: App, browser: BrowserContext
) -> None:
    visit = watched(browser, app)
    page, faults = visit.page, visit.faults
    sign_in(page, app)
    second = watched(browser, app)
    other, other_faults = second.page, second.faults
    other.goto(app.address)
    visit.ask("Write a very long story about a ship, a storm and a lighthouse.")
    second.ask("What is the capital of France?")
    expect(page.locator("#chat .bot.message").last).not_to_be_empty(timeout=PATIENCE)
    # At once: waiting until the button stands still may take longer than the answer.
    page.locator("#composer button.stop-button").dispatch_event("click")
    expect(page.locator("#chat .bot.message").last).to_contain_text("(stopped)", timeout=PATIENCE)
    expect(other.locator("#chat .bot.message").last).to_contain_text("Paris", timeout=PATIENCE)
    visit.ask("What is the capital of France?")
    expect(page.locator("#chat .bot.message").last).to_contain_text("Paris", timeout=PATIENCE)
    assert faults == other_faults == []


def test_the_admin_starts_a_training_and_reads_why_it_ended(
    app: App, browser: BrowserContext
) -> None:
    visit = watched(browser, app)
    page, faults = visit.page, visit.faults
    sign_in(page, app)
    page.goto(f"{app.address}/admin/")
    page.click("#retrain")
    expect(visit.dialog).to_contain_text("Start a training now")
    visit.confirm("to see what happens")
    expect(visit.dialog).to_be_hidden()
    page.get_by_role("tab", name="Training").click()
    expect(page.locator("#job")).to_contain_text("not enough data", timeout=PATIENCE)
    visit.open("Audit")
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
    visit = watched(browser, app)
    page, faults = visit.page, visit.faults
    sign_in(page, app)
    page.goto(f"{app.address}/admin/")
    page.get_by_role("tab", name="Data").click()
    card, heading = page.locator("#review-card"), page.locator("#review-heading")
    expect(card).not_to_be_empty()
    visit.settle()
    while "Where is file" not in card.inner_text():
        page.click("#review-later")
        visit.settle()
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
    visit = watched(browser, app)
    page, faults = visit.page, visit.faults
    sign_in(page, app)
    switch = page.get_by_label("Don't learn from this chat")
    page.locator("#hist .name").first.wait_for()  # the page has loaded, history and all
    expect(switch).not_to_be_checked()
    page.locator("#composer textarea").focus()
    visit.press_until_on("Tab", "#private input")
    page.keyboard.press("Space")
    expect(switch).to_be_checked()
    visit.ask("What is the capital of France?")
    expect(page.locator("#chat .bot.message").last).to_contain_text("Paris", timeout=PATIENCE)
    page.click("#new-chat")
    expect(switch).not_to_be_checked(timeout=PATIENCE)
    page.reload()
    page.locator("#hist .name").first.click()
    expect(switch).to_be_checked(timeout=PATIENCE)
    page.locator("#hist .name").nth(1).click()
    expect(switch).not_to_be_checked(timeout=PATIENCE)
    assert faults == []
