"""The funnel: which interactions become training examples, and why the others do not.

    quality -> thumb or correction -> newest scorer -> review -> exact duplicates
    -> near-duplicates -> conflicting votes -> same prompt -> one person's share -> size of the set

Examples pass one by one, corrections first and the newest first, so that of two that say the same
the better one is there already. What is remembered of each is a few numbers, not its texts.
A correction is judged as what it is, an answer a person wrote: the quality of the answer it
replaces does not matter. A scorer that has not been shown to be good decides nothing.
"""

import heapq
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from math import ceil

from cl.records import FunnelStep, Message, Status
from cl.rules import quality
from cl.rules.dedupe import NearDuplicates
from cl.rules.examples import Example
from cl.rules.privacy import scrub
from cl.settings import DataLimits

_DUST = 1e-9  # 0.07 * 100 is a little more than 7
CONFLICT = "liked by one, disliked by another"


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is remembered of an example on its way through the funnel."""

    interaction_id: int
    conversation_id: int
    user: str
    is_correction: bool
    score: float
    key: bytes
    prompt_key: bytes

    @classmethod
    def of(cls, example: Example, score: float = 0.0) -> "Candidate":
        return cls(
            example.interaction_id,
            example.conversation_id,
            example.person,
            example.is_correction,
            score,
            short_key(example.key),
            short_key(example.prompt_key),
        )


def short_key(key: str) -> bytes:
    """A content key as it is remembered a hundred thousand times."""
    return bytes.fromhex(key[:32])


def rejected_by_form(example: Example) -> str | None:
    """Why this cannot be learned whatever anybody thinks of it; None when it can."""
    if not example.learn:
        return "not to be learned from"
    if example.is_correction:
        return None
    if example.status is not Status.COMPLETE:
        return f"answer {example.status.value}"
    return quality.malformed(example.answer)


def rejected_by_quality(
    example: Example, newest: float | None, may_select: Collection[str], limits: DataLimits
) -> str | None:
    """Why the quality it was given when it was new drops this example; None when it passes.

    `newest` is the newest scorer's score, `may_select` the scorers whose scores mean something.
    """
    if example.is_correction or example.quality is None or example.scorer not in may_select:
        return None
    if example.quality >= limits.min_quality:
        return None
    is_maybe = example.quality >= limits.maybe_quality and example.thumb > 0
    if is_maybe and newest is not None and newest >= limits.maybe_score:
        return None
    return f"quality below {limits.min_quality:g}"


def rejected_by_scorer(
    example: Example, newest: float | None, scorer: str, limits: DataLimits
) -> str | None:
    """Why the newest scorer drops this example; only asked of a scorer that may select."""
    if example.is_correction:
        return None
    if newest is None:
        return f"not scored by {scorer} yet"
    if newest < limits.maybe_quality:
        return f"scored below {limits.maybe_quality:g}"
    return None


class Funnel:
    """The steps that look at examples together."""

    def __init__(self, disliked: Collection[bytes], limits: DataLimits) -> None:
        self._limits = limits
        self._disliked = disliked
        self._near = NearDuplicates(limits.near_duplicate)
        self._seen: set[bytes] = set()
        self._corrected: set[bytes] = set()  # prompts
        self._asked: dict[bytes, int] = {}  # the first conversation with this prompt
        self._conversation: dict[int, int] = {}
        self._kept: list[Candidate] = []
        self._dropped: dict[str, Counter[str]] = {
            "exact duplicates": Counter(),
            "near-duplicates": Counter(),
            "conflicting votes": Counter(),
        }
        self.twins: list[tuple[int, int]] = []  # conversations that share a text
        self.resembling: list[tuple[int, int]] = []  # and those that share much of one

    def take(self, example: Example, score: float, *, is_reviewed: bool = False) -> None:
        """The next example, in order: corrections before thumbs, then the newest first."""
        candidate = Candidate.of(example, score)
        if not (self._is_repeated(candidate) or self._is_nearly_repeated(example)):
            if example.is_correction or is_reviewed or candidate.key not in self._disliked:
                self._kept.append(candidate)
            else:
                self._dropped["conflicting votes"][CONFLICT] += 1

    def has_seen(self, key: bytes) -> bool:
        return key in self._seen

    def _is_repeated(self, candidate: Candidate) -> bool:
        first = self._asked.setdefault(candidate.prompt_key, candidate.conversation_id)
        if first != candidate.conversation_id:
            self.twins.append((first, candidate.conversation_id))
        why = None
        if candidate.key in self._seen:
            why = "the same again"
        elif candidate.is_correction and candidate.prompt_key in self._corrected:
            why = "corrected anew later"
        self._seen.add(candidate.key)
        if candidate.is_correction:
            self._corrected.add(candidate.prompt_key)
        if why:
            self._dropped["exact duplicates"][why] += 1
        return why is not None

    def _is_nearly_repeated(self, example: Example) -> bool:
        look = self._near.look(example.interaction_id, example.whole_prompt, example.answer)
        self._conversation[example.interaction_id] = example.conversation_id
        for other in look.resembles:
            self.resembling.append((self._conversation[other], example.conversation_id))
        if look.repeats is not None:
            self.twins.append((self._conversation[look.repeats], example.conversation_id))
            self._dropped["near-duplicates"]["nearly the same"] += 1
        return look.repeats is not None

    def result(self) -> tuple[list[Candidate], list[FunnelStep]]:
        """What came through in the order of the log, and the steps in theirs."""
        steps: list[FunnelStep] = []
        left = len(self._kept) + sum(counts.total() for counts in self._dropped.values())
        for name, counts in self._dropped.items():
            left -= counts.total()
            steps.append(FunnelStep(name, left, dict(sorted(counts.items()))))
        kept = self._kept

        def step(name: str, drop: Mapping[int, str]) -> None:
            nonlocal kept
            kept = [c for c in kept if c.interaction_id not in drop]
            steps.append(FunnelStep(name, len(kept), dict(sorted(Counter(drop.values()).items()))))

        step("same prompt", _crowded(kept, self._limits.max_same_prompt))
        step("one person's share", over_share(kept, self._limits))
        step("size of the set", over_size(kept, self._limits))
        return sorted(kept, key=lambda c: c.interaction_id), steps


def _crowded(candidates: Sequence[Candidate], most: int) -> dict[int, str]:
    asked = Counter(c.prompt_key for c in candidates)
    by_prompt: dict[bytes, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        if asked[candidate.prompt_key] > most:
            by_prompt[candidate.prompt_key].append(candidate)
    drop: dict[int, str] = {}
    for group in by_prompt.values():
        # Corrections before thumbs, then the best scored, then the newest.
        group.sort(key=lambda c: (not c.is_correction, -c.score, -c.interaction_id))
        drop |= {c.interaction_id: f"more than {most} answers to one prompt" for c in group[most:]}
    return drop


def over_share(candidates: Iterable[Candidate], limits: DataLimits) -> dict[int, str]:
    """Whom to cut back. The newest of each person stay; corrections before thumbs."""
    by_user: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        by_user[candidate.user].append(candidate)
    most = user_cap([len(group) for group in by_user.values()], limits)
    drop: dict[int, str] = {}
    for group in by_user.values():
        drop |= {c.interaction_id: "one person's share is full" for c in group[most:]}
    return drop


def user_cap(counts: Sequence[int], limits: DataLimits) -> int:
    """Most examples of one person, so that nobody exceeds the share (rounded up) of what is left.

    Cutting one person makes the set smaller and the share tighter. What is left grows ever more
    slowly with the cap, so the caps that hold for their own outcome are all those below one
    number, found by halving. `min_user_examples` holds in any case.
    """
    sizes = Counter(counts)

    def breaks(cap: int) -> bool:
        left = sum(min(size, cap) * people for size, people in sizes.items())
        return cap > ceil(limits.max_user_share * left - _DUST)

    caps = range(1, max(counts, default=0) + 1)
    return max(limits.min_user_examples, bisect_left(caps, True, key=breaks))


def over_size(candidates: Sequence[Candidate], limits: DataLimits) -> dict[int, str]:
    """What a set of at most `max_examples` leaves out.

    Most places go to corrections and the newest thumbs, `reservoir_share` of them to a sample of
    all that is older, so that what was learned long ago is rehearsed. The sample takes turns among
    people; a hash of each example decides, so the same ones stay from run to run.
    """
    if len(candidates) <= limits.max_examples:
        return {}
    ranked = sorted(candidates, key=lambda c: (not c.is_correction, -c.interaction_id))
    recent = limits.max_examples - round(limits.reservoir_share * limits.max_examples)
    older: dict[str, list[tuple[bytes, int]]] = defaultdict(list)
    salt = str(limits.seed).encode()
    for c in ranked[recent:]:
        older[c.user].append((sha256(c.key + salt).digest()[:8], c.interaction_id))
    drawn = heapq.nsmallest(
        limits.max_examples - recent,
        (
            (turn, place, id_)
            for places in older.values()
            for turn, (place, id_) in enumerate(sorted(places))
        ),
    )
    sample = {id_ for _, _, id_ in drawn}
    why = f"more than {limits.max_examples:,} examples"
    return {c.interaction_id: why for c in ranked[recent:] if c.interaction_id not in sample}


def scrubbed(example: Example) -> tuple[Example, list[str]]:
    """The same example without personal data and secrets, and the kinds of what was found."""
    prompt, found = scrub(example.prompt)
    answer, in_answer = scrub(example.answer)
    rejected, in_rejected = scrub(example.rejected or "")
    context: list[Message] = []
    for message in example.context:
        content, in_context = scrub(message["content"])
        found += in_context
        context.append(Message(role=message["role"], content=content))
    clean = replace(
        example,
        prompt=prompt,
        answer=answer,
        rejected=None if example.rejected is None else rejected,
        context=tuple(context),
    )
    return clean, [*found, *in_answer, *in_rejected]


def too_few(examples: int, corrections: int, users: int, limits: DataLimits) -> str:
    """Why this is too little to train on; empty when it is enough."""
    if users < limits.min_users:
        return f"examples from {users} people, at least {limits.min_users} are needed"
    if examples < limits.min_examples and corrections < limits.min_corrections:
        return (
            f"{examples} examples with {corrections} corrections; "
            f"at least {limits.min_examples} examples or {limits.min_corrections} corrections are needed"
        )
    return ""
