"""Commands that keep people and data: users, import, export, backup, restore, doctor."""

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cl import backup as backups
from cl import files, transfer
from cl.cli import privacy
from cl.cli.console import Console
from cl.db.database import DatabaseProblem
from cl.house import open_books, serve_alone, utc_now
from cl.model.base_model import NoModel, prepare, prepared
from cl.model.merging import write_merged
from cl.model.versions import BadVersion, VersionStore
from cl.records import Role
from cl.settings import Settings

_LEAST_FREE = 2_000_000_000
_SHOWN, _LISTED = 20, 1000  # refused lines in words, and with --json


def users(settings: Settings, args: argparse.Namespace, console: Console) -> int:
    actor = "operator (terminal)"
    with open_books(settings) as books:
        accounts = books.accounts
        if args.action == "list":
            people = [
                {"name": u.name, "role": u.role.value, "active": u.active} for u in accounts.users()
            ]
            lines = [
                f"{p['name']:<24}{p['role']:<8}{'' if p['active'] else 'deactivated'}"
                for p in people
            ]
            console.result(
                {"users": people},
                "\n".join(lines) or "There are no users yet; starting the app makes the first.",
            )
            return 0
        if not args.name:
            raise ValueError(f"users {args.action} needs a name.")
        if args.action in ("export", "erase"):
            return (privacy.export if args.action == "export" else privacy.erase)(
                books, args, console, actor
            )
        if args.action in ("add", "link"):
            role = Role(args.role)
            token = (
                accounts.add(args.name, role, actor)
                if args.action == "add"
                else accounts.new_link(args.name, actor)
            )
            path = f"/signin?link={token}"
            console.result(
                {"user": args.name, "link": path},
                f"One-time sign-in link for {args.name}, to be opened within three days:\n"
                f"http://{settings.host}:{settings.port}{path}",
            )
            return 0
        if args.action == "role":
            accounts.set_role(args.name, Role(args.role), actor)
        else:
            accounts.set_active(args.name, args.action == "activate", actor)
        console.result(
            {"user": args.name, "done": args.action}, f"{args.name}: {args.action} done."
        )
        return 0


def export(settings: Settings, args: argparse.Namespace, console: Console) -> int:
    if args.version:
        return _export_version(settings, args, console)
    if args.merged or not args.file:
        raise ValueError(
            "export needs a file (- for stdout) for the log, or --version NAME [--merged]."
        )
    with open_books(settings) as books:
        if args.file == "-":
            for line in transfer.export_lines(books.logger):
                print(line)
            return 0
        written = 0
        with Path(args.file).open("w", encoding="utf-8") as file:
            for written, line in enumerate(transfer.export_lines(books.logger), 1):
                file.write(line + "\n")
                if written % 1000 == 0:
                    console.progress(f"{written} interactions")
        console.result(
            {"exported": written, "file": args.file},
            f"{written} interactions written to {args.file}.",
        )
        return 0


def _export_version(settings: Settings, args: argparse.Namespace, console: Console) -> int:
    """The adapter's folder, or a whole model with the adapter in its weights."""
    folder = Path(args.file or args.version + ("-merged" if args.merged else ""))
    base = prepare(settings.model, settings.data_dir / "models", console.progress)
    versions = VersionStore(settings.data_dir / "models", base.sha256, base.source)
    if args.merged:
        console.progress(f"merging {args.version} into {base.source}")
        write_merged(base, versions, args.version, folder)
    else:
        versions.check(args.version)
        with files.new_folder(folder) as aside:
            shutil.copytree(versions.path(args.version), aside, dirs_exist_ok=True)
    about = {"version": args.version, "folder": str(folder), "merged": args.merged}
    console.result(about, f"{args.version} written to {folder}.")
    return 0


