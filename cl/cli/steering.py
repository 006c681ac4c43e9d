"""Commands that look at the loop and steer it."""

import argparse
import dataclasses
import getpass
import os
from pathlib import Path
from typing import Any

from cl.ab_test import Refused
from cl.cli.console import Console
from cl.house import House, open_books, open_house
from cl.model.base_model import NoModel
from cl.records import IterationReport, Step
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
    with open_books(settings) as books:
        seen = books.ab_test.compare_models()
    if seen is None:
        raise Refused("No test is running.")
    rows: list[tuple[str, ...]] = [("", seen.champion.version, seen.challenger.version)]
    for name, field in (
        ("answers", "requests"),
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
    table = "\n".join(f"{name:<20}{a:>12}{b:>12}" for name, a, b in rows)
    console.result(dataclasses.asdict(seen), f"{table}\n\n{seen.decision}: {seen.text}")
    return 0


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
