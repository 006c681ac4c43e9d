"""The admin page's own markup: plain data in, HTML out, every value escaped."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from typing import Any

from cl.db.digests import Numbers
from cl.records import Comparison, Decision, Message, Reviewed, State, Version
from cl.rules import verdicts
from cl.rules.comparison import from_numbers
from cl.rules.examples import Example
from cl.rules.gating import Asked
from cl.rules.planning import days
from cl.rules.review_order import ReviewItem
from cl.rules.text import shorten

_STATES = {
    State.NO_CHAMPION: "No champion",
    State.CHAMPION: "Champion",
    State.TESTING: "A/B test",
    State.NEW_CHAMPION: "New champion",
}
_GAUGES = {
    "cooldown": "Rest after training",
    "sample_count": "New interactions",
    "scheduled": "Time since training",
    "quality_drop": "Quality drop",
    "error_rate": "Errors",
    "erasure": "Erasures",
}


_VERDICTS = {"passed": "good", "failed": "bad", "inconclusive": "warn"}


class Markup(str):
    """Text that is HTML already and must not be escaped again."""

    __slots__ = ()


def overview(found: dict[str, Any], doing: str, alerts: Sequence[str]) -> str:
    """The sentence, what is wrong, the states, and the cards."""
    parts = [f"<div class='alert' role='alert'>{escape(text)}</div>" for text in alerts]
    parts.append(f"<p class='headline'>{escape(found['headline'])}</p>")
    items = "".join(
        f"<li{' aria-current=step' if state.value == found['state'] else ''}>{words}</li>"
        for state, words in _STATES.items()
    )
    parts.append(f"<ul class='states' aria-label='State of the loop'>{items}</ul>")
    parts.append(f"<div class='cards'>{''.join(_cards(found, doing))}</div>")
    return "<div style='display:grid;gap:12px'>" + "".join(parts) + "</div>"


def _cards(found: dict[str, Any], doing: str) -> list[str]:
    test = found["test"]["numbers"] if found["test"] else None
    cards = [
        card(
            "In service",
            found["champion"] or "base model",
            "answers everybody outside a test" if found["challenger"] else "answers everybody",
        ),
        card(
            "Challenger",
            found["challenger"] or "none",
            _arm(test["challenger"]) if test else "no test is running",
        ),
        card(
            "Thumbs",
            f"{found['thumbs_up']} up, {found['thumbs_down']} down",
            f"{found['corrections']} better answers written",
        ),
        card(
            "Log",
            f"{found['interactions']:,}",
            f"interactions of {found['people']} people, {found['errors']} errors",
        ),
    ]
    if test:
        lift = "-" if test["lift"] is None else f"{test['lift']:+.1%}"
        cards.insert(2, card("Lift so far", lift, test["text"]))
    if found["plan"]:
        cards.insert(3, _decision_card(found["plan"]))
    if found["job"]:
        cards.append(
            card(
                f"Training run {found['job']['id']}",
                found["job"]["status"],
                doing or found["job"]["reason"],
            )
        )
    return cards


def _decision_card(plan: dict[str, Any]) -> str:
    left = plan["hours_left"]
    facts = [f"by its end it finds gains from {plan['detectable']:+.0%}"]
    if plan["advice"]:
        facts.insert(0, "with " + ", with ".join(plan["advice"]))
    value = "not within this test" if left is None else days(left)
    return card("Until a verdict", value, "; ".join(facts))


def _arm(arm: dict[str, Any]) -> str:
    quality = "-" if arm["quality"] is None else f"{arm['quality']:.2f}"
    return f"{arm['requests']} answers, {arm['positives']} of {arm['rated']} thumbs up, quality {quality}"


def card(title: str, value: str, text: str, share: float | None = None, colour: str = "") -> str:
    """A number with its name; `share` draws a bar."""
    bar = ""
    if share is not None:
        width = max(0.0, min(1.0, share)) * 100
        style = f"width:{width:.0f}%" + (f";--c:var(--{colour})" if colour else "")
        bar = f"<div class='bar'><i style='{style}'></i></div>"
    return (
        f"<div class='card'><h3>{escape(title)}</h3><div class='v'>{escape(value)}</div>{bar}"
        f"<div class='s'>{escape(text)}</div></div>"
    )


def service(found: Mapping[str, Any]) -> str:
    """The engine: how it runs, how busy it is, what it has done since the start."""
    alert = ""
    if found["why"]:
        alert = f"<div class='alert' role='alert'>{escape(found['why'])}</div>"
    cards = [
        card("Engine", found["stage"], found.get("device") or found["kind"]),
        card("Loaded", str(len(found["loaded"])), ", ".join(found["loaded"]) or "nothing yet"),
    ]
    if found["kind"] == "embedded":
        cards += _embedded_cards(found)
    for server in found.get("servers", ()):
        state = "answers" if server["ok"] else "gives no answer"
        cards.append(card(server["url"], state, f"{server['running']} answers being written"))
    waiting = found.get("waiting", 0)
    cards.append(card("Queue", str(waiting), "messages wait for their turn"))
    return (
        f"<div style='display:grid;gap:12px'>{alert}<div class='cards'>{''.join(cards)}</div></div>"
    )


def _embedded_cards(found: Mapping[str, Any]) -> list[str]:
    rows, most = found["rows"], found["max_rows"]
    prompt, reused = found["prompt_tokens"], found["reused_tokens"]
    ends = ", ".join(f"{count} {reason}" for reason, count in sorted(found["answers"].items()))
    step = "-" if found["step_ms"] is None else f"{found['step_ms']:.1f} ms"
    return [
        card(
            "Rows", f"{rows} of {most}", "answers being written now", rows / most if most else 0.0
        ),
        card("Step", step, f"median; {found['steps']:,} steps since the start"),
        card("Tokens", f"{found['tokens']:,}", "written since the start"),
        card(
            "Prompts",
            f"{prompt:,}",
            f"tokens, {reused / prompt:.0%} of them known already" if prompt else "tokens read",
        ),
        card("Answers", f"{sum(found['answers'].values()):,}", ends or "none yet"),
    ]


def gauges(triggers: dict[str, Any]) -> str:
    """What would start the next training, and how near it is."""
    cards = []
    for gauge in triggers["gauges"]:
        value, threshold = gauge["value"], gauge["threshold"]
        shown = (
            "-"
            if value is None
            else f"{_amount(value, gauge['unit'])} / {_amount(threshold, gauge['unit'])}"
        )
        share = None if value is None or not threshold else value / threshold
        colour = "warn" if gauge["fires"] else ""
        cards.append(card(_GAUGES[gauge["name"]], shown, gauge["text"], share, colour))
    return f"<div class='title'>What starts the next training</div><div class='cards'>{''.join(cards)}</div>"


def _amount(value: float, unit: str) -> str:
    if unit == "share":
        return f"{value:.0%}"
    short = {"hours": " h", "days": " d"}.get(unit, "")
    return f"{value:,.0f}{short}" if value == int(value) or value >= 100 else f"{value:.1f}{short}"


def job(found: dict[str, Any] | None, doing: str, last: dict[str, Any] | None) -> str:
    """The training that is going on, or how the last one ended."""
    if found is None:
        if last is None:
            return card("Training", "None yet", "A training starts by itself when a trigger fires.")
        return card(
            f"Last training, run {last['id']}", last["status"].replace("_", " "), last["outcome"]
        )
    progress = found["progress"] or {}
    share = progress["step"] / progress["steps"] if progress.get("steps") else None
    stopping = "; being cancelled" if found["cancelling"] else ""
    value = (
        f"{found['status']}{stopping}"
        if share is None
        else f"step {progress['step']} of {progress['steps']}{stopping}"
    )
    return card(f"Training run {found['id']}", value, doing or found["reason"], share)


def table(headers: Sequence[str], rows: Sequence[Sequence[object]], nothing: str) -> str:
    """A table; numbers stand right, times do not break, texts are shortened with the whole as title."""
    if not rows:
        return f"<div class='none'>{escape(nothing)}</div>"
    head = "".join(f"<th>{escape(h)}</th>" for h in headers)
    body = "".join(f"<tr>{''.join(_cell(value) for value in row)}</tr>" for row in rows)
    return f"<div class='scroll'><table class='grid'><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _cell(value: object) -> str:
    if value is None:
        return "<td class='mut'>-</td>"
    if isinstance(value, datetime):
        return f"<td class='t'>{value:%Y-%m-%d %H:%M}</td>"
    if isinstance(value, bool):
        return f"<td>{'yes' if value else 'no'}</td>"
    if isinstance(value, int | float):
        return (
            f"<td class='n'>{value:,.3f}</td>"
            if isinstance(value, float)
            else f"<td class='n'>{value:,}</td>"
        )
    if isinstance(value, Markup):
        return f"<td>{value}</td>"
    text = str(value)
    return f"<td title='{escape(text, quote=True)}'>{escape(shorten(text, 160))}</td>"


def pill(text: str, colour: str = "acc") -> Markup:
    return Markup(f"<span class='pill' style='--c:var(--{colour})'>{escape(text)}</span>")


def versions(found: Sequence[Version], numbers: Mapping[str, Numbers]) -> str:
    """Every version with what it had to beat and what people made of it."""
    colours = {"champion": "good", "challenger": "warn", "candidate": "acc", "retired": "mut"}
    rows = []
    for version in found:
        seen = numbers.get(version.name, Numbers())
        rows.append(
            (
                version.name,
                pill(version.stage.value, colours[version.stage.value]),
                version.parent,
                version.val_loss,
                version.parent_val_loss,
                seen.answers,
                seen.quality,
                f"{seen.ups} / {seen.downs}",
                version.created_at,
                version.champion_since,
            )
        )
    headers = (
        "Version",
        "Stage",
        "Had to beat",
        "Validation loss",
        "Parent's loss",
        "Answers",
        "Quality",
        "Up / down",
        "Made",
        "In service since",
    )
    return table(headers, rows, "No version has been trained yet.")


def runs(found: Sequence[dict[str, Any]]) -> str:
    rows = [
        (
            r["id"],
            r["started_at"],
            r["trigger"],
            r["requested_by"],
            pill(r["status"].replace("_", " "), _run_colour(r["status"])),
            r["version"],
            r["outcome"] or r["reason"],
        )
        for r in found
    ]
    return table(
        ("Run", "Started", "Trigger", "By", "Status", "Version", "Outcome"),
        rows,
        "No training has been run yet.",
    )


def _run_colour(status: str) -> str:
    return {
        "deployed": "good",
        "rejected": "bad",
        "failed": "bad",
        "cancelled": "mut",
        "not_enough_data": "mut",
    }.get(status, "warn")


def gate(run: dict[str, Any] | None) -> str:
    """The checks of the latest version that stood at the gate."""
    checks = ((run or {}).get("result") or {}).get("gate", [])
    rows = [(c["name"], _verdict(c), c["text"]) for c in checks]
    return table(("Check", "Verdict", "Measured"), rows, "No version has stood at the gate yet.")


def _verdict(check: dict[str, Any]) -> Markup:
    # Runs of earlier releases knew two verdicts only.
    text = check.get("verdict") or ("passed" if check["passed"] else "failed")
    return pill(text, _VERDICTS[text])


def answers(found: Sequence[Asked], run: dict[str, Any] | None) -> str:
    """What the parent and the candidate said to the gate's questions, what changed first."""
    before = ((run or {}).get("result") or {}).get("parent", "before")
    after = (run or {}).get("version") or "after"
    order = {(True, False): 0, (False, True): 1}
    shown = sorted(
        found, key=lambda a: (order.get((a.was_right, a.is_right), 2) if a.keys else 3, a.kind)
    )
    rows = [
        (
            a.kind,
            a.question,
            a.reference or (", ".join(a.keys) if a.keys else "-"),
            _said(a.before, a.was_right if a.keys else None),
            _said(a.after, a.is_right if a.keys else None),
        )
        for a in shown
    ]
    headers = ("Kind", "Question", "Should hold", f"{before} said", f"{after} said")
    return table(headers, rows, "No version has been asked yet.")


