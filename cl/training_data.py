"""TrainingDataGenerator: from the log to a training set.

    train.jsonl, val.jsonl  {"messages": [...], "source": ...}, the answer last; sources are
                            correction, thumb and rehearsal
    votes.jsonl             {"prompt": [...], "completion", "label"}: what was liked and disliked
    pairs.jsonl             {"prompt": [...], "chosen", "rejected"}: a better and a worse answer
    probes.jsonl            {"messages": [...], "reference", "keys", "kind"}: what every later
                            version must know: corrections of this set and of earlier ones
    manifest.json           what it was made of: ids, hashes, counts, settings, scorer, seed

Two passes over the rated interactions: the first one sends them through the funnel of
`rules/filtering.py` and remembers a few numbers of each, the second one fetches the texts of those
that came through and writes them. No more than one page of texts is in memory. The same log,
decisions, scorer, settings and seed give the same bytes.
"""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from cl import files
from cl.db import candidates, probes
from cl.db.tables import HeldOut
from cl.model.rehearsal import RehearsalBuffer
from cl.records import DataSet, FunnelStep, Message, Status
from cl.rules import filtering, quality, splitting
from cl.rules.examples import Example
from cl.rules.filtering import Candidate, short_key
from cl.rules.privacy import scrub
from cl.rules.probes import MOST_NEEDED, keys_of
from cl.selection import Decisions, Scores, Selection
from cl.settings import DataLimits
from cl.usage_logger import UsageLogger

MANIFEST = "manifest.json"
_FILES = ("train", "val", "votes", "pairs", "probes")
_MOST_PROMPT = 500  # characters of a real question that is rehearsed
_DRAWS = 20  # ids looked at for each real question wanted

Tell = Callable[[str], None]


