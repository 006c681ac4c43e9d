"""An answer being written, and what whoever writes it must be able to do. No torch in here: the
engine knows these before it has loaded anything."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cl.records import Sampling


@dataclass(eq=False)
class Row:
    """One answer being written."""

    version: str
    prompt: list[int]
    sampling: Sampling
    most_tokens: int
    answer: list[int] = field(default_factory=list)
    dice: random.Random = field(init=False)
    slot: int = -1
    fed: int = 0  # tokens of prompt and answer the model has seen

    def __post_init__(self) -> None:
        self.dice = random.Random(self.sampling.seed)

    @property
    def left(self) -> int:
        return len(self.prompt) + len(self.answer) - self.fed

    def next_tokens(self, most: int) -> list[int]:
        if self.answer:
            return self.answer[-1:]
        return self.prompt[self.fed : self.fed + most]


Accept = Callable[[Row, int | Exception], bool]


class Writer(Protocol):
    context: int
    max_rows: int

    def load(self, version: str, folder: Path) -> None:
        """Make a version ready. Raises BadVersion."""
        ...

    def drop(self, version: str) -> None: ...

    def enter(self, row: Row) -> None: ...

    def leave(self, row: Row) -> None: ...

    def step(self, rows: Sequence[Row], accept: Accept) -> None:
        """Bring these rows forward; a row whose `accept` said no must not come again."""
        ...