def _said(text: str, right: bool | None) -> Markup:
    mark = "" if right is None else pill("right" if right else "wrong", "good" if right else "bad")
    whole = escape(text, quote=True)
    return Markup(f"{mark} <span title='{whole}'>{escape(shorten(text, 160))}</span>")


def funnel_reasons(steps: Sequence[dict[str, Any]]) -> str:
    rows = [
        (s["name"], s["kept"], ", ".join(f"{n:,} {why}" for why, n in s["dropped"].items()) or "-")
        for s in steps
    ]
    return table(("Step", "Left", "Dropped, and why"), rows, "No training set has been made yet.")


def feedback(found: Sequence[dict[str, Any]]) -> str:
    marks = {1: pill("up", "good"), -1: pill("down", "bad"), 0: Markup("-")}
    rows = [
        (
            f["at"],
            f["user"],
            marks[f["thumb"]],
            f["prompt"],
            f["answer"],
            f["correction"],
            ", ".join(f["reasons"]),
            f["comment"],
            f["version"],
        )
        for f in found
    ]
    headers = (
        "When (UTC)",
        "Who",
        "Thumb",
        "Question",
        "Answer",
        "The better answer",
        "Reasons",
        "Comment",
        "Version",
    )
    return table(headers, rows, "Nobody has given a thumb yet.")


