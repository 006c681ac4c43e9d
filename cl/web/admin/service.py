"""Service: how the engine runs, how fast people are answered, and what the machine has left."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shutil import disk_usage
from typing import Any

import gradio as gr
import psutil

from cl.db import reports
from cl.web import look, markup, plots
from cl.web.admin.tab import Tab, plot
from cl.web.markup import card

_GIB = 2**30


@dataclass(frozen=True)
class Machine:
    """Memory and disk, in bytes."""

    used: int  # by this process
    free: int
    total: int
    disk_free: int
    database: int | None  # None where it is another machine's


class Service(Tab):
    name = "Service"

    def show(self, request: gr.Request) -> tuple[Any, ...]:
        self.who(request)
        points = reports.recent_points()
        drawn = plots.latency(points), plots.speed(points), plots.errors(points)
        return *self._pulse(), *drawn

    def pulse(self, request: gr.Request) -> tuple[Any, ...]:
        """Asked again every few seconds while answers are being written."""
        self.who(request)
        return self._pulse()

    def _pulse(self) -> tuple[Any, ...]:
        found = self._house.engine.status()
        busy = bool(found.get("rows") or found.get("waiting"))
        return cards(found, machine(self._books.settings.data_dir)), gr.Timer(active=busy)

    def build(self) -> tuple[list[Any], list[Any]]:
        shown = look.html(elem_id="service")
        timer = gr.Timer(2.0, active=False)
        with gr.Row(equal_height=True):
            latency = plot("Seconds to the first word", "plot-latency", "by version")
            speed = plot("Tokens a second", "plot-speed", "by version")
        errors = plot("Errors", "plot-errors", "share of the latest answers, by version")
        timer.tick(self.pulse, None, [shown, timer], concurrency_limit=None, **look.QUIET)
        return [], [shown, timer, latency, speed, errors]


def machine(data_dir: Path) -> Machine:
    memory, database = psutil.virtual_memory(), data_dir / "usage.db"
    return Machine(
        used=psutil.Process().memory_info().rss,
        free=memory.available,
        total=memory.total,
        disk_free=disk_usage(data_dir).free,
        database=database.stat().st_size if database.exists() else None,
    )


# -- markup ----------------------------------------------------------------------------------


def cards(found: Mapping[str, Any], of: Machine) -> str:
    """The engine: how it runs, how busy it is, what it has done since the start; and the machine."""
    shown = [
        card("Engine", found["stage"], found.get("device") or found["kind"]),
        card("Loaded", str(len(found["loaded"])), ", ".join(found["loaded"]) or "nothing yet"),
    ]
    if found["kind"] == "embedded":
        shown += _embedded(found)
    for server in found.get("servers", ()):
        state = "answers" if server["ok"] else "gives no answer"
        shown.append(card(server["url"], state, f"{server['running']} answers being written"))
    shown.append(card("Queue", str(found.get("waiting", 0)), "messages wait for their turn"))
    shown += _machine(of)
    return markup.stack(markup.alert(found["why"]) if found["why"] else "", markup.cards(*shown))


def _embedded(found: Mapping[str, Any]) -> list[str]:
    rows, most = found["rows"], found["max_rows"]
    prompt, reused = found["prompt_tokens"], found["reused_tokens"]
    ends = ", ".join(f"{count} {reason}" for reason, count in sorted(found["answers"].items()))
    step = "-" if found["step_ms"] is None else f"{found['step_ms']:.1f} ms"
    share = rows / most if most else 0.0
    known = f"tokens, {reused / prompt:.0%} of them known already" if prompt else "tokens read"
    return [
        card("Rows", f"{rows} of {most}", "answers being written now", share=share),
        card("Step", step, f"median; {found['steps']:,} steps since the start"),
        card("Tokens", f"{found['tokens']:,}", "written since the start"),
        card("Prompts", f"{prompt:,}", known),
        card("Answers", f"{sum(found['answers'].values()):,}", ends or "none yet"),
    ]


def _machine(of: Machine) -> list[str]:
    free = f"{of.free / _GIB:.1f} of {of.total / _GIB:.1f} GiB are free"
    log = "where the data lies"
    if of.database is not None:
        log += f"; usage.db has {of.database / 2**20:,.0f} MiB"
    return [
        card("Memory", f"{of.used / _GIB:.1f} GiB", free, share=1 - of.free / of.total),
        card("Disk", f"{of.disk_free / _GIB:.0f} GiB free", log),
    ]
