"""TrainingDataGenerator: from the log to train.jsonl and val.jsonl.

Reads the log page by page, sends it through the funnel of `rules/filtering.py`, merges the
rehearsal buffer, splits by conversation and writes the files. The same log, settings and seed give
the same bytes. A line is {"messages": [...], "source": ...}, the answer last; sources are
correction, thumb, rephrased and rehearsal. `version` tells which version wrote a liked answer.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from cl import files
from cl.model.rehearsal import RehearsalBuffer, RehearsalRow
from cl.records import DataSet, FunnelStep, Interaction, Message
from cl.rules import filtering, quality, splitting
from cl.rules.filtering import Example
from cl.settings import DataLimits
from cl.usage_logger import UsageLogger

TRAIN, VAL, MANIFEST = "train.jsonl", "val.jsonl", "manifest.json"


class TrainingDataGenerator:
    def __init__(
        self,
        logger: UsageLogger,
        rehearsal: RehearsalBuffer,
        limits: DataLimits,
        system_prompt: str = "",
    ) -> None:
        self._logger = logger
        self._rehearsal = rehearsal
        self._limits = limits
        self._system = [Message(role="system", content=system_prompt)] if system_prompt else []

    def generate(
        self,
        folder: Path,
        up_to_id: int | None = None,
        tell: Callable[[str], None] = lambda text: None,
    ) -> DataSet:
        """Write the set into `folder`; says in `enough` and `reason` whether one may train on it."""
        up_to = self._logger.last_id() if up_to_id is None else up_to_id
        tell("reading the log")
        examples, disliked, funnel = self._read(up_to)
        kept, steps = filtering.narrow(examples, disliked, self._limits)
        kept, cleaned = filtering.scrubbed(kept)
        held_out = self._held_out(kept) | self._held_out(
            e for e in kept if e.source == "correction"
        )
        val = [e for e in kept if e.conversation_id in held_out]
        train = [e for e in kept if e.conversation_id not in held_out]
        sizes = FunnelStep("training and validation", len(train) + len(val))
        users = len({e.user for e in kept})
        corrections = sum(e.source == "correction" for e in kept)
        reason = filtering.too_few(len(kept), corrections, users, self._limits)
        if not reason and not (train and val):
            reason = "the examples come from one conversation; there is nothing to validate on"
        # The buffer may have to be asked of the base model first: not for a set nobody trains on.
        buffer = [] if reason else self._rehearsal.rows(_telling(tell))
        lines = {TRAIN: self._lines(train, buffer, True), VAL: self._lines(val, buffer, False)}
        return self._write(
            folder,
            lines,
            DataSet(
                folder=str(folder),
                train=len(train),
                val=len(val),
                examples=len(kept),
                corrections=corrections,
                users=users,
                funnel=(*funnel, *steps, cleaned, sizes),
                sha256="",
                enough=not reason,
                reason=reason,
            ),
            {"up_to_id": up_to, "ids": {"train": _ids(train), "val": _ids(val)}},
        )

    def _read(self, up_to: int) -> tuple[list[Example], set[str], list[FunnelStep]]:
        """The first steps of the funnel, one interaction at a time; disliked contents by key."""
        total = 0
        dropped: dict[str, Counter[str]] = {
            "quality": Counter(),
            "feedback": Counter(),
            "newest scorer": Counter(),
        }
        examples: list[Example] = []
        disliked: set[str] = set()
        for row in self._logger.get_records(up_to_id=up_to):
            total += 1
            if row.feedback.thumb < 0:
                disliked.add(_example(row, 0.0, self._context(row), row.answer).key)
            score = self._score(row)
            if why := filtering.rejected_by_quality(row, score, self._limits):
                dropped["quality"][why] += 1
            elif why := filtering.rejected_by_feedback(row):
                dropped["feedback"][why] += 1
            elif not row.feedback.correction and score < self._limits.maybe_quality:
                dropped["newest scorer"][f"scored below {self._limits.maybe_quality:g} today"] += 1
            else:
                examples.append(
                    _example(row, score, self._context(row), row.feedback.correction or row.answer)
                )
        steps = [FunnelStep("interactions", total)]
        for name, reasons in dropped.items():
            steps.append(
                FunnelStep(name, steps[-1].kept - reasons.total(), dict(sorted(reasons.items())))
            )
        return examples, disliked, steps

    def _score(self, row: Interaction) -> float:
        """The newest scorer's view of what would be learned from this interaction."""
        if row.feedback.correction:
            return quality.score(row.prompt, row.feedback.correction).score
        return quality.score(row.prompt, row.answer, row.finish_reason).score

    def _context(self, row: Interaction) -> tuple[Message, ...]:
        return tuple(self._logger.context(row.conversation_id, row.id))

    def _held_out(self, examples: Iterable[Example]) -> set[int]:
        """The validation conversations; asked for corrections alone, too, so that some are in."""
        conversations = (e.conversation_id for e in examples)
        return splitting.validation_conversations(
            conversations, self._limits.val_share, self._limits.seed
        )

    def _lines(
        self, examples: Iterable[Example], buffer: Iterable[RehearsalRow], is_train: bool
    ) -> list[str]:
        lines: list[str] = []
        for e in examples:
            author = {"version": e.version} if e.source == "thumb" else {}
            lines.append(
                self._line(e.source, e.context, e.prompt, e.answer, id=e.interaction_id, **author)
            )
            if is_train and not e.context:
                for wording in filtering.rephrased(e.prompt, self._limits.rephrasings):
                    lines.append(
                        self._line("rephrased", (), wording, e.answer, id=e.interaction_id)
                    )
        for row in buffer:
            if _kept_for_validation(row.prompt) is not is_train:
                lines.append(self._line("rehearsal", (), row.prompt, row.answer, whole=row.whole))
        return lines

    def _line(
        self, source: str, context: Iterable[Message], prompt: str, answer: str, **more: Any
    ) -> str:
        messages = [
            *self._system,
            *context,
            Message(role="user", content=prompt),
            Message(role="assistant", content=answer),
        ]
        return json.dumps({"messages": messages, "source": source, **more}, ensure_ascii=False)

    def _write(
        self, folder: Path, lines: dict[str, list[str]], made: DataSet, inputs: dict[str, Any]
    ) -> DataSet:
        digest = hashlib.sha256()
        for name, rows in lines.items():
            text = "".join(row + "\n" for row in rows)
            digest.update(text.encode())
            files.write_text(folder / name, text)
        made = replace(made, sha256=digest.hexdigest())
        counts = {k: v for k, v in asdict(made).items() if k != "folder"}
        files.write_json(folder / MANIFEST, {"settings": asdict(self._limits), **inputs, **counts})
        return made


def _example(row: Interaction, score: float, context: tuple[Message, ...], answer: str) -> Example:
    return Example(
        interaction_id=row.id,
        conversation_id=row.conversation_id,
        user=row.user,
        prompt=row.prompt,
        answer=answer,
        source="correction" if row.feedback.correction else "thumb",
        score=score,
        version=row.version,
        context=context,
    )


def _telling(tell: Callable[[str], None]) -> Callable[[int, int], None]:
    return lambda done, of: tell(f"asking the base model, {done} of {of}")


def _ids(examples: Iterable[Example]) -> list[int]:
    return [e.interaction_id for e in examples]


def _kept_for_validation(prompt: str) -> bool:
    """A tenth of the rehearsal texts measure forgetting; the same ones each time."""
    return int(hashlib.sha256(prompt.encode()).hexdigest()[:4], 16) % 10 == 0
