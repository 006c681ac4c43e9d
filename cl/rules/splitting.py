"""Which conversations are kept for validation: the same ones from run to run."""

import hashlib
from collections.abc import Iterable


def validation_conversations(
    conversations: Iterable[int], share: float, seed: int, at_least: int = 4
) -> set[int]:
    """The conversations kept for validation, chosen by a hash of their ids.

    A conversation whose hash lies below `share` is in; the hash does not depend on the others, so
    what was validation once stays validation as the log grows. While there are so few that fewer
    than `at_least` would be in, the next lowest hashes fill up, to a quarter of all at most. One
    conversation at least stays to learn from.
    """
    ranked = sorted((_place(c, seed), c) for c in set(conversations))
    if len(ranked) < 2:
        return set()
    least = min(at_least, max(1, len(ranked) // 4))
    wanted = max(sum(place < share for place, _ in ranked), least)
    return {conversation for _, conversation in ranked[: min(wanted, len(ranked) - 1)]}


def _place(conversation: int, seed: int) -> float:
    digest = hashlib.sha256(f"{seed}:{conversation}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
