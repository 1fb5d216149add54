import email.message
from decimal import Decimal
from importlib import metadata

import pytest
from babel import Locale

from instructrec_jax.instructions.sources import (
    SOURCES,
    locale_names,
    locale_phrases,
    package_metadata,
    python_code,
    python_topics,
)

CODE = '''\
import math
import os.path as path
import re, sys


class Box(list):
    """A box.

    It holds things.
    """

    size: int = 1

    def area(
        self,
        scale: float = 1.0,  # of both sides
    ) -> float:
        """Return the area."""
        # two sides
        return math.prod((self.size, scale))

    def lone(self): return 1


async def later(x):
    await x


def outer():
    text = """
no indentation here
"""
    return text
'''


def documents_of(source):
    found = python_code.definitions(source, uri="m.py", licence="PSF-2.0")
    return {document.uri: document for document in found}


def test_python_code_documents():
    documents = documents_of(CODE)
    # A definition on one line and one that cannot be dedented are left out.
    assert list(documents) == ["m.py#Box", "m.py#Box.area", "m.py#later", "m.py#outer"]
    area = documents["m.py#Box.area"]
    assert area.span == (14, 20)
    assert area.group == "m.py"
    assert area.text.startswith("def area(\n    self,\n") and area.text.endswith("scale))")
    assert area.content == {
        "kind": "function",
        "name": "area",
        "signature": "def area(\n    self,\n    scale: float = 1.0,  # of both sides\n) -> float:",
        "docstring": "Return the area.",
        "body": "    # two sides\n    return math.prod((self.size, scale))",
        "code": "def area(\n    self,\n    scale: float = 1.0,  # of both sides\n) -> float:\n"
        "    # two sides\n    return math.prod((self.size, scale))",
        "methods": [],
        "modules": ("math", "re", "sys"),
    }
    box = documents["m.py#Box"].content
    assert box["kind"] == "class"
    assert box["docstring"] == "A box.\n\nIt holds things."
    assert box["methods"][1] == "def lone(self): return 1"


def test_python_code_that_does_not_parse_gives_nothing():
    assert documents_of("def f(:") == {}
    assert documents_of("x = '\0'") == {}


def test_a_form_feed_does_not_shift_lines():
    documents = documents_of("x = 1\n\x0c\ndef f(a):\n    b = a\n    return b\n")
    assert documents["m.py#f"].content["code"] == "def f(a):\n    b = a\n    return b"


def test_python_code_units_leave_out_other_peoples_code():
    names = [name for (name,) in python_code.units(())]
    assert "textwrap.py" in names and "json/decoder.py" in names
    assert names == sorted(names)
    parts = {part for name in names for part in name.split("/")[:-1]}
    assert not parts & python_code.EXCLUDED_FOLDERS


def test_topics_are_prose_with_a_heading_and_a_place(monkeypatch):
    text = (
        '\nThe "with" statement\n********************\n\nFirst thing.  It goes\non here.\n\n'
        "   code = 1\n\nThis introduces code:\n\nhalf a sentence.\n\n[1] A footnote.\n\nLast one.\n"
    )
    monkeypatch.setitem(python_topics.topics, "with", text)
    (document,) = python_topics.documents(("with",), (), 0)
    assert document.content == {
        "title": "The with statement",
        "headings": ("the Python language reference", "The with statement"),
        "work": "the Python language reference",
        "passage": "First thing. It goes on here.\nLast one.",
        "opens": True,
        "language": "en",
    }
    assert document.span == (5, 16)
    assert document.licence == "PSF-2.0"


def test_topics_break_into_passages(monkeypatch):
    paragraph = "A sentence that is here to fill the passage up. " * 10
    monkeypatch.setitem(python_topics.topics, "long", f"{paragraph}\n\n" * 3)
    documents = list(python_topics.documents(("long",), (), 0))
    assert [document.content["opens"] for document in documents] == [True, False, False]
    assert len({document.group for document in documents}) == 3


