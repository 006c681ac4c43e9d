"""Which conversations are kept for validation: the same ones from run to run."""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping


def sides(
    examples: Iterable[int],
    twins: Iterable[tuple[int, int]],
    resembling: Iterable[tuple[int, int]],
    held: Collection[int],
    share: float,
    seed: int,
    corrected: Collection[int] = (),
) -> tuple[set[int], set[int]]:
    """Conversations to validate on, and conversations to leave out of both sides.

    `examples` names the conversation of each example, `twins` are conversations that share a text
    and belong on one side, `resembling` ones that should be together as long as that makes no large
    group, `held` were validated on before. What was held out once never comes to
    the training side: those who resemble it follow it, or, when they are the larger part, it is
    left out. Groups that would be most of a validation set are trained on. Of the `corrected`
    conversations some are held out, too, however few they are.
    """
    counts = Counter(examples)
    most = max(3.0, share * counts.total() / 2)
    groups = _groups(counts, twins, resembling, most)
    val, out = set(), set()
    free: dict[int, list[int]] = {}
    for group in groups.values():
        known = [c for c in group if c in held]
        others = sum(counts[c] for c in group) - sum(counts[c] for c in known)
        if known and others <= max(most, sum(counts[c] for c in known)):
            val.update(group)
        elif known:
            out.update(known)
        elif sum(counts[c] for c in group) <= most:
            free[min(group)] = group
    held_now = sum(not val.isdisjoint(group) for group in groups.values())
    # Few conversations are filled up to a quarter or four, what was held out before counted in.
    least = max(0, min(4, max(1, (held_now + len(free)) // 4)) - held_now)
    fill = _lowest(free, share, seed, least)
    if not val & set(corrected):
        of_corrections = [c for c in free if not set(corrected).isdisjoint(free[c])]
        fill |= validation_conversations(of_corrections, share, seed)
    for first in fill:
        val.update(free[first])
    return val & set(counts), out & set(counts)


def _groups(
    counts: Mapping[int, int],
    twins: Iterable[tuple[int, int]],
    resembling: Iterable[tuple[int, int]],
    most: float,
) -> dict[int, list[int]]:
    """Those who belong together, each group under one of its members (union-find)."""
    parent: dict[int, int] = {}
    size = dict(counts)

    def find(c: int) -> int:
        while (up := parent.setdefault(c, c)) != c:
            parent[c] = parent[up]
            c = parent[c]
        return c

    def join(a: int, b: int, limit: float) -> None:
        one, other = sorted((find(a), find(b)))
        together = size.get(one, 0) + size.get(other, 0)
        if one != other and together <= limit:
            parent[other], size[one] = one, together

    for a, b in twins:
        join(a, b, math.inf)
    for a, b in resembling:
        join(a, b, most)
    groups: dict[int, list[int]] = defaultdict(list)
    for c in {*counts, *parent}:
        groups[find(c)].append(c)
    return groups


def validation_conversations(
    conversations: Iterable[int], share: float, seed: int, at_least: int = 4
) -> set[int]:
    """The conversations kept for validation, chosen by a hash of their ids.

    A conversation whose hash lies below `share` is in; the hash does not depend on the others, so
    what was validation once stays validation as the log grows. While there are so few that fewer
    than `at_least` would be in, the next lowest hashes fill up, to a quarter of all at most. One
    conversation at least stays to learn from.
    """
    found = set(conversations)
    return _lowest(found, share, seed, min(at_least, max(1, len(found) // 4)))


def _lowest(conversations: Collection[int], share: float, seed: int, least: int) -> set[int]:
    """Those whose hash lies below `share`, `least` of them if there are more than that, not all."""
    ranked = sorted((_place(c, seed), c) for c in conversations)
    if len(ranked) < 2:
        return set()
    wanted = max(sum(place < share for place, _ in ranked), least)
    return {conversation for _, conversation in ranked[: min(wanted, len(ranked) - 1)]}


def _place(conversation: int, seed: int) -> float:
    digest = hashlib.sha256(f"{seed}:{conversation}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
