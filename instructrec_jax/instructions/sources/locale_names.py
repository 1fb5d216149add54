"""Parallel text from the Unicode CLDR, which `babel` ships: names, and whole phrases.

Names come straight from CLDR's tables. Phrases (dates, times, measures, amounts of money, relative
times, lists) are written by each language's own CLDR patterns, plural rules and number formats, so
that a document is one item in every language and a held-out document is an item that training saw
in none of them.

A name that is also used inside phrases ("component") is never held out by itself: otherwise a
training phrase would hold the translation of a test name. Such documents carry the group "".
"""

import datetime
import random
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import cache

from babel import Locale, UnknownLocaleError, localedata

from instructrec_jax.instructions import hashing
from instructrec_jax.instructions.document import Document
from instructrec_jax.instructions.sources import locale_phrases as phrases

LICENCE = "Unicode-3.0"
_CATEGORIES = ("territories", "languages", "scripts", "currencies", "locales", "calendar")
_COMPONENT_SHARE = 0.5
# What has a currency's code and is none: metals, units of account, bonds, funds, tests.
_NO_CURRENCIES = """
BOV CHE CHW CLF COU ECV MXV USN USS UYI UYW XAG XAU XBA XBB XBC XBD XDR XEU XFO XFU XPD XPT XRE XSU
XTS XUA XXX
"""
# Phrases of each kind.
_PHRASES = {
    "date": 3_000,
    "date_and_time": 1_500,
    "measure": 3_000,
    "amount": 2_000,
    "relative_time": 1_200,
    "list": 2_000,
}
# Names or phrases a unit.
_UNIT_SIZE = 20


def is_known_language(code: str) -> bool:
    """Whether CLDR has this locale, by its code (`de`, `pt_BR`)."""
    try:
        Locale.parse(code)
    except (UnknownLocaleError, ValueError, TypeError):
        return False
    return localedata.exists(code)


def canonical_code(code: str) -> str:
    """CLDR's own code of a locale (`zh_Hans_CN` for `zh_CN`); "" for one that it does not know."""
    try:
        found = str(Locale.parse(code))
    except (UnknownLocaleError, ValueError, TypeError):
        return ""
    return found if localedata.exists(found) else ""


def language_name(code: str) -> str:
    """The English name of a language, e.g. "German"."""
    return str(Locale.parse(code).get_display_name("en"))


