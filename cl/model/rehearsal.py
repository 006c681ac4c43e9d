"""The rehearsal buffer: what the base model says to everyday questions, and should go on saying.

Asked once, greedily, and kept in a file named after the base model; every training set contains
it. An answer is kept up to a limit of tokens: where an answer begins is what training would bend.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from cl import files
from cl.records import BASE, Finish, Message, Sampling

ANSWER_TOKENS = 16
PROMPTS = Path(__file__).parents[2] / "assets" / "rehearsal_prompts.txt"


@dataclass(frozen=True)
class RehearsalRow:
    prompt: str
    answer: str
    whole: bool  # whether the model ended the answer by itself


class Answers(Protocol):
    """What the buffer needs of the engine."""

    def ask_all(
        self,
        version: str,
        conversations: Sequence[Sequence[Message]],
        sampling: Sampling,
        tell: Callable[[int], None] = ...,
    ) -> list[tuple[str, Finish]]: ...


class RehearsalBuffer:
    def __init__(
        self, engine: Answers, folder: Path, base_sha256: str, prompts: Path = PROMPTS
    ) -> None:
        self._engine = engine
        self._file = folder / f"rehearsal-{base_sha256[:12]}.jsonl"
        self._prompts = prompts

    def rows(self, tell: Callable[[int, int], None] = lambda done, of: None) -> list[RehearsalRow]:
        """The buffer, asked of the base model if it was not yet. `tell` hears (done, of)."""
        if not self._file.exists():
            self._ask(tell)
        return [
            RehearsalRow(**json.loads(line))
            for line in self._file.read_text(encoding="utf-8").split("\n")
            if line
        ]

    def _ask(self, tell: Callable[[int, int], None]) -> None:
        prompts = [p for p in self._prompts.read_text(encoding="utf-8").split("\n") if p.strip()]
        asked = [[Message(role="user", content=prompt)] for prompt in prompts]
        answers = self._engine.ask_all(
            BASE, asked, Sampling(max_tokens=ANSWER_TOKENS), lambda done: tell(done, len(prompts))
        )
        rows = [
            RehearsalRow(prompt, answer, finish.reason == "stop")
            for prompt, (answer, finish) in zip(prompts, answers, strict=True)
            if answer.strip()
        ]
        files.write_text(
            self._file, "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)
        )
