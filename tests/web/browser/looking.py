"""How the browser tests look at a page."""

import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Locator,
    Page,
    Request,
    expect,
)

from tests.running import App
from tests.stage import PASSWORD

PATIENCE = 60_000  # milliseconds; the machine may be busy
MARKUP = "<img src=x onerror='window.__xss=1'> **b** ${window.__xss=1} {{value}}"
TABS = ("Overview", "Data", "Training", "Versions", "Service", "Settings", "Users", "Audit")

NAMELESS = """() => [...document.querySelectorAll('button, a, input, textarea, select')]
  .filter((e) => e.checkVisibility() && !(e.innerText?.trim() || e.ariaLabel || e.title || e.placeholder
    || e.labels?.length || e.getAttribute('aria-labelledby') || e.querySelector('[aria-label]')))
  .map((e) => e.outerHTML.slice(0, 200))"""
FITS = "document.documentElement.scrollWidth <= innerWidth"

# Controls that are too small for a finger, where a finger is what presses.
SMALL = """() => !matchMedia('(pointer: coarse)').matches ? [] :
  [...document.querySelectorAll('button:not([tabindex="-1"]), a, input, textarea, select, summary')]
  .filter((e) => e.checkVisibility({opacityProperty: true, visibilityProperty: true}))
  .map((e) => [e, (['checkbox', 'radio'].includes(e.type) ? e.closest('label') : e).getBoundingClientRect()])
  .filter(([e, box]) => box.width && Math.min(box.width, box.height) < 40)
  .map(([e, box]) => `${box.width} x ${box.height}: ${e.outerHTML.slice(0, 160)}`)"""

# Texts whose contrast with what lies behind them is under 4.5 to 1 (3 to 1 where they are large), as
# WCAG 2.2 reckons it. Colours are read off a canvas, which knows every way to write one.
PALE = """() => {
  const canvas = document.createElement('canvas'); canvas.width = canvas.height = 1;
  const ink = canvas.getContext('2d', {willReadFrequently: true});
  const rgba = (text) => { ink.clearRect(0, 0, 1, 1); ink.fillStyle = text; ink.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = ink.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255]; };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const behind = (e) => { const layers = [];
    for (let at = e; at; at = at.parentElement) layers.push(rgba(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255, 1]); };
  const light = (c) => { const [r, g, b] = c.slice(0, 3).map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const found = [];
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own || !e.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
    if (e.closest('button:disabled, [aria-disabled=true], svg .bartext, .visually-hidden, .sr-only')) continue;
    const style = getComputedStyle(e), ground = behind(e);
    const colour = over(rgba(e.closest('svg') ? style.fill : style.color), ground);
    const [a, b] = [light(colour), light(ground)].sort((x, y) => y - x);
    const size = parseFloat(style.fontSize), bold = parseInt(style.fontWeight) >= 700;
    const least = size >= 24 || (size >= 18.66 && bold) ? 3 : 4.5;
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < least) found.push(`${ratio.toFixed(2)} ${e.className?.baseVal ?? e.className}: ${e.textContent.trim().slice(0, 40)}`);
  }
  return [...new Set(found)]; }"""

# Boxes that are as bright as paper on a dark page.
WHITE = """() => [...document.querySelectorAll('body *')].filter((e) => {
    const box = e.getBoundingClientRect(), [r, g, b, a] = getComputedStyle(e).backgroundColor.match(/[\\d.]+/g).map(Number);
    return e.checkVisibility() && box.width > 60 && box.height > 30 && r > 200 && g > 200 && b > 200 && (a ?? 1) > 0.5;
  }).map((e) => e.outerHTML.slice(0, 160))"""


