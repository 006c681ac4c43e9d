"""The real app as a person starts it: `python app.py` in a process of its own."""

import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cl.settings import child_environment

ROOT = Path(__file__).parents[1]
_PATIENCE = 120


@dataclass
class App:
    command: list[str]
    environment: dict[str, str]
    address: str
    log: Path
    data: Path
    process: "subprocess.Popen[bytes]" = field(init=False)

    def start(self) -> None:
        """Begin, or begin again after the end, and wait until the pages can be opened."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command, cwd=ROOT, env=self.environment, stdout=output, stderr=output
            )
        self.wait()

    def wait(self) -> None:
        """Until the pages can be opened."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                urllib.request.urlopen(f"{self.address}/healthz", timeout=5).close()
            except urllib.error.HTTPError as answer:
                answer.close()
                return
            except OSError:
                assert self.process.poll() is None, self.output()
                assert time.monotonic() < deadline, self.output()
                time.sleep(0.1)
            else:
                return

    def link(self) -> str:
        """The one-time sign-in link of the first start."""
        found = re.search(r"http://\S+/signin\?link=\S+", self.output())
        assert found, self.output()
        return found.group()

    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def kill(self) -> None:
        """As a power cut would."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """As Ctrl+C would. Returns the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_app(data_dir: Path, **settings: str) -> Iterator[App]:
    """The app on a free port, ready to be used; killed at the end if it still runs."""
    port = free_port()
    names = {f"CL_{name.upper()}": value for name, value in settings.items()}
    environment = child_environment(CL_DATA_DIR=str(data_dir), CL_PORT=str(port), **names)
    with _running([sys.executable, "-u", str(ROOT / "app.py")], environment, port, data_dir) as app:
        yield app


@contextmanager
def running_stage(data_dir: Path, **options: object) -> Iterator[App]:
    """The app with actors for engine and trainer: see tests/stage.py for the options."""
    port = free_port()
    command = [sys.executable, "-u", "-m", "tests.stage", "--data", str(data_dir)]
    for name, value in {"port": port, **options}.items():
        command += [f"--{name}", str(value)]
    with _running(command, child_environment(), port, data_dir) as app:
        yield app


@contextmanager
def _running(
    command: list[str], environment: dict[str, str], port: int, data_dir: Path
) -> Iterator[App]:
    log = data_dir.parent / f"app-{port}.log"
    app = App(command, environment, f"http://localhost:{port}", log, data_dir)
    try:
        app.start()
        yield app
    finally:
        if app.process.poll() is None:
            app.kill()
