"""`python -m cl demo`: the story in one command."""

import argparse
import json
import shutil
import textwrap
from pathlib import Path
from typing import Any

from cl.cli.console import Console
from cl.demo.story import Story, StoryClock, story_settings
from cl.house import open_books, open_house, serve_alone, sweep_up
from cl.settings import Settings


def demo(settings: Settings, args: argparse.Namespace, console: Console) -> int:
    """Play the story; exit 0 when it reached its end and the model learned without forgetting."""
    settings = story_settings(settings)
    if args.fresh:
        _clear(settings.data_dir)
    with serve_alone(settings.data_dir):
        _refuse_other_data(settings.data_dir)
        clock = StoryClock()
        books = open_books(settings, clock)
        sweep_up(books)
        console.say(f"Data folder: {settings.data_dir}")
        house = open_house(books, console.progress)
        try:
            with console.watching(lambda: house.loop.doing):
                told = Story(house, clock, console.say, args.seed).play()
        finally:
            house.close()
    console.result(told, _tables(told, settings.data_dir))
    return 0 if all(learned(told).values()) else 1


def learned(told: dict[str, Any]) -> dict[str, bool]:
    """What the story promises, each with whether it held."""
    facts, general = told["facts"], told["general"]
    return {
        "at least three times as many right as before": facts["right_after"]
        >= 3 * facts["right_before"],
        "at least half of the unseen wordings right": 2 * facts["right_after"] >= facts["asked"],
        "at least 90 % of the general answers kept": general["right_after"]
        >= 0.9 * general["right_before"],
    }


def _refuse_other_data(folder: Path) -> None:
    notes = folder / "demo.json"
    if notes.exists() and json.loads(notes.read_text(encoding="utf-8")).get("finished"):
        raise ValueError(
            f"{folder} holds a story that was told to its end. Look at it with "
            f"CL_DATA_DIR={folder} python app.py, or tell it anew with --fresh."
        )
    if not notes.exists() and (folder / "usage.db").exists() and (folder / "runs").exists():
        raise ValueError(
            f"{folder} holds other data; the demo wants a folder of its own (CL_DATA_DIR)."
        )


def _clear(folder: Path) -> None:
    """Forget an earlier story, keeping the base model that was fetched for it."""
    with serve_alone(folder):
        for path in folder.iterdir():
            if path.name == "models":
                for version in path.glob("v*"):
                    shutil.rmtree(version)
            elif path.name in ("runs", "backups"):
                shutil.rmtree(path)
            elif path.name.startswith(("usage.db", "demo.json", "rehearsal-")):
                path.unlink()


def _tables(told: dict[str, Any], folder: Path) -> str:
    lines = ["", "Questions never asked in this wording", ""]
    lines += _rows(told["facts_table"])
    lines += ["", "General questions whose answer changed between right and wrong", ""]
    changed = [r for r in told["general_table"] if r["right_before"] != r["right_after"]]
    lines += _rows(changed) or ["  none"]
    lines += ["", told["rule"], ""]
    for name, kind in (("unseen wordings", "facts"), ("general questions", "general")):
        n = told[kind]
        lines.append(
            f"{name:<18} right before {n['right_before']:>3}, after {n['right_after']:>3}, of {n['asked']}"
        )
    lines += [f"{'held' if held else 'BROKEN':<7}{what}" for what, held in learned(told).items()]
    lines.append(f"states  {', '.join(told['states'])}")
    lines.append(f"time    {told['seconds']:.0f} s")
    lines += ["", f"Look at it: CL_DATA_DIR={folder} python app.py"]
    return "\n".join(lines)


def _rows(table: list[dict[str, Any]]) -> list[str]:
    lines: list[str] = []
    for row in table:
        lines.append(f"  {row['question']}")
        for when in ("before", "after"):
            mark = "right" if row[f"right_{when}"] else "wrong"
            lines.append(
                f"    {when:<7}{mark}  {textwrap.shorten(row[when], 90, placeholder='...')}"
            )
    return lines