def scorer(info: Mapping[str, Any]) -> str:
    """The scorer that looks at every example: how good it is, and whether it decides anything."""
    auc, low, high = info.get("auc"), info.get("auc_low"), info.get("auc_high")
    labels = info.get("labels")
    between = "" if None in (low, high) else f"; 90 % interval {low:.2f} to {high:.2f}"
    decides = "decides what is learned" if info.get("may_select") else "decides nothing"
    cards = [
        card("Scorer", info.get("name") or "none", decides),
        card(
            "Learned from",
            "-" if labels is None else f"{labels:,}",
            f"ratings: {_count(info.get('ups'))} up, {_count(info.get('downs'))} down",
        ),
        card("Tells good from bad", _figure(auc), f"AUC; 0.5 is chance, 1 perfect{between}"),
        card("Brier score", _figure(info.get("brier")), "0 is perfect, 0.25 knows nothing"),
        card(
            "Calibration error",
            _figure(info.get("calibration_error")),
            "how far its scores are from the share of thumbs up",
        ),
    ]
    text = escape(info.get("text") or "")
    return (
        f"<div class='title'>The scorer <span class='mut'>{escape(info.get('stage') or '')}</span></div>"
        f"<p class='mut small'>{text}</p><div class='cards'>{''.join(cards)}</div>"
    )


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def review_counts(waiting: int, decided: Mapping[Decision, int], reach: int) -> str:
    """How much of the review is done."""
    done = [
        f"{decided[decision]:,} {words}"
        for decision, words in (
            (Decision.KEEP, "kept"),
            (Decision.EXCLUDE, "excluded"),
            (Decision.EDIT, "edited"),
        )
    ]
    return (
        "<div class='title'>Review what will be learned "
        f"<span class='mut'>{', '.join([f'{waiting:,} waiting', *done])}</span></div>"
        f"<div class='mut small'>From the latest {reach:,} ratings, the uncertain and the influential"
        " first; every tenth is drawn at random. A decision holds for the same words anywhere.</div>"
    )


