"""The examiner: a child process that measures a candidate beside its parent, for the gate.

    python -m cl.model.evaluation JOB.json

Losses and likelihoods come from the trainer's own code, answers from the engine people are served
by: what cannot be loaded there does not pass. Beside the job file it writes measured.json (numbers
only) and answers.jsonl (what both versions said; a line that came from somebody's interaction
carries its id).
"""

import random
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from transformers import AutoTokenizer

from cl.model.engine.conversation import encode_chat
from cl.model.engine.embedded import EmbeddedEngine
from cl.model.engine.loading import load_model
from cl.model.training import child, measured
from cl.model.training.child import Job, Reporter, TrainingProblem
from cl.model.training.learner import Learner
from cl.model.training.measured import PROBES, lines_of
from cl.model.training.rows import Judged, Row, RowReader, fair_to_all
from cl.model.versions import BadVersion, VersionStore, verify_adapter
from cl.records import Message, Sampling
from cl.rules.gating import Asked, HeldOut, Measured, Vote
from cl.settings import ServingOptions

GENERAL = Path(__file__).parents[2] / "assets" / "general_questions.jsonl"
CANDIDATE = "candidate"
_MOST_TAUGHT = 100  # corrections that are asked; of more a sample
_EVERYDAY = 30  # rehearsal questions that are asked
_MOST_PRIVATE = 20  # questions out of texts in which something personal was replaced
_REPLACED = re.compile(r"\[[A-Z_]{2,12}\]")  # [EMAIL]; see rules/privacy
_ANSWER_TOKENS = 48
_AT_ONCE = 16


