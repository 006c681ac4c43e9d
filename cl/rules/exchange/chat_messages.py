"""Messages of other people's chats, and what was said of them, in whatever words they are written.

What cannot be taken over raises ValueError with a sentence for whoever brought it.
"""

import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from cl.records import Feedback, Status
from cl.rules.exchange.placing import Exchange
from cl.rules.text import clean

_RATINGS = ("feedback", "rating", "thumb", "thumbs", "vote", "score", "annotation")
_UP = {"1", "+1", "1.0", "true", "up", "like", "liked", "good", "positive", "👍"}
_UP |= {"thumbs_up", "thumb_up", "thumbsup"}
_DOWN = {"-1", "-1.0", "false", "down", "dislike", "disliked", "bad", "negative", "👎"}
_DOWN |= {"thumbs_down", "thumb_down", "thumbsdown"}
_NO_RATING = {"", "0", "0.0", "none", "null", "neutral"}
_ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model"), "assistant"),
    **dict.fromkeys(("system", "developer"), ""),
    **dict.fromkeys(("tool", "function", "function_call", "function_response", "observation"), ""),
}
_UNCLEAN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_SPOKEN = ("text", "input_text", "output_text", "audio_transcription")
_SOUND = ("audio_asset_pointer", "real_time_user_audio_video_asset_pointer")


@dataclass(frozen=True)
class Said:
    role: str  # user or assistant
    text: str
    feedback: Feedback = field(default_factory=Feedback)
    at: datetime | None = None


def said_all(values: Any) -> list[Said]:
    """What people and models said in these messages."""
    if not isinstance(values, list):
        raise ValueError("a conversation must be a list of messages")
    return [said for value in values if (said := read_message(value))]


def read_message(value: Any) -> Said | None:
    """One message; None for those of the system and of tools."""
    value = value if isinstance(value, dict) else {}
    role = value.get("role", value.get("from"))
    kind = _ROLES.get(role.lower()) if isinstance(role, str) else None
    if kind is None:
        raise ValueError("a message needs a role (system, user or assistant) and a content")
    if not kind:
        return None
    name = "value" if "value" in value and "content" not in value else "content"
    content = value.get(name)
    if content is None and (value.get("tool_calls") or value.get("function_call")):
        return None
    if name not in value:
        raise ValueError("content is missing")
    if kind == "user":
        return Said(kind, read_text(content))
    return Said(kind, read_text(content), read_feedback(value), read_time(value.get("created_at")))


def exchanges_of(said: list[Said]) -> tuple[Exchange, ...]:
    """Question and answer by turns; what somebody said in several messages is one."""
    turns = [(role, list(run)) for role, run in groupby(said, key=lambda s: s.role)]
    if turns and turns[0][0] == "assistant":
        turns = turns[1:]
    found = []
    for (_, asked), (_, answered) in zip(turns[::2], turns[1::2], strict=False):
        rated = [s.feedback for s in answered if s.feedback != Feedback()]
        exchange = Exchange(_joined(asked), _joined(answered), at=answered[-1].at)
        found.append(
            replace(exchange, feedback=checked(rated[-1], exchange)) if rated else exchange
        )
    return tuple(found)


def _joined(said: list[Said]) -> str:
    return "\n\n".join(s.text for s in said if s.text) if len(said) > 1 else said[0].text


def read_text(value: Any) -> str:
    """A text, or the texts of a message in parts."""
    if isinstance(value, str):
        return clean(value) if _UNCLEAN.search(value) else value
    if isinstance(value, list):
        return "\n".join(read_text(text) for part in value if (text := _of_part(part)) is not None)
    raise ValueError(f"a text is {shown(value)}")


def _of_part(part: Any) -> str | None:
    if isinstance(part, str):
        return part
    part = part if isinstance(part, dict) else {}
    kind = part.get("type", part.get("content_type"))
    if kind in _SOUND:
        return None  # its words stand beside it
    if kind in _SPOKEN and isinstance(part.get("text"), str):
        return str(part["text"])
    raise ValueError(f"a message holds {shown(kind)}, not only text")


def read_feedback(holder: dict[str, Any]) -> Feedback:
    """What was said of an answer, from the fields of its message or line."""
    name = next((n for n in _RATINGS if holder.get(n) is not None), "")
    if isinstance(holder.get(name), dict):  # {"annotation": {"rating": 1, "comment": ...}}
        holder = holder[name]
        name = next((n for n in _RATINGS if holder.get(n) is not None), "")
    reason = holder.get("reason") if name else ""
    return Feedback(
        thumb=_thumb(name, holder.get(name)),
        reasons=_reasons(holder.get("reasons") or []),
        comment=read_text(holder.get("comment") or reason or ""),
        correction=read_text(holder.get("correction") or ""),
    )


def _thumb(name: str, value: Any) -> int:
    if value is None:
        return 0
    if isinstance(value, bool | int | float | str):
        text = str(value).strip().lower()
        text = text[0] + text[1:].replace(" ", "_").replace("-", "_") if text else text
        if text in _UP or text in _DOWN:
            return 1 if text in _UP else -1
        if text in _NO_RATING:
            return 0
    raise ValueError(f"`{name}` is {shown(value)}; it must be up or down: 1 or -1, like or dislike")


def _reasons(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise ValueError("`reasons` must be a list of texts")
    return tuple(value)


def checked(feedback: Feedback, exchange: Exchange) -> Feedback:
    """The feedback, if somebody can have meant it."""
    is_empty = not exchange.answer.strip() and exchange.status is Status.COMPLETE
    if is_empty and feedback.thumb > 0 and not feedback.correction:
        raise ValueError("an empty answer is rated up")
    return feedback


def read_time(value: Any) -> datetime | None:
    """A time in ISO 8601, or in seconds or milliseconds since 1970."""
    if value is None:
        return None
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value / 1000 if abs(value) > 1e11 else value, UTC)
        found = datetime.fromisoformat(value)
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        raise ValueError(f"`created_at` is {shown(value)}; it must be an ISO 8601 time") from None


def read_name(entry: dict[str, Any], *names: str) -> str:
    """The first of these fields that is filled; a number will do."""
    for name in names:
        value = entry.get(name)
        if value is None or value == "":
            continue
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError(f"`{name}` must be a text")
        return clean(str(value))
    return ""


def shown(value: Any) -> str:
    """A value as it may stand in a sentence."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = repr(value[:40] if isinstance(value, str) else value)
    return text if len(text) <= 40 else text[:39] + "…"
