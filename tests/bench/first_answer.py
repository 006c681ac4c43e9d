"""How long a newcomer waits: from `python app.py` to the first answer in a browser.

    python -m tests.bench.first_answer [--rounds 3]

Alternates, side by side in one run: the model there already, and the model still to be fetched.
Prints the seconds of each start and the ratio of the medians.
"""

import argparse
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from playwright.sync_api import Page, expect, sync_playwright

from tests.running import running_app


@contextmanager
def a_page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        yield browser.new_page()
        browser.close()


def first_answer(data: Path, page: Page) -> float:
    """Seconds from the command to the whole first answer on the page, signing in included."""
    started = time.monotonic()
    with running_app(data) as app:
        page.goto(app.link())
        page.fill("#password", "correct horse battery")
        page.click("button")
        page.fill("#composer textarea", "What is the capital of France?")
        page.keyboard.press("Enter")
        answer = page.locator("#chat .bot.message").last
        expect(answer).to_contain_text("France", timeout=120_000)
        return time.monotonic() - started


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--rounds", type=int, default=3)
    rounds = options.parse_args().rounds
    seconds: dict[str, list[float]] = {"model to be fetched": [], "model there": []}
    with TemporaryDirectory() as name, a_page() as page:
        for number in range(rounds):
            data = Path(name) / str(number)
            seconds["model to be fetched"].append(first_answer(data, page))
            for path in data.glob("usage.db*"):
                path.unlink()
            page.context.clear_cookies()
            seconds["model there"].append(first_answer(data, page))
            page.context.clear_cookies()
            shutil.rmtree(data)
    for what, found in seconds.items():
        print(f"{what:<22}median {median(found):5.1f} s   {', '.join(f'{s:.1f}' for s in found)}")
    fetched, there = (median(found) for found in seconds.values())
    print(f"ratio fetched / there  {fetched / there:.1f}")


if __name__ == "__main__":
    main()
