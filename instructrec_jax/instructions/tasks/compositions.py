"""Two tasks chained on one document; only test examples are made of them."""

from collections.abc import Iterator

from instructrec_jax.instructions.document import Context, Document, Draft
from instructrec_jax.instructions.tasks import languages, text, translation
from instructrec_jax.instructions.tasks.keywords import passage_and_keywords
from instructrec_jax.instructions.tasks.sentences import is_sound, paragraphs_of

_SHOWN_SENTENCES = 3


def order_then_continue(document: Document, context: Context) -> Iterator[Draft]:
    """Three numbered sentences in disorder → their order, and the sentence that comes next."""
    for paragraph in paragraphs_of(document, context):
        run = paragraph[: _SHOWN_SENTENCES + 1]
        if len(run) <= _SHOWN_SENTENCES or not all(map(is_sound, run)):
            continue
        shown = list(range(_SHOWN_SENTENCES))
        context.random(document, "order", run[0]).shuffle(shown)
        lines = "\n".join(f"{place}. {run[i]}" for place, i in enumerate(shown, start=1))
        order = " ".join(str(shown.index(i) + 1) for i in range(_SHOWN_SENTENCES))
        yield Draft({"input": lines}, target=f"{order}\n{run[-1]}")
        return


def title_then_keywords(document: Document, context: Context) -> Iterator[Draft]:
    """A passage → the heading of its section, and below it the passage's key phrases."""
    shown, found = passage_and_keywords(document, context)
    if found:
        for draft in text.name_topic(document, context):
            if draft.target.casefold() not in shown.casefold():
                target = f"{draft.target}\n{', '.join(found)}"
                yield Draft({"input": shown, "count": len(found)}, target=target)


def identify_then_translate(document: Document, context: Context) -> Iterator[Draft]:
    """A text that is not English → its language, and below it the text in English."""
    content = document.content
    identify = (
        translation.identify_language
        if document.kind == "locale"
        else languages.identify_text_language
    )
    for draft in identify(document, context):
        if "en" in content["texts"] and draft.target != content["names"]["en"]:
            target = f"{draft.target}\n{content['texts']['en']}"
            yield Draft({"input": draft.input}, target=target)
