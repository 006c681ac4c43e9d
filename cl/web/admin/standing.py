"""The Overview's own markup: the sentence, the cards, the gauges, and both sides of a test."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from typing import Any

from cl.ab_test import TEST
from cl.db.digests import Numbers
from cl.records import Comparison, Version
from cl.rules import planning, verdicts
from cl.rules.phases import PHASES
from cl.rules.side_by_side import Line
from cl.settings import ExperimentLimits
from cl.web import markup
from cl.web.markup import card, duration, percent

_GAUGES = {
    "cooldown": "Rest after training",
    "sample_count": "New interactions",
    "scheduled": "Time since training",
    "quality_drop": "Quality drop",
    "error_rate": "Errors",
    "erasure": "Erasures",
}


@dataclass(frozen=True)
class Service:
    """How people are served right now."""

    online: int
    waiting: int
    first_p95: float | None
    errors: int
    of: int
    last_error: datetime | None
    trouble: str = ""


def sentence(
    found: Mapping[str, Any],
    alerts: Sequence[str],
    since: tuple[datetime | None, datetime | None],
    now: datetime,
) -> str:
    """What is wrong, what the system does and why, and the phases."""
    items = "".join(
        f"<li{' aria-current=step' if name == found['phase'] else ''}>{escape(name)}</li>"
        for name in PHASES
    )
    began, again = since
    times = [f"since {markup.when(began)} UTC"] if began else []
    times += [f"the loop looks again at {again:%H:%M} UTC"] if again and again > now else []
    return markup.stack(
        *(markup.alert(text) for text in alerts),
        f"<p class='headline'>{escape(found['headline'])}</p>",
        f"<div class='phases'><ol aria-label='What the loop is at'>{items}</ol>"
        f"<span class='mut small'>{escape(', '.join(times))}</span></div>",
    )


def overview_cards(
    found: Mapping[str, Any],
    champion: tuple[Version | None, Numbers],
    seen: Comparison | None,
    limits: ExperimentLimits,
    plan: planning.Plan | None,
    service: Service,
) -> str:
    experiment = found["experiment"]
    return markup.cards(
        _champion_card(*champion),
        _challenger_card(found, seen),
        _lift_card(seen, limits),
        _decision_card(experiment, seen, limits, plan),
        _service_card(service),
    )


def _champion_card(champion: Version | None, numbers: Numbers) -> str:
    facts = [
        f"{percent(numbers.liked)} liked of {numbers.rated:,} ratings"
        if numbers.rated
        else "nobody has rated it yet",
    ]
    if champion and champion.champion_since:
        facts.append(f"since {champion.champion_since:%d %b %Y}")
    name = champion.name if champion else "base model"
    return card("Champion", name, ", ".join(facts))


def _challenger_card(found: Mapping[str, Any], seen: Comparison | None) -> str:
    name, experiment = found["challenger"], found["experiment"]
    if not name:
        return card("Challenger", "none", "the next training makes one")
    tag = f"{experiment['share']:.0%} of chats" if experiment else ""
    if seen is None:
        return card("Challenger", name, "no look at it yet", tag=tag)
    arm = seen.challenger
    liked = f"{arm.positives / arm.rated:.0%} liked of {arm.rated:,} ratings" if arm.rated else ""
    return card("Challenger", name, liked or f"{arm.requests:,} answers, none rated yet", tag=tag)


def _lift_card(seen: Comparison | None, limits: ExperimentLimits) -> str:
    if seen is None:
        return card("Lift", "-", "no test is running")
    if seen.lift is None:
        return card("Lift", "-", "nothing to compare yet")
    is_early = any(need.share < 1 for need in planning.needs(seen, limits))
    facts = ["too early to judge"] if is_early else []
    inside = ""
    if seen.lower is not None and seen.upper is not None:
        base = verdicts.base(seen.champion)
        low, high = seen.lower / base, seen.upper / base
        inside = interval(low, seen.lift, high)
        facts.insert(0, f"between {percent(low, sign=True)} and {percent(high, sign=True)}")
    text = ", ".join(facts) or "without an interval: the plain rule has none"
    return card("Lift", f"{seen.lift:+.1%}", text, inside=inside)


def interval(low: float, value: float, high: float) -> str:
    """A number between its bounds, with a line at zero."""
    left, right = min(low, value, 0.0), max(high, value, 0.0)
    margin = 0.08 * (right - left) or 1.0
    start, width = left - margin, right - left + 2 * margin

    def at(number: float) -> str:
        return f"{100 * (number - start) / width:.1f}%"

    label = f"between {percent(low, sign=True)} and {percent(high, sign=True)}"
    return (
        f"<div class='interval' role='img' aria-label='{label}'>"
        f"<i class='span' style='left:{at(low)};right:calc(100% - {at(high)})'></i>"
        f"<i class='zero' style='left:{at(0.0)}'></i><i class='now' style='left:{at(value)}'></i></div>"
    )


def _decision_card(
    experiment: Mapping[str, Any] | None,
    seen: Comparison | None,
    limits: ExperimentLimits,
    plan: planning.Plan | None,
) -> str:
    if experiment is None:
        return card("Decision in", "-", "no test is running")
    if experiment["kind"] != TEST:
        return card("Watched for", f"{limits.bake_hours:g} h", "then the old champion is let go")
    if seen is None:
        least = duration(limits.min_test_hours)
        return card("Decision in", f"{least} at least", "the first look is to come")
    needs = planning.needs(seen, limits)
    bars = "".join(
        f"<div class='need'><span>{_amount(min(n.have, n.wanted))} of {_amount(n.wanted)} {n.name}</span>"
        f"{markup.bar(n.share, 'good' if n.share >= 1 else '')}</div>"
        for n in needs
    )
    value, text = _forecast(seen, needs, limits, plan)
    return card("Decision in", value, text, inside=f"<div class='needs'>{bars}</div>")


def _forecast(
    seen: Comparison,
    needs: Sequence[planning.Need],
    limits: ExperimentLimits,
    plan: planning.Plan | None,
) -> tuple[str, str]:
    ready = planning.hours_until_ready(seen, limits)
    if any(need.share < 1 for need in needs):
        if ready is None:
            return "not yet known", "nobody has met one of the sides yet"
        return f"about {duration(ready)}", "until it may be decided, at today's traffic"
    if seen.decision != "continue":
        return "now", f"the verdict is to {seen.decision}"
    if plan is None:
        return "any time", "it goes on until the difference is clear"
    facts = [f"by its end it finds gains from {plan.detectable:+.0%}"]
    if plan.advice:
        facts.insert(0, "with " + ", with ".join(plan.advice))
    left = plan.hours_left
    return "not in this test" if left is None else planning.days(left), "; ".join(facts)


def _service_card(service: Service) -> str:
    facts = [f"{service.online} online", f"{service.waiting} waiting"]
    if service.first_p95 is not None:
        facts.insert(0, f"first word p95 {service.first_p95:.1f} s")
    if service.last_error:
        facts.append(f"last error {markup.when(service.last_error)}")
    elif service.of:
        facts.append(f"no error in {service.of:,} answers")
    if service.trouble:
        return card("Service", "Trouble", service.trouble, colour="bad")
    rate = service.errors / service.of if service.of else 0.0
    value, colour = ("Healthy", "good") if rate < 0.05 else (f"{rate:.0%} errors", "bad")
    return card("Service", value, ", ".join(facts), colour=colour)


def gauges(triggers: Mapping[str, Any]) -> str:
    """What would start the next training, and how near it is."""
    found = [
        _gauge(gauge)
        for gauge in triggers["gauges"]
        if gauge["name"] != "erasure" or gauge["value"]
    ]
    return markup.title("What starts the next training") + markup.cards(*found)


def _gauge(gauge: Mapping[str, Any]) -> str:
    value, threshold, unit = gauge["value"], gauge["threshold"], gauge["unit"]
    limit = _amount(threshold, unit)
    if value is None:
        return card(_GAUGES[gauge["name"]], "-", gauge["text"])
    if gauge["name"] == "cooldown" and not gauge["fires"]:
        return card(_GAUGES["cooldown"], "over", f"no training within {limit} of the last")
    share = value / threshold if threshold else 1.0
    fires = gauge["fires"] and gauge["name"] != "cooldown"
    text = gauge["text"] if gauge["name"] in ("cooldown", "quality_drop") else f"fires at {limit}"
    colour = "warn" if fires or share >= 0.8 else ""
    return card(
        _GAUGES[gauge["name"]],
        f"{_amount(value, unit)} / {limit}",
        "fires now" if fires else text,
        share=share,
        colour=colour,
    )


def _amount(value: float, unit: str = "") -> str:
    if unit == "share":
        return f"{value:.0%}"
    short = {"hours": " h", "days": " d"}.get(unit, "")
    return f"{value:,.0f}{short}" if value == int(value) or value >= 100 else f"{value:.1f}{short}"


def comparison(seen: Comparison | None, found: Sequence[Line], is_running: bool) -> str:
    """Both sides of the latest test."""
    if seen is None or not found:
        return markup.nothing("No test has been looked at yet.")
    rows = [
        (_name(line), _figure(line.first, line), _figure(line.second, line), _change(line))
        for line in found
    ]
    headers = ("", seen.champion.version, seen.challenger.version, "Change")
    aside = (
        ""
        if is_running
        else f"<p class='mut small'>The latest test, ended. {escape(seen.text)}</p>"
    )
    return aside + markup.table(headers, rows, "")


def _name(line: Line) -> markup.Markup:
    return markup.Markup(f"<span class='nowrap'>{escape(line.name)}</span>")


def _figure(value: float | None, line: Line) -> markup.Markup | None:
    if value is None:
        return None
    text = {
        "share": f"{value:.1%}",
        "seconds": f"{value:.2f} s",
        "tokens": f"{value:.0f} tokens",
        "count": f"{value:,.0f}",
    }[line.unit]
    return markup.Markup(f"<span class='n'>{text}</span>")


def _change(line: Line) -> markup.Markup | str:
    if line.first is None or line.second is None or line.unit == "count":
        return ""
    difference = line.second - line.first
    text = {
        "share": f"{100 * difference:+.1f} pts",
        "seconds": f"{difference:+.2f} s",
        "tokens": f"{difference / line.first:+.0%}" if line.first else "",
    }[line.unit]
    colour = {True: "good", False: "bad", None: "mut"}[line.is_better]
    return markup.Markup(f"<span class='n' style='color:var(--{colour})'>{text}</span>")