@pytest.mark.parametrize("block", ["The statement reads:", "   with_stmt ::= x", "lower case."])
def test_a_topic_whose_first_paragraph_is_left_out_has_no_opening(monkeypatch, block):
    text = f"\nThe statement\n*************\n\n{block}\n\nThis comes later.\n"
    monkeypatch.setitem(python_topics.topics, "with", text)
    (document,) = python_topics.documents(("with",), (), 0)
    assert document.content["passage"] == "This comes later."
    assert not document.content["opens"]


LANGUAGES = ("de", "zh", "fr")


def texts(kind, key):
    for unit in locale_names.units(LANGUAGES):
        if unit[0] == kind:
            for document in locale_names.documents(unit, LANGUAGES, 0):
                if document.uri == f"cldr:{key}":
                    return document.content["texts"]
    raise LookupError(key)


def test_names_in_all_languages():
    assert texts("territories", "territories/DE") == {
        "en": "Germany", "de": "Deutschland", "zh": "德国", "fr": "Allemagne",
    }  # fmt: skip
    assert texts("languages", "languages/ja")["fr"] == "japonais"
    assert texts("calendar", "calendar/month/3")["de"] == "März"
    assert texts("calendar", "calendar/day/0") == {
        "en": "Monday", "de": "Montag", "zh": "星期一", "fr": "lundi",
    }  # fmt: skip


def test_phrases_by_each_languages_own_patterns():
    import datetime

    day = datetime.date(2031, 4, 5)
    moment = datetime.datetime(2031, 4, 5, 14, 30)
    written = {
        code: [
            locale_phrases.plain_spaces(text)
            for text in (
                locale_phrases.date(day, "full", code),
                locale_phrases.date_and_time(moment, code),
                locale_phrases.measure(3.5, "length-kilometer", code) or "",
                locale_phrases.measure(1, "mass-kilogram", code) or "",
                locale_phrases.amount(Decimal("1234.50"), "RUB", code) or "",
                locale_phrases.relative_time(-3, "day", code) or "",
                locale_phrases.listing(["A", "B", "C"], "or", code) or "",
            )
        ]
        for code in ("en", "de", "zh", "ru")
    }
    assert written["en"] == [
        "Saturday, April 5, 2031",
        "April 5, 2031, 2:30 PM",
        "3.5 kilometers",
        "1 kilogram",
        "1,234.50 Russian rubles",
        "3 days ago",
        "A, B, or C",
    ]
    assert written["de"][2:6] == [
        "3,5 Kilometer",
        "1 Kilogramm",
        "1.234,50 Russische Rubel",
        "vor 3 Tagen",
    ]
    # Chinese has no long form of this unit in CLDR: the short one, not the unit's identifier.
    assert written["zh"][2] == "3.5公里"
    # The plural depends on the number.
    assert written["ru"][2] == "3,5 километра"
    assert locale_phrases.measure(5, "length-kilometer", "ru") == "5 километров"


def test_amounts_without_a_plural_in_the_language_are_not_written():
    def amount(currency, code, value="5.00"):
        return locale_phrases.amount(Decimal(value), currency, code)

    # CLDR has only the nominative of this one in Russian and in German.
    assert Locale.parse("ru").currencies["BEF"] == "Бельгийский франк"
    assert amount("BEF", "ru") is amount("BGM", "de") is None
    assert amount("BEF", "en") == "5.00 Belgian francs"
    # Chinese needs no plural.
    assert amount("EUR", "zh") == "5.00欧元"
    # The decimals that are shown count: "5,00" is no whole number to the plural rule.
    assert amount("RUB", "ru") == "5,00 российского рубля"
    assert amount("JPY", "ru", "5") == "5 японских иен"


def test_amounts_are_of_currencies_and_say_what_their_address_says():
    kinds = set()
    for unit in locale_names.units(LANGUAGES):
        if unit[0] != "amount":
            continue
        for document in locale_names.documents(unit, LANGUAGES, 0):
            _, currency, value = document.uri.split("/")
            kinds.add(currency)
            assert document.text.replace(",", "").startswith(f"{value} ")
            decimals = len(value.partition(".")[2])
            assert decimals == locale_phrases.currency_decimals(currency)
    assert len(kinds) > 50
    assert {"XAF", "XCD", "XOF"} & kinds
    assert not {"XTS", "XRE", "XPT", "XAU", "XAG", "XPD", "XXX", "USN"} & kinds