class TrainingDataGenerator:
    def __init__(
        self,
        logger: UsageLogger,
        rehearsal: RehearsalBuffer,
        scores: Scores,
        reviews: Decisions,
        limits: Callable[[], DataLimits],
        system_prompt: str = "",
    ) -> None:
        """`limits` gives those that hold now."""
        self._logger = logger
        self._rehearsal = rehearsal
        self._scores = scores
        self._reviews = reviews
        self._limits = limits
        self._system = [Message(role="system", content=system_prompt)] if system_prompt else []

    def generate(
        self, folder: Path, up_to_id: int | None = None, tell: Tell = lambda text: None
    ) -> DataSet:
        """Write the set into `folder`; says in `enough` and `reason` whether one may train on it."""
        up_to = self._logger.last_id() if up_to_id is None else up_to_id
        tell("reading the log")
        limits = self._limits()
        chosen = Selection(self._scores, self._reviews.decisions(), limits, up_to, tell)
        split = _split(chosen, limits)
        kept = [c for c in chosen.kept if c.conversation_id not in split.out]
        corrections = sum(c.is_correction for c in kept)
        users = len({c.user for c in kept})
        reason = filtering.too_few(len(kept), corrections, users, limits)
        held = sum(c.conversation_id in split.val for c in kept)
        if not reason and held in (0, len(kept)):
            reason = "the examples come from one conversation; there is nothing to validate on"
        made = DataSet(
            folder=str(folder),
            train=len(kept) - held,
            val=held,
            examples=len(kept),
            corrections=corrections,
            users=users,
            funnel=(),
            sha256="",
            scorer=self._scores.newest(),
            enough=not reason,
            reason=reason,
        )
        return self._write(folder, made, chosen, split, kept, limits, up_to, tell)

    # -- writing ---------------------------------------------------------------------------

    def _write(
        self,
        folder: Path,
        made: DataSet,
        chosen: Selection,
        split: "_Split",
        kept: Sequence[Candidate],
        limits: DataLimits,
        up_to: int,
        tell: Tell,
    ) -> DataSet:
        with _Writer(folder) as writer:
            found: Counter[str] = Counter()
            for example in self._texts(kept, chosen, found):
                side = split.side(example)
                self._write_example(writer, example, side)
                self._write_vote(writer, example, side, True)
                if example.rejected and example.status is Status.COMPLETE:
                    self._write_pair(writer, example, example.rejected, side)
                if example.is_correction:
                    self._write_probe(writer, example, "taught" if side == "train" else "held out")
            self._write_learned(writer, chosen, kept)
            for example in self._texts(chosen.disliked, chosen):
                self._write_vote(writer, example, split.side(example), False)
            self._write_regenerated(writer, chosen, split, up_to)
            # The buffer may have to be asked of the base model: not for a set nobody trains on.
            if made.enough:
                self._write_rehearsal(writer, _real_prompts(up_to, limits), tell)
            steps = (
                *chosen.steps(),
                FunnelStep("held out before", len(kept), chosen.left_out(split.out)),
                FunnelStep(
                    "personal data",
                    len(kept),
                    {f"{k} replaced": n for k, n in sorted(found.items())},
                ),
                FunnelStep("training and validation", len(kept)),
            )
            made = replace(
                made,
                funnel=steps,
                votes=len(writer.ids["votes"]),
                pairs=len(writer.ids["pairs"]),
                sha256=writer.sha256(),
            )
        counts = {k: v for k, v in asdict(made).items() if k != "folder"}
        about = {"settings": asdict(limits), "up_to_id": up_to, "ids": writer.ids}
        files.write_json(folder / MANIFEST, {**about, "files": writer.hashes, **counts})
        return made

    def _texts(
        self,
        wanted: Sequence[Candidate],
        chosen: Selection,
        found: Counter[str] | None = None,
    ) -> Iterator[Example]:
        """The examples of these candidates, reviewed and without personal data, page by page."""
        for page in _chunks(wanted):
            examples = candidates.by_id([c.interaction_id for c in page])
            for candidate in page:
                if example := examples.get(candidate.interaction_id):  # erased just now otherwise
                    clean, kinds = filtering.scrubbed(chosen.reviewed(example))
                    if found is not None:
                        found.update(kinds)
                    yield clean

    def _write_example(self, writer: "_Writer", e: Example, side: str) -> None:
        author = {"version": e.version} if not e.is_correction else {}
        line = {"messages": self._messages(e, e.answer), "source": e.source, "id": e.interaction_id}
        writer.add(side, {**line, **author}, e.interaction_id)

    def _write_probe(self, writer: "_Writer", e: Example, kind: str) -> None:
        keys = keys_of(e.prompt, e.answer, e.rejected or "")
        about = {"reference": e.answer, "keys": keys, "needed": MOST_NEEDED, "kind": kind}
        line = {"messages": self._prompt(e), **about, "id": e.interaction_id}
        writer.add("probes", line, e.interaction_id)

    def _write_learned(
        self, writer: "_Writer", chosen: Selection, kept: Sequence[Candidate]
    ) -> None:
        """What earlier versions learned, unless it was taken back, or is answered anew by now."""
        questions = {c.prompt_key for c in kept if c.is_correction}
        for page in _chunks(probes.learned({c.interaction_id for c in kept})):
            for example in candidates.by_id(page).values():
                if not example.is_correction or not chosen.is_allowed(example):
                    continue
                now = chosen.reviewed(example)
                if short_key(now.prompt_key) not in questions:
                    self._write_probe(writer, filtering.scrubbed(now)[0], "taught")

    def _write_vote(self, writer: "_Writer", e: Example, side: str, label: bool) -> None:
        completion = e.answer if label else e.rejected or e.answer
        if completion.strip():
            line = {"prompt": self._prompt(e), "completion": completion, "label": label}
            writer.add("votes", {**line, "split": side, "id": e.interaction_id}, e.interaction_id)

    def _write_pair(self, writer: "_Writer", e: Example, rejected: str, side: str) -> None:
        if rejected.strip() and rejected != e.answer:
            line = {"prompt": self._prompt(e), "chosen": e.answer, "rejected": rejected}
            writer.add("pairs", {**line, "split": side, "id": e.interaction_id}, e.interaction_id)

    def _write_regenerated(
        self,
        writer: "_Writer",
        chosen: Selection,
        split: "_Split",
        up_to: int,
    ) -> None:
        for page in _chunks(candidates.regenerated(up_to)):
            examples = candidates.by_id({id_ for pair in page for id_ in pair})
            known = [(a, b) for a, b in page if a in examples and b in examples]
            for better, worse in ((examples[a], examples[b]) for a, b in known):
                fault = quality.malformed(better.answer)
                if fault or not chosen.is_allowed(better) or better.conversation_id in split.out:
                    continue
                pair = replace(better, rejected=worse.rejected or worse.answer)
                clean, _ = filtering.scrubbed(pair)
                self._write_pair(writer, clean, clean.rejected or "", split.side(clean))

    def _write_rehearsal(self, writer: "_Writer", real: Mapping[int, str], tell: Tell) -> None:
        for row in self._rehearsal.rows(_telling(tell), real):
            messages = [
                *self._system,
                Message(role="user", content=row.prompt),
                Message(role="assistant", content=row.answer),
            ]
            side = "val" if _kept_for_validation(row.prompt) else "train"
            origin = {} if row.id is None else {"id": row.id}
            writer.add(
                side, {"messages": messages, "source": "rehearsal", "whole": row.whole, **origin}
            )

    def _prompt(self, e: Example) -> list[Message]:
        return [*self._system, *e.context, Message(role="user", content=e.prompt)]

    def _messages(self, e: Example, answer: str) -> list[Message]:
        return [*self._prompt(e), Message(role="assistant", content=answer)]


