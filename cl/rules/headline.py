"""One sentence in plain words: what the system does, why, and what it waits for."""

from collections.abc import Mapping, Sequence
from typing import Any

from cl.records import State

_NOTHING = "Nothing to do."
_STAGES = {
    "requested": "the training set is being made",
    "generated": "the new version is being trained",
    "trained": "the new version stands at the gate",
    "published": "the new version goes into traffic",
}
_SILENT = ("erasure",)  # told only when it fires


def headline(found: Mapping[str, Any], hours: float) -> str:
    """`found` is the status as plain data; `hours` are the fewest a test may take."""
    tell = _training if found["job"] else _experiment if found["experiment"] else _collecting
    return tell(found, hours)


def _training(found: Mapping[str, Any], hours: float) -> str:
    job = found["job"]
    doing = _STAGES[job["status"]]
    progress = job["progress"] or {}
    if progress.get("steps"):
        doing += f", step {progress['step']} of {progress['steps']}"
        left = progress.get("seconds_left")
        doing += f", {_time(left)} left" if left is not None else ""
    if job["cancelling"]:
        doing += "; it is being cancelled"
    return f"Training run {job['id']} is at work: {doing}. Its reason: {job['reason']}. {_NOTHING}"


def _experiment(found: Mapping[str, Any], hours: float) -> str:
    running, test = found["experiment"], found["test"]
    old, new = running["champion"], running["challenger"]
    if running["kind"] == "watch":
        seen = test["numbers"]["text"] if test else "the first look is to come."
        kept = f"{1 - running['share']:.0%}"
        start = f"{new} is freshly promoted and watched; {old} keeps {kept} of the conversations"
    else:
        seen = (
            test["numbers"]["text"]
            if test
            else f"the first look is still to come, {hours:g} hours are the least."
        )
        start = f"Testing {new} against {old}"
    return f"{start}: {seen} {_verdict(test)}"


def _verdict(test: Mapping[str, Any] | None) -> str:
    """What becomes of a verdict that was not carried out."""
    if test is None or test["decision"] == "continue":
        return _NOTHING
    verdict = f"The verdict is to {test['decision']}"
    if test["numbers"].get("mode") == "dry_run":
        return f"{verdict}; in a dry run nothing is done."
    return f"{verdict}: it waits for your yes."


def _collecting(found: Mapping[str, Any], hours: float) -> str:
    if not found["interactions"]:
        return (
            "Nobody has written yet. The base model answers; it learns once people chat and give "
            f"thumbs. {_NOTHING}"
        )
    champion = found["champion"]
    who = f"{champion} answers everybody" if champion else "The base model answers everybody"
    if found["state"] == State.NEW_CHAMPION.value:
        who += ", freshly promoted"
    return f"{who}. {_waits(found['triggers'])} {_NOTHING}"


def _waits(triggers: Mapping[str, Any]) -> str:
    gauges: Sequence[Mapping[str, Any]] = triggers["gauges"]
    if triggers["fired"]:
        return f"A training begins at the next look: {triggers['reason']}."
    resting = next((g for g in gauges if g["name"] == "cooldown" and g["fires"]), None)
    if resting:
        return f"It rests: {resting['text']}."
    told = [g["text"] for g in gauges if g["name"] not in ("cooldown", *_SILENT) or g["fires"]]
    return f"The next training waits: {', '.join(told)}."


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    minutes = seconds / 60
    return f"{minutes:.0f} minutes" if minutes < 90 else f"{minutes / 60:.1f} hours"
