import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instructrec_jax.instructions.personal_data import entropy, finding, is_card_number, is_iban


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ask jane.roe+list@mail.uni-example.de about it.", "personal_data"),
        ("Ask someone@example.com or admin@host.test.", ""),
        ("@decorator\ndef f(a @ b): pass", ""),
        ("Ring +49 30 901820 22 or write.", "personal_data"),
        ("Ring (212) 736-5000.", "personal_data"),
        ("Ring 212-736-5000.", "personal_data"),
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
