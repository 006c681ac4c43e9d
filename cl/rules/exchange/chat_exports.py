"""Chat histories in other people's forms, read into ours. The form is told by the fields.

    {"conversation": [...], "response": ..., "feedback": ...}      our own export
    {"messages": [{"role", "content"}...]}                         OpenAI, fine-tuning
    {"input": {"messages"}, "preferred_output", "non_preferred_output"}    OpenAI, preferences
    {"conversations": [{"from", "value"}...]}                      ShareGPT
    {"mapping": {id: {"message", "parent"}}, "current_node"}       ChatGPT, conversations.json
    {"chat": {"history": {"messages": {id: {...}}, "currentId"}}}  Open WebUI, chats
    {"snapshot": {"chat": ...}, "data": {"rating"}, "meta": {"message_id"}}  Open WebUI, feedback

What cannot be taken over raises ValueError with a sentence for whoever brought the file. System
messages and calls of tools are left out: the product has its own. So is a greeting that answers
nobody.
"""

import re
from dataclasses import replace
from typing import Any

from cl.records import NOBODY, Feedback, Status
from cl.rules.exchange.chat_messages import (
    Said,
    checked,
    exchanges_of,
    read_feedback,
    read_message,
    read_name,
    read_text,
    read_time,
    said_all,
    shown,
)
from cl.rules.exchange.placing import Exchange, History

_LONGEST_NAME = 64
_MOST_STEPS = 500_000  # messages of all branches of a conversation together
_CHATS = {"mapping", "chat", "history"}
_REASONING = re.compile(r'<details type="reasoning".*?</details>\s*', re.DOTALL)


def histories(entry: dict[str, Any]) -> list[History]:
    """Every way through this conversation; an answer that was given twice parts them."""
    for name, read in _FORMS.items():
        if name in entry:
            found = [h for h in read(entry) if h.exchanges]
            if not found:
                raise ValueError("there is no answer in it")
            return found
    raise ValueError(f"none of the known forms; it has none of {', '.join(_FORMS)}")


# -- the forms -----------------------------------------------------------------------------------


def _own(entry: dict[str, Any]) -> list[History]:
    if "response" not in entry:
        return _messages(entry, "conversation")
    said = said_all(entry["conversation"])
    if not said or said[-1].role != "user":
        raise ValueError("`conversation` must end with a message of the user")
    answer = Said("assistant", read_text(entry["response"]))
    exchanges = exchanges_of([*said, answer])
    status = _status(entry.get("status"))
    mark = "" if status is Status.COMPLETE else read_name(entry, "id")
    last = replace(exchanges[-1], at=read_time(entry.get("created_at")), status=status, mark=mark)
    return [_history(entry, (*exchanges[:-1], last), read_feedback(entry))]


def _messages(entry: dict[str, Any], name: str = "messages") -> list[History]:
    exchanges = exchanges_of(said_all(entry.get(name)))
    return [_history(entry, exchanges, read_feedback(entry))]


def _sharegpt(entry: dict[str, Any]) -> list[History]:
    return _messages(entry, "conversations")


def _preference(entry: dict[str, Any]) -> list[History]:
    asked = entry.get("input")
    said = said_all(asked.get("messages") if isinstance(asked, dict) else None)
    found = []
    for name, thumb in (("preferred_output", 1), ("non_preferred_output", -1)):
        answer = said_all(entry.get(name))
        if [s.role for s in answer] != ["assistant"]:
            raise ValueError(f"`{name}` must be one message of the assistant")
        found.append(_history(entry, exchanges_of([*said, *answer]), Feedback(thumb=thumb)))
    return found


def _chatgpt(entry: dict[str, Any]) -> list[History]:
    nodes = _objects(entry["mapping"], "`mapping`")
    said = {name: _chatgpt_said(node.get("message")) for name, node in nodes.items()}
    return _branches(entry, _names(nodes, "parent"), said, entry.get("current_node"))


def _chatgpt_said(message: Any) -> Said | None:
    """None for what was not said to anybody: hidden, thought, or written for a tool."""
    if not isinstance(message, dict):
        return None
    author, content, about = (_part(message, name) for name in ("author", "content", "metadata"))
    if (
        content.get("content_type", "text") not in ("text", "multimodal_text")
        or message.get("recipient", "all") != "all"
        or message.get("channel") not in (None, "final")
        or message.get("weight") == 0
        or about.get("is_visually_hidden_from_conversation")
    ):
        return None
    value = {**message, "role": author.get("role"), "content": content.get("parts") or ""}
    return read_message({**value, "created_at": message.get("create_time")})


