"""What is taken out of a text before it is learned from, and what must stay."""

import random
import string

import pytest

from cl.rules.privacy import scrub

KEY_BODY = "abcdefghijklmnop1234"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Write to ana.b+c@mail.example.co.uk.", "Write to [EMAIL]."),
        ("Grüße an jörg@müller.example", "Grüße an [EMAIL]"),
        ("Card 4111 1111 1111 1111, thanks", "Card [CARD], thanks"),
        ("378282246310005 and", "[CARD] and"),  # fifteen digits
        ("Card 4111 1111 1111 1111 12/27", "Card [CARD] 12/27"),
        ("Order 12 4111-1111-1111-1111 123", "Order 12 [CARD] 123"),
        ("IBAN BE68 5390 0754 7034 BIC GKCCBEBB", "IBAN [IBAN] BIC GKCCBEBB"),
        ("My password is: hunter22", "My [PASSWORD]"),
        ("5555-5555-5555-4444", "[CARD]"),
        ("IBAN: DE89 3704 0044 0532 0130 00.", "IBAN: [IBAN]."),
        ("GB82WEST12345698765432", "[IBAN]"),
        ("SSN 123-45-6789", "SSN [SSN]"),
        ("The server is 10.0.0.255.", "The server is [IP]."),
        ("Call +49 30 901820 today", "Call [PHONE] today"),
        ("Ring 020 7946 0958", "Ring [PHONE]"),
        ("password: hunter22", "[PASSWORD]"),
        ("My password is Sommer2024 now", "My [PASSWORD] now"),
        ("API_KEY='abcd1234'", "[PASSWORD]"),
        ("postgresql://app:s3cret@db/logs", "postgresql://[URL_LOGIN]@db/logs"),
        (f"use sk-proj-{KEY_BODY}", "use [KEY]"),
        (f"use ghp_{KEY_BODY}", "use [KEY]"),
        (f"use xoxb-{KEY_BODY}", "use [KEY]"),
        ("use AKIAIOSFODNN7EXAMPLE", "use [KEY]"),
        ("use AIza" + "x" * 35, "use [KEY]"),
        ("Bearer eyJhbGciOiJI.eyJzdWIiOiIx.SflKxwRJ", "Bearer [TOKEN]"),
    ],
)
def test_each_kind_is_replaced_by_its_name(text: str, clean: str) -> None:
    kind = clean[clean.index("[") + 1 : clean.index("]")]
    assert scrub(text) == (clean, [kind])


def test_a_private_key_goes_whole() -> None:
    text = "Use\n-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nabc=\n-----END RSA PRIVATE KEY-----\nok"
    assert scrub(text) == ("Use\n[PRIVATE_KEY]\nok", ["PRIVATE_KEY"])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Mirela Dorn approves travel in Lohfelden.",
        "4111 1111 1111 1112",  # Luhn says no
        "GB82 WEST 1234 5698 7654 33",  # mod 97 says no
        "000-12-3456 and 900-12-3456",  # never given out
        "999.1.1.1 and version 1.2.3",
        "Extension 4711, room 12, shelf 030/90182, invoice 100200300",
        "12.05.2024, 9:00-17:00, 2024-01-05 10:30",
        "How do I reset my password?",
        "How do I know if my password is expired?",
        "The password is required here.",
        "Pi is 3.14159265358979",
        "see https://example.com:8080/a@b",
        "東京 👍 @home #1",
    ],
)
def test_what_only_looks_like_a_secret_stays(text: str) -> None:
    assert scrub(text) == (text, [])


def test_kinds_are_told_once_for_each_finding() -> None:
    clean, kinds = scrub("+49 30 901820, a@b.de, 10.0.0.1, c@d.de and +49 30 901821")
    assert clean == "[PHONE], [EMAIL], [IP], [EMAIL] and [PHONE]"
    assert kinds == ["EMAIL", "EMAIL", "IP", "PHONE", "PHONE"]


def test_a_cleaned_text_is_not_changed_again() -> None:
    dice = random.Random(3)
    secrets = ["a@b.de", "4111 1111 1111 1111", "10.0.0.1", "+49 30 901820", "pwd=Secr3t!x"]
    for _ in range(30):
        parts = dice.choices([*secrets, "Who approves travel?", "ok, "], k=4)
        once, kinds = scrub("\n".join(parts))
        assert scrub(once) == (once, [])
        assert len(kinds) == sum(part in secrets for part in parts)


def test_a_number_is_a_card_only_with_the_right_check_digit() -> None:
    body = "411111111111111"
    for digit in string.digits:
        expected = "[CARD]" if digit == "1" else body + digit
        assert scrub(body + digit)[0] == expected


def test_a_long_text_keeps_all_but_its_secret() -> None:
    words = "who approves travel " * 300
    assert scrub(f"{words}a@b.de {words}")[0] == f"{words}[EMAIL] {words}"
