"""Where everything stands, for `status`, the admin page and /healthz: numbers, and one sentence."""

import json
from dataclasses import asdict
from typing import Any

import psutil

from cl.db import digests, erasures, reports
from cl.house import Books
from cl.model.engine.contract import SERVING_FILE
from cl.model.training_job import read_progress
from cl.records import BASE
from cl.rules.headline import headline
from cl.rules.phases import phase_of
from cl.rules.triggering import erasures_text


def status_of(books: Books) -> dict[str, Any]:
    """The state of the loop as plain data; the same keys whatever there is."""
    champion, challenger = books.ab_test.champion(), books.ab_test.challenger()
    triggers = books.trigger.check_triggers()
    found: dict[str, Any] = {
        "state": books.ab_test.state().value,
        "champion": champion.name if champion else None,
        "challenger": challenger.name if challenger else None,
        "answering": champion.name if champion else BASE,
        "preset": books.settings.preset,
        **asdict(reports.counts(digests.by_version(books.database).values())),
        "triggers": asdict(triggers),
        "job": _job(books),
        "experiment": reports.open_experiment(),
        "test": reports.last_check(),
        "plan": _plan(books),
        "versions": len(books.ab_test.versions()),
        "erasures": erasures.waiting().erasures,
        "serving": _serving(books),
    }
    job, running, test = found["job"], found["experiment"], found["test"]
    found["phase"] = phase_of(
        job and job["status"], running and running["kind"], test and test["decision"]
    )
    return {**found, "headline": headline(found, books.thresholds.experiment().min_test_hours)}


def _plan(books: Books) -> dict[str, Any] | None:
    """How long the running test will still take, by its latest look."""
    planned = books.ab_test.plan()
    return asdict(planned) if planned else None


def _serving(books: Books) -> dict[str, Any] | None:
    """How the app that serves from this folder runs its models; None when none is running."""
    try:
        found = json.loads((books.settings.data_dir / SERVING_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return dict(found) if psutil.pid_exists(found.get("pid", -1)) else None


def _job(books: Books) -> dict[str, Any] | None:
    run = reports.open_run()
    if run is None:
        return None
    progress = (
        read_progress(books.runs / f"{run['id']:04d}")
        if run["status"] in ("generated", "trained")
        else None
    )
    return {
        "id": run["id"],
        "trigger": run["trigger"],
        "reason": run["reason"],
        "status": run["status"],
        "started_at": run["started_at"],
        "version": run["version"],
        "cancelling": run["cancel"],
        "progress": asdict(progress) if progress else None,
    }


def status_text(found: dict[str, Any]) -> str:
    """The same for a terminal."""
    lines = [
        found["headline"],
        "",
        f"state         {found['state']}",
        f"champion      {found['champion'] or '-'}",
        f"challenger    {found['challenger'] or '-'}",
        f"interactions  {found['interactions']} of {found['people']} people",
        f"feedback      {found['thumbs_up']} up, {found['thumbs_down']} down, {found['corrections']} corrections",
        f"errors        {found['errors']}",
        f"engine        {serving_line(found['serving'])}",
        "",
    ]
    if found["erasures"]:
        lines[1:1] = [
            f"{found['champion']} learned from texts that were erased; "
            f"{erasures_text(found['erasures'])}."
        ]
    lines += [gauge_line(gauge) for gauge in found["triggers"]["gauges"]]
    if found["job"]:
        lines += ["", f"training run  {found['job']['id']}: {found['job']['status']}"]
    return "\n".join(lines)


def serving_line(serving: dict[str, Any] | None) -> str:
    if serving is None:
        return "the app is not running"
    return f"{serving['stage']}, holds {', '.join(serving['loaded'])}. {serving['why']}".rstrip()


def gauge_line(gauge: dict[str, Any]) -> str:
    return f"{gauge['name']:<13} {'FIRES' if gauge['fires'] else 'quiet'}  {gauge['text']}"