def review_card(item: ReviewItem | None, place: int, of: int) -> str:
    """One example that waits: why it is shown, and all there is to read of it."""
    if item is None:
        return "<div class='none'>Nothing waits for a decision.</div>"
    example = item.example
    marks = {1: pill("thumb up", "good"), -1: pill("thumb down", "bad")}
    score = "not scored" if example.quality is None else f"score {example.quality:.2f}"
    facts = [
        f"{place:,} of {of:,}",
        f"from {example.user}",
        f"{score} by {example.scorer}" if example.quality is not None and example.scorer else score,
        f"asked {item.times:,} times" if item.times > 1 else "",
        f"interaction {example.interaction_id}",
    ]
    parts = [
        f"<div class='facts'>{pill(item.why)}{marks.get(example.thumb, '')}"
        f"<span class='mut'>{escape(' · '.join(filter(None, facts)))}</span></div>"
    ]
    if example.context:
        turns = "\n\n".join(_turn(message) for message in example.context)
        parts.append(_reading("Earlier in this chat", turns))
    parts.append(_reading("Question", escape(example.prompt)))
    if example.rejected is not None:
        parts.append(_reading("The answer it got", escape(example.rejected)))
    name = "The better answer, to be learned" if example.is_correction else "Answer, to be learned"
    parts.append(_reading(name, escape(example.answer), "learned"))
    return f"<article class='review'>{''.join(parts)}</article>"


