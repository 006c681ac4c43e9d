"""Chat histories in other people's forms."""

import random
from datetime import UTC, datetime
from typing import Any

import pytest

from cl.records import Feedback
from cl.rules.exchange.chat_exports import histories
from cl.rules.exchange.placing import History

Ways = list[list[tuple[str, str, int]]]


def ways(entry: dict[str, Any]) -> Ways:
    """(prompt, answer, thumb) of every exchange, history by history."""
    return [
        [(e.prompt, e.answer, e.feedback.thumb) for e in history.exchanges]
        for history in histories(entry)
    ]


def say(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


TWO = [say("system", "Be brief."), say("user", "a?"), say("assistant", "a!"), say("user", "b?")]


def test_openai_messages_with_a_rating_of_the_whole() -> None:
    entry = {"messages": [*TWO, say("assistant", "b!")], "rating": "thumbs_down", "user": "ana"}
    assert ways(entry) == [[("a?", "a!", 0), ("b?", "b!", -1)]]
    assert [h.user for h in histories(entry)] == ["ana"]


def test_a_rating_of_a_turn_goes_to_that_turn() -> None:
    rated = say("assistant", "a!", feedback="like")
    entry = {"messages": [say("user", "a?"), rated, say("user", "b?"), say("assistant", "b!")]}
    assert ways(entry) == [[("a?", "a!", 1), ("b?", "b!", 0)]]
    assert ways({**entry, "score": -1}) == [[("a?", "a!", 1), ("b?", "b!", -1)]]
    entry["messages"][-1]["thumb"] = 1
    assert ways({**entry, "score": -1}) == [[("a?", "a!", 1), ("b?", "b!", 1)]]


def test_a_question_without_an_answer_at_the_end_is_left_out() -> None:
    assert ways({"messages": TWO, "feedback": 1}) == [[("a?", "a!", 1)]]


@pytest.mark.parametrize("entry", [{"messages": []}, {"messages": TWO[:2]}, {"mapping": {}}])
def test_a_conversation_without_an_answer_is_refused(entry: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="there is no answer in it"):
        histories(entry)


def test_openai_preferences_are_two_answers_to_one_question() -> None:
    entry = {
        "input": {"messages": TWO, "tools": [], "parallel_tool_calls": True},
        "preferred_output": [say("assistant", "good")],
        "non_preferred_output": [say("assistant", "bad")],
    }
    assert ways(entry) == [
        [("a?", "a!", 0), ("b?", "good", 1)],
        [("a?", "a!", 0), ("b?", "bad", -1)],
    ]
    del entry["non_preferred_output"]
    with pytest.raises(ValueError, match="must be a list of messages"):
        histories(entry)
    with pytest.raises(ValueError, match="`non_preferred_output` must be one message"):
        histories({**entry, "non_preferred_output": [say("user", "x")]})


def test_sharegpt() -> None:
    said = [("system", "Be brief."), ("human", "a?"), ("gpt", "a!"), ("user", "b?")]
    turns = [{"from": name, "value": text} for name, text in [*said, ("assistant", "b!")]]
    assert ways({"id": "x", "conversations": turns}) == [[("a?", "a!", 0), ("b?", "b!", 0)]]


def node(name: str, parent: str | None, role: str, text: str, **more: Any) -> dict[str, Any]:
    message = {
        "id": name,
        "author": {"role": role, "name": None, "metadata": {}},
        "create_time": 1769851800.5,
        "content": {"content_type": "text", "parts": [text]},
        "status": "finished_successfully",
        "end_turn": True,
        "weight": 1.0,
        "metadata": {},
        "recipient": "all",
        "channel": None,
        **more,
    }
    return {"id": name, "message": message, "parent": parent, "children": []}


def chatgpt(*nodes: dict[str, Any], current: str | None = None) -> dict[str, Any]:
    root = {"id": "root", "message": None, "parent": None, "children": []}
    return {
        "title": "A talk",
        "create_time": 1769851800.5,
        "mapping": {n["id"]: n for n in (root, *nodes)},
        "current_node": current,
        "conversation_id": "8f3a",
        "id": "8f3a",
    }


def test_a_chatgpt_export_with_its_branches_the_shown_one_first() -> None:
    entry = chatgpt(
        node("0", "root", "system", "", weight=0, metadata={"is_user_system_message": True}),
        node("1", "0", "user", "a?"),
        node("2", "1", "assistant", "old"),
        node("3", "1", "assistant", "new"),
        node("4", "3", "user", "b?"),
        node("5", "4", "assistant", "b!"),
        current="5",
    )
    assert ways(entry) == [[("a?", "new", 0), ("b?", "b!", 0)], [("a?", "old", 0)]]
    (first, _) = histories(entry)
    assert first.group == "8f3a"
    assert first.exchanges[0].at == datetime(2026, 1, 31, 9, 30, 0, 500_000, UTC)


def test_what_chatgpt_did_not_say_to_the_user_is_left_out() -> None:
    code = {"content_type": "code", "text": "print(1)"}
    thoughts = {"content_type": "thoughts", "thoughts": []}
    hidden = {"is_visually_hidden_from_conversation": True}
    entry = chatgpt(
        node("1", "root", "user", "a?"),
        node("2", "1", "assistant", "", content=thoughts),
        node("3", "2", "assistant", "", content=code, recipient="python"),
        node("4", "3", "tool", "1"),
        node("5", "4", "assistant", "search()", recipient="browser"),
        node("6", "5", "assistant", "Thinking aloud.", channel="commentary"),
        node("7", "6", "assistant", "Hidden.", metadata=hidden),
        node("8", "7", "assistant", "a!", channel="final"),
    )
    assert ways(entry) == [[("a?", "a!", 0)]]


def test_a_picture_in_a_chatgpt_export_is_a_reason() -> None:
    parts = {"content_type": "multimodal_text", "parts": [{"content_type": "image_asset_pointer"}]}
    entry = chatgpt(
        node("1", "root", "user", "", content=parts), node("2", "1", "assistant", "A cat.")
    )
    with pytest.raises(ValueError, match="image_asset_pointer"):
        histories(entry)


def webui(*messages: tuple[str, str | None, str, str, dict[str, Any]]) -> dict[str, Any]:
    nodes = {
        name: {
            "id": name,
            "parentId": parent,
            "childrenIds": [],
            "role": role,
            "content": text,
            "timestamp": 1769851800,
            **more,
        }
        for name, parent, role, text, more in messages
    }
    history = {"currentId": messages[-1][0], "messages": nodes}
    chat = {"title": "A talk", "models": ["llama3.2"], "history": history, "messages": []}
    return {"id": "c1", "user_id": "u1", "title": "A talk", "chat": chat, "archived": False}


CHAT = webui(
    ("1", None, "user", "a?", {}),
    ("2", "1", "assistant", "a!", {"annotation": {"rating": -1, "comment": "Wrong.", "tags": []}}),
    ("3", "1", "assistant", "other", {"annotation": {"rating": "1", "reason": "accurate"}}),
    ("4", "3", "user", "b?", {}),
    ("5", "4", "assistant", '<details type="reasoning" done="true">\nHm\n</details>\nb!', {}),
)


def test_an_open_webui_export_with_its_ratings() -> None:
    assert ways(CHAT) == [[("a?", "other", 1), ("b?", "b!", 0)], [("a?", "a!", -1)]]
    one, two = histories(CHAT)
    assert (one.user, one.group) == (two.user, two.group) == ("u1", "c1")
    assert two.exchanges[0].feedback == Feedback(thumb=-1, comment="Wrong.")
    assert one.exchanges[0].at == datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
    assert ways(CHAT["chat"]) == ways(CHAT)  # the older export, without what is around it


def test_an_open_webui_feedback_export_rates_the_message_it_names() -> None:
    record = {
        "id": "f1",
        "user_id": "u1",
        "type": "rating",
        "data": {"rating": 1, "model_id": "llama3.2", "reason": "", "comment": "", "tags": []},
        "meta": {"message_id": "5", "chat_id": "c1"},
        "snapshot": {"chat": CHAT},
    }
    assert ways(record) == [[("a?", "other", 1), ("b?", "b!", 1)], [("a?", "a!", -1)]]
    assert [(h.user, h.group) for h in histories(record)] == [("u1", "c1")] * 2
    with pytest.raises(ValueError, match="not in the snapshot"):
        histories({**record, "meta": {"message_id": "9"}})


def test_an_open_webui_message_that_failed_or_holds_an_image() -> None:
    failed = ("2", "1", "assistant", "", {"error": {"content": "lost"}})
    with pytest.raises(ValueError, match="no answer"):
        histories(webui(("1", None, "user", "a?", {}), failed))
    files = {"files": [{"type": "image", "url": "x"}]}
    with pytest.raises(ValueError, match="holds an image"):
        histories(webui(("1", None, "user", "a?", files), ("2", "1", "assistant", "A cat.", {})))


@pytest.mark.parametrize("current", ["2", None])
def test_messages_that_go_round_in_a_circle_are_refused(current: str | None) -> None:
    entry = chatgpt(
        node("1", "2", "user", "a?"), node("2", "1", "assistant", "a!"), current=current
    )
    with pytest.raises(ValueError, match=r"circle|no answer"):
        histories(entry)


def test_a_tree_with_too_many_branches_is_refused_soon() -> None:
    chain = [node(str(n), str(n - 1), "user", "a?") for n in range(1, 2000)]
    leaves = [node(f"x{n}", "1999", "assistant", "a!") for n in range(500)]
    with pytest.raises(ValueError, match="branches too often"):
        histories(chatgpt(*chain, *leaves))


SEEDS: list[dict[str, Any]] = [
    {"conversation": TWO, "response": "b!", "feedback": 1, "group": "g", "created_at": 5},
    {"messages": [*TWO, say("assistant", [{"type": "text", "text": "b!"}], rating=1)]},
    {"input": {"messages": TWO}, "preferred_output": [say("assistant", "x")]},
    {"conversations": [{"from": "human", "value": "a?"}, {"from": "gpt", "value": "a!"}]},
    chatgpt(node("1", "root", "user", "a?"), node("2", "1", "assistant", "a!"), current="2"),
    CHAT,
    {"snapshot": {"chat": CHAT}, "data": {"rating": 1}, "meta": {"message_id": "5"}},
]


def spoiled(value: Any, dice: random.Random) -> Any:
    if dice.random() < 0.03:
        odd = [None, 5, -1.5, True, "", "x", [], {}, [[]], [None], {"a": {}}, "\ud800", 10**30]
        return dice.choice(odd)
    if isinstance(value, dict):
        return {k: spoiled(v, dice) for k, v in value.items() if dice.random() > 0.02}
    return [spoiled(v, dice) for v in value] if isinstance(value, list) else value


def read(entry: dict[str, Any]) -> tuple[list[History], str]:
    try:
        return histories(entry), ""
    except ValueError as problem:
        return [], str(problem)


@pytest.mark.parametrize("seed", range(len(SEEDS)))
def test_whatever_is_wrong_with_an_entry_it_is_read_or_refused_in_a_sentence(seed: int) -> None:
    dice = random.Random(seed)
    refused = 0
    for _ in range(1500):
        entry = spoiled(SEEDS[seed], dice)
        found, sentence = read(entry if isinstance(entry, dict) else {})
        refused += bool(sentence)
        assert not sentence or 10 < len(sentence.encode()) < 200
        for history in found:
            assert len(history.keys()) == len(history.exchanges) > 0
            f"{history.user} {history.group}".encode()
    assert refused > 100
