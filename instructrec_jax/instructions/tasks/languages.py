"""Tasks about the language of a text whose translation is at hand."""

from collections.abc import Iterator

from instructrec_jax.instructions.document import Context, Document, Draft

_LEAST_CHARACTERS = 12


def identify_text_language(document: Document, context: Context) -> Iterator[Draft]:
    """One of the texts of a translation → the language it is in, out of the document's languages.

    A text that is the same in another language, or too short to tell, is left out.
    """
    texts, names = document.content["texts"], document.content["names"]
    choose = context.random(document, "identify")
    code = choose.choice(sorted(texts))
    text = texts[code]
    same = sum(text.casefold() == other.casefold() for other in texts.values())
    # A Chinese character says as much as several letters.
    if len(text.encode()) >= _LEAST_CHARACTERS and same == 1 and len(names) > 1:
        options = tuple(choose.sample(sorted(names.values()), len(names)))
        fields = {"input": text, "options": options}
        yield Draft(fields, target=names[code], options=options)
