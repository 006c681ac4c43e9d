"""What is taken out of a text before it is learned from, and what must stay."""

import random
import re
import string
import time

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


def test_an_iban_has_just_one_pair_of_check_digits() -> None:
    texts = [f"DE{pair:02} 3704 0044 0532 0130 00" for pair in range(2, 99)]
    assert [text for text in texts if scrub(text)[1]] == ["DE89 3704 0044 0532 0130 00"]


def test_a_long_text_keeps_all_but_its_secret() -> None:
    words = "who approves travel " * 300
    assert scrub(f"{words}a@b.de {words}")[0] == f"{words}[EMAIL] {words}"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Pay NO9386011117947 now", "Pay [IBAN] now"),
        ("pay de89370400440532013000", "pay [IBAN]"),
        ("FR14-2004-1010-0505-0001-3M02-606", "[IBAN]"),
        ("GB82 WEST 1234 5698 7654 32 TO MR X", "[IBAN] TO MR X"),
        ("4222222222222 and 30569309025904", "[CARD] and [CARD]"),
        ("378282246310005 or 3782 822463 10005", "[CARD] or [CARD]"),
        ("6759649826438453", "[CARD]"),
        ("122000000000003", "[CARD]"),  # air travel: the only fifteen digits that begin with 1
        ("SSN 123456789 or 219-09-9998", "SSN [SSN] or [SSN]"),
        ("social security number: 219.09.9998", "social security number: [SSN]"),
        ("from 192.168.7.0/24, 10.1.1.1:80", "from [IP], [IP]:80"),
        ("http://[2001:db8:7::42]:8080/", "http://[[IP]]:8080/"),
        ("ping 2001:db8:0:1:2:3:4:5.", "ping [IP]."),
        ("at fe80::a1b2%eth0/64, ::1 and ff02::fb", "at [IP], [IP] and [IP]"),
        ("::ffff:10.20.30.40 via 64:ff9b::10.1.2.3", "[IP] via [IP]"),
        ("route ::/0", "route [IP]"),
        ("MAC 3c:22:fb:01:02:aF or 3C-22-FB-01-02-AF", "MAC [MAC] or [MAC]"),
        ("MAC 3c22.fb01.02af", "MAC [MAC]"),
        ("(212) 736-5000 or 212.736.5000", "[PHONE] or [PHONE]"),
        ("1-800-555-0199, then 212 736 5000", "[PHONE], then [PHONE]"),
        ("+1 555 123 4567 ext. 12", "[PHONE] ext. 12"),
        ("0049 30 901820 or +44 (0)20 7946 0958", "[PHONE] or [PHONE]"),
        ("(030) 901820-15, 0171 1234567", "[PHONE], [PHONE]"),
        ("au 01 42 68 53 00 ou 01.42.68.53.00", "au [PHONE] ou [PHONE]"),
        ("Ring +33 1 42 68 53 00 12 times", "Ring [PHONE] 12 times"),
        ("4242 4242 4242 4242 4242", "[CARD] 4242"),
        ("call me at 7365000", "call me at [PHONE]"),
        ("Tel.: 5552127365", "Tel.: [PHONE]"),
        ("1BoatSLRHtKNngkdXEeobR76b53LETtpyT", "[WALLET]"),
        ("bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4", "[WALLET]"),
        (f"to 0x{'aB12' * 10}", "to [WALLET]"),
        ("my name is Anna Schmidt.", "my name is [NAME]."),
        ("Hello, this is Zoë van Dyk-Ruiz", "Hello, this is Zoë van Dyk-Ruiz"),
        ("this is Jean-Luc R. Meyer calling", "this is [NAME] calling"),
        ("Ich heiße Jörg Groß und", "Ich heiße [NAME] und"),
    ],
)
def test_what_belongs_to_a_person_or_a_machine_goes(text: str, clean: str) -> None:
    assert scrub(text)[0] == clean


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (f"ANTHROPIC sk-ant-api03-{KEY_BODY}", "ANTHROPIC [KEY]"),
        (f"sk_live_{KEY_BODY} hf_{'aBcD' * 8}", "[KEY] [KEY]"),
        (f"glpat-{KEY_BODY} npm_{KEY_BODY * 2}", "[KEY] [KEY]"),
        (f"pypi-AgEIcHlwaS5vcmc{KEY_BODY} github_pat_{KEY_BODY}", "[KEY] [KEY]"),
        (f"SG.{KEY_BODY}.{KEY_BODY} ya29.{KEY_BODY}", "[KEY] [KEY]"),
        (f"AC{'0a' * 16} 12345678:AA{'xY3' * 11}", "[KEY] [KEY]"),
        (f"abc8Q~{'a-B_' * 9}", "[KEY]"),
        (
            f"https://hooks.slack.com/services/T0000/B0000/{KEY_BODY}",
            "https://hooks.slack.com/services/[KEY]",
        ),
        ("aws_secret_access_key = " + "aB3/" * 10, "aws_secret_[PASSWORD]"),
        ("Authorization: Basic YWxhZGRpbjpv", "Authorization: Basic [TOKEN]"),
        ("-H 'Authorization: Bearer abcdefghijkl'", "-H 'Authorization: Bearer [TOKEN]'"),
        (f"bearer {KEY_BODY}", "bearer [TOKEN]"),
        ("eyJhbGciOiJub25lIn0.eyJzdWIiOiIxIn0. ok", "[TOKEN] ok"),
        ('{"password": "correct horse 1", "a": 2}', '{"[PASSWORD], "a": 2}'),
        ("DB_PASS=Winter24! clientSecret: 'x1y2z3'", "DB[PASSWORD] client[PASSWORD]"),
        ("The password for the guest wifi is Winter24", "The [PASSWORD]"),
        ("password: abc123 is xyz789!", "[PASSWORD] is xyz789!"),
        ("Das Passwort lautet MyDog2024", "Das [PASSWORD]"),
        ("Server=db;User Id=sa;Password=S3cret;", "Server=db;User Id=sa;[PASSWORD]"),
        ("x;AccountKey=" + "aB3+" * 20, "x;[PASSWORD]"),
        (
            "redis://:hunter2@h:1 mongodb+srv://u:p@ss@h",
            "redis://[URL_LOGIN]@h:1 mongodb+srv://[URL_LOGIN]@h",
        ),
    ],
)
def test_keys_and_logins_go(text: str, clean: str) -> None:
    assert scrub(text)[0] == clean


