"""Selection: the first pass over the log, which decides what is learned.

Sends every rated interaction through the funnel of `rules/filtering.py`, with the newest scorer's
view and the reviewers' decisions, remembers a few numbers of those that came through, and counts
what became of the rest.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from cl.db import candidates
from cl.records import Decision, FunnelStep, Reviewed, Status
from cl.rules import filtering
from cl.rules.examples import Example
from cl.rules.filtering import Candidate, Funnel, short_key
from cl.settings import DataLimits

_STEPS = ("quality", "feedback", "newest scorer", "review")

Tell = Callable[[str], None]


class Scores(Protocol):
    """What the generator needs of the scorers."""

    def newest(self) -> str: ...

    def may_select(self) -> Collection[str]: ...

    def rescore(self, examples: Sequence[Example]) -> list[float | None]: ...


class Decisions(Protocol):
    """What the generator needs of the reviews."""

    def decisions(self) -> Mapping[str, Reviewed]: ...


class Selection:
    """What came through the funnel, and what became of the rest."""

    def __init__(
        self,
        scores: Scores,
        decisions: Mapping[str, Reviewed],
        limits: DataLimits,
        up_to: int,
        tell: Tell,
    ) -> None:
        self._scores = scores
        self._scorer, self._may_select = scores.newest(), scores.may_select()
        self._decisions = decisions
        self._limits = limits
        self._unseen = Counter(candidates.counts(up_to, limits.maybe_quality, limits.min_quality))
        self._total = self._unseen.total()
        self._dropped: dict[str, Counter[str]] = {name: Counter() for name in _STEPS}
        self._taken = 0
        self.disliked = self._read_disliked(up_to)
        funnel = Funnel({c.key for c in self.disliked}, limits)
        liked: set[bytes] = set()
        for which in (candidates.CORRECTED, candidates.LIKED):
            for page in candidates.newest_first(which, up_to):
                self._take(page, funnel, liked)
                tell(f"reading the log, {self._taken:,} examples so far")
        self.disliked = [
            c for c in self.disliked if c.key not in liked and not funnel.has_seen(c.key)
        ]
        for cut in (filtering.over_share, filtering.over_size):
            over = cut(self.disliked, limits)
            self.disliked = [c for c in self.disliked if c.interaction_id not in over]
        self.disliked.sort(key=lambda c: c.interaction_id)
        self.kept, self._steps = funnel.result()
        self.twins, self.resembling = funnel.twins, funnel.resembling

    def _read_disliked(self, up_to: int) -> list[Candidate]:
        """The answers voted down, each once, the newest first."""
        found: dict[bytes, Candidate] = {}
        for page in candidates.newest_first(candidates.DISLIKED, up_to):
            for example in page:
                given = replace(example, answer=example.rejected or example.answer, rejected=None)
                if not example.is_correction:
                    self._see(example)
                    why = filtering.rejected_by_form(example) or filtering.rejected_by_quality(
                        example, None, self._may_select, self._limits
                    )
                    self._drop(*(("quality", why) if why else ("feedback", "thumb down")))
                key = short_key(given.key)
                if key not in found and given.status is Status.COMPLETE and self.is_allowed(given):
                    found[key] = Candidate.of(given)
        return list(found.values())

    def _take(self, page: Sequence[Example], funnel: Funnel, liked: set[bytes]) -> None:
        passing = [e for e in page if self._has_form(e)]
        for example, newest in zip(passing, self._rescore(passing), strict=True):
            is_kept = self._is_kept(example)
            if not is_kept and (why := self._rejected(example, newest)):
                self._drop(*why)
                liked.add(short_key(example.key))
                continue
            self._taken += 1
            score = newest if newest is not None else example.quality or 0.0
            funnel.take(self.reviewed(example), score, is_reviewed=is_kept)

    def _has_form(self, example: Example) -> bool:
        self._see(example)
        why = filtering.rejected_by_form(example)
        if why and not (example.learn and self._is_kept(example)):
            self._drop("quality", why)
            return False
        return True

    def _is_kept(self, example: Example) -> bool:
        """Whether a reviewer wants it in, as it is or edited."""
        decision = self._decision(example)
        return decision is not None and decision.decision is not Decision.EXCLUDE

    def _rescore(self, examples: Sequence[Example]) -> list[float | None]:
        if self._scorer not in self._may_select:
            return [None] * len(examples)
        judged = [e for e in examples if not e.is_correction]
        found = dict(
            zip((e.interaction_id for e in judged), self._scores.rescore(judged), strict=True)
        )
        return [found.get(e.interaction_id) for e in examples]

    def _rejected(self, example: Example, newest: float | None) -> tuple[str, str] | None:
        """The step that drops it, and why."""
        limits = self._limits
        why = filtering.rejected_by_quality(example, newest, self._may_select, limits)
        if why:
            return "quality", why
        if self._scorer in self._may_select:
            why = filtering.rejected_by_scorer(example, newest, self._scorer, limits)
            if why:
                return "newest scorer", why
        if self._decision(example):
            return "review", "excluded by a reviewer"
        return None

    def _see(self, example: Example) -> None:
        band = candidates.band(
            example.quality, self._limits.maybe_quality, self._limits.min_quality
        )
        self._unseen[(example.status.value, example.scorer, band)] -= 1

    def _drop(self, step: str, why: str) -> None:
        self._dropped[step][why] += 1

    def _decision(self, example: Example) -> Reviewed | None:
        return self._decisions.get(example.key) if self._decisions else None

    def is_allowed(self, example: Example) -> bool:
        """Whether neither the person nor a reviewer has taken it out."""
        decision = self._decision(example)
        return example.learn and not (decision and decision.decision is Decision.EXCLUDE)

    def reviewed(self, example: Example) -> Example:
        """As a reviewer edited it: then it is what a person wrote."""
        decision = self._decision(example)
        if decision is None or decision.decision is not Decision.EDIT:
            return example
        given = example.rejected if example.rejected is not None else example.answer
        prompt = decision.prompt or example.prompt
        return replace(example, prompt=prompt, answer=decision.answer, rejected=given)

    def left_out(self, conversations: Collection[int]) -> dict[str, int]:
        count = sum(c.conversation_id in conversations for c in self.kept)
        return {"too like what is trained on": count} if count else {}

    def steps(self) -> list[FunnelStep]:
        """The whole funnel, from all interactions to the set."""
        dropped = {name: Counter(reasons) for name, reasons in self._dropped.items()}
        for (status, scorer, band), count in self._unseen.items():
            if status != Status.COMPLETE:
                dropped["quality"][f"answer {status}"] += count
            elif scorer in self._may_select and band in ("low", "maybe"):
                dropped["quality"][f"quality below {self._limits.min_quality:g}"] += count
            else:
                dropped["feedback"]["no feedback"] += count
        steps, left = [FunnelStep("interactions", self._total)], self._total
        for name, reasons in dropped.items():
            left -= reasons.total()
            steps.append(
                FunnelStep(name, left, {why: n for why, n in sorted(reasons.items()) if n})
            )
        return [*steps, *self._steps]
