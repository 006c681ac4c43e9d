"""Every page in light and dark, on a desk and on a phone; by keyboard; with nothing in it."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Browser, expect

from tests.running import App
from tests.stage import ADMIN, STAFF
from tests.web.browser.looking import (
    FITS,
    NAMELESS,
    PALE,
    SMALL,
    TABS,
    WHITE,
    Visit,
    new_context,
    visit,
)

Open = Callable[..., Visit]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_every_page_can_be_read_and_pressed_fits_names_its_controls_and_asks_nobody_else(
    lived: App, chromium: Browser, scheme: str, width: int, height: int
) -> None:
    context = new_context(chromium, width, height, scheme)
    seen = visit(context, lived, ADMIN)
    faults = seen.faults
    seen.ready()
    assert (seen.page.locator(".sidebar.open").count() == 0) == (width < 768)
    assert seen.page.evaluate("matchMedia('(pointer: coarse)').matches") == (width < 768)
    expect(seen.box).to_be_in_viewport()
    seen.chat("How do I reset a VPN token?")
    seen.thumb("Dislike").click()
    seen.page.locator("#feedback").wait_for(state="visible")
    _look(seen, "the chat", scheme)
    seen.page.goto(f"{lived.address}/admin/")
    seen.page.locator("#cards .card").first.wait_for()
    for tab in TABS:
        seen.open(tab)
        if tab in ("Overview", "Data", "Training", "Versions", "Service"):
            expect(seen.page.locator(".main-svg:visible").first).to_be_visible()
        _look(seen, tab, scheme)
    assert faults == []
    context.close()


def _look(seen: Visit, name: str, scheme: str) -> None:
    seen.settle()
    assert seen.page.evaluate(FITS), name
    assert seen.page.evaluate(NAMELESS) == [], name
    assert seen.page.evaluate(PALE) == [], name
    assert seen.page.evaluate(SMALL) == [], name
    if scheme == "dark":
        assert seen.page.evaluate(WHITE) == [], name


def test_the_dark_is_kept(stage: App, open_page: Open) -> None:
    seen = open_page(stage, ADMIN, "/admin/")
    seen.page.get_by_role("button", name="Theme").click()
    for path in ("/", "/admin/"):
        seen.page.goto(stage.address + path)
        expect(seen.page.locator("body.dark")).to_have_count(1)
        expect(seen.page.locator("#hist :is(p, .name), #cards .card").first).to_be_attached()
        assert seen.page.evaluate(WHITE) == []
    seen.page.get_by_role("button", name="Theme").click()
    seen.page.reload()
    expect(seen.page.locator("#cards .card").first).to_be_visible()
    expect(seen.page.locator("body.dark")).to_have_count(0)


def test_an_answer_is_disliked_and_corrected_by_keyboard_alone(stage: App, open_page: Open) -> None:
    seen = open_page(stage, STAFF)
    seen.ready()
    seen.press_until_on("Tab", "#hist .name, #new-chat")
    seen.press_until_on("Tab", "#composer textarea")
    seen.page.keyboard.type("A code by keyboard")
    seen.page.keyboard.press("Enter")
    expect(seen.thumb("Dislike")).to_be_visible()
    seen.press_until_on("Shift+Tab", "[aria-label='Dislike']")
    seen.page.keyboard.press("Enter")
    expect(seen.page.locator("#feedback")).to_be_visible()
    seen.press_until_on("Tab", "#better textarea")
    seen.page.keyboard.type("A better one.")
    seen.press_until_on("Tab", "#feedback-send")
    seen.page.keyboard.press("Enter")
    expect(seen.page.locator("#feedback")).to_be_hidden()


def test_with_nothing_in_it_every_block_says_so(empty: App, open_page: Open) -> None:
    seen = open_page(empty, ADMIN, "/admin/")
    said = {
        "Overview": "No test has been looked at yet.",
        "Data": "Nothing of this kind has been said.",
        "Training": "No training has been run yet.",
        "Versions": "No version has been trained yet.",
        "Service": "messages wait for their turn",
        "Settings": "CL_CHALLENGER_SHARE",
        "Users": "ida (you)",
        "Audit": "What the loop did",
    }
    drawn = {"Overview": 5, "Data": 2, "Training": 1, "Versions": 1, "Service": 3}
    for tab in TABS:
        seen.open(tab)
        expect(seen.page.get_by_text(said[tab]).first).to_be_visible()
        plots = seen.page.locator(".js-plotly-plot:visible")
        expect(plots.get_by_text("No data yet")).to_have_count(drawn.get(tab, 0))
        assert seen.page.locator("[data-testid=toast-body]").count() == 0
