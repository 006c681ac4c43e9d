"""Personal data and secrets are replaced before a text enters a training file.

Patterns with checksums where the kind has one (cards: Luhn; IBAN: ISO 7064 mod 97), and the
`phonenumbers` library for telephone numbers. Names are left alone: finding them by a model
rewrites a quarter of the good answers, and most of them are what a company wants to teach.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import phonenumbers

_Check = Callable[[str], bool]


def _luhn(text: str) -> bool:
    digits = [int(c) for c in text if c.isdigit()]
    doubled = [d * 2 - 9 if d > 4 else d * 2 for d in digits[-2::-2]]
    return 13 <= len(digits) <= 19 and (sum(doubled) + sum(digits[-1::-2])) % 10 == 0


def _iban(text: str) -> bool:
    code = re.sub(r"[ -]", "", text).upper()
    rotated = code[4:] + code[:4]
    return 15 <= len(code) <= 34 and int("".join(str(int(c, 36)) for c in rotated)) % 97 == 1


def _octets(text: str) -> bool:
    return all(int(part) < 256 for part in text.split("."))


_RULES: tuple[tuple[str, re.Pattern[str], _Check | None], ...] = (
    (
        "PRIVATE_KEY",
        re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]+?-----END [A-Z ]*PRIVATE KEY-----"),
        None,
    ),
    ("TOKEN", re.compile(r"(?<![\w-])eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}"), None),
    ("KEY", re.compile(r"\b(?:sk|pk|rk)[-_](?:live|test|proj|ant)?[-_]?[A-Za-z0-9_-]{16,}"), None),
    (
        "KEY",
        re.compile(r"\b(?:ghp|gho|ghs|ghu|github_pat|glpat|hf|xox[abprs])[-_][A-Za-z0-9_-]{16,}"),
        None,
    ),
    ("KEY", re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bAIza[\w-]{35}"), None),
    (
        "PASSWORD",
        re.compile(
            r"(?i)\b(?:password|passwd|pwd|secret|api[ _-]?key|token)\b\s*(?:is\b\s*[:=]?|[:=])\s*[\"']?(?=\S*(?:\d|[!@#$%^&*_+?]\w))\S{6,}"
        ),
        None,
    ),
    ("URL_LOGIN", re.compile(r"(?<=://)[^\s/:@]+:[^\s/@]+(?=@)"), None),
    ("EMAIL", re.compile(r"[\w.+%-]{1,64}@[\w-]+(?:\.[\w-]+)+"), None),
    (
        "IBAN",
        re.compile(r"\b[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]{4}){2,7}(?:[ -]?[A-Z0-9]{1,3})?\b"),
        _iban,
    ),
    ("CARD", re.compile(r"\b\d(?:[ -]?\d){12,18}\b"), _luhn),
    ("SSN", re.compile(r"\b(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}\b"), None),
    ("IP", re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}\b"), _octets),
)


def scrub(text: str) -> tuple[str, list[str]]:
    """The text with findings replaced by `[KIND]`, and the kinds found, in order of the rules."""
    findings: list[str] = []
    for kind, pattern, is_real in _RULES:
        text = pattern.sub(_Replacement(kind, is_real, findings), text)
    return _scrub_phones(text, findings), findings


@dataclass(frozen=True)
class _Replacement:
    kind: str
    is_real: _Check | None
    findings: list[str]

    def __call__(self, match: re.Match[str]) -> str:
        text = match.group()
        for start, end in _stretches(text) if self.is_real else [(0, len(text))]:
            if self.is_real is None or self.is_real(text[start:end]):
                self.findings.append(self.kind)
                return f"{text[:start]}[{self.kind}]{text[end:]}"
        return text


def _stretches(text: str) -> list[tuple[int, int]]:
    """The runs of groups in it, longest first: a pattern may have taken in a word beside a number."""
    gaps = [match.start() for match in re.finditer(r"[ -]", text)]
    runs = [(a, b) for a in (0, *(g + 1 for g in gaps)) for b in (*gaps, len(text)) if a < b]
    return sorted(runs, key=lambda run: run[0] - run[1])


def _scrub_phones(text: str, findings: list[str]) -> str:
    # Without a country only numbers in international form are sure; a national one must also
    # be written like one, or extensions and order numbers would vanish from what is learned.
    matches = [
        m
        for region in (None, "US", "GB", "DE")
        for m in phonenumbers.PhoneNumberMatcher(text, region)
    ]
    taken: list[tuple[int, int]] = []
    for match in matches:
        is_new = all(match.end <= start or match.start >= end for start, end in taken)
        if is_new and sum(c.isdigit() for c in match.raw_string) >= 9:
            taken.append((match.start, match.end))
    for start, end in sorted(taken, reverse=True):
        findings.append("PHONE")
        text = text[:start] + "[PHONE]" + text[end:]
    return text
