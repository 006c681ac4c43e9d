"""Where histories go: below what they followed, or into a conversation of their own."""

from cl.records import Status
from cl.rules.exchange.placing import Exchange, History, Place, Placing


def history(*said: tuple[str, str], group: str = "g", user: str = "ana") -> History:
    return History(user, group, tuple(Exchange(*turn) for turn in said))


def place(placing: Placing, one: History) -> list[Place]:
    return placing.place(one, one.keys())


A, B, C, OTHER = ("a?", "a!"), ("b?", "b!"), ("c?", "c!"), ("b?", "other!")


def test_an_exchange_is_known_by_all_that_was_said_up_to_it() -> None:
    keys = history(A, B).keys()
    assert history(A).keys() == keys[:1]
    assert history(A, B, C).keys()[:2] == keys
    assert len({*keys, *history(B).keys(), *history(A, A).keys()}) == 4
    assert history(A, user="ben").keys() != history(A, group="h").keys() != keys[:1]
    assert all(len(k) == 64 for k in keys)


def test_texts_cannot_be_shifted_from_the_question_to_the_answer() -> None:
    assert history(("ab", "c")).keys() != history(("a", "bc")).keys()


def test_a_history_goes_below_what_it_continues_and_is_then_known() -> None:
    placing = Placing({}, {})
    (first,) = place(placing, history(A))
    assert first.conversation == history(A).root
    (second,) = place(placing, history(A, B))
    assert (second.conversation, second.exchange) == (first.conversation, Exchange(*B))
    assert place(placing, history(A, B)) == place(placing, history(A)) == []


def test_another_answer_takes_the_place_of_the_last_one() -> None:
    placing = Placing({}, {})
    first = place(placing, history(A, B))
    (other,) = place(placing, history(A, OTHER))
    assert (other.conversation, other.regenerates) == (first[1].conversation, first[1].key)
    (next_,) = place(placing, history(A, OTHER, C))
    assert (next_.conversation, next_.regenerates) == (other.conversation, None)


def test_what_continues_an_answer_that_was_replaced_gets_a_conversation_of_its_own() -> None:
    placing = Placing({}, {})
    old = place(placing, history(A, B)) + place(placing, history(A, OTHER))
    copies = place(placing, history(A, B, C))
    assert [p.exchange for p in copies] == [Exchange(*turn) for turn in (A, B, C)]
    assert copies[-1].key == history(A, B, C).keys()[-1]
    assert not {p.key for p in copies} & {p.key for p in old}
    assert {p.conversation for p in copies}.isdisjoint(p.conversation for p in old)
    assert place(placing, history(A, B, C)) == []


def test_what_was_placed_before_is_found_by_its_keys_alone() -> None:
    placing = Placing({}, {})
    placed = place(placing, history(A, B))
    again = Placing(
        {p.key: p.conversation for p in placed}, {placed[0].conversation: placed[1].key}
    )
    assert place(again, history(A, B)) == []
    assert [p.conversation for p in place(again, history(A, B, C))] == [placed[0].conversation]
    assert place(again, history(A, B, C, A))[0].regenerates is None


def test_an_answer_that_did_not_end_is_followed_by_nothing() -> None:
    placing = Placing({}, {})
    stopped = Exchange(*B, status=Status.CANCELLED, mark="7")
    (first, second) = place(placing, History("ana", "g", (Exchange(*A), stopped)))
    (third,) = place(placing, history(A, C))
    assert first.conversation == second.conversation == third.conversation
    assert third.regenerates is None
    twin = Exchange(*B, status=Status.CANCELLED, mark="8")
    assert len(place(placing, History("ana", "g", (Exchange(*A), Exchange(*C), twin)))) == 1
