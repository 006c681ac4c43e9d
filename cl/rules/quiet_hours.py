"""The hours of the day in which trainings may begin."""

from datetime import time


def may_begin(hours: str, now: time) -> bool:
    """Whether `now` lies in `hours`, such as 22:00-06:00 (over midnight, too); empty: always."""
    if not hours:
        return True
    begin, end = (time.fromisoformat(text) for text in hours.split("-"))
    return begin <= now < end if begin < end else now >= begin or now < end
