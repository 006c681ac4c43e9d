"""Commands that look at the loop and steer it."""

import argparse
import dataclasses
import getpass
import os
from pathlib import Path
from typing import Any

import numpy as np

from cl.ab_test import Refused
from cl.cli.console import Console, WrongUsage
from cl.house import House, open_books, open_house
from cl.model.base_model import NoModel
from cl.records import Comparison, IterationReport, Step
from cl.rules import verdicts
from cl.rules.planning import days
from cl.settings import Settings
from cl.status import gauge_line, status_of, status_text
from cl.transfer import convert_folder

_FAILED = (Step.FAILED, Step.REJECTED, Step.CANCELLED, Step.NOT_ENOUGH_DATA)


def status(settings: Settings, args: argparse.Namespace, console: Console) -> int:
    with open_books(settings) as books:
        found = status_of(books)
    console.result(found, status_text(found))
    return 0


def check_triggers(settings: Settings, args: argparse.Namespace, console: Console) -> int:
    with open_books(settings) as books:
        found = dataclasses.asdict(books.trigger.check_triggers())
    lines = [gauge_line(gauge) for gauge in found["gauges"]]
    console.result(found, "\n".join([*lines, "", found["reason"]]))
    return 0


def iterate(settings: Settings, args: argparse.Namespace, console: Console) -> int:
    """One step, with --all as many as follow; --force opens a training run first."""
    house = _house(settings, console)
    try:
        if args.force:
            house.loop.request_training(person(), "forced on the command line")
        with console.watching(lambda: house.loop.doing):
            reports = _iterate(house, console, everything=args.all)
    finally:
        house.close()
    last = reports[-1]
    console.result(
        {"steps": [dataclasses.asdict(r) for r in reports]}, f"{last.step.value}: {last.reason}"
    )
    return 1 if last.step in _FAILED else 0


def train(settings: Settings, args: argparse.Namespace, console: Console) -> int:
    """A whole training run, whatever the triggers say."""
    args.force = args.all = True
    return iterate(settings, args, console)


def generate(settings: Settings, args: argparse.Namespace, console: Console) -> int:
    house = _house(settings, console)
    try:
        with house.books.forgetting.at_rest():
            made = house.data.generate(Path(args.out), tell=console.progress)
    finally:
        house.close()
    converted = convert_folder(Path(args.out), args.format) if args.format else []
    lines = [f"{step.name:<26} {step.kept:>7}  {_reasons(step.dropped)}" for step in made.funnel]
    verdict = "Enough to train on." if made.enough else f"Not enough to train on: {made.reason}."
    lines += [
        "",
        f"{made.train} examples in train.jsonl and {made.val} in val.jsonl under {made.folder}. {verdict}",
    ]
    lines += [f"Also written: {path}." for path in converted]
    found = dataclasses.asdict(made)
    console.result({**found, "converted": [str(path) for path in converted]}, "\n".join(lines))
    return 0


def compare(settings: Settings, args: argparse.Namespace, console: Console) -> int:
    """A look at the running test; --experiment and --check: one of the past, worked out anew."""
    if args.self_test:
        return _self_test(settings, max(1, args.tests), console)
    if (args.experiment is None) != (args.check is None):
        raise WrongUsage("--experiment and --check go together: compare --experiment 3 --check 7.")
    with open_books(settings) as books:
        if args.experiment is not None:
            then, now = books.ab_test.recompute(args.experiment, args.check)
            return _recomputed(then, now, console)
        seen = books.ab_test.compare_models()
    if seen is None:
        raise Refused("No test is running.")
    console.result(
        dataclasses.asdict(seen), f"{_side_by_side(seen)}\n\n{seen.decision}: {seen.text}"
    )
    return 0


def _recomputed(then: Comparison, now: Comparison, console: Console) -> int:
    """Exit code 1 when the verdict is not the stored one."""
    is_same = verdicts.is_same(then, now)
    found = {"same": is_same, "stored": dataclasses.asdict(then), "now": dataclasses.asdict(now)}
    told = (
        "The same verdict" if is_same else f"NOT the verdict of then ({then.decision}: {then.text})"
    )
    console.result(found, f"{_side_by_side(now)}\n\n{now.decision}: {now.text}\n{told}.")
    return 0 if is_same else 1


