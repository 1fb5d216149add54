"""What languages are called, by Unicode's CLDR."""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from babel import Locale

# "Chinese (Traditional, Taiwan)": a language, and its script and territory.
_PARTS = re.compile(r"(?P<language>[^()]+?)(?: \((?P<further>[^()]+)\))?")


def in_chinese(name: str) -> str:
    """The Chinese name of a language that CLDR calls by this English one: "波兰语" for "Polish".

    "葡萄牙语（巴西）" for "Portuguese (Brazil)". Any other text is given back as it is.
    """
    found = _PARTS.fullmatch(name)
    if not found:
        return name
    languages, further = _chinese_names()
    parts = found["further"].split(", ") if found["further"] else []
    if found["language"] not in languages or not all(part in further for part in parts):
        return name
    more = f"（{'，'.join(further[part] for part in parts)}）" if parts else ""
    return languages[found["language"]] + more


@lru_cache
def _chinese_names() -> tuple[dict[str, str], dict[str, str]]:
    """The Chinese names of languages, and of scripts and territories, by their English ones."""
    english, chinese = Locale("en"), Locale("zh")
    languages = _by_name(english.languages, chinese.languages)
    territories = _by_name(english.territories, chinese.territories)
    return languages, territories | _by_name(english.scripts, chinese.scripts)


def _by_name(english: Mapping[Any, str], chinese: Mapping[Any, str]) -> dict[str, str]:
    return {name: chinese[code] for code, name in english.items() if code in chinese}
