"""What was measured of a candidate, as files in the folder of its training run."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cl import files
from cl.rules.gating import Asked, HeldOut, Measured, Vote

MEASURED = "measured.json"  # numbers only
ANSWERS = "answers.jsonl"  # what both versions said; with the id of the interaction asked of
PROBES = "probes.jsonl"  # beside the training set: what was ever corrected, and how to tell


def write(folder: Path, found: Measured) -> None:
    """measured.json and answers.jsonl; the first one last, it says that both are there."""
    lines = (json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in found.asked)
    files.write_text(folder / ANSWERS, "".join(lines))
    numbers = {name: value for name, value in asdict(found).items() if name != "asked"}
    files.write_json(folder / MEASURED, numbers)


def read(folder: Path) -> Measured:
    """What was measured. Raises FileNotFoundError before it was."""
    found = json.loads((folder / MEASURED).read_text(encoding="utf-8"))
    return Measured(
        parent=found["parent"],
        problem=found["problem"],
        update_ratio=found["update_ratio"],
        held_out=tuple(HeldOut(**row) for row in found["held_out"]),
        votes=tuple(Vote(**row) for row in found["votes"]),
        drift=tuple(found["drift"]),
        asked=tuple(read_answers(folder)),
    )


def read_answers(folder: Path) -> list[Asked]:
    """What both versions said; nothing before they were asked."""
    return [Asked(**{**line, "keys": tuple(line["keys"])}) for line in lines_of(folder / ANSWERS)]


def lines_of(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file with one a line; none where there is no file."""
    if path.exists():
        text = path.read_text(encoding="utf-8")
        yield from (json.loads(line) for line in text.split("\n") if line)
