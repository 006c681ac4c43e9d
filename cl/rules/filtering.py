"""The funnel: which interactions become training examples, and why the others do not.

    quality -> thumb or correction -> newest scorer -> exact duplicates -> near-duplicates
    -> conflicting votes -> same prompt -> one person's share -> personal data

Every step takes examples and returns those it keeps with a count of reasons for the rest.
A correction is judged as what it is, an answer a person wrote: the quality of the answer it
replaces does not matter.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import ceil

from cl.records import FunnelStep, Interaction, Message, Status
from cl.rules.dedupe import near_duplicates
from cl.rules.privacy import scrub
from cl.rules.text import content_key
from cl.settings import DataLimits

_DUST = 1e-9  # 0.07 * 100 is a little more than 7


@dataclass(frozen=True)
class Example:
    """One thing to learn: a conversation and the answer it should get."""

    interaction_id: int
    conversation_id: int
    user: str
    prompt: str
    answer: str
    source: str  # thumb or correction
    score: float
    version: str  # the one that answered; with a thumb up it wrote the answer to be learned
    context: tuple[Message, ...] = ()  # the turns before the prompt

    @property
    def whole_prompt(self) -> str:
        return "\n".join((*(m["content"] for m in self.context), self.prompt))

    @property
    def prompt_key(self) -> str:
        return content_key(*(m["content"] for m in self.context), self.prompt)

    @property
    def key(self) -> str:
        return content_key(*(m["content"] for m in self.context), self.prompt, self.answer)


def rejected_by_quality(row: Interaction, newest: float, limits: DataLimits) -> str | None:
    """Why the first step drops this interaction; None when it passes."""
    if row.feedback.correction:
        return None
    if row.status is not Status.COMPLETE:
        return f"answer {row.status.value}"
    if row.quality is None:
        return "not scored"
    if row.quality >= limits.min_quality:
        return None
    if (
        row.quality >= limits.maybe_quality
        and row.feedback.thumb > 0
        and newest >= limits.maybe_score
    ):
        return None
    return f"quality below {limits.min_quality:g}"


def rejected_by_feedback(row: Interaction) -> str | None:
    """Why the second step drops this interaction."""
    if row.feedback.correction or row.feedback.thumb > 0:
        return None
    return "thumb down" if row.feedback.thumb < 0 else "no feedback"


def narrow(
    examples: Sequence[Example], disliked: set[str], limits: DataLimits
) -> tuple[list[Example], list[FunnelStep]]:
    """The steps that look at examples together. `disliked` holds keys voted down.

    Returns what is kept in the order of the log, and the steps in theirs.
    """
    steps: list[FunnelStep] = []
    kept = _by_weight(examples)

    def step(name: str, drop: dict[int, str]) -> None:
        nonlocal kept
        kept = [e for e in kept if e.interaction_id not in drop]
        steps.append(FunnelStep(name, len(kept), dict(sorted(Counter(drop.values()).items()))))

    step("exact duplicates", _exact(kept))
    near = near_duplicates(
        ((e.interaction_id, e.whole_prompt, e.answer) for e in kept), limits.near_duplicate
    )
    step("near-duplicates", dict.fromkeys(near, "nearly the same"))
    step("conflicting votes", _conflicts(kept, disliked))
    step("same prompt", _crowded(kept, limits.max_same_prompt))
    step("one person's share", _over_share(kept, limits))
    return sorted(kept, key=lambda e: e.interaction_id), steps


def _by_weight(examples: Iterable[Example]) -> list[Example]:
    """Corrections before thumbs, then the newest first: of two that say the same, the first stays."""
    return sorted(examples, key=lambda e: (e.source != "correction", -e.interaction_id))


def _exact(examples: Sequence[Example]) -> dict[int, str]:
    seen: set[str] = set()
    corrected: set[str] = set()
    drop: dict[int, str] = {}
    for example in examples:
        if example.key in seen:
            drop[example.interaction_id] = "the same again"
        elif example.source == "correction" and example.prompt_key in corrected:
            drop[example.interaction_id] = "corrected anew later"
        seen.add(example.key)
        if example.source == "correction":
            corrected.add(example.prompt_key)
    return drop


def _conflicts(examples: Sequence[Example], disliked: set[str]) -> dict[int, str]:
    return {
        e.interaction_id: "liked by one, disliked by another"
        for e in examples
        if e.source == "thumb" and e.key in disliked
    }


def _crowded(examples: Sequence[Example], most: int) -> dict[int, str]:
    by_prompt: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        by_prompt[example.prompt_key].append(example)
    drop: dict[int, str] = {}
    for group in by_prompt.values():
        # Corrections before thumbs, then the best scored, then the newest.
        group.sort(key=lambda e: (e.source != "correction", -e.score, -e.interaction_id))
        drop |= {e.interaction_id: f"more than {most} answers to one prompt" for e in group[most:]}
    return drop


def _over_share(examples: Sequence[Example], limits: DataLimits) -> dict[int, str]:
    """Whom to cut back. The newest of each person stay; corrections before thumbs."""
    by_user: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        by_user[example.user].append(example)
    most = user_cap([len(group) for group in by_user.values()], limits)
    drop: dict[int, str] = {}
    for group in by_user.values():
        drop |= {e.interaction_id: "one person's share is full" for e in group[most:]}
    return drop


def user_cap(counts: Sequence[int], limits: DataLimits) -> int:
    """Most examples of one person, so that nobody exceeds the share (rounded up) of what is left.

    Cutting one person makes the set smaller and the share tighter. What is left grows ever more
    slowly with the cap, so the caps that hold for their own outcome are all those below one
    number, found by halving. `min_user_examples` holds in any case.
    """

    def breaks(cap: int) -> bool:
        return cap > ceil(limits.max_user_share * sum(min(count, cap) for count in counts) - _DUST)

    caps = range(1, max(counts, default=0) + 1)
    return max(limits.min_user_examples, bisect_left(caps, True, key=breaks))


def scrubbed(examples: Iterable[Example]) -> tuple[list[Example], FunnelStep]:
    """The same examples without personal data and secrets; nothing is dropped, kinds are counted."""
    clean: list[Example] = []
    found: Counter[str] = Counter()
    for example in examples:
        prompt, in_prompt = scrub(example.prompt)
        answer, in_answer = scrub(example.answer)
        context: list[Message] = []
        for message in example.context:
            content, in_context = scrub(message["content"])
            found.update(in_context)
            context.append({"role": message["role"], "content": content})
        found.update(in_prompt + in_answer)
        clean.append(replace(example, prompt=prompt, answer=answer, context=tuple(context)))
    return clean, FunnelStep(
        "personal data", len(clean), {f"{k} replaced": n for k, n in sorted(found.items())}
    )


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


REPHRASINGS = ("Quick question: {}", "Hi! {} Thanks.", "I need to know: {}")


def rephrased(prompt: str, count: int) -> list[str]:
    """The same question in `count` simple wrappings, so that an answer is not tied to one wording."""
    return [wrapping.format(prompt) for wrapping in REPHRASINGS[:count]]