def import_(settings: Settings, args: argparse.Namespace, console: Console) -> int:
    path = Path(args.file)
    total = path.stat().st_size if path.is_file() else 0
    rejected: list[tuple[int, str]] = []

    def tell(done: transfer.Imported) -> None:
        share = min(1.0, done.bytes_read / total) if total else None
        console.progress(f"{done.added:,} interactions, {done.known:,} lines known", share)

    with open_books(settings) as books, _rejections(args.rejected, path) as write:

        def refuse(number: int, reason: str) -> None:
            write(number, reason)
            if len(rejected) < _LISTED:
                rejected.append((number, reason))

        done = transfer.import_file(books.logger, path, tell, refuse)
    names = ("added", "rated", "known", "refused")
    found = {name: getattr(done, name) for name in names}
    console.result(
        {**found, "rejected": rejected},
        f"{done.added} interactions added, {done.rated} known ones rated; "
        f"{done.known} lines known already, {done.refused} refused.",
    )
    if not console.as_json:
        for number, reason in rejected[:_SHOWN]:
            print(f"  line {number}: {reason}", file=sys.stderr)
        if done.refused > _SHOWN:
            more = "" if args.rejected else "; --rejected PATH writes them all to a file"
            print(f"  and {done.refused - _SHOWN} more{more}", file=sys.stderr)
    return 0 if done.added or done.rated or done.known else 1


@contextmanager
def _rejections(to: str | None, source: Path) -> Iterator[Callable[[int, str], None]]:
    """Writes every refused line's number and reason to a file, if one is named."""
    if to is None:
        yield lambda number, reason: None
        return
    if Path(to).exists() and source.exists() and Path(to).samefile(source):
        raise ValueError("--rejected must name another file than the one to import.")
    with Path(to).open("w", encoding="utf-8") as file:

        def write(number: int, reason: str) -> None:
            file.write(json.dumps({"line": number, "reason": reason}) + "\n")

        yield write


def backup(settings: Settings, args: argparse.Namespace, console: Console) -> int:
    folder = backups.backup(settings, utc_now(), Path(args.to) if args.to else None)
    console.result({"backup": str(folder)}, f"Backup written to {folder}.")
    return 0


def restore(settings: Settings, args: argparse.Namespace, console: Console) -> int:
    with serve_alone(settings.data_dir):
        aside = backups.restore(settings, Path(args.backup), utc_now())
    kept = f" What was there before lies in {aside}." if aside else ""
    console.result(
        {"restored": args.backup, "aside": str(aside or "")}, f"{args.backup} is in place.{kept}"
    )
    return 0


def doctor(settings: Settings, args: argparse.Namespace, console: Console) -> int:
    """Look at everything that must be right for the app to run; exit 1 when something is not."""
    found = list(_examine(settings))
    lines = [f"{'ok ' if ok else 'BAD'}  {name}: {text}" for name, ok, text in found]
    checks = [{"check": name, "ok": ok, "text": text} for name, ok, text in found]
    console.result({"ok": all(ok for _, ok, _ in found), "checks": checks}, "\n".join(lines))
    return 0 if all(ok for _, ok, _ in found) else 1


def _examine(settings: Settings) -> Iterator[tuple[str, bool, str]]:
    folder = settings.data_dir
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    yield "disk", free > _LEAST_FREE, f"{free / 1e9:.1f} GB free in {folder.resolve()}"
    yield "python", sys.version_info >= (3, 11), sys.version.split()[0]
    try:
        base = prepared(settings.model, folder / "models")
    except NoModel as problem:
        yield "model", False, str(problem)
        base = None
    else:
        yield (
            "model",
            True,
            str(base.folder) if base else f"{settings.model} will be fetched at the first start",
        )
    try:
        books = open_books(settings)
    except DatabaseProblem as problem:
        yield "database", False, str(problem)
        return
    with books:
        yield "database", True, f"whole, {books.logger.last_id()} interactions"
        for version in books.ab_test.versions():
            yield (
                f"version {version.name}",
                *_version(folder / "models", version.name, base.sha256 if base else ""),
            )


def _version(models: Path, name: str, base_sha256: str) -> tuple[bool, str]:
    try:
        VersionStore(models, base_sha256).check(name)
    except BadVersion as problem:
        return False, str(problem)
    return True, "whole"
