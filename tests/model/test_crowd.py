"""Many people at once: who waits where, who goes first, and that nobody is forgotten."""

import asyncio
import logging
import random
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path

import pytest

from cl.model.base_model import BaseModel
from cl.model.engine.contract import Busy, EngineError
from cl.model.engine.embedded import EmbeddedEngine
from cl.model.versions import BadVersion, VersionStore
from cl.records import BASE, Message, Piece, Sampling
from tests.model.talking import FOREVER, ask, hear, run, said, started, until
from tests.tiny_model import write_random_adapter

SHORT = Sampling(4)


async def fill(engine: EmbeddedEngine, count: int, **who: str) -> list[AsyncGenerator[Piece, None]]:
    """So many answers without end."""
    talking = [engine.chat(BASE, said("Hello"), FOREVER, **who) for _ in range(count)]
    for stream in talking:
        await anext(stream)
    return talking


async def leave(streams: Sequence[AsyncGenerator[Piece, None]]) -> None:
    for stream in streams:
        await stream.aclose()


# -- places in the queue -----------------------------------------------------------------------


def test_who_waits_hears_each_place_on_the_way_to_the_front(
    tiny: BaseModel, shared_versions: VersionStore
) -> None:
    async def wait_in_line(engine: EmbeddedEngine) -> list[list[int | None]]:
        talking = await fill(engine, 2)
        heard: list[list[int | None]] = [[] for _ in range(4)]

        async def one(number: int) -> None:
            async for piece in engine.chat(BASE, said("Hm"), SHORT, user=f"u{number}"):
                heard[number].append(piece.place)
                assert not (piece.place and piece.text)

        tasks = []
        for number in range(4):
            tasks.append(asyncio.create_task(one(number)))
            await until(lambda number=number: heard[number])
        for _ in range(5):
            await anext(talking[0])  # nothing changes, so nothing is said
        await leave(talking)
        await asyncio.gather(*tasks)
        return heard

    with started(tiny, shared_versions, max_rows=2) as engine:
        heard = run(wait_in_line(engine))
    for number, places in enumerate(heard, start=1):
        told = [place for place in places if place is not None]
        assert told[0] == number
        assert told == sorted(set(told), reverse=True)
        assert places == [*told, *[None] * (len(places) - len(told))]  # no place once it is written


def test_who_need_not_wait_hears_of_no_place(engine: EmbeddedEngine) -> None:
    async def places() -> list[int | None]:
        return [piece.place async for piece in engine.chat(BASE, said("Hm"), SHORT)]

    assert set(run(places())) == {None}


def finishing_order(engine: EmbeddedEngine, talkers: int, user: str, queue: list[str]) -> list[str]:
    """Whose answers end in which order, when all have queued behind so many talkers of `user`.

    Noted by the engine's own thread: an event loop that lags hears of several ends at once.
    """
    order: list[str] = []

    def noting(user: str) -> Callable[[Piece | Exception], None]:
        return lambda piece: (
            order.append(user) if isinstance(piece, Piece) and piece.finish else None
        )

    async def compete() -> None:
        talking = await fill(engine, talkers, user=user)
        for name in queue:
            engine._take_in(BASE, said("Hm"), SHORT, noting(name), name, threading.Event())
        assert engine.waiting() == len(queue)
        await leave(talking)
        await until(lambda: len(order) == len(queue))

    run(compete())
    return order


def test_ten_messages_of_one_user_do_not_delay_the_first_one_of_another(
    tiny: BaseModel, shared_versions: VersionStore
) -> None:
    with started(tiny, shared_versions, max_rows=2) as engine:
        order = finishing_order(engine, 2, "", [*["greedy"] * 10, "late", "", "later"])
    # The two rows need not become free at the same moment: at worst every other turn is greedy's.
    assert {"late", "", "later"} <= set(order[:7])


def test_with_one_row_users_take_turns(tiny: BaseModel, shared_versions: VersionStore) -> None:
    with started(tiny, shared_versions, max_rows=1) as engine:
        assert "".join(finishing_order(engine, 1, "a", list("aaabb"))) == "babaa"


