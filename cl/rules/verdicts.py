"""What follows from a comparison: promote, retire, roll back, or go on.

A `guardrail` stops harm at any time, whatever the rule. `by_evidence` decides only what the data
shows, valid at every look however often it is checked; `by_plain_rule` is quick to explain and easily
fooled by chance; `on_watch` looks after a version that was just promoted.
"""

import math
from typing import NamedTuple

from cl.records import ArmScore, Comparison
from cl.settings import ExperimentLimits

SMALLEST_BASE = 0.1
_UNLIKELY = 3.29  # standard deviations; 0.1 % of a normal distribution lies further out
GUARDRAILS = {
    "error": "fails far more often than",
    "latency": "is far slower than",
    "thumbs_down": "gets far more thumbs down than",
}


class Verdict(NamedTuple):
    decision: str  # promote, retire, rollback, keep or continue
    reason: str  # one word
    text: str  # the reason in a sentence


def base(champion: ArmScore) -> float:
    """What a lift is a share of: the champion's score, but no less than 0.1."""
    return max(abs(champion.score or 0.0), SMALLEST_BASE)


def on_test(seen: Comparison, limits: ExperimentLimits) -> Verdict:
    """What becomes of a challenger, by the rule that the limits name; harm comes first."""
    by_rule = by_plain_rule if limits.decision_rule == "plain" else by_evidence
    return guardrail(seen, limits) or by_rule(seen, limits)


def by_evidence(seen: Comparison, limits: ExperimentLimits) -> Verdict:
    """No data, not ready, worse or futile, better with a right split, too late: in this order."""
    if not seen.champion.requests or not seen.challenger.requests:
        return _late(seen, limits) or Verdict("continue", "no_data", "One side has no answer yet.")
    if not _is_ready(seen, limits):
        return _late(seen, limits) or Verdict("continue", "collecting", _progress(seen, limits))
    return (
        _not_good_enough(seen, limits)
        or _better(seen, limits)
        or _late(seen, limits)
        or _undecided(seen, limits)
    )


def guardrail(seen: Comparison, limits: ExperimentLimits) -> Verdict | None:
    """Harm that does not wait for the end of the test."""
    fires = -math.log(limits.guard_alpha)
    for name, text in GUARDRAILS.items():
        if seen.guards.get(name, 0.0) >= fires:
            told_of = f"{seen.challenger.version} {text} {seen.champion.version}."
            return Verdict("retire", f"guardrail_{name}", told_of)
    harm = -limits.harm * base(seen.champion)
    if _has_samples(seen, limits) and seen.harm_upper is not None and seen.harm_upper < harm:
        text = f"{told(seen)}: more than {limits.harm:.0%} worse, beyond doubt."
        return Verdict("retire", "guardrail_score", text)
    return None


def by_plain_rule(seen: Comparison, limits: ExperimentLimits) -> Verdict:
    """Old enough, enough answers, better by this much."""
    lift = seen.lift
    fewest = min(seen.champion.requests, seen.challenger.requests)
    is_ready = seen.hours >= limits.min_test_hours and fewest >= limits.min_test_samples
    if lift is None:
        no_data = Verdict("continue", "no_data", "One side has no scored answer yet.")
        return _late(seen, limits) or no_data
    if not is_ready:
        return _late(seen, limits) or Verdict("continue", "collecting", _progress(seen, limits))
    if lift >= limits.min_lift:
        text = f"{lift:+.1%} after {_age(seen)}: at least {limits.min_lift:.0%} better."
        return Verdict("promote", "better", text)
    if lift < 0:
        text = f"{lift:+.1%} after {_age(seen)}: worse than the champion."
        return Verdict("retire", "worse", text)
    text = f"Better by less than {limits.min_lift:.0%}: so far {lift:+.1%}; the test goes on."
    return _late(seen, limits) or Verdict("continue", "undecided", text)


def on_watch(seen: Comparison, limits: ExperimentLimits) -> Verdict:
    """Does the new champion do harm beside the old? Not better is no reason to go back; worse is."""
    broken = guardrail(seen, limits)
    if broken:
        return broken._replace(decision="rollback")
    old = seen.champion.version
    if _has_samples(seen, limits) and seen.upper is not None and seen.upper < 0:
        return Verdict("rollback", "worse", f"{told(seen)}: worse than {old}, which it replaced.")
    if seen.hours >= limits.bake_hours:
        return Verdict("keep", "no_harm", f"{told(seen)}: no harm shown in {_age(seen)}.")
    text = f"{seen.hours:.1f} of {limits.bake_hours:g} hours beside {old}; so far {told(seen)}."
    return Verdict("continue", "watching", text)


def is_harmful(seen: Comparison) -> bool:
    """Whether the verdict is one that must not wait for the next hourly look."""
    return seen.decision == "rollback" or seen.reason.startswith("guardrail_")


def is_same(one: Comparison, other: Comparison) -> bool:
    """Whether two looks came to the same verdict, for the same reason."""
    return (one.decision, one.reason) == (other.decision, other.reason)


def needs_no_yes(seen: Comparison) -> bool:
    """Whether the verdict is carried out at once even where an admin approves the others."""
    return is_harmful(seen) or seen.decision == "keep"