class Examination:
    """One candidate, measured beside its parent."""

    def __init__(self, job: Job, report: Reporter) -> None:
        self._job = job
        self._report = report
        self._tokenizer = AutoTokenizer.from_pretrained(job.base.folder, local_files_only=True)

    def run(self) -> Measured:
        job = self._job
        found = Measured(job.parent_name)
        if job.parent is not None:
            self._refuse_damaged_parent(job.parent)
        torch.set_num_threads(child.threads(job.options))
        self._report.tell("measuring the candidate")
        try:
            verify_adapter(job.candidate, job.base.sha256)
            found = self._losses(found)
            return replace(found, asked=tuple(self._answers()))
        except BadVersion as problem:
            return Measured(job.parent_name, problem=str(problem))

    def _refuse_damaged_parent(self, folder: Path) -> None:
        """Which is no fault of the candidate."""
        try:
            verify_adapter(folder, self._job.base.sha256)
        except BadVersion as problem:
            raise TrainingProblem(str(problem).rstrip(".")) from None

    # -- losses ------------------------------------------------------------------------------

    def _losses(self, found: Measured) -> Measured:
        job = self._job
        reader = RowReader(self._tokenizer, job.options.max_example_tokens)
        held_out = fair_to_all(reader.examples(job.data / "val.jsonl"), job.parent_name)
        taught = [row for row in held_out if not row.is_rehearsal]
        rehearsal = [row for row in held_out if row.is_rehearsal]
        votes = reader.votes(job.data / "votes.jsonl", "val")
        rows = [*taught, *(vote.rows[0] for vote in votes)]
        learner = Learner(load_model(job.base), job.options, job.seed)
        learner.remember_base(rehearsal)
        parent = self._likelihoods(learner, job.parent, rows)
        candidate = self._likelihoods(learner, job.candidate, rows)

        def loss(of: Mapping[int, float], row: Row) -> float:
            return -of[row.number] / row.answer_tokens

        return replace(
            found,
            update_ratio=learner.adapter.update_ratio(),
            held_out=tuple(
                HeldOut(r.group or str(r.number), loss(parent, r), loss(candidate, r))
                for r in taught
            ),
            votes=tuple(
                _vote(vote, loss(parent, vote.rows[0]) - loss(candidate, vote.rows[0]))
                for vote in votes
            ),
            drift=tuple(learner.drifts(rehearsal)),
        )

    def _likelihoods(
        self, learner: Learner, folder: Path | None, rows: Sequence[Row]
    ) -> dict[int, float]:
        if folder is None:
            return learner.likelihoods(rows, base=True)
        learner.load(folder)
        return learner.likelihoods(rows)

    # -- answers -----------------------------------------------------------------------------

    def _answers(self) -> Iterator[Asked]:
        questions = [q for q in self._questions() if self._fits(q.messages)]
        with _engine(self._job) as engine:
            said = {}
            for version in (self._job.parent_name, CANDIDATE):
                engine.ensure(version)
                said[version] = engine.ask_all(
                    version,
                    [q.messages for q in questions],
                    Sampling(max_tokens=_ANSWER_TOKENS),
                    lambda done, version=version: self._report.tell(  # type: ignore[misc]
                        f"asking {version}", done, len(questions)
                    ),
                )
        pairs = zip(said[self._job.parent_name], said[CANDIDATE], strict=True)
        for question, ((before, old), (after, new)) in zip(questions, pairs, strict=True):
            yield replace(
                question.asked,
                before=before,
                after=after,
                before_ended=old.reason == "stop",
                after_ended=new.reason == "stop",
            )

    def _fits(self, messages: Sequence[Message]) -> bool:
        """Whether it could be learned at all: what is longer is left out of the training, too."""
        return len(encode_chat(self._tokenizer, messages)) <= self._job.options.max_example_tokens

    def _questions(self) -> Iterator["_Question"]:
        for line in lines_of(GENERAL):
            yield _shipped("general", line["question"], tuple(line["keys"]))
        rehearsed = [
            line
            for line in lines_of(self._job.data / "val.jsonl")
            if line["source"] == "rehearsal" and "id" not in line
        ]
        for line in rehearsed[:_EVERYDAY]:
            yield _shipped("everyday", line["messages"][-2]["content"])
        train = (x for x in lines_of(self._job.data / "train.jsonl") if x["source"] != "rehearsal")
        for line in islice((x for x in train if _held_something(x["messages"])), _MOST_PRIVATE):
            asked = Asked("private", line["messages"][-2]["content"], "", "", id=line.get("id"))
            yield _Question(asked, line["messages"][:-1])
        probes = list(lines_of(self._job.data / PROBES))
        dice = random.Random(self._job.seed)
        for line in sorted(
            dice.sample(probes, min(len(probes), _MOST_TAUGHT)), key=lambda probe: int(probe["id"])
        ):
            asked = Asked(
                kind=line["kind"],
                question=line["messages"][-1]["content"],
                before="",
                after="",
                keys=tuple(line["keys"]),
                needed=line["needed"],
                reference=line["reference"],
                id=line["id"],
            )
            yield _Question(asked, line["messages"])


@dataclass(frozen=True)
class _Question:
    asked: Asked
    messages: Sequence[Message]


def _held_something(messages: Sequence[Message]) -> bool:
    """Whether something personal or secret was replaced in these texts."""
    return any(_REPLACED.search(message["content"]) for message in messages)


def _shipped(kind: str, text: str, keys: tuple[str, ...] = ()) -> _Question:
    return _Question(Asked(kind, text, "", "", keys), [Message(role="user", content=text)])


def _vote(vote: Judged, margin: float) -> Vote:
    return Vote(vote.rows[0].group or str(vote.rows[0].number), vote.liked, margin)


class _AtTheGate(VersionStore):
    """Where the parent and the candidate lie."""

    def __init__(self, job: Job) -> None:
        super().__init__(job.base.folder.parent, job.base.sha256)
        self._job = job

    def path(self, name: str) -> Path:
        return self._job.candidate if name == CANDIDATE else self._job.parent or super().path(name)


@contextmanager
def _engine(job: Job) -> Iterator[EmbeddedEngine]:
    context = job.options.max_example_tokens + 2 * _ANSWER_TOKENS
    options = ServingOptions(max_rows=_AT_ONCE, max_context=context)
    engine = EmbeddedEngine(job.base, _AtTheGate(job), options)
    try:
        yield engine
    finally:
        engine.close()


def _work(job: Job) -> None:
    measured.write(job.folder, Examination(job, Reporter(job.folder)).run())


if __name__ == "__main__":
    sys.exit(child.run(sys.argv[1:], measured.MEASURED, _work))
