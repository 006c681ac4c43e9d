"""Whose turn it is when more people want an answer than can have one at the same time."""

from collections import Counter
from collections.abc import Sequence


def turn_order(waiting: Sequence[str], running: Sequence[str]) -> list[int]:
    """Places in `waiting` in the order of their turns.

    Both hold the user of each request, `waiting` in the order of arrival. A request goes before
    another one when its user has fewer answers running and ahead of it; among equals, the earlier
    one. An empty name is somebody else each time.
    """
    ahead = Counter(user for user in running if user)
    keyed: list[tuple[int, int]] = []
    for place, user in enumerate(waiting):
        keyed.append((ahead[user], place))
        if user:
            ahead[user] += 1
    return [place for _, place in sorted(keyed)]
