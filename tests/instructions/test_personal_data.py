import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instructrec_jax.instructions.personal_data import (
    PATTERNS,
    entropy,
    finding,
    is_card_number,
    is_iban,
    masked,
    parts_of,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ask jane.roe+list@mail.uni-example.de about it.", "personal_data"),
        ("Ask someone@example.com or admin@host.test.", ""),
        ("@decorator\ndef f(a @ b): pass", ""),
        ("Ring +49 30 901820 22 or write.", "personal_data"),
        ("Ring (212) 736-5000.", "personal_data"),
        ("Ring 212-736-5000.", "personal_data"),
        ("Ring 1-212-736-5000 now.", "personal_data"),
        ("Ring (212) 555-0123, 212-555-0199, +1 212 555 0100 or phone: 555-1234.", ""),
        ("打 13812345679 找他。", "personal_data"),
        ("Mobile 138-1234-5679.", "personal_data"),
        ('{"phone": "030 901820 22"}', "personal_data"),
        ('{"phone": "13812345679"}', "personal_data"),
        ("Sizes 17179869184, 15000000000, 13604889600 and 13.812345679e3, id 913812345679.", ""),
        ("Tel. 030 901820 22", "personal_data"),
        ("Telefon: 089/12 34 56 0", "personal_data"),
        ("fax: (020) 7946 0958", "personal_data"),
        ("TeLEfon 030 901820 22", "personal_data"),
        ("phone number: 07700 900982", "personal_data"),
        ("电话:010-62345678", "personal_data"),
        ("phone=0123456789 or tel: 000-0000", ""),
        ("The telephone of 1876 and telephony 2 10 20, axon 12 345 678.", ""),
        ("Logged in from 93.184.216.34 today.", "personal_data"),
        ("http://93.184.216.34:8080/x", "personal_data"),
        ("IP address: 5.9.12.3", "personal_data"),
        ("version 93.184.216.34, v11.22.33.44, lib==41.52.63.74, Chrome/41.0.2227.1", ""),
        ("In sections \"8.2.4.44\", ['7.1.4.34', 1806], 12.34.56.78, 1.0.0.127, +4294967296", ""),
        ("Section 1.2.3.4; OID 1.3.6.1.4.1; mask 255.255.255.0; 17.0.0.0/8; 300.1.2.3", ""),
        ("127.0.0.1, 10.20.30.40, 192.168.77.88, 203.0.113.99, 198.51.100.77, 8.8.8.8", ""),
        ("From 2a02:8108:9640:1200:d1c:3e54:7b1:99ab.", "personal_data"),
        ("From 2001:4860:4801:33::21", "personal_data"),
        ("2001:db8::1, ::1, fe80::1, 3fff::5, 2001:4860:4860::8888, 2001:4860::/32, 2019:12::", ""),
        ("SSN 536-22-1234 was his.", "personal_data"),
        ("Parts 000-22-1234, 666-22-1234 and 536-22-12345.", ""),
        ("From 2019-05-14 to 2020-11-02, 1,234,567 times, +3.5 % and +12.", ""),
        ("Card 4111 1111 1111 1111 was used", "personal_data"),
        ("Card 4111 1111 1111 1112 was used", ""),
        ("pi = 3.14159265358979323846", ""),
        ("Pay to DE89 3704 0044 0532 0130 00 please", "personal_data"),
        ("Pay to DE89 3704 0044 0532 0130 01 please", ""),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE", "secret"),
        ("aws AKIAIOSFODNN7EXAMPLE", "secret"),
        ("ghp_" + "a1B2" * 9, "secret"),
        ("xoxb-1234567890-abcdefghij", "secret"),
        ("https://user:s3cretpw@host.org/x", "secret"),
        ('api_key = "q7Jd82kLs0Pz5mXv"', "secret"),
        ("password = getpass.getpass()", ""),
        ("token = next_token_of_the_line", ""),
        ("", ""),
    ],
)
def test_findings(text, expected):
    assert finding(text) == expected


