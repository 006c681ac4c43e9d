"""What a person may ask for: their texts, and that they are forgotten."""

import argparse
import dataclasses
import sys
from pathlib import Path

from cl import files, transfer
from cl.cli.console import Console
from cl.forgetting import Erased
from cl.house import Books


def export(books: Books, args: argparse.Namespace, console: Console, actor: str) -> int:
    """Everything a person wrote, with the answers they got and what they said of them."""
    if not args.to:
        raise ValueError("users export needs --to FILE.")
    _require(books, args.name)
    written = 0
    with files.writing(Path(args.to)) as file:
        for line in transfer.export_lines(books.logger, args.name):
            file.write(line + "\n")
            written += 1
    console.result(
        {"user": args.name, "exported": written, "file": args.to},
        f"{written} interactions of {args.name} written to {args.to}.",
    )
    return 0


def erase(books: Books, args: argparse.Namespace, console: Console, actor: str) -> int:
    """Remove a person and their texts everywhere, after asking."""
    _require(books, args.name)
    if not args.yes and not _agreed(args.name):
        console.result({"user": args.name, "erased": False}, "Nothing was erased.")
        return 1
    done = books.forgetting.erase(args.name, actor, args.reason)
    console.result({"user": args.name, "erased": True, **dataclasses.asdict(done)}, _told(done))
    return 0


def _require(books: Books, name: str) -> None:
    if not books.forgetting.knows(name):
        raise LookupError(f"There is nobody called {name}, and nobody of that name wrote.")


def _agreed(name: str) -> bool:
    if not sys.stdin.isatty():
        raise ValueError("There is no terminal to ask on: add --yes to erase without asking.")
    print(f"This removes {name} and all of their texts for ever. Type the name to do it: ", end="")
    return input().strip() == name


def _told(done: Erased) -> str:
    lines = [
        f"{done.interactions} interactions and {done.lines} lines of training sets are erased; "
        f"the audit trail says {done.alias}."
    ]
    if done.versions:
        lines.append(f"Learned from them: {', '.join(done.versions)}; out of traffic for good.")
    if done.champion:
        lines[-1] = (
            f"Learned from them: {', '.join(done.versions)}. {done.champion} still answers, until "
            "the next training has replaced it; the others stay out of traffic."
        )
    if done.backups:
        lines.append("These backups still hold the texts; delete them:")
        lines += [f"  {path}" for path in done.backups]
    if done.waits_for_start:
        lines.append("usage.db is large: what is left between its rows goes at the next start.")
    lines.append("Backups, exports and training sets in other folders are yours to look after.")
    return "\n".join(lines)
