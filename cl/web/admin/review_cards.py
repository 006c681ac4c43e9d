"""The review's own markup: one example with all there is to read of it, and what was decided."""

from collections.abc import Mapping, Sequence
from html import escape

from cl.records import Decision, Message, Reviewed
from cl.rules.examples import Example
from cl.rules.review_order import ReviewItem
from cl.web import markup
from cl.web.markup import Markup, pill

_WORDS = {Decision.KEEP: "kept", Decision.EXCLUDE: "excluded", Decision.EDIT: "edited"}
_COLOURS = {Decision.KEEP: "good", Decision.EXCLUDE: "bad", Decision.EDIT: "warn"}


def decided(decision: Decision | None) -> Markup | None:
    """What was decided, if anything was."""
    return pill(_WORDS[decision], _COLOURS[decision]) if decision else None


def review_card(item: ReviewItem | None, facts: Sequence[str], was: Decision | None = None) -> str:
    """Why it is shown, what was decided of it, and all there is to read."""
    if item is None:
        return markup.nothing("Nothing waits for a decision.")
    example = item.example
    marks = {1: pill("thumb up", "good"), -1: pill("thumb down", "bad")}
    score = "not scored" if example.quality is None else f"score {example.quality:.2f}"
    told = [
        *facts,
        f"from {example.user}",
        f"{score} by {example.scorer}" if example.quality is not None and example.scorer else score,
        f"asked {item.times:,} times" if item.times > 1 else "",
        f"interaction {example.interaction_id}",
    ]
    parts = [
        f"<div class='facts'>{pill(item.why)}{marks.get(example.thumb, '')}{decided(was) or ''}"
        f"<span class='mut'>{escape(' · '.join(filter(None, told)))}</span></div>"
    ]
    if example.context:
        turns = "\n\n".join(_turn(message) for message in example.context)
        parts.append(_reading("Earlier in this chat", turns))
    parts.append(_reading("Question", escape(example.prompt)))
    if example.rejected is not None:
        parts.append(_reading("The answer it got", escape(example.rejected)))
    name = "The better answer, to be learned" if example.is_correction else "Answer, to be learned"
    if not example.is_correction and example.thumb <= 0:
        name = "Answer"
    parts.append(_reading(name, escape(example.answer), "learned"))
    return f"<article class='review'>{''.join(parts)}</article>"


def _turn(message: Message) -> str:
    who = {"user": "Question", "assistant": "Answer"}.get(message["role"], message["role"])
    return f"<b>{escape(who)}</b>\n{escape(message['content'])}"


def _reading(name: str, text: str, kind: str = "") -> str:
    """A text of any length; long ones scroll, by keyboard, too."""
    return (
        f"<h3>{escape(name)}</h3>"
        f"<div class='text {kind}' tabindex='0' role='group' aria-label='{escape(name)}'>{text}</div>"
    )


def counts(waiting: int, decided: Mapping[Decision, int], reach: int) -> str:
    """How much of the review is done."""
    done = [f"{decided[decision]:,} {words}" for decision, words in _WORDS.items()]
    about = (
        f"From the latest {reach:,} ratings, the uncertain and the influential first; every tenth is "
        "drawn at random. A decision holds for the same words anywhere."
    )
    heading = markup.title(
        "Review what will be learned", ", ".join([f"{waiting:,} waiting", *done])
    )
    return heading + markup.note(about)


def decisions(found: Sequence[tuple[Reviewed, Example | None]]) -> str:
    """What was decided, each with a button to take it back."""
    rows = [
        (
            markup.button(
                "Undo", "undo", f"Undo the decision on interaction {r.interaction_id}", name=r.key
            ),
            decided(r.decision),
            r.at,
            r.actor,
            r.prompt or (example.prompt if example else "(no longer there)"),
            r.answer or (example.answer if example else "(no longer there)"),
            r.reason,
        )
        for r, example in found
    ]
    headers = ("", "Decision", "When (UTC)", "Who", "Question", "Answer", "Reason")
    return markup.table(headers, rows, "Nothing has been decided yet.")
