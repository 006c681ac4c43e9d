"""Lines of a data set in the forms of other trainers."""

from typing import Any

import pytest

from cl.rules.exchange.formats import FORMATS


def said(*texts: str, system: str = "") -> list[dict[str, str]]:
    roles = ("user", "assistant")
    turns = [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)]
    return [{"role": "system", "content": system}, *turns] if system else turns


LONG = {"messages": said("a?", "a!", "b?", "b!", system="Be brief."), "source": "thumb", "id": 12}
SHORT = {"messages": said("a?", "a!"), "source": "thumb"}
PROMPT = said("a?", "a!", "b?", system="Be brief.")
ABOUT = {"split": "train", "id": 12}


@pytest.mark.parametrize(
    ("name", "line", "wanted"),
    [
        ("messages", LONG, {"messages": LONG["messages"]}),
        (
            "prompt-completion",
            LONG,
            {"prompt": PROMPT, "completion": [{"role": "assistant", "content": "b!"}]},
        ),
        (
            "sharegpt",
            LONG,
            {
                "conversations": [
                    {"from": "system", "value": "Be brief."},
                    {"from": "human", "value": "a?"},
                    {"from": "gpt", "value": "a!"},
                    {"from": "human", "value": "b?"},
                    {"from": "gpt", "value": "b!"},
                ]
            },
        ),
        (
            "alpaca",
            LONG,
            {
                "instruction": "b?",
                "input": "",
                "output": "b!",
                "system": "Be brief.",
                "history": [["a?", "a!"]],
            },
        ),
        (
            "alpaca",
            SHORT,
            {"instruction": "a?", "input": "", "output": "a!", "system": "", "history": []},
        ),
        (
            "kto",
            {"prompt": PROMPT, "completion": "b!", "label": False, **ABOUT},
            {
                "prompt": PROMPT,
                "completion": [{"role": "assistant", "content": "b!"}],
                "label": False,
            },
        ),
        (
            "dpo",
            {"prompt": PROMPT, "chosen": "b!", "rejected": "c!", **ABOUT},
            {
                "prompt": PROMPT,
                "chosen": [{"role": "assistant", "content": "b!"}],
                "rejected": [{"role": "assistant", "content": "c!"}],
            },
        ),
    ],
)
def test_a_line_becomes_exactly_this(
    name: str, line: dict[str, Any], wanted: dict[str, Any]
) -> None:
    assert FORMATS[name].convert(line) == wanted


def test_nothing_but_role_and_content_of_a_message_is_handed_on() -> None:
    line = {"messages": [{**m, "feedback": 1} for m in said("a?", "a!")]}
    assert FORMATS["messages"].convert(line) == {"messages": said("a?", "a!")}


def test_a_history_that_does_not_go_by_turns_is_refused_rather_than_shifted() -> None:
    line = {"messages": [{"role": "user", "content": "Hello?"}, *said("a?", "a!")]}
    with pytest.raises(ValueError, match="zip"):
        FORMATS["alpaca"].convert(line)
