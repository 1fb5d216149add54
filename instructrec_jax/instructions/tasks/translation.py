"""Tasks about languages, from the same text in several of them."""

from collections.abc import Iterator

from instructrec_jax.instructions.document import Context, Document, Draft

NAMES = ("territories", "languages", "scripts", "currencies", "locales", "calendar")
# A phrase is translated from and to so many languages; names, which are few, with all of them.
_LANGUAGES_PER_PHRASE = 3
_DATES_PER_ITEM = 2


def _languages(document: Document, context: Context, *, count: int) -> list[str]:
    """Some of the document's languages other than English."""
    others = sorted(code for code in document.content["texts"] if code != "en")
    return context.random(document, "languages").sample(others, min(count, len(others)))


def translate(document: Document, context: Context, *, phrases: tuple[str, ...]) -> Iterator[Draft]:
    """A name or phrase of the CLDR kinds `phrases` → the same from and to English."""
    content = document.content
    if content["kind"] not in phrases:
        return
    count = len(content["texts"]) if content["kind"] in NAMES else _LANGUAGES_PER_PHRASE
    for code in _languages(document, context, count=count):
        for source, target in (("en", code), (code, "en")):
            fields = {
                "input": content["texts"][source],
                "source_language": content["names"][source],
                "target_language": content["names"][target],
            }
            yield Draft(fields, target=content["texts"][target])


def identify_language(document: Document, context: Context) -> Iterator[Draft]:
    """A phrase → the language it is in; phrases that two languages share are left out."""
    content = document.content
    if content["kind"] in NAMES or content["kind"] == "list":
        return
    choose = context.random(document, "identify")
    code = choose.choice(sorted(content["texts"]))
    text = content["texts"][code]
    if sum(text == other for other in content["texts"].values()) == 1:
        names = sorted(content["names"].values())
        options = tuple(choose.sample(names, len(names)))
        fields = {"input": text, "options": options}
        yield Draft(fields, target=content["names"][code], options=options)


def normalise_date(document: Document, context: Context) -> Iterator[Draft]:
    """A date in words, in any language → the date in ISO 8601."""
    content = document.content
    if not content["iso"]:
        return
    for code in ["en", *_languages(document, context, count=_DATES_PER_ITEM - 1)]:
        fields = {"input": content["texts"][code], "source_language": content["names"][code]}
        yield Draft(fields, target=content["iso"])


def translate_texts(document: Document, context: Context) -> Iterator[Draft]:
    """A text of a catalogue or of aligned files → the same in another language, both ways.

    Of many languages a few are paired with the first one.
    """
    content = document.content
    first, *others = content["texts"]
    count = min(_LANGUAGES_PER_PHRASE, len(others))
    for other in context.random(document, "languages").sample(others, count):
        for source, target in ((first, other), (other, first)):
            fields = {
                "input": content["texts"][source],
                "source_language": content["names"][source],
                "target_language": content["names"][target],
            }
            yield Draft(fields, target=content["texts"][target])