def _split(chosen: Selection, limits: DataLimits) -> "_Split":
    """Decide the sides and remember what is held out, for ever."""
    rows: Any = HeldOut.select(HeldOut.conversation).tuples()
    held = {conversation for (conversation,) in rows}
    val, out = splitting.sides(
        (c.conversation_id for c in chosen.kept),
        chosen.twins,
        chosen.resembling,
        held,
        limits.val_share,
        limits.seed,
        {c.conversation_id for c in chosen.kept if c.is_correction},
    )
    # Of dislikes for what nobody liked an answer to, some are held out, too: evidence for the gate.
    liked = {c.prompt_key for c in chosen.kept}
    known = {c.conversation_id for c in chosen.kept}
    known |= {c.conversation_id for c in chosen.disliked if c.prompt_key in liked}
    apart = {c.conversation_id for c in chosen.disliked} - known
    val |= apart & held
    val |= splitting.validation_conversations(apart, limits.val_share, limits.seed)
    for some in _chunks(sorted(val)):
        HeldOut.insert_many(
            [(c,) for c in some], [HeldOut.conversation]
        ).on_conflict_ignore().execute()
    rated = (*chosen.kept, *chosen.disliked)
    prompts = {c.prompt_key for c in rated if c.conversation_id in val}
    return _Split(val, out, prompts)


@dataclass(frozen=True)
class _Split:
    val: Collection[int]  # conversations
    out: Collection[int]
    prompts: Collection[bytes]  # asked in validation

    def side(self, example: Example) -> str:
        held = example.conversation_id in self.val or short_key(example.prompt_key) in self.prompts
        return "val" if held else "train"


class _Writer:
    """The files, written line by line; they appear together when all went well."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open = ExitStack()
        self._files: dict[str, TextIO] = {}
        self._hashes = {name: hashlib.sha256() for name in _FILES}
        self.ids: dict[str, list[int]] = {name: [] for name in self._hashes}

    def __enter__(self) -> "_Writer":
        for name in self._hashes:
            path = self._folder / f"{name}.jsonl"
            self._files[name] = self._open.enter_context(files.writing(path))
        return self

    def __exit__(self, *problem: Any) -> None:
        self._open.__exit__(*problem)

    def add(self, name: str, line: Mapping[str, Any], id_: int | None = None) -> None:
        text = json.dumps(line, ensure_ascii=False) + "\n"
        self._files[name].write(text)
        self._hashes[name].update(text.encode())
        if id_ is not None:
            self.ids[name].append(id_)

    @property
    def hashes(self) -> dict[str, str]:
        return {f"{name}.jsonl": digest.hexdigest() for name, digest in self._hashes.items()}

    def sha256(self) -> str:
        return hashlib.sha256("".join(self.hashes.values()).encode()).hexdigest()


def _real_prompts(up_to: int, limits: DataLimits) -> dict[int, str]:
    """Questions nobody rated, drawn the same way each time, people taking turns."""
    if not (limits.real_prompts and up_to):
        return {}
    # From all ids up to the next power of two: most draws stay as the log grows.
    ids = range(1, (1 << up_to.bit_length()) + 1)
    count = min(len(ids), _DRAWS * limits.real_prompts)
    drawn = random.Random(limits.seed).sample(ids, count)
    by_user: dict[str, list[tuple[int, str]]] = {}
    for page in _chunks(id_ for id_ in drawn if id_ <= up_to):
        found = candidates.unrated_questions(page, _MOST_PROMPT)
        for id_, user, prompt in sorted(found, key=lambda row: page.index(row[0])):
            by_user.setdefault(user, []).append((id_, scrub(prompt)[0]))
    turns = sorted(
        (turn, drawn.index(id_), id_, prompt)
        for questions in by_user.values()
        for turn, (id_, prompt) in enumerate(questions)
    )
    return {id_: prompt for _, _, id_, prompt in turns[: limits.real_prompts]}


def _chunks(items: Iterable[Any]) -> Iterator[list[Any]]:
    rest = iter(items)
    while chunk := list(islice(rest, candidates.PAGE)):
        yield chunk


def _telling(tell: Tell) -> Callable[[int, int], None]:
    return lambda done, of: tell(f"asking the base model, {done} of {of}")


def _kept_for_validation(prompt: str) -> bool:
    """A tenth of the rehearsal texts measure forgetting; the same ones each time."""
    return int(hashlib.sha256(prompt.encode()).hexdigest()[:4], 16) % 10 == 0
