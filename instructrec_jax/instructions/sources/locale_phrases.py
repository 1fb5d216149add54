"""Phrases in any language by the patterns of the Unicode CLDR.

Each function takes a locale code last and gives None where CLDR has no such form in that language.
"""

import datetime
from decimal import Decimal
from typing import Literal, get_args

from babel import Locale, dates, lists, numbers, units

_UNITS = """
angle-degree area-acre area-hectare area-square-kilometer area-square-meter area-square-mile
digital-bit digital-byte digital-gigabyte digital-kilobyte digital-megabyte digital-terabyte
duration-day duration-hour duration-minute duration-month duration-second duration-week
duration-year electric-ampere electric-volt energy-calorie energy-joule energy-kilocalorie
energy-kilowatt-hour frequency-hertz frequency-megahertz length-centimeter length-foot
length-inch length-kilometer length-light-year length-meter length-mile length-millimeter
length-nautical-mile length-yard mass-gram mass-kilogram mass-milligram mass-ounce mass-pound
mass-tonne power-horsepower power-kilowatt power-watt pressure-hectopascal
speed-kilometer-per-hour speed-meter-per-second speed-mile-per-hour temperature-celsius
temperature-fahrenheit volume-cubic-meter volume-cup volume-gallon volume-liter
volume-milliliter volume-tablespoon volume-teaspoon
"""
MEASURE_UNITS = tuple(_UNITS.split())
RelativeUnit = Literal["year", "month", "week", "day", "hour", "minute", "second"]
ListStyle = Literal["standard", "or"]
RELATIVE_UNITS: tuple[RelativeUnit, ...] = get_args(RelativeUnit)
_SECONDS = dict(dates.TIMEDELTA_UNITS)
# CLDR sets numbers and marks with no-break and thin spaces and with invisible direction marks.
_SPACES = str.maketrans(
    {"\u00a0": " ", "\u202f": " ", "\u2009": " ", "\u200e": "", "\u200f": "", "\u061c": ""}
)


def plain_spaces(text: str) -> str:
    """The text with ordinary spaces and without direction marks, as people type it."""
    return text.translate(_SPACES)


def date(day: datetime.date, form: str, code: str) -> str:
    """A date in CLDR's `full` (with the weekday) or `long` form."""
    return str(dates.format_date(day, form, locale=code))


def month_and_year(day: datetime.date, code: str) -> str | None:
    """A month of a year, e.g. "April 2031"."""
    try:
        return str(dates.format_skeleton("yMMMM", day, locale=code))
    except KeyError:
        return None


def date_and_time(moment: datetime.datetime, code: str) -> str:
    """The long date and the short time, joined by the language's own pattern."""
    pattern = str(dates.get_datetime_format("long", locale=code)).replace("'", "")
    time = dates.format_time(moment, "short", locale=code)
    return pattern.replace("{0}", time).replace("{1}", date(moment.date(), "long", code))


def measure(value: float, unit: str, code: str) -> str | None:
    """A number with a unit, e.g. "3.5 kilometers"; languages without a long form use the short."""
    for length in ("long", "short"):
        text = units.format_unit(value, unit, length=length, locale=code)
        # babel falls back to the unit's identifier.
        if unit not in text:
            return str(text)
    return None


def amount(value: Decimal, currency: str, code: str) -> str | None:
    """An amount of money with the currency's name in the right plural, e.g. "12.50 euros".

    `value` has as many decimals as the currency, `currency_decimals`: the plural depends on those
    that are shown. CLDR gives no plurals of a currency in a language where they are unknown, and
    where they equal the name of a single one: nothing tells these apart, so neither is written.
    """
    locale = Locale.parse(code)
    plurals = locale._data["currency_names_plural"].get(currency, {})
    if locale.plural_form.tags and locale.plural_form(value) not in plurals:
        return None
    text = numbers.format_currency(value, currency, locale=code, format_type="name")
    return None if currency in text else str(text)


def currency_decimals(currency: str) -> int:
    """How many decimals amounts of the currency are written with."""
    return int(numbers.get_currency_precision(currency))


def relative_time(count: int, unit: RelativeUnit, code: str) -> str | None:
    """A time from now, e.g. "in 3 days" (3) or "3 days ago" (-3)."""
    delta = datetime.timedelta(seconds=count * _SECONDS[unit])
    text = dates.format_timedelta(
        delta, granularity=unit, threshold=1e9, add_direction=True, locale=code
    )
    return str(text) or None


def listing(items: list[str], style: ListStyle, code: str) -> str | None:
    """Items joined as the language does, with "and" (`standard`) or "or" (`or`)."""
    try:
        return lists.format_list(items, style=style, locale=code)
    except ValueError:
        return None
