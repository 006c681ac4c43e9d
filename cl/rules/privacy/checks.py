"""Checksums and number plans: whether what looks like a card, an IBAN or an address is one."""

import hashlib
import ipaddress
import re

_IBAN_LENGTHS = {
    country: int(length)
    for country, length in re.findall(
        r"(\w\w)(\d\d)",
        "AD24 AE23 AL28 AO25 AT20 AZ28 BA20 BE16 BF28 BG22 BH22 BI27 BJ28 BR29 BY28 CF27 CG27 CH21 "
        "CI28 CM27 CR22 CV25 CY28 CZ24 DE22 DJ27 DK18 DO28 DZ26 EE20 EG29 ES24 FI18 FK18 FO18 FR27 "
        "GA27 GB22 GE22 GI23 GL18 GQ27 GR27 GT28 GW25 HN28 HR21 HU28 IE22 IL23 IQ23 IR26 IS26 IT27 "
        "JO30 KM27 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MA28 MC27 MD24 ME22 MG27 MK19 ML28 "
        "MN20 MR27 MT31 MU30 MZ25 NE28 NI28 NL18 NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24 RS22 RU33 "
        "SA24 SC31 SD18 SE24 SI19 SK24 SM27 SN28 SO23 ST25 SV28 TD27 TG28 TL23 TN24 TR26 UA29 VA22 "
        "VG24 XK20 YE30",
    )
}

# The digits a card begins with and how many it may have, as the issuers have shared them out.
_CARDS = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})"  # Visa
    r"|(?:5[1-5]|2[2-7])\d{14}"  # Mastercard, Mir
    r"|3[47]\d{13}|1\d{14}"  # American Express, UATP
    r"|3[0689]\d{12}|36\d{14}"  # Diners Club
    r"|35\d{14,17}"  # JCB
    r"|(?:5[06-8]|6\d)\d{14,17}"  # Maestro, Discover, UnionPay, RuPay
    r"|(?:8[12]|97)\d{14}"  # RuPay, Troy
)
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"


def card_length(digits: str) -> int:
    """How many of the digits make up a card number; 0 if it begins with none."""
    lengths = (n for n in range(len(digits), 12, -1) if _CARDS.fullmatch(digits[:n]))
    return next((n for n in lengths if _is_luhn(digits[:n])), 0)


def _is_luhn(digits: str) -> bool:
    values = [int(digit) for digit in reversed(digits)]
    doubled = sum(2 * value - 9 * (value > 4) for value in values[1::2])
    return (sum(values[::2]) + doubled) % 10 == 0


def iban_length(code: str) -> int:
    """How many of the letters and digits make up an IBAN; 0 if it begins with none."""
    code = code.upper()
    length = _IBAN_LENGTHS.get(code[:2], 0)
    if not 0 < length <= len(code):
        return 0
    rotated = code[4:length] + code[:4]
    is_real = int("".join(str(int(letter, 36)) for letter in rotated)) % 97 == 1
    return length if is_real else 0


def has_ibans(country: str) -> bool:
    return country in _IBAN_LENGTHS


def is_ipv4(address: str) -> bool:
    """Not "01.42.68.53", which a telephone number of France begins with."""
    is_padded = address[0] == "0" and address[1] != "."
    return not is_padded and all(int(part) < 256 for part in address.split("."))


def is_ipv6(address: str) -> bool:
    """Also that it is more than a slice such as `::2` or a qualified name such as `fade::cafe`."""
    try:
        ipaddress.IPv6Address(address)
    except ValueError:
        return False
    has_long_part = any(len(part) > 2 for part in address.split(":"))
    is_wide = has_long_part or address == "::1" or "::" not in address
    return is_wide and any(character.isdigit() for character in address)


def is_bitcoin(address: str) -> bool:
    """Base58check (`1...`, `3...`) or bech32 (`bc1...`)."""
    if address.startswith("bc1"):
        return _bech32_remainder(address) in (1, 0x2BC830A3)
    number = 0
    for character in address:
        number = number * 58 + _BASE58.index(character)
    if number >> 200:
        return False
    coded = number.to_bytes(25)
    return hashlib.sha256(hashlib.sha256(coded[:21]).digest()).digest()[:4] == coded[21:]


def _bech32_remainder(address: str) -> int:
    values = [3, 3, 0, 2, 3, *(_BECH32.index(character) for character in address[3:])]
    remainder = 1
    for value in values:
        top = remainder >> 25
        remainder = (remainder & 0x1FFFFFF) << 5 ^ value
        for bit, factor in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            remainder ^= factor if top >> bit & 1 else 0
    return remainder