def test_check_sums():
    assert is_card_number("378282246310005") and not is_card_number("378282246310006")
    assert not is_card_number("9" * 16)
    assert is_iban("GB82WEST12345698765432") and not is_iban("GB82")
    assert entropy("aaaa") == 0 and entropy("abcd") == 2


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=200))
def test_any_text_gets_an_answer(text):
    assert finding(text) in ("", "secret", "personal_data")


KEY_LINES = [
    "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtz",
    "c2gtZWQyNTUxOQAAACBxN0pkODJrTHMwUHo1bVh2R1RhZ2FTZDNRd0VyVHlVaU9w",
    "QXNEZkdoSmtMeldlUnR5VWlPcEFzRGZHaEprTHpYY1ZiTm0xMjM0NTY3ODkwcXdl",
]
KEY = "\n".join(KEY_LINES)
# What must not be shown, in a text around it, and what tells that it stood there.
SHOWN = [
    (KEY, "-----BEGIN OPENSSH PRIVATE KEY-----\n{}\n-----END OPENSSH PRIVATE KEY-----", "secret"),
    (KEY, "A cut key: -----BEGIN RSA PRIVATE KEY-----\n{}", "secret"),
    (KEY, "{}\n-----END PRIVATE KEY-----\nThe end.", "secret"),
    (KEY, "The middle of one:\n{}\nThe end.", "secret"),
    ("AKIAIOSFODNN7ABCDEFG", "aws {} here", "secret"),
    ("ghp_" + "a1B2" * 9, "token {}.", "secret"),
    ("q7Jd82kLs0;Pz5mXv", 'api_key = "{}", other', "secret"),
    ("root:s3cretpw", "postgres://{}@db/x", "secret"),
    ("dGhpcy1pcy1hLXRva2VuLTEyMzQ1", "Authorization: Bearer {}", "secret"),
    ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJlLTEyMw", "jwt {}", "secret"),
    ("jane.roe@mail.uni-berlin.de", "Write to {} or not.", "e-mail address"),
    ("+49 30 901820 22", "Ring {}.", "telephone number"),
    ("030 901820 22", "Tel. {}", "telephone number"),
    ("4111 1111 1111 1111", "Card {} was used", "card number"),
    ("DE89 3704 0044 0532 0130 00", "Pay to {} please", "account number"),
    ("536-22-1234", "SSN {} was his.", "social security number"),
    ("93.184.216.34", "Logged in from {} today.", "internet address"),
]


@pytest.mark.parametrize(("hidden", "around", "name"), SHOWN)
def test_what_is_found_is_masked_and_named(hidden, around, name):
    text = around.format(hidden)
    shown = masked(text)
    assert f"[{name} masked]" in shown
    assert not finding(shown)
    assert not [line for line in hidden.split("\n") if line in shown]
    # What stood around it is left, but for a private key's own lines.
    first, _, last = around.partition("{}")
    assert "PRIVATE KEY" in around or shown == f"{first}[{name} masked]{last}"
    # A draft may have cut it in the middle of a line.
    word = hidden.split()[0]
    part = word[: len(word) // 2]
    assert len(word) < 16 or part not in masked(f"{part} ____ and so on", parts_of(text))


@given(st.text(), st.lists(st.sampled_from([hidden for hidden, _, _ in SHOWN]), max_size=3))
@settings(max_examples=60, deadline=None)
def test_nothing_is_found_in_a_masked_text(text, planted):
    assert not finding(masked(" ".join([text, *planted, text])))
    assert masked(text) == text or finding(text)


_PIECES = """
tel tEL Tele ephone PHONE pHoNe Telefon telefono tél TÉL éphone fon FoN fAX mobil MOBILE mobıl MOBİL
ᲄел тел ТЕЛ 电话 電話 手机 number no. is x . : = - ( ) ' 030 9018 20 7946 1 _
"""


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([*_PIECES.split(), " "]), max_size=14).map("".join))
def test_a_hint_stands_in_every_telephone_number_with_a_word(text):
    (pattern,) = (pattern for pattern in PATTERNS if pattern.any_case)
    # The words alone, before any number.
    words = pattern.expression.pattern.partition("[.]?")[0]
    for expression in (words, pattern.expression.pattern):
        if re.search(expression, text, re.IGNORECASE):
            assert any(hint in text.lower() for hint in pattern.hints)
