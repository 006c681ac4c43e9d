"""The review at the terminal: what waits for a decision, and deciding."""

import argparse
from typing import Any

from cl.cli.console import Console
from cl.cli.steering import person
from cl.house import open_books
from cl.records import Reviewed
from cl.reviewing import REACH
from cl.rules.review_order import ReviewItem
from cl.rules.text import shorten
from cl.settings import Settings


def review(settings: Settings, args: argparse.Namespace, console: Console) -> int:
    if args.interaction is None:
        return _list(settings, args, console)
    if args.decision is None:
        raise ValueError("Say keep, exclude or edit after the number.")
    if (args.prompt or args.answer) and args.decision != "edit":
        raise ValueError(f"--prompt and --answer go with edit, not with {args.decision}.")
    with open_books(settings) as books:
        found: Reviewed = books.reviews.decide(
            args.interaction,
            args.decision,
            actor=person(),
            reason=args.reason,
            prompt=args.prompt,
            answer=args.answer,
        )
    value = {"interaction": args.interaction, "decision": found.decision.value, "key": found.key}
    console.result(value, f"Interaction {args.interaction}: {found.decision.value}.")
    return 0


def _list(settings: Settings, args: argparse.Namespace, console: Console) -> int:
    if args.limit < 1:
        raise ValueError("--limit is at least 1.")
    with open_books(settings) as books:
        queue = books.reviews.queue(REACH)
        done = {decision.value: n for decision, n in books.reviews.counts().items()}
    shown = queue[: args.limit]
    lines = [_line(item) for item in shown] or ["Nothing waits for a decision."]
    if len(queue) > len(shown):
        lines.append(f"... and {len(queue) - len(shown)} more")
    value = {"waiting": len(queue), **done, "items": [_item(item) for item in shown]}
    console.result(value, "\n".join(lines))
    return 0


def _line(item: ReviewItem) -> str:
    example = item.example
    texts = f"{shorten(example.prompt, 60)} -> {shorten(example.answer, 60)}"
    return f"{example.interaction_id:>8}  {item.why:<18}{example.user:<12}  {texts}"


def _item(item: ReviewItem) -> dict[str, Any]:
    example = item.example
    return {
        "id": example.interaction_id,
        "key": example.key,
        "why": item.why,
        "weight": item.weight,
        "propensity": item.propensity,
        "user": example.user,
        "thumb": example.thumb,
        "quality": example.quality,
        "scorer": example.scorer,
        "context": list(example.context),
        "prompt": example.prompt,
        "answer": example.answer,
        "rejected": example.rejected,
    }
