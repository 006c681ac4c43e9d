"""The index of commands, and how every command ends: 0 done, 1 refused or failed, 2 wrong usage."""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence

from peewee import PeeweeException

from cl.ab_test import Refused
from cl.cli import demo, keeping, reviewing, steering
from cl.cli.console import Console, WrongUsage
from cl.db.database import DatabaseProblem
from cl.demo.story import StoryFailed
from cl.forgetting import BeingErased
from cl.house import AlreadyRunning
from cl.model.base_model import NoModel
from cl.model.engine.contract import EngineError
from cl.model.versions import BadVersion
from cl.records import Decision
from cl.rules.exchange.formats import FORMATS
from cl.settings import Settings, SettingsError, load_settings, quiet_libraries

DONE, REFUSED, USAGE = 0, 1, 2
DEMO_FOLDER = "data-demo"

Command = Callable[[Settings, argparse.Namespace, Console], int]

_EXPECTED = (
    AlreadyRunning,
    BadVersion,
    BeingErased,
    DatabaseProblem,
    EngineError,
    LookupError,
    NoModel,
    OSError,
    PeeweeException,
    Refused,
    StoryFailed,
    ValueError,
)


def parser() -> argparse.ArgumentParser:  # noqa: PLR0915 (a list, one line a command)
    main = argparse.ArgumentParser(
        prog="python -m cl", description="Look after a chatbot that learns from its thumbs."
    )
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, run: Command, doc: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=doc, description=doc)
        command.set_defaults(run=run)
        command.add_argument(
            "--json", action="store_true", help="one JSON document instead of words"
        )
        command.add_argument("--data", metavar="DIR", help="the data folder (CL_DATA_DIR)")
        return command

    add("status", steering.status, "where everything stands")
    add("check-triggers", steering.check_triggers, "every trigger's reading, and whether one fires")
    iterate = add("iterate", steering.iterate, "take the loop one step further")
    iterate.add_argument(
        "--force", action="store_true", help="open a training run, whatever the triggers say"
    )
    iterate.add_argument(
        "--all", action="store_true", help="go on as long as one step leads to the next"
    )
    generate = add("generate", steering.generate, "write the training set as it would be today")
    generate.add_argument(
        "--out", required=True, metavar="DIR", help="folder for train.jsonl and val.jsonl"
    )
    generate.add_argument(
        "--format", choices=tuple(FORMATS), help="write it in this form for other trainers, too"
    )
    add("train", steering.train, "a whole training run now: data, training, gate, deployment")
    deploy = add("deploy", steering.deploy, "put a published version into traffic")
    deploy.add_argument("version")
    _reason(deploy)
    compare = add(
        "compare", steering.compare, "champion and challenger side by side, and the verdict"
    )
    compare.add_argument("--experiment", type=int, metavar="N", help="work out anew a check of it")
    compare.add_argument("--check", type=int, metavar="K", help="which check; the first one is 1")
    compare.add_argument(
        "--self-test",
        action="store_true",
        help="how often the rule would promote a version that is the same, by the recent traffic",
    )
    compare.add_argument(
        "--tests", type=int, default=200, metavar="N", help="so many tests are made up for that"
    )
    _reason(add("promote", steering.promote, "make the challenger champion"))
    _reason(add("retire", steering.retire, "end the test without promotion"))
    _reason(add("rollback", steering.rollback, "put the champion before back in service"))
    review = add("review", reviewing.review, "what waits for a decision, or decide on one of them")
    review.add_argument("interaction", nargs="?", type=int, metavar="ID")
    review.add_argument("decision", nargs="?", choices=tuple(Decision))
    review.add_argument("--prompt", default="", metavar="TEXT", help="edit: another question")
    review.add_argument("--answer", default="", metavar="TEXT", help="edit: the answer to learn")
    review.add_argument("--limit", type=int, default=20, metavar="N", help="how many to list")
    _reason(review)
    export = add("export", keeping.export, "the log as JSON lines, or a version for other servers")
    export.add_argument("file", nargs="?", help="a file, or - for stdout; a folder for a version")
    export.add_argument("--version", metavar="NAME", help="export this version instead of the log")
    export.add_argument(
        "--merged", action="store_true", help="as a whole model, the adapter added into its weights"
    )
    bring = add(
        "import", keeping.import_, "add chat histories: our own, OpenAI, ShareGPT and others"
    )
    bring.add_argument("file")
    bring.add_argument(
        "--rejected", metavar="PATH", help="a file for every refused line's number and reason"
    )
    users = add("users", keeping.users, "list people, add them, let them in again")
    actions = ("list", "add", "link", "role", "deactivate", "activate", "export", "erase")
    users.add_argument("action", choices=actions, nargs="?", default="list")
    users.add_argument("name", nargs="?")
    users.add_argument("--to", metavar="FILE", help="where export writes a person's texts")
    users.add_argument("--yes", action="store_true", help="erase without asking")
    users.add_argument("--reason", default="", help="why erased; kept in the audit trail")
    users.add_argument("--role", choices=("staff", "admin"), default="staff")
    add("backup", keeping.backup, "copy the database and the versions").add_argument(
        "--to", metavar="DIR"
    )
    add("restore", keeping.restore, "put a backup in place; the app must be stopped").add_argument(
        "backup"
    )
    add("doctor", keeping.doctor, "look for what would keep the app from running")
    story = add(
        "demo", demo.demo, "watch the model learn: the whole loop in minutes, with the real model"
    )
    story.add_argument(
        "--fresh", action="store_true", help="forget an earlier story in the same folder"
    )
    story.add_argument("--seed", type=int, default=0)
    return main


def run(arguments: Sequence[str]) -> int:
    """Run a command. Returns its exit code; nothing expected ends in a traceback."""
    quiet_libraries()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    args = parser().parse_args(arguments)
    console = Console(args.json)
    try:
        code: int = args.run(_settings(args), args, console)
    except (SettingsError, WrongUsage) as problem:
        return _refuse(console, problem, USAGE)
    except _EXPECTED as problem:
        return _refuse(console, problem, REFUSED)
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    return code


def _settings(args: argparse.Namespace) -> Settings:
    overrides = {"data_dir": args.data} if args.data else {}
    if args.command == "demo":
        return load_settings(preset="demo", defaults={"data_dir": DEMO_FOLDER}, **overrides)
    return load_settings(**overrides)


def _reason(command: argparse.ArgumentParser) -> None:
    command.add_argument("--reason", default="on the command line", help="kept in the audit trail")


def _refuse(console: Console, problem: Exception, code: int) -> int:
    text = str(problem.args[0]) if isinstance(problem, KeyError) and problem.args else str(problem)
    if console.as_json:
        console.result({"error": text}, "")
    else:
        print(text, file=sys.stderr)
    return code
