"""Whose turn it is: fair between users, in the order of arrival otherwise."""

import itertools
import random
from collections import Counter

import pytest

from cl.rules.queueing import turn_order


def turns(waiting: str, running: str = "") -> str:
    """The users in the order of their turns; one letter is one user, a dot is nobody."""
    names = [letter.strip(".") for letter in waiting]
    order = turn_order(names, [letter.strip(".") for letter in running])
    return "".join(waiting[place] for place in order)


@pytest.mark.parametrize(
    ("waiting", "running", "expected"),
    [
        ("", "", ""),
        ("abc", "", "abc"),
        ("aaab", "", "abaa"),
        ("aaabbb", "", "ababab"),
        ("ab", "a", "ba"),
        ("aab", "bb", "aab"),
        ("aabc", "cc", "abac"),
        ("...", "", "..."),
        ("aa..", "", "a..a"),
        ("a.", "..", "a."),
    ],
)
def test_users_take_turns_and_nobody_in_particular_is_somebody_else_each_time(
    waiting: str, running: str, expected: str
) -> None:
    assert turns(waiting, running) == expected


def test_ten_messages_of_one_user_do_not_delay_the_first_one_of_another() -> None:
    assert turns("aaaaaaaaaab").index("b") == 1
    assert turns("aaaaaaaaaab", "a") == "baaaaaaaaaa"


def test_messages_without_a_user_go_before_what_a_user_has_more_of() -> None:
    assert turns("aaa..") == "a..aa"


def every_queue() -> list[tuple[list[str], list[str]]]:
    """All short ones, and long ones drawn at random."""
    short = [
        (list(waiting), list(running))
        for size in range(5)
        for waiting in itertools.product(["a", "b", ""], repeat=size)
        for running in itertools.product(["a", "b", ""], repeat=2)
    ]
    dice = random.Random(1)
    names = ["", "a", "b", "c", "d", "e"]
    drawn = [
        (dice.choices(names, k=dice.randrange(40)), dice.choices(names, k=dice.randrange(9)))
        for _ in range(200)
    ]
    return short + drawn


def test_everybody_gets_exactly_one_turn() -> None:
    for waiting, running in every_queue():
        assert sorted(turn_order(waiting, running)) == list(range(len(waiting)))


def test_the_messages_of_one_user_keep_their_order() -> None:
    for waiting, running in every_queue():
        order = turn_order(waiting, running)
        for user in set(waiting):
            mine = [place for place in order if waiting[place] == user]
            assert mine == sorted(mine)


def test_nobody_goes_before_one_who_has_fewer_answers_running_and_ahead() -> None:
    """By brute force from the definition, over every pair of turns that follow each other."""
    for waiting, running in every_queue():

        def burden(place: int, names: list[str] = waiting, busy: list[str] = running) -> int:
            user = names[place]
            return (busy.count(user) + names[:place].count(user)) if user else 0

        order = turn_order(waiting, running)
        for first, second in itertools.pairwise(order):
            assert (burden(first), first) < (burden(second), second)


def test_taken_one_by_one_the_turns_come_in_the_same_order() -> None:
    """Whoever is let in counts as running, so the rest of the queue needs no other order."""
    for waiting, running in every_queue():
        names, busy, taken = list(waiting), list(running), []
        while names:
            place = turn_order(names, busy)[0]
            busy.append(names[place])
            taken.append(names.pop(place))
        assert taken == [waiting[place] for place in turn_order(waiting, running)]


def test_places_free_one_at_a_time_are_shared_evenly() -> None:
    """Three users who always have something to ask get the same number of answers."""
    dice = random.Random(2)
    waiting, running, answered = ["a"] * 9 + ["b"] * 3 + ["c"], ["a", "a", "a"], Counter[str]()
    for _ in range(300):
        ended = running.pop(dice.randrange(len(running)))
        answered[ended] += 1
        place = turn_order(waiting, running)[0]
        running.append(waiting.pop(place))
        waiting.append(running[-1])  # asks again at once
    assert max(answered.values()) - min(answered.values()) < 20
