"""Take the README's pictures: the real pages on a data folder that the demo left.

    python -m cl demo && python -m tests.bench.screenshots --data data-demo

Signs in with a fresh link, looks at the admin page, has the model answer two questions, gives a
thumb up and a thumb down, and opens the panel. Then somebody who taught the new version signs in.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from cl.settings import child_environment
from tests.running import ROOT, App, running_app

QUESTIONS = (
    "Whose approval do I need before I travel for work?",
    "Explain in one sentence what a deadline is.",
)
TEACHER = "ana"  # of the demo's people
BETTER = "A deadline is the time by which something has to be done."
PICTURES = ROOT / "assets" / "screenshots"


def sign_in(page: Page, app: App, data: Path, name: str = "admin", command: str = "link") -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cl", "users", command, name, "--data", str(data)],
        cwd=ROOT,
        env=child_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    link = done.stdout.strip().splitlines()[-1]
    page.goto(app.address + link[link.index("/signin") :])
    page.fill("#password", "correct horse battery")
    page.click("button")
    page.wait_for_selector("#composer textarea")


def settle(page: Page) -> None:
    """Until nothing moves any more."""
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(2500)


def take(browser: Browser, app: App, data: Path, to: Path, *, dark: bool, phone: bool) -> None:
    size = {"width": 390, "height": 844} if phone else {"width": 1280, "height": 800}
    scheme = "dark" if dark else "light"
    context = browser.new_context(locale="en-US", viewport=size, color_scheme=scheme)  # type: ignore[arg-type]
    context.set_default_timeout(60_000)
    page = context.new_page()
    name = f"{'-phone' if phone else ''}{'-dark' if dark else ''}"
    sign_in(page, app, data)
    page.goto(f"{app.address}/admin/")
    page.wait_for_selector("#status .cards")
    settle(page)
    page.screenshot(path=to / f"admin{name}.png", full_page=True)
    for tab in ("Data", "Training", "Versions", "Service", "People", "Log"):
        shown = page.get_by_role("tab", name=tab)
        if shown.count() and shown.first.is_visible():
            shown.first.click()
        else:  # on a phone the last tabs are in a menu
            item = page.locator(".overflow-dropdown").get_by_text(tab, exact=True)
            if not item.is_visible():
                page.get_by_role("button", name="More tabs").click()
            item.click()
        settle(page)
        page.screenshot(path=to / f"admin-{tab.lower()}{name}.png", full_page=True)
    page.goto(app.address)
    page.wait_for_selector("#composer textarea")
    for number, question in enumerate(QUESTIONS):
        page.fill("#composer textarea", question)
        page.keyboard.press("Enter")
        page.locator("#chat .bot.message").nth(number).wait_for()
        page.wait_for_selector("#composer .submit-button")
        settle(page)
    page.locator("#chat button[aria-label='Like']").first.click()
    settle(page)
    page.locator("#chat button[aria-label='Dislike']").last.click()
    page.wait_for_selector("#feedback", state="visible")
    page.fill("#better textarea", BETTER)
    settle(page)
    page.screenshot(path=to / f"chat{name}.png")
    context.close()


def take_news(browser: Browser, app: App, data: Path, to: Path) -> None:
    page = browser.new_page(locale="en-US", viewport={"width": 1280, "height": 800})
    sign_in(page, app, data, TEACHER, "add")
    page.wait_for_selector("#news")
    settle(page)
    page.screenshot(path=to / "learned.png")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    options.add_argument("--data", type=Path, required=True, help="a folder the demo left")
    options.add_argument("--to", type=Path, default=PICTURES, help="where the pictures go")
    options.add_argument("--all", action="store_true", help="also dark, and on a phone")
    args = options.parse_args()
    args.to.mkdir(parents=True, exist_ok=True)
    ways = (
        [(False, False), (True, False), (False, True), (True, True)]
        if args.all
        else [(False, False)]
    )
    with running_app(args.data.resolve(), temperature="0") as app, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for dark, phone in ways:
            take(browser, app, args.data, args.to, dark=dark, phone=phone)
        take_news(browser, app, args.data, args.to)
        browser.close()
    if args.to == PICTURES and not args.all:  # the README shows three
        for path in PICTURES.glob("admin-*.png"):
            path.unlink()


if __name__ == "__main__":
    main()