@dataclass
class Visit:
    """A page, and everything it did that it should not."""

    page: Page
    app: App
    faults: list[str] = field(default_factory=list)
    asked: set[Request] = field(default_factory=set)

    def settle(self) -> None:
        """Until nothing is on its way, and what fades in is there."""
        quiet, until = 0, time.monotonic() + PATIENCE / 1000
        while quiet < 6 and time.monotonic() < until:
            self.page.wait_for_timeout(50)
            quiet = 0 if self.asked else quiet + 1
        assert not self.asked, [request.url for request in self.asked]

    # -- the chat ------------------------------------------------------------------------------

    @property
    def box(self) -> Locator:
        return self.page.locator("#composer textarea")

    @property
    def answer(self) -> Locator:
        return self.page.locator("#chat .bot.message").last

    def ready(self) -> None:
        """The page has loaded, history and all."""
        self.page.locator("#hist :is(p, .name)").first.wait_for()

    def ask(self, text: str) -> None:
        self.ready()
        self.box.fill(text)
        self.page.keyboard.press("Enter")

    def chat(self, text: str) -> None:
        """Ask, and wait for the whole answer."""
        said = self.page.locator("#chat .user.message").count()
        self.ask(text)
        thumbs = self.page.locator(
            "#chat button:is([aria-label='Like'], [aria-label='Liked']):visible"
        )
        expect(thumbs).to_have_count(said + 1)

    def new_chat(self) -> None:
        self.page.click("#new-chat")
        expect(self.page.locator("#chat .user.message")).to_have_count(0)

    def thumb(self, name: str) -> Locator:
        return self.page.locator(f"#chat button[aria-label='{name}']:visible").last

    # -- the admin page ------------------------------------------------------------------------

    def open(self, tab: str) -> None:
        """A tab of the admin page; on a phone the last ones are in a menu."""
        self.page.get_by_role("tab").first.wait_for()
        shown = self.page.get_by_role("tab", name=tab)
        if shown.count() and shown.first.is_visible():
            shown.first.click()
        else:
            item = self.page.locator(".overflow-dropdown").get_by_text(tab, exact=True)
            if not item.is_visible():
                self.page.get_by_role("button", name="More tabs").click()
            item.click()

    @property
    def dialog(self) -> Locator:
        return self.page.locator("#dialog")

    def confirm(self, reason: str, typed: str = "") -> None:
        self.page.fill("#dialog-reason :is(input, textarea)", reason)
        if typed:
            self.page.fill("#dialog-typed :is(input, textarea)", typed)
        self.page.click("#dialog-yes")

    def toast(self, text: str) -> None:
        """This is told, and put away again."""
        body = self.page.locator("[data-testid=toast-body]").filter(has_text=text).first
        expect(body).to_be_visible()
        body.get_by_role("button").first.click()

    def press_until_on(self, key: str, there: str) -> None:
        """Move by keyboard until the control has the focus."""
        for _ in range(60):
            if self.page.evaluate("there => document.activeElement.matches(there)", there):
                return
            self.page.keyboard.press(key)
        raise AssertionError(f"{there} is not reached with {key}")


def new_context(
    chromium: Browser, width: int = 1280, height: int = 800, scheme: Any = "light"
) -> BrowserContext:
    """A browser of somebody's own."""
    size: Any = {"width": width, "height": height}
    context = chromium.new_context(
        locale="en-US", viewport=size, color_scheme=scheme, has_touch=width < 768
    )
    context.set_default_timeout(PATIENCE)
    expect.set_options(timeout=PATIENCE)
    return context


def watched(context: BrowserContext, app: App) -> Visit:
    found = Visit(context.new_page(), app)

    def hear(message: ConsoleMessage) -> None:
        if message.type == "error":
            found.faults.append(message.text)

    own = (app.address, "data:", "blob:")
    page = found.page

    def ask(request: Request) -> None:
        found.asked.add(request)
        if not request.url.startswith(own):
            found.faults.append(request.url)

    page.on("console", hear)
    page.on("request", ask)
    page.on("requestfinished", lambda request: found.asked.discard(request))
    page.on("requestfailed", lambda request: found.asked.discard(request))
    page.on("framenavigated", lambda frame: found.asked.clear())
    page.on(
        "response", lambda r: found.faults.append(f"{r.status} {r.url}") if r.status >= 400 else 0
    )
    page.on("pageerror", lambda error: found.faults.append(str(error)))
    return found


def visit(context: BrowserContext, app: App, name: str, path: str = "/") -> Visit:
    """Somebody signs in and goes to a page."""
    found = watched(context, app)
    sign_in(found.page, app, name)
    if path != "/":
        found.page.goto(app.address + path)
        found.page.locator("#cards .card").first.wait_for()
    return found


def sign_in(page: Page, app: App, name: str, password: str = PASSWORD) -> None:
    page.goto(f"{app.address}/signin")
    page.fill("#name", name)
    page.fill("#password", password)
    page.click("button")
    expect(page.locator("#composer textarea")).to_be_visible()


def rows(app: App, query: str, *values: Any) -> Sequence[tuple[Any, ...]]:
    """What the app has stored."""
    with closing(sqlite3.connect(app.data / "usage.db")) as database:
        return database.execute(query, values).fetchall()


def eventually(app: App, query: str, wanted: Sequence[tuple[Any, ...]], *values: Any) -> None:
    """This is stored within a moment."""
    for _ in range(100):
        if (found := list(rows(app, query, *values))) == wanted:
            return
        time.sleep(0.05)
    raise AssertionError(f"{found} is stored, not {wanted}")


def everything(app: App) -> dict[str, list[tuple[Any, ...]]]:
    """All rows that a person's request could change."""
    tables = ("conversation", "feedback", "audit", "version", "experiment", "setting", "review")
    return {name: list(rows(app, f"SELECT * FROM {name} ORDER BY 1")) for name in tables}
