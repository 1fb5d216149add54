"""The task bank. A new task is one generator, one entry here, and one file of templates."""

from functools import partial

from instructrec_jax.instructions.tasks import synthesised, text, translation
from instructrec_jax.instructions.tasks.code_table import CODE_TASKS
from instructrec_jax.instructions.tasks.task import Task
from instructrec_jax.instructions.tasks.text_bank import TEXT_TASKS

__all__ = ["TASKS", "Task"]

_PROSE = ("prose",)
_LOCALES = ("locale",)
_TEXT = ("prose", "record", "python_definition", "package")


def _locale_translation(description: str, *phrases: str) -> Task:
    return Task(
        description=description,
        kinds=_LOCALES,
        generate=partial(translation.translate, phrases=phrases),
        target_source="parallel",
    )


# The task's name is also the name of its file of templates.
TASKS = {
    **CODE_TASKS,
    "open_topic": Task(
        "A section's heading → the opening of its text.",
        _PROSE,
        text.open_topic,
        target_source="intrinsic",
    ),
    "name_topic": Task(
        "A passage → the heading of its section.",
        _PROSE,
        text.name_topic,
        target_source="intrinsic",
        target_in_input="never",
    ),
    "complete_passage": Task(
        "The first sentences of a passage → the next ones.",
        _TEXT,
        text.complete_passage,
        target_source="intrinsic",
    ),
    "fill_blanks": Task(
        "Sentences with words blanked out → the words.",
        _TEXT,
        text.fill_blanks,
        target_source="intrinsic",
    ),
    "order_sentences": Task(
        "Numbered sentences in disorder → the right order.",
        _TEXT,
        text.order_sentences,
        target_source="intrinsic",
    ),
    "summarise_package": Task(
        "A package's description → its one-line summary.",
        ("package",),
        text.summarise_package,
        target_source="metadata",
    ),
    "translate_names": _locale_translation(
        "Names of countries, languages, scripts, currencies, days and months, from and to English.",
        *translation.NAMES,
    ),
    "translate_dates": _locale_translation(
        "Dates, and dates with times, from and to English.", "date", "date_and_time"
    ),
    "translate_measures": _locale_translation(
        "Numbers with units, from and to English.", "measure"
    ),
    "translate_amounts": _locale_translation("Amounts of money, from and to English.", "amount"),
    "translate_relative_times": _locale_translation(
        'Times such as "in 3 days", from and to English.', "relative_time"
    ),
    "translate_lists": _locale_translation(
        "Lists of countries or languages, from and to English.", "list"
    ),
    "translate_messages": Task(
        "Messages of programs, from a catalogue's language and to it.",
        ("catalogue_message",),
        translation.translate_texts,
        target_source="parallel",
    ),
    "translate_sentences": Task(
        "Lines of aligned files and subtitles, from one language to another.",
        ("parallel",),
        translation.translate_texts,
        target_source="parallel",
    ),
    "identify_language": Task(
        "A date, time, measure or amount in words → the language it is in.",
        _LOCALES,
        translation.identify_language,
        target_source="parallel",
    ),
    "normalise_date": Task(
        "A date in words, in any of the languages → the date in ISO 8601.",
        _LOCALES,
        translation.normalise_date,
        target_source="parallel",
    ),
    **TEXT_TASKS,
    "synthesised_pair": Task(
        "What a model asks about a document, and its answer.",
        ("synthesised",),
        partial(synthesised.made, direction="pair"),
        target_source="model",
        target_in_input="allowed",
    ),
    "synthesised_instruction": Task(
        "What a model says is asked where a document is the answer.",
        ("synthesised",),
        partial(synthesised.made, direction="instruction"),
        target_source="model",
    ),
}