def _self_test(settings: Settings, tests: int, console: Console) -> int:
    dice = np.random.default_rng(settings.data.seed)
    with open_books(settings) as books:
        found = books.ab_test.self_test(
            dice, lambda done: console.progress("resampled tests", done / tests), tests
        )
    lines = [
        f"Drawn from {found.conversations} conversations, {found.requests_per_hour:.1f} answers an hour, "
        f"{found.thumb_rate:.0%} of them rated; {found.tests} tests of a version against itself:",
        "",
        f"promoted falsely      {found.promoted:.1%}",
        f"aborted falsely       {found.aborted:.1%}",
        f"retired               {found.retired:.1%}",
        f"smallest gain found   {_percent(found.detectable)} in four tests out of five",
        "",
        "a true gain of        is promoted after",
        *(f"{gain:>14}        {_when(hours)}" for gain, hours in found.hours_needed.items()),
    ]
    console.result(dataclasses.asdict(found), "\n".join(lines))
    return 0


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:+.1%}"


def _when(hours: float | None) -> str:
    return "not within a test" if hours is None else days(hours)


def _side_by_side(seen: Comparison) -> str:
    rows: list[tuple[str, ...]] = [("", seen.champion.version, seen.challenger.version)]
    for name, field in (
        ("answers", "requests"),
        ("conversations", "conversations"),
        ("thumbs", "rated"),
        ("of them up", "positives"),
        ("errors", "errors"),
        ("mean quality", "quality"),
        ("share of thumbs up", "thumbs"),
        ("P95 latency, s", "p95_latency_s"),
        ("overall score", "score"),
    ):
        rows.append(
            (name, *(_number(getattr(arm, field)) for arm in (seen.champion, seen.challenger)))
        )
    return "\n".join(f"{name:<20}{a:>12}{b:>12}" for name, a, b in rows)


def deploy(settings: Settings, args: argparse.Namespace, console: Console) -> int:
    """A published version becomes challenger, or champion where there is none."""
    house = _house(settings, console)
    try:
        house.versions.check(args.version)
        state = house.books.ab_test.deploy_challenger(
            args.version, actor=person(), reason=args.reason
        )
    finally:
        house.close()
    console.result(
        {"state": state.value, "version": args.version},
        f"{args.version} is in traffic: {state.value}.",
    )
    return 0


def promote(settings: Settings, args: argparse.Namespace, console: Console) -> int:
    return _change(settings, args, console, "promote", "is champion now")


def retire(settings: Settings, args: argparse.Namespace, console: Console) -> int:
    return _change(settings, args, console, "retire", "is retired")


def rollback(settings: Settings, args: argparse.Namespace, console: Console) -> int:
    return _change(settings, args, console, "rollback", "answers again")


def _change(
    settings: Settings, args: argparse.Namespace, console: Console, action: str, words: str
) -> int:
    with open_books(settings) as books:
        name = getattr(books.ab_test, action)(actor=person(), reason=args.reason)
        state = books.ab_test.state()
    console.result({"state": state.value, "version": name}, f"{name} {words}.")
    return 0


def _house(settings: Settings, console: Console) -> House:
    books = open_books(settings)
    try:
        return open_house(books, console.progress)
    except NoModel:
        books.database.close()
        raise


def _iterate(house: House, console: Console, everything: bool) -> list[IterationReport]:
    reports: list[IterationReport] = []

    def hear(report: IterationReport) -> None:
        if reports:
            console.say(f"{reports[-1].step.value}: {reports[-1].reason}")
        reports.append(report)

    if everything:
        house.worker.run_until_quiet(hear)
    else:
        hear(house.loop.run_iteration())
    return reports


def _reasons(dropped: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in dropped.items())


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def person() -> str:
    """Who stands at the terminal, for the audit trail."""
    try:
        return f"{getpass.getuser()} (terminal)"
    except (KeyError, OSError):
        return f"uid {os.getuid()} (terminal)"