def _webui(entry: dict[str, Any]) -> list[History]:
    chat = _part(entry, "chat") or entry
    if "history" not in chat:
        return _messages({**entry, **chat})
    history = _part(chat, "history")
    nodes = _objects(history.get("messages"), "`history.messages`")
    said = {name: _webui_said(node) for name, node in nodes.items()}
    return _branches(entry, _names(nodes, "parentId"), said, history.get("currentId"))


def _webui_said(message: dict[str, Any]) -> Said | None:
    files = message.get("files")
    if isinstance(files, list) and any(
        isinstance(f, dict) and f.get("type") == "image" for f in files
    ):
        raise ValueError("a message holds an image, not only text")
    said = read_message({**message, "created_at": message.get("timestamp")})
    if said is None or (message.get("error") and not said.text):
        return None
    return replace(said, text=_REASONING.sub("", said.text)) if said.role == "assistant" else said


def _webui_feedback(entry: dict[str, Any]) -> list[History]:
    chat = _part(_part(entry, "snapshot"), "chat")
    inner = _part(chat, "chat")
    rated = _part(entry, "meta").get("message_id")
    messages = _objects(_part(inner, "history").get("messages"), "`history.messages`")
    if not isinstance(rated, str) or rated not in messages:
        raise ValueError("the rated message is not in the snapshot")
    messages = {**messages, rated: {**messages[rated], "annotation": entry.get("data")}}
    history = {**inner["history"], "messages": messages}
    return _webui({"user_id": entry.get("user_id"), **chat, "chat": {**inner, "history": history}})


_FORMS = {
    "conversation": _own,
    "mapping": _chatgpt,
    "snapshot": _webui_feedback,
    "chat": _webui,
    "history": _webui,
    "messages": _messages,
    "preferred_output": _preference,
    "conversations": _sharegpt,
}


def _branches(
    entry: dict[str, Any], above: dict[str, str], said: dict[str, Said | None], current: Any
) -> list[History]:
    """From the beginning to every end of a tree of messages, the one that was shown last first."""
    followed = set(above.values())
    ends = [name for name in above if name not in followed]
    if isinstance(current, str) and current in above:
        ends = [current, *(end for end in ends if end != current)]
    found: list[History] = []
    steps = 0
    for end in ends:
        way = _way(end, above)
        steps += len(way)
        if steps > _MOST_STEPS:
            raise ValueError("it branches too often")
        found.append(_history(entry, exchanges_of([m for name in way if (m := said[name])])))
    return found


def _way(end: str, above: dict[str, str]) -> list[str]:
    """The messages from the beginning to this one."""
    way: dict[str, None] = {}
    while end in above:
        if end in way:
            raise ValueError("its messages follow each other in a circle")
        way[end] = None
        end = above[end]
    return list(way)[::-1]


# -- what belongs to a whole line ----------------------------------------------------------------


def _history(
    entry: dict[str, Any], exchanges: tuple[Exchange, ...], feedback: Feedback | None = None
) -> History:
    """A history of this entry; a rating of the whole goes to the last answer."""
    if exchanges and feedback and feedback != Feedback() and exchanges[-1].feedback == Feedback():
        last = replace(exchanges[-1], feedback=checked(feedback, exchanges[-1]))
        exchanges = (*exchanges[:-1], last)
    user = read_name(entry, "user", "user_id") or NOBODY
    if len(user) > _LONGEST_NAME:
        raise ValueError(f"the user's name has {len(user)} characters; at most {_LONGEST_NAME}")
    is_whole_chat = not _CHATS.isdisjoint(entry)  # elsewhere an id is the line's
    names = ("group", "conversation_id", "chat_id", *(["id"] if is_whole_chat else []))
    return History(user, read_name(entry, *names), exchanges, entry.get("learn") is not False)


def _status(value: Any) -> Status:
    try:
        status = Status(value or Status.COMPLETE)
    except ValueError:
        raise ValueError(
            f"`status` is {shown(value)}; it must be one of {', '.join(Status)}"
        ) from None
    return Status.INTERRUPTED if status is Status.STARTED else status


def _part(holder: Any, name: str) -> dict[str, Any]:
    value = holder.get(name) if isinstance(holder, dict) else None
    return value if isinstance(value, dict) else {}


def _objects(value: Any, name: str) -> dict[str, dict[str, Any]]:
    if not isinstance(value, dict) or not all(isinstance(v, dict) for v in value.values()):
        raise ValueError(f"{name} must hold messages by their ids")
    return value


def _names(nodes: dict[str, dict[str, Any]], name: str) -> dict[str, str]:
    """The message each one follows; the first follows none."""
    follows = {node: about.get(name) for node, about in nodes.items()}
    return {node: f if isinstance(f, str) else "" for node, f in follows.items()}