def test_one_user_cannot_fill_the_queue(tiny: BaseModel, shared_versions: VersionStore) -> None:
    async def push(engine: EmbeddedEngine) -> list[str]:
        talking = await fill(engine, 1)
        tasks = [asyncio.create_task(hear(engine, said("Hm"), SHORT, user="a")) for _ in range(5)]
        await until(lambda: engine.waiting() == 3)
        with pytest.raises(Busy, match="You have many messages waiting already"):
            await hear(engine, said("Hm"), SHORT, user="a")
        tasks += [asyncio.create_task(hear(engine, said("Hm"), SHORT, user="b"))]
        tasks += [asyncio.create_task(hear(engine, said("Hm"), SHORT)) for _ in range(8)]
        await until(lambda: engine.waiting() == 12)
        with pytest.raises(Busy, match="Too many people are waiting"):
            await hear(engine, said("Hm"), SHORT, user="c")
        await leave(talking)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert await hear(engine, said("Hm"), SHORT, user="a")
        return [type(outcome).__name__ for outcome in outcomes]

    with started(tiny, shared_versions, max_rows=1, max_waiting=12) as engine:
        assert Counter(run(push(engine))) == {"str": 12, "Busy": 2}


# -- coming and going --------------------------------------------------------------------------


def test_of_five_hundred_at_once_each_is_answered_or_told_to_come_back(
    tiny: BaseModel, shared_versions: VersionStore
) -> None:
    async def all_at_once(engine: EmbeddedEngine) -> list[str | BaseException]:
        asked = (hear(engine, said("Hm"), SHORT, user=f"u{i % 50}") for i in range(500))
        return await asyncio.gather(*asked, return_exceptions=True)

    with started(tiny, shared_versions, max_rows=8, max_waiting=100) as engine:
        expected = ask(engine, said("Hm"), max_tokens=4)[0]
        outcomes = run(all_at_once(engine))
        answers = [outcome for outcome in outcomes if isinstance(outcome, str)]
        told = [outcome for outcome in outcomes if isinstance(outcome, Busy)]
        assert len(answers) + len(told) == 500
        assert len(answers) >= 100
        assert set(answers) == {expected}
        assert (engine.waiting(), engine.status()["answers"]) == (0, {"length": len(answers) + 1})


@pytest.mark.parametrize("how", ["cancelled", "forgotten", "closed"])
def test_who_vanishes_in_the_middle_frees_the_row(
    tiny: BaseModel, shared_versions: VersionStore, how: str
) -> None:
    async def vanish(engine: EmbeddedEngine) -> None:
        for _ in range(4):
            if how == "cancelled":
                begun = asyncio.Event()
                task = asyncio.create_task(hear(engine, said("Hm"), FOREVER, on_piece=begun.set))
                await begun.wait()
                task.cancel()
            else:
                (stream,) = await fill(engine, 1)
                if how == "closed":
                    await stream.aclose()
                del stream
            await until(lambda: not engine.status()["rows"])

    with started(tiny, shared_versions, max_rows=1) as engine:
        run(vanish(engine))
        assert engine.status()["answers"] == {"cancelled": 4}


def test_who_leaves_before_the_message_is_read_leaves_nothing_behind(
    tiny: BaseModel, versions: VersionStore
) -> None:
    """Also not a version that is kept for ever."""

    async def leave_at_once(engine: EmbeddedEngine) -> None:
        tasks = [
            asyncio.create_task(hear(engine, said("Hm " * 500), SHORT, "v0001")) for _ in range(20)
        ]
        for number, task in enumerate(tasks):
            await asyncio.sleep(0.001 * (number % 3))
            task.cancel()
        await asyncio.wait(tasks)
        await asyncio.to_thread(engine.ensure, "v0001")

        def dropped() -> bool:
            # Again and again, as the loop does: one who is leaving may still load it once more.
            engine.drop("v0001")
            return not holds(engine, "v0001")

        await until(dropped)
        await until(lambda: not engine.status()["rows"] + engine.waiting())

    with started(tiny, versions) as engine:
        run(leave_at_once(engine))
        assert ask(engine, said("Hm"), "v0001")[0]


def holds(engine: EmbeddedEngine, version: str) -> bool:
    """Whether the writer still has it in memory."""
    return version in engine._model.writer._adapters  # type: ignore[union-attr]


def test_questions_of_which_one_is_refused_leave_nothing_behind(
    tiny: BaseModel, versions: VersionStore
) -> None:
    async def refused(engine: EmbeddedEngine) -> None:
        for _ in range(2):
            with pytest.raises(EngineError, match="too long"):
                engine.ask_all("v0001", [said("Hm"), said("word " * 300)], SHORT)
        engine.drop("v0001")
        await until(lambda: not holds(engine, "v0001"))

    with started(tiny, versions) as engine:
        run(refused(engine))
        assert engine.status()["waiting_later"] == 0


