"""One step's work: the new tokens of many rows, laid end to end.

A row that is being written brings one token, a row whose prompt is being read brings a piece of
it. All go through the same matrix products together, so the weights are read once for all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby

import torch
from torch import Tensor


@dataclass(frozen=True)
class Feed:
    """What one row brings: tokens that follow the `position` tokens its slot already holds."""

    slot: int
    version: str
    tokens: Sequence[int]
    position: int
    wants_next: bool  # whether the token after the last one is asked for


@dataclass(frozen=True)
class Segment:
    """A piece of a prompt: the step's tokens from `begin` to `end`, at `position` of their row."""

    slot: int
    begin: int
    end: int
    position: int


@dataclass(frozen=True)
class Group:
    """Consecutive tokens of one version."""

    version: str
    begin: int
    end: int


@dataclass
class Batch:
    """Tensors are of shape (T,): single tokens first, then segments; each part by version."""

    feeds: Sequence[Feed]
    device: torch.device
    tokens: Tensor = field(init=False)
    slots: Tensor = field(init=False)
    positions: Tensor = field(init=False)
    segments: list[Segment] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    wanted: list[int] = field(default_factory=list)  # where the tokens are that decide on the next
    singles: int = 0
    cos: Tensor = field(init=False)
    sin: Tensor = field(init=False)

    def __post_init__(self) -> None:
        order = sorted(
            range(len(self.feeds)),
            key=lambda i: (len(self.feeds[i].tokens) > 1, self.feeds[i].version),
        )
        tokens: list[int] = []
        slots: list[int] = []
        positions: list[int] = []
        last: dict[int, int] = {}
        for index in order:
            feed, begin = self.feeds[index], len(tokens)
            count = len(feed.tokens)
            tokens += feed.tokens
            slots += [feed.slot] * count
            positions += range(feed.position, feed.position + count)
            last[index] = len(tokens) - 1
            if count > 1:
                self.segments.append(Segment(feed.slot, begin, len(tokens), feed.position))
            else:
                self.singles += 1
        self._group(order)
        self.wanted = [last[i] for i, feed in enumerate(self.feeds) if feed.wants_next]
        self.tokens, self.slots, self.positions = (
            torch.tensor(column, device=self.device) for column in (tokens, slots, positions)
        )
        self.rows = list(zip(slots, (p + 1 for p in positions[: self.singles]), strict=False))

    def _group(self, order: Sequence[int]) -> None:
        begin = 0
        for version, feeds in groupby((self.feeds[i] for i in order), lambda feed: feed.version):
            end = begin + sum(len(feed.tokens) for feed in feeds)
            self.groups.append(Group(version, begin, end))
            begin = end

    @property
    def longest(self) -> int:
        """Tokens the longest row holds after this step."""
        return max(feed.position + len(feed.tokens) for feed in self.feeds)

    @cached_property
    def mask(self) -> Tensor:
        """(slots in use, 1, 1, seen): what the single tokens may look at, True where they may."""
        seen = torch.zeros(max(slot for slot, _ in self.rows) + 1, dtype=torch.long)
        for slot, length in self.rows:
            seen[slot] = length
        columns = torch.arange(int(seen.max()))
        # A slot without a row looks at one column: no softmax over nothing.
        mask = columns < seen.clamp(min=1)[:, None]
        return mask[:, None, None].to(self.device)
