"""Take pictures of every page: light and dark, on a desk and on a phone.

    python -m tests.bench.screenshots                     the README's, into assets/screenshots
    python -m tests.bench.screenshots --all --to DIR      all of them

The real pages with three weeks of an invented company's life in the log; engine and trainer are actors
(tests/stage.py), so that each picture can be taken again.
"""

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import Browser, expect, sync_playwright

from tests.running import ROOT, App, running_stage
from tests.stage import ADMIN, STAFF
from tests.web.browser.looking import TABS, Visit, new_context, visit, watched

PICTURES = ROOT / "assets" / "screenshots"
README = {  # file: picture
    "chat": "chat-feedback-light",
    "learned": "learned-light",
    "phone": "chat-dark-phone",
    "admin": "admin-overview-light",
    "admin-dark": "admin-overview-dark",
    "data": "admin-data-light",
    "training": "admin-training-light",
    "confirm": "admin-confirm-light",
}
WAYS = [(scheme, phone) for scheme in ("light", "dark") for phone in (False, True)]
QUESTION = "How do I reset a VPN token?"
BETTER = "The IT help desk is at extension 4417, weekdays from 8 to 17."


class Photographer:
    def __init__(
        self, chromium: Browser, app: App, to: Path, wanted: Callable[[str], bool]
    ) -> None:
        self._chromium = chromium
        self._app = app
        self._to = to
        self._wanted = wanted

    def take(self, scheme: str, phone: bool) -> None:
        end = f"-{scheme}{'-phone' if phone else ''}"
        size = (390, 844) if phone else (1280, 800)
        chat = ("chat", "chat-feedback", "learned", "chat-empty", "signin")
        if any(self._wanted(name + end) for name in chat):
            self._chat(size, scheme, end)
        admin = [f"admin-{tab.lower()}{end}" for tab in (*TABS, "confirm")]
        if any(map(self._wanted, admin)):
            self._admin(size, scheme, end)

    def _chat(self, size: tuple[int, int], scheme: str, end: str) -> None:
        context = new_context(self._chromium, *size, scheme)
        seen = watched(context, self._app)
        seen.page.goto(f"{self._app.address}/signin")
        self._shoot(seen, f"signin{end}")
        seen.page.close()
        seen = visit(context, self._app, STAFF)
        seen.ready()
        page = seen.page
        if page.locator("#news").is_visible():
            self._shoot(seen, f"learned{end}")
        page.locator("#news").evaluate_all("all => all.forEach((one) => { one.hidden = true; })")
        page.add_style_tag(content="#news { display: none !important; }")
        self._shoot(seen, f"chat-empty{end}")
        seen.chat(QUESTION)
        seen.thumb("Like").click()
        seen.chat("What is the extension of the IT help desk?")
        self._shoot(seen, f"chat{end}")
        seen.thumb("Dislike").click()
        page.locator("#feedback").wait_for(state="visible")
        page.fill("#better textarea", BETTER)
        self._shoot(seen, f"chat-feedback{end}")
        context.close()

    def _admin(self, size: tuple[int, int], scheme: str, end: str) -> None:
        context = new_context(self._chromium, *size, scheme)
        seen = visit(context, self._app, ADMIN, "/admin/")
        for tab in TABS:
            seen.open(tab)
            if tab == "Versions":
                seen.page.get_by_role("button", name="What taught v0003").click()
            self._shoot(seen, f"admin-{tab.lower()}{end}", whole=True)
        seen.open("Overview")
        seen.page.click("#promote")
        expect(seen.dialog).to_be_visible()
        self._shoot(seen, f"admin-confirm{end}")
        context.close()

    def _shoot(self, seen: Visit, name: str, *, whole: bool = False) -> None:
        if not self._wanted(name):
            return
        seen.settle()
        seen.page.wait_for_timeout(600)  # a plot may still be drawn
        if whole:
            seen.page.evaluate("scrollTo(0, 0)")
        seen.page.screenshot(path=self._to / f"{name}.png", full_page=whole)


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    options.add_argument("--to", type=Path, default=PICTURES, help="where the pictures go")
    options.add_argument("--all", action="store_true", help="not the README's only")
    args = options.parse_args()
    args.to.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as name, sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        with running_stage(Path(name) / "data", history=21) as app:
            wanted = set(README.values())
            photographer = Photographer(
                chromium, app, args.to, lambda name: args.all or name in wanted
            )
            for scheme, phone in WAYS:
                photographer.take(scheme, phone)
        chromium.close()
    if not args.all:
        for name, picture in README.items():
            (args.to / f"{picture}.png").rename(args.to / f"{name}.png")


if __name__ == "__main__":
    main()
