"""A log of a million messages: how long does each page take, and does any read the whole table?

    python -m tests.bench.million [--rows 1000000] [--rounds 3]

The same pages in a real browser, in turns on a log of a thousand messages and on the large one, from
pressing to showing. Behind the log lie a few days of a company's life, with versions and a test under
way. Then all that the pages ask of the database is asked once more with SQLite's own account of what
it reads.
"""

import argparse
import shutil
import time
from datetime import timedelta
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from playwright.sync_api import BrowserContext, sync_playwright

from cl.house import utc_now
from tests import history
from tests.fakes import fake_books
from tests.running import App, running_stage
from tests.stage import ADMIN, STAFF
from tests.web.admin.reading import read_whole
from tests.web.browser.looking import new_context, visit, watched

LIMITS = {"chat": 2.0, "tab": 3.0}
DRAWINGS = "its drawings"
# What a tab shows last of what it asks for; the overview is there before it is drawn.
SHOWN = {
    "Overview": "#gauges .card",
    DRAWINGS: "#plot-thumbs .main-svg",
    "Data": "#said tbody tr",
    "Training": "#runs tbody tr",
    "Versions": "#versions tbody tr",
    "Service": "#plot-errors .main-svg",
    "Settings": ".knob",
    "Users": "#users tbody tr",
    "Audit": "#audit tbody tr",
}


def make(folder: Path, rows: int) -> Path:
    """A log of so many messages, and eight days after them."""
    data = folder / str(rows)
    books = fake_books(data, utc_now)
    books.database.pragma("synchronous", 0)
    history.fill(books.database, rows)
    books.database.close()
    history.live(data, timedelta(days=8))
    return data


def timed_chat(context: BrowserContext, app: App) -> float:
    """From asking for the page to being able to write, history and all."""
    page = context.new_page()
    began = time.perf_counter()
    page.goto(app.address)
    page.locator("#hist .name").first.wait_for()
    page.locator("#composer textarea").fill("x")
    seconds = time.perf_counter() - began
    page.close()
    return seconds


def timed_tabs(context: BrowserContext, app: App) -> dict[str, float]:
    seen = watched(context, app)
    found: dict[str, float] = {}
    for tab in SHOWN:
        if tab != DRAWINGS:
            began = time.perf_counter()
        if tab == "Overview":
            seen.page.goto(f"{app.address}/admin/")
        elif tab != DRAWINGS:
            seen.open(tab)
        seen.page.locator(f"{SHOWN[tab]}:visible").first.wait_for()
        found[tab] = time.perf_counter() - began
        if tab != "Overview":
            seen.settle()
    seen.page.close()
    return found


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    arguments.add_argument("--rows", type=int, default=1_000_000)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--keep", type=Path, help="where the logs are kept, to be used again")
    args = arguments.parse_args()
    with TemporaryDirectory() as name:
        folder = args.keep or Path(name)
        sizes = (1000, args.rows)
        logs = {
            n: folder / str(n) if (folder / str(n)).exists() else make(folder, n) for n in sizes
        }
        taken: dict[tuple[str, int], list[float]] = {}
        with sync_playwright() as playwright:
            chromium = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
            with running_stage(logs[1000]) as small, running_stage(logs[args.rows]) as large:
                apps = {1000: small, args.rows: large}
                browsers = {}
                for size, app in apps.items():
                    for person in (STAFF, ADMIN):
                        browsers[person, size] = new_context(chromium)
                        visit(browsers[person, size], app, person).page.close()
                for round_ in range(args.rounds + 1):
                    for size, app in apps.items():
                        times = {"Chat": timed_chat(browsers[STAFF, size], app)}
                        times |= timed_tabs(browsers[ADMIN, size], app)
                        for what, seconds in times.items():
                            if round_:  # the first round fills the browsers' caches
                                taken.setdefault((what, size), []).append(seconds)
            chromium.close()
        print(f"{'':<14}{'1,000':>10}{args.rows:>12,}{'ratio':>8}")
        for what in ("Chat", *SHOWN):
            one, other = (median(taken[what, size]) for size in sizes)
            limit = LIMITS["chat" if what == "Chat" else "tab"]
            told = "" if other < limit else f"  over {limit:g} s"
            print(f"{what:<14}{one:>9.2f}s{other:>11.2f}s{other / one:>8.2f}{told}")
        whole = read_whole(logs[args.rows])
        print(f"statements that read a large table whole: {len(whole)}", *whole, sep="\n  ")


if __name__ == "__main__":
    main()
