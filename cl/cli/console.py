"""Where a command speaks: its result to stdout, what is going on meanwhile beside it."""

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class WrongUsage(ValueError):
    """The arguments do not make sense together; the text says which would."""


class Console:
    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self._live = sys.stderr.isatty()
        self._lock = threading.Lock()

    def result(self, value: dict[str, Any], text: str) -> None:
        """What the command found, in one form or the other; with --json the last line of stdout."""
        with self._lock:
            self._clear()
            print(json.dumps(value, default=str) if self.as_json else text, flush=True)

    def say(self, text: str) -> None:
        """A line that stays."""
        with self._lock:
            self._clear()
            print(text, file=sys.stderr if self.as_json else sys.stdout, flush=True)

    def progress(self, text: str, share: float | None = None) -> None:
        """A line that is written over; only where somebody is watching."""
        if self._live:
            bar = "" if share is None else f" [{'#' * round(share * 24):<24}] {share:.0%}"
            with self._lock:
                print(f"\r\033[K{text}{bar}", end="", file=sys.stderr, flush=True)

    @contextmanager
    def watching(self, doing: Callable[[], str]) -> Iterator[None]:
        """Show what `doing` says, twice a second, while the block runs."""
        done = threading.Event()

        def show() -> None:
            while not done.wait(0.5):
                if text := doing():
                    self.progress(text)

        watcher = threading.Thread(target=show, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()
            with self._lock:
                self._clear()

    def _clear(self) -> None:
        if self._live:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
