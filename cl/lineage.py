"""Which training sets hold texts of which interactions, and how those texts are taken out.

A line of a set names the interaction its text comes from (`id` or `ids`); the manifest lists them
by file. Besides the sets under `runs/` only the rehearsal cache holds what people wrote. Versions
and scorers are numbers: which of them learned from a text follows from the sets.
"""

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from cl import files

MANIFEST = "manifest.json"
ANSWERS = "answers.jsonl"  # beside the set: what versions said when they were asked about it
_OURS = {"train.jsonl", "val.jsonl", "votes.jsonl", "pairs.jsonl", "probes.jsonl"}


def sets(data_dir: Path) -> dict[int, Path]:
    """The folders of the training sets, by training run."""
    found = sorted((data_dir / "runs").glob("*/data"))
    return {int(folder.parent.name): folder for folder in found if folder.parent.name.isdigit()}


def ids_of(folder: Path) -> set[int]:
    """The interactions whose texts this set holds."""
    return listed_in(folder).union(*(_ids_in(path) for path in folder.glob("*.jsonl")))


def listed_in(folder: Path, only: str = "") -> set[int]:
    """The same as its manifest has it, without reading the set. `only` names one of its files."""
    ids = _manifest(folder).get("ids", {})
    return {i for name in ([only] if only else ids) for i in _flat(ids.get(name, []))}


def all_ids(data_dir: Path) -> set[int]:
    """The interactions whose texts any set or the rehearsal cache holds."""
    cached = (_ids_in(path) for path in _caches(data_dir))
    return set().union(*(ids_of(folder) for folder in sets(data_dir).values()), *cached)


def runs_that_learned_from(data_dir: Path, interaction_ids: Collection[int]) -> list[int]:
    """The training runs whose sets hold texts of any of these interactions."""
    wanted = set(interaction_ids)
    return [run for run, folder in sets(data_dir).items() if wanted & ids_of(folder)]


def take_out(data_dir: Path, gone: set[int], spare: Collection[int] = ()) -> int:
    """Remove every line of these interactions. Returns how many lines; `spare` are runs left alone.

    May be broken off anywhere and called again: the lines themselves go last.
    """
    lines = sum(
        _take_out_of(folder, gone) for run, folder in sets(data_dir).items() if run not in spare
    )
    return lines + sum(_rewrite(path, gone) for path in _caches(data_dir))


def note(folder: Path, **facts: Any) -> None:
    """Add facts to the manifest of a set."""
    files.write_json(folder / MANIFEST, {**_manifest(folder), **facts})


def _take_out_of(folder: Path, gone: set[int]) -> int:
    if not gone & ids_of(folder):
        return 0
    # A trainer's complaint may quote what it was reading.
    (folder.parent / "trainer.log").unlink(missing_ok=True)
    if manifest := _manifest(folder):
        ids = {
            name: [i for i in some if gone.isdisjoint(_flat(i))]
            for name, some in manifest["ids"].items()
        }
        files.write_json(folder / MANIFEST, {**manifest, **_marked(manifest), "ids": ids})
    for path in folder.glob("*.jsonl"):
        if path.name not in _OURS:  # the set in another form, whose lines name nothing
            path.unlink()
    answers = [path for path in (folder.parent / ANSWERS,) if path.exists()]
    return sum(_rewrite(path, gone) for path in (*answers, *folder.glob("*.jsonl")))


def _marked(manifest: dict[str, Any]) -> dict[str, Any]:
    """The set is no longer what its sums and counts say."""
    if manifest.get("erased_from"):
        return {}
    before = {name: manifest.get(name) for name in ("sha256", "files")}
    return {"erased_from": True, "before_erasure": before, "sha256": "", "files": {}}


def _rewrite(path: Path, gone: set[int]) -> int:
    lines = list(_lines(path))
    kept = [line for line in lines if gone.isdisjoint(_ids_of_line(line))]
    if len(kept) < len(lines):
        files.write_text(path, "".join(line + "\n" for line in kept))
    return len(lines) - len(kept)


def _caches(data_dir: Path) -> Iterator[Path]:
    return data_dir.glob("rehearsal-*.jsonl")


def _ids_in(path: Path) -> set[int]:
    return {i for line in _lines(path) for i in _ids_of_line(line)}


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8", newline="\n") as file:
        yield from (line.rstrip("\n") for line in file if line.strip())


def _ids_of_line(line: str) -> set[int]:
    found = json.loads(line)
    return _flat([found.get("id"), found.get("ids")]) if isinstance(found, dict) else set()


def _flat(value: Any) -> set[int]:
    """The numbers in nested lists."""
    if isinstance(value, list):
        return {i for item in value for i in _flat(item)}
    return {value} if isinstance(value, int) else set()


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):
        return {}
