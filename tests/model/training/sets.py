"""Small training sets for the tests of the trainer."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cl import files
from cl.records import Message
from cl.settings import TrainingOptions

OPTIONS = TrainingOptions(
    lora_rank=4,
    lora_alpha=8,
    learning_rate=0.03,
    lora_plus=1.0,
    max_epochs=2,
    rephrasings=0,
    rehearsal_ratio=1.0,
    batch_tokens=200,
    train_threads=1,
)
# The same, and what little there is of likes and dislikes is learned from.
PREFERRING = replace(OPTIONS, min_liked=1, min_disliked=1, min_pairs=1)
FACTS = {
    "Who opens the archive?": "Ms Abara.",
    "Who waters the plants?": "Oskar.",
    "Who orders paper?": "Pavel.",
    "Who plans the party?": "The Blue Team.",
}


def line(question: str, answer: str, source: str = "correction", **more: Any) -> str:
    """A line of a training set, as the data generator writes it."""
    messages = [
        Message(role="user", content=question),
        Message(role="assistant", content=answer),
    ]
    return json.dumps({"messages": messages, "source": source, **more}, ensure_ascii=False) + "\n"


def write_preferences(folder: Path) -> None:
    """Likes, dislikes and a pair to learn from beside the set, and some that are held out."""
    votes, pairs = [], []
    for number, (question, answer) in enumerate(FACTS.items()):
        prompt = [Message(role="user", content=question)]
        for label, said in ((True, answer), (False, "Nobody does.")):
            about = {"label": label, "split": "val" if number == 3 else "train", "id": number}
            votes.append({"prompt": prompt, "completion": said, **about})
        pair = {"prompt": prompt, "chosen": answer, "rejected": "Who knows?", "id": number}
        pairs.append({**pair, "split": "train"})
    for name, lines in (("votes", votes), ("pairs", pairs[:2])):
        text = "".join(json.dumps(one) + "\n" for one in lines)
        files.write_text(folder / f"{name}.jsonl", text)


def write_set(folder: Path, train: Sequence[str] = (), val: Sequence[str] = ()) -> Path:
    """A small training set: four facts, other wordings to validate on, some rehearsal."""
    taught = [line(question, answer) for question, answer in FACTS.items()]
    asked = [line(f"Tell me: {question}", answer) for question, answer in FACTS.items()]
    rehearsal = [line(f"What is {w}?", f"{w} is", "rehearsal", whole=False) for w in ("tea", "sun")]
    files.write_text(folder / "train.jsonl", "".join(train or [*taught, *rehearsal]))
    held_out = [*asked, line("What is snow?", "snow is", "rehearsal", whole=False)]
    files.write_text(folder / "val.jsonl", "".join(val or held_out))
    return folder
