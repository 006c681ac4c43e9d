"""The README tells the truth: its settings, commands, packages, files and pictures exist as it says."""

import re
from itertools import groupby
from pathlib import Path

import pytest

from cl.cli.parser import parser
from cl.db.tables import TABLES
from cl.settings import settings_table

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def settings_markdown() -> str:
    """The settings as the README shows them."""
    lines: list[str] = []
    for group, knobs in groupby(settings_table(), key=lambda knob: knob.group):
        lines += ["", f"**{group.rstrip('.')}**", "", "| setting | default | demo | |"]
        lines.append("|---|---|---|---|")
        for knob in knobs:
            demo = f"`{knob.demo}`" if knob.demo else ""
            default = f"`{knob.default}`" if knob.default else ""
            lines.append(f"| `{knob.env}` | {default} | {demo} | {knob.doc} |")
    return "\n".join(lines[1:])


def between(start: str, end: str) -> str:
    return README.split(start, 1)[1].split(end, 1)[0].strip()


def pins() -> dict[str, str]:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    found = (line.split("==") for line in lines if line and not line.startswith("#"))
    return dict(line for line in found)


def test_the_settings_are_those_of_the_code() -> None:
    shown = between("<!-- settings: made from cl/settings.py -->", "<!-- end of settings -->")
    assert shown == settings_markdown()


def test_every_command_is_told_and_no_other() -> None:
    (commands,) = (a.choices for a in parser()._subparsers._group_actions)  # type: ignore[union-attr]
    told = re.findall(r"^\| `python -m cl ([a-z-]+)", README, re.MULTILINE)
    assert sorted(told) == sorted(commands)  # type: ignore[arg-type]


@pytest.mark.parametrize("line", re.findall(r"`(?:CL_\w+=\S+ )*python -m cl ([^`]*)`", README))
def test_every_command_line_can_be_typed_like_this(line: str) -> None:
    words = ["x" if word.isupper() else word for word in line.split()]
    parser().parse_args(words)


def test_every_package_is_pinned_and_has_its_reason() -> None:
    told = re.findall(
        r"^\| ([\w-]+) \| \S", between("### What it stands on", "## Tests"), re.MULTILINE
    )
    assert [name for name in told if name != "package"] == list(pins())


def test_the_head_is_what_a_space_needs() -> None:
    head = dict(line.split(": ", 1) for line in README.split("---")[1].strip().splitlines())
    assert head["sdk"] == "gradio"
    assert head["sdk_version"] == pins()["gradio"]
    assert (ROOT / head["app_file"]).is_file()
    assert len(head["short_description"]) <= 60


def test_every_file_of_the_tree_is_told() -> None:
    tree = between("## The house\n\n```", "```")
    told = {name.rstrip("/") for name in re.findall(r"^  ([\w./]+)", tree, re.MULTILINE)}
    there = {p.name for p in (ROOT / "cl").iterdir() if not p.name.startswith("__")}
    assert told == there


def test_every_table_has_its_one_door() -> None:
    told = between("| table | written by |", "### What it stands on")
    names = [
        n for row in re.findall(r"^\| ([\w, ]+) \|", told, re.MULTILINE) for n in row.split(", ")
    ]
    assert sorted(names) == sorted(table._meta.table_name for table in TABLES)


def test_the_pictures_are_there() -> None:
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README)
    assert len(pictures) >= 2
    for picture in pictures:
        assert (ROOT / picture).read_bytes().startswith(b"\x89PNG")


def test_the_two_commands_of_the_start_and_the_tests() -> None:
    assert "pip install -r requirements.txt && python app.py" in README
    assert "pip install -r requirements.txt -r tests/requirements.txt && pytest" in README
    assert "pip install -r requirements.txt -r tests/requirements.txt && pytest" in (
        ROOT / ".ci" / "run"
    ).read_text(encoding="utf-8")