BODY = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC"


@pytest.mark.parametrize(
    "key",
    [
        f"-----BEGIN PRIVATE KEY-----\\n{BODY}\\n-----END PRIVATE KEY-----",  # as JSON writes it
        f"-----BEGIN OPENSSH PRIVATE KEY-----\n{BODY}\n-----END OPENSSH PRIVATE KEY-----",
        f"-----BEGIN PGP PRIVATE KEY BLOCK-----\nNote: a-b\n\n{BODY}\n-----END PGP PRIVATE KEY BLOCK-----",
        f"-----BEGIN RSA PRIVATE KEY-----\n{BODY}\n{BODY}",  # cut off
    ],
)
def test_private_keys_go_with_their_body(key: str) -> None:
    assert scrub(f"a {key} b") == ("a [PRIVATE_KEY] b", ["PRIVATE_KEY"])


@pytest.mark.parametrize(
    "text",
    [
        "Order 4155550132, order 12345678901, tracking 1Z999AA10123456784",
        "1.3.6.1.4.1.311 is no address",
        "The password is required 2 times",
        "DE893704004405320130001 and DE89370400440532013000X",
        "part 5551-212-736-5000",
        "version 1.2.3.4, v1.2.3.4, section 4.2.1.3 and OID 1.3.6.1.4.1.311",
        "2024-01-05T10:30:00Z, 05.12.2024 10:30, 01/02/2024-03/02/2024",
        "$1,234,567.89 or 1 234 567 890 or 12 34 56 78 90 12 34",
        "commit 8f953371d3e85eddb89b05ed6b9e680791055315",
        "id 550e8400-e29b-41d4-a716-446655440000, sha256:" + "ab12" * 16,
        "ISBN 978-3-16-148410-0, IMEI 356938035643809, room 01-02-03-04-05",
        "call 112, phone extension 4711, ext. 12345",
        "at 1748503543012 ms, lines 200-300 4000",
        "react@18.2.0 and git@github.com:org/repo.git",
        "x[::2], a[1::2], x[:, ::2], x[100::200], std::cout, fade::cafe, f :: Int",
        "12:34:56, ratio 1:2:3:4, 684d:1111:222:3333:77",
        "text2001:db8::1, fe80::1text, 12345:db8::1, 2001::db8::1, ::ffff:256.0.0.1",
        "FF:FF:FF:FF:FF:FF and 12-34-56-78-90",
        "AB82 WEST 1234 5698 7654 32",  # no such country
        "DE89 3704 0044 0532 0130 01",  # sixteen of its digits pass for a card
        "NL91 ABNA 0417 1643 01",  # and of these ten for a telephone number
        "1111111111111111 and 9111111111111111",  # no issuer begins with these
        "1BoatSLRHtKNngkdXEeobR76b53LETtpyU, bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t5",
        "password=$DB_PASS or ${DB_PASS_2} or your_password_1 or my_secret1",
        "api_key = os.environ['KEY_1'], token = tokenizer.encode(text, 2)",
        "def login(token: str, password: str) -> None: secret = generate(32)",
        "max_tokens: 40960, token: <your-token-1>",
        "pk_customer_order_items_id, sk-learn-contrib-something, hf_hub_download_with_retries",
        "Basic knowledge of authorization is needed by the bearer of this letter",
        "-----BEGIN CERTIFICATE-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\n-----END CERTIFICATE-----",
        "My name is Ava. My name is not important. This is Great Britain.",
    ],
)
def test_numbers_names_and_code_stay(text: str) -> None:
    assert scrub(text) == (text, [])


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("4111\u00a01111\u202f1111\u20091111", "[CARD]"),
        ("４１１１－１１１１－１１１１－１１１１", "[CARD]"),
        ("٤١١١١١١١١١١١١١١١", "[CARD]"),
        ("DE89\u20113704\u20110044\u20110532\u20110130\u201100", "[IBAN]"),
        ("+49\u00a030\u00a0901\u200b820 👩\u200d🔬\u00a0!", "[PHONE] 👩\u200d🔬\u00a0!"),
        ("ana\u00ad@\u200bfirma．de", "[EMAIL]"),
    ],
)
def test_unusual_digits_and_spaces_hide_nothing_and_stay_elsewhere(text: str, clean: str) -> None:
    assert scrub(text)[0] == clean