def test_a_version_refused_by_the_crowd_is_forgotten_too(
    tiny: BaseModel, versions: VersionStore
) -> None:
    async def refused(engine: EmbeddedEngine) -> None:
        engine.ensure("v0001")
        talking = await fill(engine, 1)
        waiting = [asyncio.create_task(hear(engine, said("Hm"), SHORT)) for _ in range(2)]
        await until(lambda: engine.waiting() == 2)
        with pytest.raises(Busy):
            await hear(engine, said("Hm"), SHORT, "v0001")
        engine.drop("v0001")
        await until(lambda: not holds(engine, "v0001"))
        await leave(talking)
        await asyncio.gather(*waiting)

    with started(tiny, versions, max_rows=1, max_waiting=2) as engine:
        run(refused(engine))


# -- versions that come and go meanwhile -------------------------------------------------------


class SlowStore(VersionStore):
    """Checking a version takes until it is allowed to end: a large file on a slow disk."""

    def __init__(self, folder: Path, base_sha256: str) -> None:
        super().__init__(folder, base_sha256)
        self.checking, self.may_end = threading.Event(), threading.Event()

    def check(self, name: str) -> str:
        self.checking.set()
        assert self.may_end.wait(30)
        return super().check(name)


def test_while_a_version_is_loaded_the_others_are_written_and_asked(
    tiny: BaseModel, shared_versions: VersionStore
) -> None:
    store = SlowStore(shared_versions.folder, shared_versions.base_sha256)

    async def load_slowly(engine: EmbeddedEngine) -> str:
        engine.ensure(BASE)
        talking = await fill(engine, 1)
        loading = asyncio.create_task(hear(engine, said("Hm"), SHORT, "v0001"))
        await until(store.checking.is_set)
        for _ in range(20):
            await asyncio.wait_for(anext(talking[0]), 5)
        assert await asyncio.wait_for(hear(engine, said("Hm"), SHORT), 5)
        assert not loading.done()
        store.may_end.set()
        answer = await loading
        await leave(talking)
        return answer

    with started(tiny, store) as engine:
        answer = run(load_slowly(engine))
        assert answer == ask(engine, said("Hm"), "v0001", max_tokens=4)[0]


def test_a_version_is_dropped_while_it_and_others_answer(
    tiny: BaseModel, versions: VersionStore
) -> None:
    write_random_adapter(tiny, versions.path("v0002"), seed=2)
    asked = [BASE, "v0001", "v0002"] * 2

    async def drop_in_the_middle(engine: EmbeddedEngine) -> list[str]:
        answers = asyncio.gather(
            *(hear(engine, said("Hello"), Sampling(60), version) for version in asked)
        )
        # All are in: one that came after the drop would load the version again.
        await until(lambda: engine.status()["rows"] == len(asked))
        engine.drop("v0001")
        assert engine.loaded() == [BASE, "v0002"]
        assert holds(engine, "v0001")  # until its answers are written
        finished = await answers
        await until(lambda: not holds(engine, "v0001"))
        return finished

    with started(tiny, versions, max_rows=6) as engine:
        for version in ("v0001", "v0002"):
            engine.ensure(version)
        assert run(drop_in_the_middle(engine)) == [
            ask(engine, said("Hello"), version, max_tokens=60)[0] for version in asked
        ]


def test_a_version_dropped_and_asked_for_at_the_same_time_still_answers(
    tiny: BaseModel, versions: VersionStore
) -> None:
    """Whoever comes while it goes has it loaded again; nobody is told that it is missing."""

    async def drop_and_ask(engine: EmbeddedEngine) -> set[str]:
        dice, answers = random.Random(1), []
        stopping = False

        async def keep_dropping() -> None:
            while not stopping:
                engine.drop("v0001")
                await asyncio.sleep(dice.random() / 500)

        dropping = asyncio.create_task(keep_dropping())
        for _ in range(40):
            asked = (hear(engine, said("Hello " * 30), Sampling(3), "v0001") for _ in range(3))
            answers += await asyncio.gather(*asked)
            await asyncio.sleep(dice.random() / 500)
        stopping = True
        await dropping
        return set(answers)

    with started(tiny, versions) as engine:
        expected = ask(engine, said("Hello " * 30), "v0001", max_tokens=3)[0]
        assert run(drop_and_ask(engine)) == {expected}


