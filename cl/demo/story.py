"""Playing the story: the staff talk through the real front door, the loop works by its own rules.

The waiting times (a day of rest, 48 hours of test) pass on a clock that is set forward; answers,
training, gate and comparison are the real ones. What was done is read from the log, so a story
that was cut off, even by kill -9, goes on where it was.
"""

import asyncio
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from cl import files
from cl.db.tables import Feedback, Interaction, Iteration
from cl.demo import script
from cl.demo.script import Question, Turn
from cl.house import Books, House
from cl.records import BASE, IterationReport, Message, Sampling, State, Status, Step
from cl.rules import quality
from cl.settings import Settings

ANSWER_TOKENS = 64
RULE = (
    "An answer is right when it holds one of the question's keys, case ignored; asked once, "
    f"greedily, at most {ANSWER_TOKENS} tokens."
)
_AT_ONCE = 16
_TEST_PORTION_HOURS = 12
_MOST_HOURS = 24 * 21
_STORY_DAYS = 4
_WANTED = (State.NO_CHAMPION, State.CHAMPION, State.TESTING, State.NEW_CHAMPION)

Say = Callable[[str], None]


class StoryClock:
    """Real time plus what was waited through. Starts days ago, so that the story ends about now."""

    def __init__(self) -> None:
        self._start = datetime.now(UTC) - timedelta(days=_STORY_DAYS)
        self._began = time.monotonic()
        self._skipped = timedelta()

    def __call__(self) -> datetime:
        return self._start + self._skipped + timedelta(seconds=time.monotonic() - self._began)

    def skip(self, hours: float) -> None:
        self._skipped += timedelta(hours=hours)


@dataclass
class Score:
    """Questions of one kind, asked of the base model before and of the champion after."""

    questions: list[Question]
    before: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)

    def right(self, answers: Sequence[str]) -> int:
        return sum(script.is_right(a, q.keys) for q, a in zip(self.questions, answers, strict=True))

    def numbers(self) -> dict[str, int]:
        return {
            "asked": len(self.questions),
            "right_before": self.right(self.before),
            "right_after": self.right(self.after),
        }

    def table(self) -> list[dict[str, Any]]:
        return [
            {
                "question": q.text,
                "before": before,
                "right_before": script.is_right(before, q.keys),
                "after": after,
                "right_after": script.is_right(after, q.keys),
            }
            for q, before, after in zip(self.questions, self.before, self.after, strict=True)
        ]


class StoryFailed(RuntimeError):
    """The story did not come to its end; the text says where and why."""


def story_settings(settings: Settings) -> Settings:
    """Demo thresholds with the production waiting times, which the story's clock jumps over."""
    return replace(
        settings,
        chat=replace(settings.chat, max_answer_tokens=48, temperature=0.0),
        serving=replace(settings.serving, max_rows=_AT_ONCE),
        trigger=replace(settings.trigger, cooldown_hours=24.0, min_new_samples=30),
        data=replace(settings.data, min_examples=20, min_corrections=15, min_users=3),
        experiment=replace(
            settings.experiment,
            min_test_hours=48.0,
            max_test_hours=336.0,
            min_test_samples=20,
            bake_hours=0.0,  # the story ends with the promotion
        ),
        training=replace(settings.training, train_threads=os.cpu_count() or 1),
    )


