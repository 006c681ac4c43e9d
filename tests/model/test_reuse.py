"""What the engine has read before it does not read again, and the answers stay the same."""

import asyncio
import random
from pathlib import Path

from cl.model.base_model import BaseModel
from cl.model.engine.embedded import EmbeddedEngine
from cl.model.versions import VersionStore
from cl.records import BASE, Message, Sampling
from tests.model.talking import ask, hear, run, said, started, until
from tests.tiny_model import build_reciter

SYSTEM = "You are a helpful assistant, and you answer in plain words."


def reused(engine: EmbeddedEngine) -> int:
    """Tokens not read again since the last call."""
    now = int(engine.status()["reused_tokens"])
    before = getattr(engine, "seen_by_the_test", 0)
    engine.seen_by_the_test = now  # type: ignore[attr-defined]
    return now - before


class Fresh:
    """What an engine that remembers nothing answers."""

    def __init__(self, base: BaseModel, versions: VersionStore) -> None:
        self._base, self._versions = base, versions

    def ask(self, conversation: list[Message], version: str = BASE, tokens: int = 12) -> str:
        with started(self._base, self._versions) as engine:
            answer = ask(engine, conversation, version, max_tokens=tokens)[0]
            assert reused(engine) == 0
        return answer


def test_the_next_turn_goes_on_where_the_last_one_ended(
    tiny: BaseModel, shared_versions: VersionStore
) -> None:
    fresh, turns, read = Fresh(tiny, shared_versions), ["Good morning!"], 0
    with started(tiny, shared_versions) as engine:
        for number in range(4):
            conversation = said(*turns, system=SYSTEM)
            answer, finish = ask(engine, conversation, max_tokens=12)
            assert answer == fresh.ask(conversation)
            assert reused(engine) >= read
            read = finish.prompt_tokens
            turns += [answer, f"And {number}?"]
    assert read > 120


def test_the_answer_is_not_read_again_either(tmp_path: Path) -> None:
    base = build_reciter(tmp_path / "reciter", "Hi 😀 ok")
    with started(base, VersionStore(tmp_path / "none", base.sha256)) as engine:
        answer, finish = ask(engine, said("Hello"), max_tokens=50)
        assert finish.answer_tokens == 9
        reused(engine)
        ask(engine, said("Hello", answer, "Hm"), max_tokens=50)
        assert reused(engine) == finish.prompt_tokens + finish.answer_tokens


def test_another_conversation_starts_after_the_same_system_prompt(
    tiny: BaseModel, shared_versions: VersionStore
) -> None:
    fresh = Fresh(tiny, shared_versions)
    with started(tiny, shared_versions) as engine:
        for question in ("Hello", "What can you do?", "Hm"):
            conversation = said(question, system=SYSTEM)
            assert ask(engine, conversation, max_tokens=12)[0] == fresh.ask(conversation)
            shared = reused(engine)
            assert shared == 0 if question == "Hello" else shared > 20


def test_the_same_question_again_reads_only_its_last_token(
    tiny: BaseModel, shared_versions: VersionStore
) -> None:
    with started(tiny, shared_versions) as engine:
        first, finish = ask(engine, said("Hello"), max_tokens=20)
        reused(engine)
        for _ in range(3):
            assert ask(engine, said("Hello"), max_tokens=20)[0] == first
            assert reused(engine) == finish.prompt_tokens - 1


def test_nothing_is_reused_across_versions(tiny: BaseModel, shared_versions: VersionStore) -> None:
    fresh, conversation = Fresh(tiny, shared_versions), said("Hello", system=SYSTEM)
    expected = {version: fresh.ask(conversation, version) for version in (BASE, "v0001")}
    with started(tiny, shared_versions, max_rows=2) as engine:
        for version in (BASE, "v0001"):
            assert ask(engine, conversation, version, max_tokens=12)[0] == expected[version]
            assert reused(engine) == 0
        for version in (BASE, "v0001", "v0001", BASE):
            assert ask(engine, conversation, version, max_tokens=12)[0] == expected[version]
            assert reused(engine) > 20


def test_an_answer_being_written_lends_its_beginning_and_is_not_disturbed(
    tiny: BaseModel, shared_versions: VersionStore
) -> None:
    questions = [said(text, system=SYSTEM) for text in ("Hello", "Hello again", "Hm")]
    fresh = Fresh(tiny, shared_versions)
    expected = [fresh.ask(question, tokens=40) for question in questions]

    async def one_after_the_other(engine: EmbeddedEngine) -> list[str]:
        tasks = []
        for question in questions:
            tasks.append(asyncio.create_task(hear(engine, question, Sampling(40))))
            await until(lambda: engine.status()["tokens"] >= 3 * len(tasks))
        return await asyncio.gather(*tasks)

    with started(tiny, shared_versions) as engine:
        assert run(one_after_the_other(engine)) == expected
        assert reused(engine) > 40


def test_a_version_that_comes_back_starts_from_nothing(
    tiny: BaseModel, versions: VersionStore
) -> None:
    with started(tiny, versions) as engine:
        first = ask(engine, said("Hello"), "v0001")[0]
        engine.drop("v0001")
        run(until(lambda: not engine._has_work()))
        assert ask(engine, said("Hello"), "v0001")[0] == first
        assert reused(engine) == 0


def test_many_conversations_that_grow_side_by_side_stay_what_they_are(
    tiny: BaseModel, shared_versions: VersionStore
) -> None:
    """Few rows, so that slots are copied, taken over and forgotten in every way there is; an engine
    with a single one is asked the same in another order."""
    dice = random.Random(1)
    talks = [["Hello"], ["Hello again"], ["Hm"], ["What can you do?"], ["Hello"]]
    asked: list[tuple[list[Message], str, str]] = []
    with started(tiny, shared_versions, max_rows=3) as engine:
        for _ in range(30):
            number = dice.randrange(len(talks))
            version = (BASE, "v0001")[number % 2]
            conversation = said(*talks[number], system=SYSTEM)
            answer = ask(engine, conversation, version, max_tokens=6)[0]
            asked.append((conversation, version, answer))
            talks[number] += [answer, dice.choice(["And?", "Why?", "Thank you."])]
        assert reused(engine) > 500
    dice.shuffle(asked)
    with started(tiny, shared_versions, max_rows=1) as other:
        for conversation, version, answer in asked:
            ask(other, said(str(dice.random())), version, max_tokens=1)  # forget the last one
            assert ask(other, conversation, version, max_tokens=6)[0] == answer