# -- what breaks -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sampling", [Sampling(12), Sampling(12, temperature=1.0, top_p=0.9, seed=1)]
)
def test_a_version_that_computes_no_numbers_ends_only_its_own_answers(
    tiny: BaseModel, versions: VersionStore, sampling: Sampling
) -> None:
    """Its weights are finite and pass every check; what it computes is not."""
    write_random_adapter(tiny, versions.path("v0002"), seed=2, fill=1e25)
    others = [BASE, "v0001", BASE]

    async def beside(engine: EmbeddedEngine, bad: int) -> list[str | BaseException]:
        asked = [hear(engine, said(f"Hello {v}"), sampling, v) for v in others]
        wrong = [hear(engine, said("Hm"), sampling, "v0002") for _ in range(bad)]
        return await asyncio.gather(*asked, *wrong, return_exceptions=True)

    with started(tiny, versions, max_rows=5) as engine:
        expected = run(beside(engine, 0))
        *answers, first, second = run(beside(engine, 2))
    assert answers == expected
    for problem in (first, second):
        assert isinstance(problem, EngineError)
        assert isinstance(problem.__cause__, ArithmeticError)


def test_what_is_not_a_number_does_not_stay_in_the_cache(
    tiny: BaseModel, versions: VersionStore
) -> None:
    """Short rows are computed beside long ones over the width of the long ones: what an earlier
    row left behind in a place they do not see is multiplied by nothing, not left out."""
    write_random_adapter(tiny, versions.path("v0002"), seed=2, fill=1e25)
    long = said("Hello, tell me a story about it. " * 4)

    async def side_by_side(engine: EmbeddedEngine) -> list[str]:
        asked = [long, said("Hm"), said("Hi"), said("Well?")]
        return await asyncio.gather(*(hear(engine, c, Sampling(10)) for c in asked))

    with started(tiny, versions) as engine:
        expected = run(side_by_side(engine))
        for _ in range(4):
            with pytest.raises(EngineError):
                engine.ask_all("v0002", [long] * 4, SHORT)
            assert run(side_by_side(engine)) == expected


def test_when_the_engine_stumbles_everybody_hears_of_it_and_it_goes_on(
    tiny: BaseModel,
    versions: VersionStore,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def stumble(engine: EmbeddedEngine) -> list[str | BaseException]:
        talking = await fill(engine, 2)
        waiting = [asyncio.create_task(hear(engine, said("Hm"), SHORT)) for _ in range(3)]
        await until(lambda: engine.waiting() == 3)

        def broken(*anything: object) -> None:
            raise RuntimeError("a bug")

        with monkeypatch.context() as patch:
            patch.setattr(engine, "_let_in", broken)
            rest = [asyncio.create_task(exhaust(stream)) for stream in talking]
            return await asyncio.gather(*rest, *waiting, return_exceptions=True)

    async def exhaust(stream: AsyncGenerator[Piece, None]) -> str:
        return "".join([piece.text async for piece in stream])

    with started(tiny, versions, max_rows=2) as engine:
        for problem in run(stumble(engine)):
            assert isinstance(problem, EngineError)
            assert str(problem) == "The answer failed. Please try again."
        assert "a bug" in caplog.text
        assert ask(engine, said("Hm"))[0]


def test_an_unknown_version_is_refused_without_waiting(
    tiny: BaseModel, shared_versions: VersionStore
) -> None:
    async def wait_in_vain(engine: EmbeddedEngine) -> None:
        talking = await fill(engine, 1)
        with pytest.raises(BadVersion):
            await asyncio.wait_for(hear(engine, said("Hm"), SHORT, "v0099"), 5)
        await leave(talking)

    with started(tiny, shared_versions, max_rows=1) as engine:
        run(wait_in_vain(engine))


def test_closing_ends_everybody_wherever_they_are(
    tiny: BaseModel, shared_versions: VersionStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Written, waiting, being read, and questions nobody sits in front of."""
    many: list[Message] = said("word " * 20)

    async def close_on(engine: EmbeddedEngine) -> list[object]:
        await fill(engine, 1)
        asked = [asyncio.create_task(hear(engine, many, FOREVER, user=f"u{i}")) for i in range(30)]
        questions = asyncio.create_task(
            asyncio.to_thread(engine.ask_all, BASE, [said("Hm")] * 30, FOREVER)
        )
        await until(lambda: engine.waiting() > 5)
        await asyncio.to_thread(engine.close)
        return await asyncio.gather(*asked, questions, return_exceptions=True)

    with caplog.at_level(logging.ERROR), started(tiny, shared_versions, max_rows=2) as engine:
        for problem in run(close_on(engine)):
            assert isinstance(problem, EngineError)
        engine.close()
    assert not caplog.records