def units(languages: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Runs of a category's names, and of numbered phrases of each kind."""
    sizes = {category: len(_keys(category)) for category in _CATEGORIES} | _PHRASES
    return [
        (kind, str(start)) for kind, count in sizes.items() for start in range(0, count, _UNIT_SIZE)
    ]


def documents(unit: tuple[str, ...], languages: tuple[str, ...], seed: int) -> Iterator[Document]:
    """Yield a run of names or phrases, each in English and all `languages`.

    `content`: `kind`, `texts` (language code → text; languages in which CLDR has no form are left
    out), `names` (language code → English name of the language), `iso` (dates: ISO 8601).
    """
    kind, start = unit
    if kind in _CATEGORIES:
        for key in _keys(kind)[int(start) : int(start) + _UNIT_SIZE]:
            yield from _name_document(kind, key, languages)
        return
    for index in range(int(start), int(start) + _UNIT_SIZE):
        choose = hashing.generator(seed, "locale_names", kind, index)
        item, iso, write = _PHRASE_KINDS[kind](choose)
        texts = _texts(write, languages)
        if "en" in texts and len(texts) > 1:
            # The forms of one day belong together.
            yield _document(kind, f"{kind}/{item}", texts, group=f"{kind}/{iso or item}", iso=iso)


@cache
def _keys(category: str) -> list[str]:
    english = _locale("en")
    if category == "locales":
        return _composed_locales()
    if category == "calendar":
        return [f"day/{n}" for n in range(7)] + [f"month/{n}" for n in range(1, 13)]
    return sorted(getattr(english, category))


@cache
def _locale(code: str) -> Locale:
    return Locale.parse(code)


@cache
def components(category: str) -> tuple[str, ...]:
    """The keys of a category whose names phrases are made of."""
    names = getattr(_locale("en"), category)
    return tuple(
        key
        for key in sorted(names)
        if hashing.fraction("component", names[key]) < _COMPONENT_SHARE
        and not (category == "currencies" and key in _NO_CURRENCIES.split())
    )


@cache
def _composed_locales() -> list[str]:
    """Locales such as fr_CH whose parts are all components."""
    parts = {
        "language": set(components("languages")),
        "territory": set(components("territories")),
        "script": set(components("scripts")),
    }
    chosen = []
    for code in sorted(localedata.locale_identifiers()):
        locale = _locale(code)
        values = {part: getattr(locale, part) for part in parts}
        composed = values["territory"] or values["script"]
        if composed and all(not value or value in parts[part] for part, value in values.items()):
            chosen.append(code)
    return chosen


def _name_document(category: str, key: str, languages: tuple[str, ...]) -> Iterator[Document]:
    texts = _texts(lambda code: _name(category, key, code), languages)
    english = texts.get("en", "")
    # A name that is its own code ("EUR", "Zsye") is no translation.
    if not english or english == key or len(texts) < 2:
        return
    held_in = category == "calendar" or (category != "locales" and key in components(category))
    group = "" if held_in else f"name/{english.casefold()}"
    yield _document(category, f"{category}/{key}", texts, group=group, iso="")


def _name(category: str, key: str, code: str) -> str | None:
    locale = _locale(code)
    if category == "locales":
        return _locale(key).get_display_name(locale)
    if category == "calendar":
        table, number = key.split("/")
        names = locale.days if table == "day" else locale.months
        return str(names["stand-alone"]["wide"][int(number)])
    name = getattr(locale, category).get(key)
    return str(name) if name and name != key else None


def _texts(write: Callable[[str], str | None], languages: tuple[str, ...]) -> dict[str, str]:
    written = ((code, write(code)) for code in ("en", *languages))
    return {code: phrases.plain_spaces(text) for code, text in written if text}


def _document(kind: str, key: str, texts: dict[str, str], *, group: str, iso: str) -> Document:
    return Document(
        corpus="locale_names",
        uri=f"cldr:{key}",
        span=None,
        text=texts["en"],
        licence=LICENCE,
        group=group,
        kind="locale",
        hashed="\n".join(f"{code}\t{text}" for code, text in sorted(texts.items())),
        content={
            "kind": kind,
            "texts": texts,
            "names": {code: language_name(code) for code in texts},
            "iso": iso,
        },
    )


# An item's key, its ISO 8601 date or "", and how a language writes it.
_Phrase = tuple[str, str, Callable[[str], str | None]]


def _date(choose: random.Random) -> _Phrase:
    day = datetime.date(1900, 1, 1) + datetime.timedelta(days=choose.randrange(200 * 365))
    form = choose.choice(("full", "full", "long", "long", "month"))
    if form == "month":
        return f"month/{day:%Y-%m}", "", lambda code: phrases.month_and_year(day, code)
    return f"{form}/{day}", day.isoformat(), lambda code: phrases.date(day, form, code)


def _date_and_time(choose: random.Random) -> _Phrase:
    day = datetime.date(1990, 1, 1) + datetime.timedelta(days=choose.randrange(60 * 365))
    moment = datetime.datetime.combine(
        day, datetime.time(choose.randrange(24), choose.randrange(12) * 5)
    )
    return moment.isoformat(), "", lambda code: phrases.date_and_time(moment, code)


def _measure(choose: random.Random) -> _Phrase:
    unit = choose.choice(phrases.MEASURE_UNITS)
    whole = choose.randrange(2, 10 ** choose.randint(1, 4))
    value = choose.choice((whole, whole, whole + choose.randrange(1, 10) / 10))
    return f"{unit}/{value}", "", lambda code: phrases.measure(value, unit, code)


def _amount(choose: random.Random) -> _Phrase:
    currency = choose.choice(components("currencies"))
    cents = choose.randrange(200, 10 ** choose.randint(3, 7))
    whole, exact = Decimal(cents // 100), Decimal(cents) / 100
    decimals = phrases.currency_decimals(currency)
    value = whole if not decimals else choose.choice((whole, exact))
    value = value.quantize(Decimal(1).scaleb(-decimals))
    return f"{currency}/{value}", "", lambda code: phrases.amount(value, currency, code)


def _relative_time(choose: random.Random) -> _Phrase:
    unit = choose.choice(phrases.RELATIVE_UNITS)
    count = choose.randrange(1, 100) * choose.choice((-1, 1))
    return f"{unit}/{count}", "", lambda code: phrases.relative_time(count, unit, code)


def _list(choose: random.Random) -> _Phrase:
    category = choose.choice(("territories", "languages"))
    keys = choose.sample(components(category), choose.randint(2, 4))
    styles: tuple[phrases.ListStyle, ...] = ("standard", "or")
    style = choose.choice(styles)

    def write(code: str) -> str | None:
        names = [_name(category, key, code) for key in keys]
        return phrases.listing([n for n in names if n], style, code) if all(names) else None

    return f"{style}/{'+'.join(keys)}", "", write


_PHRASE_KINDS: dict[str, Callable[[random.Random], _Phrase]] = {
    "date": _date,
    "date_and_time": _date_and_time,
    "measure": _measure,
    "amount": _amount,
    "relative_time": _relative_time,
    "list": _list,
}