def _turn(message: Message) -> str:
    who = {"user": "Question", "assistant": "Answer"}.get(message["role"], message["role"])
    return f"<b>{escape(who)}</b>\n{escape(message['content'])}"


def _reading(name: str, markup: str, kind: str = "") -> str:
    """A text of any length; long ones scroll, by keyboard, too."""
    return (
        f"<h3>{escape(name)}</h3>"
        f"<div class='text {kind}' tabindex='0' role='group' aria-label='{escape(name)}'>{markup}</div>"
    )


def decisions(found: Sequence[tuple[Reviewed, Example | None]]) -> str:
    """What was decided, each with a button to take it back."""
    colours = {Decision.KEEP: "good", Decision.EXCLUDE: "bad", Decision.EDIT: "warn"}
    words = {Decision.KEEP: "kept", Decision.EXCLUDE: "excluded", Decision.EDIT: "edited"}
    rows = [
        (
            _undo(r.key),
            pill(words[r.decision], colours[r.decision]),
            r.at,
            r.actor,
            r.prompt or (example.prompt if example else "(no longer there)"),
            r.answer or (example.answer if example else "(no longer there)"),
            r.reason,
        )
        for r, example in found
    ]
    headers = ("", "Decision", "When (UTC)", "Who", "Question", "Answer", "Reason")
    return table(headers, rows, "Nothing has been decided yet.")


def _undo(key: str) -> Markup:
    return Markup(f"<button type='button' class='undo' data-key='{escape(key)}'>Undo</button>")


def iterations(found: Sequence[dict[str, Any]]) -> str:
    rows = [(r["at"], r["step"].replace("_", " "), r["repeats"], r["reason"]) for r in found]
    return table(("When (UTC)", "Step", "Times", "Why"), rows, "The loop has not looked yet.")


def audit(found: Sequence[dict[str, Any]]) -> str:
    rows = [(r["at"], r["actor"], r["action"], r["subject"], r["reason"]) for r in found]
    return table(("When (UTC)", "Who", "Did", "To", "Why"), rows, "Nothing has been done yet.")


def checks(found: Sequence[dict[str, Any]]) -> str:
    """The looks at an experiment."""
    rows = []
    for check in found:
        seen = from_numbers(check["numbers"])
        rows.append(
            (
                check["number"],
                check["at"],
                f"{seen.champion.requests} / {seen.challenger.requests}",
                verdicts.told(seen),
                check["decision"],
                check["reason"].replace("_", " "),
                check["acted"],
            )
        )
    headers = ("Check", "At", "Answers", "Lift", "Verdict", "Because", "Done")
    return table(headers, rows, "Nobody has looked yet.")


def recomputed(then: Comparison, now: Comparison) -> str:
    """A look of the past beside the same worked out anew."""
    is_same = verdicts.is_same(then, now)
    title = "The same verdict" if is_same else "Not the same verdict"
    text = f"Then: {then.decision}, {then.text} Worked out anew from the log: {now.decision}, {now.text}"
    return card(title, now.decision, text, colour="good" if is_same else "bad")


def experiments(found: Sequence[dict[str, Any]]) -> str:
    rows = [
        (
            e["id"],
            "watch" if e["kind"] == "watch" else "test",
            e["champion"],
            e["challenger"],
            f"{e['share']:.0%}",
            e["started_at"],
            e["ended_at"],
            e["outcome"] or "running",
            e["reason"],
        )
        for e in found
    ]
    headers = (
        "No.",
        "Kind",
        "Champion",
        "Challenger",
        "Share",
        "Started",
        "Ended",
        "Outcome",
        "Why",
    )
    return table(headers, rows, "No test has been run yet.")