PIECES = [
    *string.printable,
    *("\ud800", "\udfff", "\0", "\u202e", "\u200b", "\ufeff", "é", "４", "٤", "²", "👍"),
    *("a@b.de", "4111 1111 1111 1111", "10.0.0.1", "2001:db8::1", "+49 30 901820", "eyJ", "::"),
    *(
        "password",
        "token: ",
        " is ",
        "Bearer ",
        "://",
        "[EMAIL]",
        "-----BEGIN RSA PRIVATE KEY-----",
    ),
    *(
        "sk-",
        "my name is ",
        "Anna ",
        "DE89",
        "3704 0044 0532 0130 00",
        "SSN ",
        "call ",
        "Authorization: ",
    ),
]


def test_any_text_is_taken_and_comes_out_final() -> None:
    dice = random.Random(7)
    for _ in range(3000):
        text = "".join(dice.choices(PIECES, k=dice.randrange(40)))
        clean, kinds = scrub(text)
        assert scrub(clean) == (clean, []), text
        assert (clean == text) == (not kinds), text


@pytest.mark.parametrize(
    "piece",
    [
        *(
            "1",
            "12 ",
            "012 ",
            "a@",
            "a@b.de ",
            " ",
            "eyJ.",
            "eyJaaaaaaaa.",
            "-----BEGIN",
            "a:",
            "1.",
        ),
        *(
            "-----BEGIN PRIVATE KEY-----",
            "sk-",
            "password=",
            "secret='",
            "://a:",
            "+49 30 ",
            "DE89 ",
        ),
    ],
)
def test_the_cost_grows_with_the_length_and_not_its_square(piece: str) -> None:
    def seconds(length: int) -> float:
        text = (piece * length)[:length]
        began = time.process_time()
        scrub(text)
        return time.process_time() - began

    short, long = (min(seconds(length) for _ in range(3)) for length in (2_000, 16_000))
    assert long < 30 * short + 0.02  # eight times the length; its square would be 64


def test_prose_costs_little_more_than_a_look() -> None:
    text = "Travel is approved by the head of the department, who is told a week before. " * 4
    began = time.process_time()
    for _ in range(1000):
        assert scrub(text) == (text, [])
    look = time.process_time()
    for _ in range(1000):
        re.search(r"\d|@|://|password|secret|token|key|bearer", text, re.IGNORECASE)
    assert look - began < time.process_time() - look