def notes(seen: Comparison, limits: ExperimentLimits) -> list[str]:
    """What makes a comparison doubtful, and what to do about it."""
    first, second = seen.champion, seen.challenger
    found = []
    if is_split_wrong(seen, limits):
        found.append(_split_text(seen, limits))
    if _rated_unlike(first, second):
        found.append(
            f"{second.rated / second.requests:.0%} of {second.version}'s answers are rated and "
            f"{first.rated / first.requests:.0%} of {first.version}'s: those who do not rate may think "
            "otherwise. Look at quality and latency apart from the thumbs."
        )
    fewest = min(first.conversations, second.conversations)
    if seen.hours >= limits.min_test_hours and fewest < limits.min_test_conversations:
        found.append(
            f"Only {fewest} conversations on the smaller side, {limits.min_test_conversations} are needed: "
            "a larger share for the challenger would help."
        )
    return found


def _rated_unlike(first: ArmScore, second: ArmScore) -> bool:
    """Whether one side is rated more often than chance makes likely (p < 0.001, two-sided z-test)."""
    n, m = first.requests, second.requests
    if not n or not m:
        return False
    rate = (first.rated + second.rated) / (n + m)
    spread = math.sqrt(rate * (1 - rate) * (1 / n + 1 / m))
    return spread > 0 and abs(first.rated / n - second.rated / m) > _UNLIKELY * spread


# -- the steps -------------------------------------------------------------------------------


def _not_good_enough(seen: Comparison, limits: ExperimentLimits) -> Verdict | None:
    if seen.upper is None or seen.upper >= limits.min_lift * base(seen.champion):
        return None
    if seen.upper < 0:
        return Verdict("retire", "worse", f"{told(seen)}: worse than the champion.")
    text = f"{told(seen)}: it cannot be {limits.min_lift:.0%} better any more."
    return Verdict("retire", "futile", text)


def _better(seen: Comparison, limits: ExperimentLimits) -> Verdict | None:
    is_enough = seen.lift is not None and seen.lift >= limits.min_lift
    if is_enough and seen.lower is not None and seen.lower > 0 and not is_split_wrong(seen, limits):
        return Verdict("promote", "better", f"{told(seen)}: better, with evidence.")
    return None


def _late(seen: Comparison, limits: ExperimentLimits) -> Verdict | None:
    if seen.hours < limits.max_test_hours:
        return None
    fewest = min(seen.champion.requests, seen.challenger.requests)
    text = f"No result after {_age(seen)} and {fewest} answers on the smaller side; {told(seen)}."
    return Verdict("retire", "max_duration", text)


def _undecided(seen: Comparison, limits: ExperimentLimits) -> Verdict:
    if is_split_wrong(seen, limits):
        return Verdict("continue", "srm", f"{told(seen)}. {_split_text(seen, limits)}")
    return Verdict("continue", "undecided", f"{told(seen)}: not decided yet.")


def is_split_wrong(seen: Comparison, limits: ExperimentLimits) -> bool:
    """Whether conversations were not split between the versions as configured."""
    return seen.split_log_e is not None and seen.split_log_e >= -math.log(limits.split_alpha)


def _has_samples(seen: Comparison, limits: ExperimentLimits) -> bool:
    return all(
        arm.requests >= limits.min_test_samples
        and arm.conversations >= limits.min_test_conversations
        for arm in (seen.champion, seen.challenger)
    )


def _is_ready(seen: Comparison, limits: ExperimentLimits) -> bool:
    is_old = seen.hours >= limits.min_test_hours
    return is_old and _has_samples(seen, limits) and seen.lift is not None


# -- in words --------------------------------------------------------------------------------


def told(seen: Comparison) -> str:
    """The lift and its bounds."""
    if seen.lift is None:
        return "nothing to compare yet"
    if seen.lower is None or seen.upper is None:
        return f"{seen.lift:+.1%}"
    low, high = seen.lower / base(seen.champion), seen.upper / base(seen.champion)
    return f"{seen.lift:+.1%} (between {low:+.0%} and {high:+.0%})"


def _split_text(seen: Comparison, limits: ExperimentLimits) -> str:
    new, old = seen.challenger.conversations, seen.champion.conversations
    return (
        f"{new} of {new + old} conversations met the challenger, {limits.challenger_share:.0%} should "
        "have. Find out what keeps answers out of the log; until then nothing is promoted."
    )


def _age(seen: Comparison) -> str:
    return f"{seen.hours:.1f} hours"


def _progress(seen: Comparison, limits: ExperimentLimits) -> str:
    arms = (seen.champion, seen.challenger)
    answers, chats = (min(getattr(a, n) for a in arms) for n in ("requests", "conversations"))
    facts = [
        f"{min(seen.hours, limits.min_test_hours):.1f} of {limits.min_test_hours:g} hours",
        f"{min(answers, limits.min_test_samples)} of {limits.min_test_samples} answers",
    ]
    if limits.decision_rule == "evidence":
        needed = limits.min_test_conversations
        facts.append(f"{min(chats, needed)} of {needed} conversations")
    return f"{', '.join(facts)} on the smaller side; so far {told(seen)}, too early to judge."
