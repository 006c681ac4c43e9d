"""The rules: what each kind looks like, and what a text must have before it is worth looking."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cl.rules.privacy import checks
from cl.rules.privacy.phones import find_phones

_Span = tuple[int, int]
# Not a finding, but no rule after it may take a part for a card or a telephone number.
PROTECTED = ""


@dataclass(frozen=True)
class Rule:
    """A kind, the stretches of a text that are one, and what those cannot do without."""

    kind: str
    find: Callable[[str], Iterator[_Span]]
    hints: tuple[str, ...] = ()  # one of them, in small letters
    digits: int = 0  # 1: a digit; 7: seven of them close together
    word: int = 0  # characters of the longest word
    shape: re.Pattern[str] | None = None  # begins with a set of characters: those are fast to find


def _all(
    pattern: str, is_real: Callable[[re.Match[str]], bool] | None = None
) -> Callable[[str], Iterator[_Span]]:
    """Finds what the pattern matches, or its group `part` where it has one."""
    compiled = re.compile(pattern)
    part = compiled.groupindex.get("part", 0)

    def find(text: str) -> Iterator[_Span]:
        for match in compiled.finditer(text):
            if is_real is None or is_real(match):
                yield match.span(part)

    return find


def _numbers(pattern: str, length: Callable[[str], int]) -> Callable[[str], Iterator[_Span]]:
    """Finds numbers written in groups; `length` says how many of their characters are one.

    The pattern takes in what may stand beside a number too, and each of its starts is tried.
    """
    compiled = re.compile(rf"(?=({pattern}))")

    def find(text: str) -> Iterator[_Span]:
        done = 0
        for match in compiled.finditer(text):
            places = [i for i in range(*match.span(1)) if text[i].isalnum()]
            real = length("".join(text[i] for i in places)) if match.start() >= done else 0
            end = places[real - 1] + 1
            if real and not text[end : end + 1].isalnum():
                done = end
                yield match.start(), end

    return find


# --- secrets

_PRIVATE_KEY = (
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
    # Up to the end, or as far as a key that was cut off goes.
    r"(?:(?:[^-]++|-(?!----))*+-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
    r"|(?:(?:\s|\\n){1,4}[A-Za-z0-9+/=]{20,})*)"
)
_JWT = r"(?<![\w-])eyJ[\w-]{8,}\.(?:eyJ[\w-]{8,}(?:\.[\w-]*)?|[\w-]*\.[\w-]+\.[\w-]+\.[\w-]+)"
_KEY = (
    r"(?<![A-Za-z0-9])(?:"
    r"(?:sk|pk|rk)[-_](?=[\w-]{0,60}\d|[A-Za-z]{20})[\w-]{16,}"  # OpenAI, Anthropic, Stripe
    r"|(?:gh[opsur]|hf|npm|whsec|gsk|r8|xai|pplx|sbp|glsa|ntn|dckr_pat|do[opr]_v1"
    r"|lin_api|figd|shp(?:at|ca|pa|ss)|sess|tvly|PMAK|NRAK|sntrys)[-_][A-Za-z0-9]{16}[\w-]*"
    r"|(?:GOCSPX|nvapi)-[\w-]{20,}"
    r"|github_pat_\w{16,}|gl(?:pat|ptt|dt|rt|cbt|ft|imt|agent|soat|oas)-[\w-]{16,}"
    r"|(?:xox[abeoprs]|xapp)[-.][\w.-]{16,}|sq0(?:atp|csp)-[\w-]{20,}|pypi-AgE[\w-]{16,}"
    r"|A[KS]IA[A-Z0-9]{16}\b|AIza[\w-]{35}|ya29\.[\w-]{20,}|1//0[\w-]{20,}"
    r"|SG\.[\w-]{16,}\.[\w-]{16,}|hvs\.[\w-]{20,}|\w{3}8Q~[\w.~-]{31,}"  # SendGrid, Vault, Azure
    r"|AGE-SECRET-KEY-1[A-Z0-9]{50,}"
    r"|(?:AC|SK|key-|dapi)[0-9a-f]{32}\b"  # Twilio, Mailgun, Databricks
    r"|\d{8,10}:AA[\w-]{30,}"  # Telegram
    r")"
)
_WEBHOOK = (
    r"(?:hooks\.slack\.com/(?:services|workflows)|discord(?:app)?\.com/api/webhooks)"
    r"/(?P<part>[\w/-]{20,})"
)
_AUTHORIZATION = (
    r"(?:(?i:\bauthorization)[\"']?\s{0,9}[:=]\s{0,9}[\"']?(?:(?i:bearer|basic|token)\s{1,9})?"
    r"|\b(?i:bearer|basic)\s{1,9}(?=[\w+/=.~-]{0,99}(?:\d|[a-z][A-Z])))"
    r"(?P<part>[\w+/=.~-]{12,})"
)
_PASSWORD = (
    r"(?<!\[)(?i:pass(?:word|wd|phrase|code)|passwort|kennwort|contraseña|mot de passe|\bpwd|_pass"
    r"|(?:api|access|account|private|secret|auth|encryption|signing)[ _-]?key|secret|token)\b"
    r"[\"'`\])]{0,3}(?:\s(?:for|to|of|on|für)(?:\s[\w.-]{1,30}){1,4}?)?\s{0,9}"
    r"(?:(?i:is|was|ist|lautet)\b\s{0,9}[:=]?|[:=]{1,2}>?|->)\s{0,9}"
    r"(?:\"(?P<double>[^\"\n\0]{6,200})\"|'(?P<single>[^'\n\0]{6,200})'"
    r"|[\"'`]?(?P<bare>[^\s\"'`<>\0]{6,}))"
)
_PLACEHOLDER = re.compile(
    r"\$[{(]|\$[A-Z_]+$|%[\w(]+[%)]|[{\[(]|(?i:your|my[_-])|os\.|process\.|\w+(?:\.\w+)*\("
)
_STRONG = re.compile(r"\d|[!@#$%^&*+?~]\w")


def _is_password(match: re.Match[str]) -> bool:
    """Not a word of prose ("the password is required"), a name in code or a gap to fill in."""
    value = match[match.lastgroup or 0]
    return _STRONG.search(value) is not None and not _PLACEHOLDER.match(value)


# --- people and machines

# `react@18.2.0` is a version, and everybody's `git@` is nobody's.
_EMAIL = r"(?<![\w.+%-])(?!git@)[\w.+%-]{1,64}@(?:[\w-]+\.)+[^\W\d_][\w-]+"
_WALLET = (
    r"(?<![A-Za-z0-9])(?:[13][1-9A-HJ-NP-Za-km-z]{25,34}|bc1[02-9ac-hj-np-z]{11,71}"
    r"|0x[0-9A-Fa-f]{40})(?![A-Za-z0-9])"
)
_IBAN = (
    r"(?<![A-Za-z0-9])(?:[A-Z]{2}[ -]?\d\d(?:[ -]?[A-Z0-9]){11,30}"
    r"|[a-z]{2}[ -]?\d\d(?:[ -]?[a-z0-9]){11,30})"
)
# A code with a mistake in it: its groups are neither cards nor telephone numbers.
_BROKEN_IBAN = r"(?<![A-Za-z0-9])[A-Z]{2}\d\d(?: [A-Z0-9]{1,4}){2,8}(?![A-Za-z0-9])"
_MAC = (
    r"(?<![\w:-])(?!(?i:ff[:-]){5})"  # to everyone is to no one
    r"(?:[0-9A-Fa-f]{2}(?:(?::[0-9A-Fa-f]{2}){5}|(?:-[0-9A-Fa-f]{2}){5})"
    r"|(?=[0-9.]{0,13}[A-Fa-f])[0-9A-Fa-f]{4}(?:\.[0-9A-Fa-f]{4}){2})(?![\w:-]|\.\w)"
)
_HEX_PARTS = re.compile(r"[:.-][0-9A-Fa-f]{2,4}[:.-]")
_IPV6 = (
    r"(?<![\w:])(?<!\w\[)(?P<address>(?:[0-9A-Fa-f]{0,4}:){2,8}(?:[0-9A-Fa-f]{1,4}|(?<=::))"
    r"(?:(?:\.\d{1,3}){3})?)(?:%\w{1,15})?(?P<prefix>/(?:12[0-8]|1[01]\d|\d\d?)(?!\d))?"
    r"(?![\w:]|\.\w)"
)
_IPV4 = r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?:/(?:3[0-2]|[12]?\d)(?!\d))?(?!\w)"
_NUMBERED = re.compile(
    r"(?i:\b(?:v|ver|version|release|build|firmware|section|chapter|clause|oid)|§)"
    r"[\s.:=]{0,3}(?:(?i:number|no\.|is)\s)?$"
)
_SSN = r"(?<![\w.-])(?!000|666|9)\d{3}([ .-])(?!00)\d\d\1(?!0000)\d{4}(?![\w-]|\.\d)"
_NAMED_SSN = (
    r"(?i:\bssn|social security)[A-Za-z #:.]{0,20}"
    r"(?P<part>(?!000|666|9)\d{3}-?(?!00)\d\d-?(?!0000)\d{4})(?!\w)"
)
_CARD = r"(?<![\w.,])\d{4}(?:[ -]?\d){9,15}"
_FULL_NAME = r"(?P<part>[A-ZÀ-Þ][\w'’-]+(?: [A-ZÀ-Þ](?:\.|[\w'’-]+)){1,3})"
_INTRODUCTION = (
    r"(?:\b[Mm]y (?:full )?name is|\bI(?: am|['’]m) called|\b[Mm]ein Name ist"
    rf"|\b[Ii]ch heiße) {_FULL_NAME}"
)
_CALLER = rf"\b[Tt]his is {_FULL_NAME}(?= (?:speaking|calling)\b)"


def _has_iban_country(match: re.Match[str]) -> bool:
    return checks.has_ibans(match[0][:2])


def _is_ipv6(match: re.Match[str]) -> bool:
    address = match["address"]
    return checks.is_ipv6(address) or (address == "::" and match["prefix"] is not None)


def _is_ipv4(match: re.Match[str]) -> bool:
    """Not the number of a version, a section or (five parts and more) an object."""
    before = match.string[max(match.start() - 24, 0) : match.start()]
    after = match.string[match.end() : match.end() + 2]
    is_object = after[:1] == "." and after[1:].isdigit() and match[0][:2] in ("0.", "1.", "2.")
    is_numbered = _NUMBERED.search(before) is not None
    return checks.is_ipv4(match[0].split("/")[0]) and not is_object and not is_numbered


def _is_wallet(match: re.Match[str]) -> bool:
    return match[0].startswith("0x") or checks.is_bitcoin(match[0])


RULES = (
    Rule("PRIVATE_KEY", _all(_PRIVATE_KEY), hints=("-----begin",)),
    Rule("TOKEN", _all(_JWT), hints=("eyj",), word=20),
    Rule("KEY", _all(_KEY), hints=("_", "-", "akia", "asia", "aiza"), word=18),
    Rule("KEY", _all(_KEY), digits=1, word=24),  # Twilio, SendGrid, Vault
    Rule("KEY", _all(_WEBHOOK), hints=("hook",), word=20),
    Rule("TOKEN", _all(_AUTHORIZATION), hints=("authorization", "bearer", "basic"), word=12),
    Rule(
        "PASSWORD",
        _all(_PASSWORD, _is_password),
        hints=("pass", "pwd", "secret", "token", "key", "kennwort", "contrase"),
        shape=_STRONG,
    ),
    Rule("URL_LOGIN", _all(r"(?<=://)[^\s/:@\0]*:[^\s/\0]+(?=@)"), hints=("://",)),
    Rule("EMAIL", _all(_EMAIL), hints=("@",)),
    Rule("WALLET", _all(_WALLET, _is_wallet), digits=1, word=26),
    Rule("IBAN", _numbers(_IBAN, checks.iban_length), digits=7),
    Rule(PROTECTED, _all(_BROKEN_IBAN, _has_iban_country), digits=7),
    Rule("MAC", _all(_MAC), digits=1, shape=_HEX_PARTS),
    Rule("MAC", _all(_MAC), hints=("mac", "address"), shape=_HEX_PARTS),
    Rule("IP", _all(_IPV6, _is_ipv6), digits=1, shape=re.compile(r":[0-9A-Fa-f]{0,4}:")),
    Rule("IP", _all(_IPV4, _is_ipv4), digits=1, shape=re.compile(r"\d\.\d{1,3}\.\d")),
    Rule("SSN", _all(_SSN), digits=7),
    Rule("SSN", _all(_NAMED_SSN), hints=("ssn", "social security"), digits=7),
    Rule("CARD", _numbers(_CARD, checks.card_length), digits=7),
    Rule("PHONE", find_phones, digits=7),
    Rule(
        "NAME",
        _all(_INTRODUCTION),
        hints=("name is", "called", "heiße"),
    ),
    Rule("NAME", _all(_CALLER), hints=("this is",)),
)