class Story:
    def __init__(self, house: House, clock: StoryClock, say: Say, seed: int = 0) -> None:
        self._house = house
        self._books: Books = house.books
        self._clock = clock
        self._say = say
        self._seed = seed
        self._file = house.books.settings.data_dir / "demo.json"
        self._notes: dict[str, Any] = {"before": {}, "states": [], "seconds": 0.0}
        if self._file.exists():
            self._notes = json.loads(self._file.read_text(encoding="utf-8"))
        self._began = time.monotonic() - float(self._notes["seconds"])
        facts = script.read_facts()
        self._facts_asked = facts
        self.facts = Score([Question(q, f.keys) for f in facts for q in f.unseen])
        self.general = Score(script.read_general())

    def play(self) -> dict[str, Any]:
        """The whole story. Returns what `--json` prints; raises StoryFailed."""
        self._catch_up()
        self._before()
        self._note_state()
        facts = self._facts_asked
        self._talk(
            "The first weeks: staff ask what the model cannot know",
            script.first_weeks(facts, self._seed),
        )
        self._iterate_until(State.CHAMPION)
        self._talk(
            "Later: other questions, and some asked before", script.later_weeks(facts, self._seed)
        )
        self._iterate_until(State.TESTING)
        for portion in script.test_days(facts, self._seed):
            if self._state() is not State.TESTING:
                break
            self._talk("The test: both versions answer", portion)
            self._clock.skip(_TEST_PORTION_HOURS)
            self._iterate()
        if self._state() is not State.NEW_CHAMPION:
            raise StoryFailed("The challenger was not promoted: " + self._last_reason())
        return self._after()

    # -- asking before and after --------------------------------------------------------------

    def _before(self) -> None:
        for name, score in (("facts", self.facts), ("general", self.general)):
            if name not in self._notes["before"]:
                self._say(f"Asking the base model {len(score.questions)} {name} questions")
                self._notes["before"][name] = self._ask_all(BASE, score.questions)
                self._save()
            score.before = self._notes["before"][name]

    def _after(self) -> dict[str, Any]:
        champion = self._books.ab_test.champion()
        name = champion.name if champion else BASE
        for kind, score in (("facts", self.facts), ("general", self.general)):
            self._say(f"Asking {name} the same {len(score.questions)} {kind} questions")
            score.after = self._ask_all(name, score.questions)
        self._notes["finished"] = True
        self._save()
        steps: Any = Iteration.select().order_by(Iteration.id).dicts()
        return {
            "states": self._notes["states"],
            "facts": self.facts.numbers(),
            "general": self.general.numbers(),
            "rule": RULE,
            "champion": name,
            "facts_table": self.facts.table(),
            "general_table": self.general.table(),
            "steps": [
                {
                    "at": s["at"].isoformat(),
                    "step": s["step"],
                    "reason": s["reason"],
                    "repeats": s["repeats"],
                }
                for s in steps
            ],
            "seconds": round(time.monotonic() - self._began, 1),
        }

    def _ask_all(self, version: str, questions: Sequence[Question]) -> list[str]:
        asked = [[Message(role="user", content=q.text)] for q in questions]
        answers = self._house.engine.ask_all(version, asked, Sampling(max_tokens=ANSWER_TOKENS))
        return [answer for answer, _ in answers]

    # -- talking ------------------------------------------------------------------------------

    def _talk(self, what: str, turns: Sequence[Turn]) -> None:
        """Have the staff say their turns, and say what they think of the answers."""
        open_turns = [turn for turn in turns if not _is_done(turn.key)]
        for start in range(0, len(open_turns), _AT_ONCE):
            portion = open_turns[start : start + _AT_ONCE]
            asyncio.run(self._portion(portion))
            while self._books.scoring.score_pending():
                pass
            self._clock.skip(0.5)
            self._say(
                f"{what}: {len(turns) - len(open_turns) + start + len(portion)} of {len(turns)}"
            )

    async def _portion(self, turns: Sequence[Turn]) -> None:
        await asyncio.gather(*(self._turn(turn) for turn in turns))

    async def _turn(self, turn: Turn) -> None:
        tried = Interaction.select().where(Interaction.request_id.startswith(turn.key)).count()
        key = f"{turn.key}.{tried}"
        assistant = self._house.assistant
        conversation, interaction = assistant.begin(turn.user, turn.text, None, key)
        pieces = [
            piece.text async for piece in assistant.answer(turn.user, conversation, interaction)
        ]
        self._rate(turn, interaction, "".join(pieces))

    def _rate(self, turn: Turn, interaction: int, answer: str) -> None:
        """Thumb up for a right answer; else thumb down, the reason, and the answer it should be."""
        logger = self._books.logger
        if turn.fact is None:
            is_fine = quality.score(turn.text, answer).score >= 0.8
            logger.record_feedback(interaction, turn.user, thumb=1 if is_fine else -1)
        elif script.is_right(answer, turn.fact.keys):
            logger.record_feedback(interaction, turn.user, thumb=1)
        else:
            logger.record_feedback(
                interaction,
                turn.user,
                thumb=-1,
                reasons=("Incorrect",),
                correction=turn.fact.answer,
            )

    # -- waiting for the loop -----------------------------------------------------------------

    def _iterate_until(self, wanted: State) -> None:
        """Hour by hour, until this state is reached (or was, before the story was cut off)."""
        order = _WANTED.index(wanted)
        for _ in range(_MOST_HOURS):
            if _WANTED.index(self._state()) >= order:
                return
            self._clock.skip(1)
            self._iterate()
            self._refuse_dead_end()
        raise StoryFailed(f"The loop did not reach {wanted}: " + self._last_reason())

    def _iterate(self) -> None:
        self._house.worker.run_until_quiet(self._tell_step)
        self._note_state()

    def _tell_step(self, report: IterationReport) -> None:
        if report.step is not Step.WAITED:
            self._say(f"{report.step.value}: {report.reason}")
        self._note_state()

    def _refuse_dead_end(self) -> None:
        last = Iteration.select().order_by(Iteration.id.desc()).first()
        if last and last.step in (Step.REJECTED, Step.FAILED, Step.NOT_ENOUGH_DATA, Step.CANCELLED):
            raise StoryFailed(f"{last.step}: {last.reason}")

    def _last_reason(self) -> str:
        last = Iteration.select().order_by(Iteration.id.desc()).first()
        return str(last.reason) if last else "nothing happened"

    # -- notes --------------------------------------------------------------------------------

    def _state(self) -> State:
        return self._books.ab_test.state()

    def _note_state(self) -> None:
        state = self._state().value
        if not self._notes["states"] or self._notes["states"][-1] != state:
            self._notes["states"].append(state)
            self._say(f"State: {state}")
        self._save()

    def _save(self) -> None:
        self._notes["seconds"] = time.monotonic() - self._began
        files.write_json(self._file, self._notes)

    def _catch_up(self) -> None:
        """After a cut the clock must not run backwards."""
        for newest in (
            Iteration.select(Iteration.at).order_by(Iteration.at.desc()).first(),
            Interaction.select(Interaction.created_at.alias("at"))
            .order_by(Interaction.id.desc())
            .first(),
        ):
            if newest is not None:
                self._clock.skip(max(0.0, (newest.at - self._clock()).total_seconds() / 3600))


def _is_done(key: str) -> bool:
    """Whether this turn was answered and rated, at whatever try."""
    answered = Interaction.request_id.startswith(key) & (Interaction.status == Status.COMPLETE)
    return bool(Interaction.select().join(Feedback).where(answered).exists())
