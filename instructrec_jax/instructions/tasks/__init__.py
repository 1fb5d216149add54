"""The task bank. A new task is one generator, one entry here, and one file of templates."""

from functools import partial

from instructrec_jax.instructions.tasks import code, execution, text, translation
from instructrec_jax.instructions.tasks.task import Task
from instructrec_jax.instructions.tasks.text_bank import TEXT_TASKS

__all__ = ["TASKS", "Task"]

_CODE = ("python_definition",)
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
    "summarise_docstring": Task(
        "The text below a docstring's summary line → the summary line.",
        _CODE,
        code.summarise_docstring,
        target_source="intrinsic",
    ),
    "extract_summary": Task(
        "A whole docstring → its summary line.",
        _CODE,
        code.extract_summary,
        target_source="intrinsic",
        target_in_input="allowed",
    ),
    "document_function": Task(
        "A function → its docstring.",
        _CODE,
        code.document_function,
        target_source="intrinsic",
    ),
    "document_class": Task(
        "A class's header and method signatures → its docstring.",
        _CODE,
        code.document_class,
        target_source="intrinsic",
    ),
    "write_body": Task(
        "A signature and a docstring → the function's body.",
        _CODE,
        code.write_body,
        target_source="intrinsic",
    ),
    "name_function": Task(
        "A function without its name → the name.",
        _CODE,
        code.name_function,
        target_source="intrinsic",
        target_in_input="never",
    ),
    "list_parameters": Task(
        "A function's signature → the names of its parameters.",
        _CODE,
        code.list_parameters,
        target_source="intrinsic",
        target_in_input="allowed",
    ),
    "find_bug": Task(
        "A function with one mistake put in → the wrong line and its fix.",
        _CODE,
        code.find_bug,
        target_source="intrinsic",
    ),
    "classify_bug": Task(
        "A function with one mistake put in → the kind of mistake.",
        _CODE,
        code.classify_bug,
        target_source="intrinsic",
    ),
    "classify_change": Task(
        "A line before and after a mistake was put in → the kind of mistake.",
        _CODE,
        code.classify_change,
        target_source="intrinsic",
    ),
    "doctest_output": Task(
        "An interactive session in a docstring → what Python prints next.",
        _CODE,
        code.doctest_output,
        target_source="intrinsic",
    ),
    "predict_output": Task(
        "A function and a call → the value it returned when it was run.",
        _CODE,
        execution.predict_output,
        target_source="executed",
    ),
    "predict_type": Task(
        "A function and a call → the type of the value it returned when it was run.",
        _CODE,
        execution.predict_type,
        target_source="executed",
    ),
    "expose_bug": Task(
        "A function and a changed version → a call on which their runs differed.",
        _CODE,
        execution.expose_bug,
        target_source="executed",
    ),
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
}
