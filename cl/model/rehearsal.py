"""The rehearsal buffer: what the base model says to everyday questions, and should go on saying.

The questions are a shipped set and some that people really asked. Each is asked once, greedily,
and kept in a file named after the base model; every training set contains them. An answer is kept
up to a limit of tokens: where an answer begins is what training would bend.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
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
    id: int | None = None  # the interaction a real question comes from


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

    def rows(
        self,
        tell: Callable[[int, int], None] = lambda done, of: None,
        real: Mapping[int, str] = MappingProxyType({}),
    ) -> list[RehearsalRow]:
        """The shipped questions and the `real` ones (by interaction), with the base model's answers.

        What was asked before is read from the file; `tell` hears (done, of) of the rest.
        """
        shipped = [p for p in self._prompts.read_text(encoding="utf-8").split("\n") if p.strip()]
        wanted: list[tuple[int | None, str]] = [(None, prompt) for prompt in shipped]
        wanted += sorted(real.items())
        known = {(row.id, row.prompt): row for row in self._read()}
        missing = [question for question in wanted if question not in known]
        if missing:
            known |= {(row.id, row.prompt): row for row in self._ask(missing, tell)}
            self._write(known.values())
        # An empty answer is remembered, so that it is not asked for again, but teaches nothing.
        return [known[question] for question in wanted if known[question].answer.strip()]

    def _read(self) -> list[RehearsalRow]:
        if not self._file.exists():
            return []
        lines = self._file.read_text(encoding="utf-8").split("\n")
        return [RehearsalRow(**json.loads(line)) for line in lines if line]

    def _write(self, rows: Iterable[RehearsalRow]) -> None:
        lines = (json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)
        files.write_text(self._file, "".join(lines))

    def _ask(
        self, questions: Sequence[tuple[int | None, str]], tell: Callable[[int, int], None]
    ) -> list[RehearsalRow]:
        asked = [[Message(role="user", content=prompt)] for _, prompt in questions]
        answers = self._engine.ask_all(
            BASE, asked, Sampling(max_tokens=ANSWER_TOKENS), lambda done: tell(done, len(asked))
        )
        return [
            RehearsalRow(prompt, answer, finish.reason == "stop", id_)
            for (id_, prompt), (answer, finish) in zip(questions, answers, strict=True)
        ]
