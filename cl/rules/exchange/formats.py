"""A data set in the forms other trainers read: one line of ours becomes one of theirs.

Ours are `{"messages": [...]}` with the answer last (train, val), `{"prompt": [...], "completion":
"...", "label": bool}` (votes) and `{"prompt": [...], "chosen": "...", "rejected": "..."}` (pairs).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from cl.records import Message

Line = dict[str, Any]


class Format(NamedTuple):
    """The files a form is made from, and how a line of them is written in it.

    Some readers take the types of a file from its beginning: a line that `shows_types`, if there
    is one, has to come first.
    """

    sources: tuple[str, ...]
    convert: Callable[[Line], Line]
    shows_types: Callable[[Line], bool] = lambda line: True


def messages(line: Line) -> Line:
    """TRL and the API of OpenAI, LLaMA-Factory (`formatting: openai`), axolotl (`chat_template`)."""
    return {"messages": _plain(line["messages"])}


def prompt_completion(line: Line) -> Line:
    """TRL: the loss is taken on the answer alone."""
    *prompt, answer = _plain(line["messages"])
    return {"prompt": prompt, "completion": [answer]}


def sharegpt(line: Line) -> Line:
    """LLaMA-Factory (`formatting: sharegpt`), axolotl, FastChat."""
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    said = [{"from": names[m["role"]], "value": m["content"]} for m in line["messages"]]
    return {"conversations": said}


def alpaca(line: Line) -> Line:
    """LLaMA-Factory (its default form), with the earlier turns as `history`."""
    system = [m["content"] for m in line["messages"] if m["role"] == "system"]
    turns = [m["content"] for m in line["messages"] if m["role"] != "system"]
    *earlier, instruction, output = turns
    return {
        "instruction": instruction,
        "input": "",
        "output": output,
        "system": "\n\n".join(system),
        "history": [list(turn) for turn in zip(earlier[::2], earlier[1::2], strict=True)],
    }


def kto(line: Line) -> Line:
    """TRL's KTOTrainer: an answer, and whether it is wanted."""
    return {
        "prompt": _plain(line["prompt"]),
        "completion": _answer(line["completion"]),
        "label": line["label"],
    }


def dpo(line: Line) -> Line:
    """TRL's DPOTrainer: two answers, the better one first."""
    return {
        "prompt": _plain(line["prompt"]),
        "chosen": _answer(line["chosen"]),
        "rejected": _answer(line["rejected"]),
    }


_SETS = ("train.jsonl", "val.jsonl")

FORMATS = {
    "messages": Format(_SETS, messages),
    "prompt-completion": Format(_SETS, prompt_completion),
    "sharegpt": Format(_SETS, sharegpt),
    # `datasets` makes lists of nothing from ten megabytes of empty histories, and fails at a full one.
    "alpaca": Format(_SETS, alpaca, lambda line: bool(line["history"])),
    "kto": Format(("votes.jsonl",), kto),
    "dpo": Format(("pairs.jsonl",), dpo),
}


def _plain(said: list[Message]) -> list[Message]:
    """Role and content, and nothing else that may stand in a message."""
    return [Message(role=m["role"], content=m["content"]) for m in said]


def _answer(text: str) -> list[Message]:
    return [Message(role="assistant", content=text)]