def test_the_hash_covers_all_languages():
    (german,) = locale_names._name_document("territories", "DE", ("de",))
    (both,) = locale_names._name_document("territories", "DE", ("de", "fr"))
    assert german.text == both.text == "Germany"
    assert german.sha256 != both.sha256
    assert german.identity != both.identity


def test_names_inside_phrases_are_never_held_out():
    lists = [unit for unit in locale_names.units(LANGUAGES) if unit[0] == "list"][:5]
    inside = set()
    for unit in lists:
        for document in locale_names.documents(unit, LANGUAGES, 0):
            inside |= set(document.uri.removeprefix("cldr:list/").split("/")[1].split("+"))
            assert document.group
    groups = {
        document.uri.rpartition("/")[2]: document.group
        for unit in locale_names.units(LANGUAGES)
        if unit[0] in ("territories", "languages")
        for document in locale_names.documents(unit, LANGUAGES, 0)
    }
    assert inside & set(groups)
    assert all(groups[key] == "" for key in inside & set(groups))
    assert sum(bool(group) for group in groups.values()) > 200


def test_forms_of_one_day_share_a_group():
    groups = {}
    for unit in locale_names.units(LANGUAGES):
        if unit[0] == "date":
            for document in locale_names.documents(unit, LANGUAGES, 0):
                if document.content["iso"]:
                    groups.setdefault(document.content["iso"], set()).add(document.group)
    assert len(groups) > 1000
    assert all(len(group) == 1 for group in groups.values())


def test_unknown_languages():
    assert locale_names.is_known_language("pt_BR")
    assert not any(map(locale_names.is_known_language, ("xx", "english", "", "e")))


class FakeDistribution(metadata.Distribution):
    def __init__(self, **fields):
        self.message = email.message.Message()
        for key, value in fields.items():
            self.message[key.replace("_", "-")] = value

    def read_text(self, filename):
        return self.message.as_string() if filename == "METADATA" else None

    def locate_file(self, path):
        raise NotImplementedError


DESCRIPTION = "Widgets turn gears in ways that nobody has yet described with any care."


@pytest.mark.parametrize(
    ("fields", "licence"),
    [
        ({"License_Expression": "MIT"}, "MIT"),
        ({"License": "BSD"}, "BSD"),
        ({"Classifier": "License :: OSI Approved :: MIT License"}, "MIT License"),
        ({"License": "UNKNOWN"}, None),
        ({"License": "x" * 61}, None),
        ({}, None),
    ],
)
def test_packages_need_a_named_licence(monkeypatch, fields, licence):
    package = FakeDistribution(
        Name="Widget", Version="1.0", Summary="Turns gears.", Description=DESCRIPTION, **fields
    )
    monkeypatch.setattr(metadata, "distribution", lambda name: package)
    documents = list(package_metadata.documents(("widget",), (), 0))
    assert [document.licence for document in documents] == ([licence] if licence else [])
    if licence:
        assert documents[0].uri == "widget==1.0"
        assert documents[0].content == {
            "name": "Widget", "summary": "Turns gears.", "description": DESCRIPTION,
        }  # fmt: skip


def test_descriptions_become_plain_text():
    markdown = (
        "# Title\n\n[![badge](https://b)](https://c)\n\n"
        "A [link](https://x) and `code` make up this sentence of enough words here.\n\n"
        "```python\nimport x\n```\n\n    indented code block that is not prose at all, no sir\n\n"
        "Too short.\n\nSee https://example.org for all of the many things we could say here."
    )
    text = package_metadata.plain_text(markdown)
    assert text == "A link and `code` make up this sentence of enough words here."


def test_every_source_gives_the_same_documents_twice():
    for source in SOURCES.values():
        unit = source.units(LANGUAGES)[3]
        first, second = (list(source.documents(unit, LANGUAGES, 7)) for _ in range(2))
        assert [d.identity for d in first] == [d.identity for d in second]
        assert [dict(d.content) for d in first] == [dict(d.content) for d in second]
