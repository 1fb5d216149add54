"""The tasks on running text, records, languages and tunes."""

from instructrec_jax.instructions.tasks import (
    compositions,
    denoising,
    discourse,
    keywords,
    languages,
    music,
    records,
    sentiment,
)
from instructrec_jax.instructions.tasks.task import Task

_PROSE = ("prose",)
_RECORD = ("record",)
_TEXT = ("prose", "record", "package")
_TRANSLATED = ("parallel", "catalogue_message")
_TUNE = ("tune",)

DISCOURSE_TASKS = {
    "relate_sentences": Task(
        "Two sentences → consequence, contrast or neither, by the connective that linked them.",
        _TEXT,
        discourse.relate_sentences,
        target_source="mined",
        target_in_input="never",
    ),
    "state_effect": Task(
        'A statement → what the text says follows from it, by "therefore" and the like.',
        _TEXT,
        discourse.state_effect,
        target_source="mined",
    ),
    "state_cause": Task(
        'A statement → the reason that the text gives, by "because" and the like.',
        _TEXT,
        discourse.state_cause,
        target_source="mined",
    ),
    "paraphrase_sentence": Task(
        'A sentence → the same put differently, by "in other words" and the like.',
        _TEXT,
        discourse.paraphrase_sentence,
        target_source="mined",
    ),
    "define_term": Task(
        'A term → the sentence that says what it is, by "X is a ..." or a record\'s fields.',
        _TEXT,
        discourse.define_term,
        target_source="mined",
    ),
    "name_term": Task(
        "A definition without its term → the term.",
        _TEXT,
        discourse.name_term,
        target_source="mined",
        target_in_input="never",
    ),
    "answer_question": Task(
        "A question from a heading, a FAQ or a record → its answer.",
        ("prose", "record"),
        discourse.answer_question,
        target_source="mined",
    ),
}

SUMMARY_TASKS = {
    "summarise_passage": Task(
        "A text without its first sentence → that sentence, where it sums up the rest.",
        _TEXT,
        records.summarise_passage,
        target_source="mined",
    ),
    "summarise_record": Task(
        "A record's text → its summary field.",
        _RECORD,
        records.summarise_record,
        target_source="metadata",
    ),
    "write_title": Task(
        "A record's text → its title.",
        _RECORD,
        records.write_title,
        target_source="metadata",
    ),
    "write_from_title": Task(
        "A record's title → the opening of its text.",
        _RECORD,
        records.write_from_title,
        target_source="intrinsic",
    ),
    "list_keywords": Task(
        "A passage → its key phrases, by RAKE and how often they come.",
        _TEXT,
        keywords.list_keywords,
        target_source="mined",
        target_in_input="allowed",
    ),
    "write_from_keywords": Task(
        "Key phrases → the sentence that they come from.",
        _TEXT,
        keywords.write_from_keywords,
        target_source="intrinsic",
    ),
}

DENOISING_TASKS = {
    "restore_spans": Task(
        "Sentences with several numbered gaps of some words each → the words of each gap.",
        _TEXT,
        denoising.restore_spans,
        target_source="intrinsic",
    ),
    "restore_sentence": Task(
        "Sentences with the one in the middle left out → that sentence.",
        _TEXT,
        denoising.restore_sentence,
        target_source="intrinsic",
    ),
    "order_words": Task(
        "The words of a sentence in disorder → the sentence.",
        _TEXT,
        denoising.order_words,
        target_source="intrinsic",
    ),
    "restore_punctuation": Task(
        "A text in small letters without punctuation → the text.",
        _TEXT,
        denoising.restore_punctuation,
        target_source="intrinsic",
    ),
    "correct_spelling": Task(
        "A sentence with typing errors put in → the sentence.",
        _TEXT,
        denoising.correct_spelling,
        target_source="intrinsic",
    ),
    "choose_next_sentence": Task(
        "Two sentences and four lettered ones of the same text → the letter of the next.",
        _TEXT,
        denoising.choose_next_sentence,
        target_source="intrinsic",
        target_in_input="allowed",
    ),
}

RECORD_TASKS = {
    "classify_record": Task(
        "A record's text → its label or category field.",
        _RECORD,
        records.classify_record,
        target_source="metadata",
        target_in_input="never",
    ),
    "write_labelled_text": Task(
        "A label and a title or key phrases → the text that carries the label.",
        _RECORD,
        records.write_labelled_text,
        target_source="intrinsic",
    ),
    "rate_sentiment": Task(
        "A rated text → negative, neutral or positive, by its rating field.",
        _RECORD,
        records.rate_sentiment,
        target_source="metadata",
        target_in_input="never",
    ),
    "write_review": Task(
        "A sentiment, by the rating field, and a title or key phrases → the rated text.",
        _RECORD,
        records.write_review,
        target_source="intrinsic",
    ),
    # Of records alone: in manuals "error" and "kill" are terms and no feelings.
    "judge_sentiment": Task(
        "A sentence of a record's text → negative or positive, by the VADER lexicon, where at "
        "least two strong words agree and none disagrees.",
        _RECORD,
        sentiment.judge_sentiment,
        target_source="mined",
        target_in_input="never",
    ),
    "read_column": Task(
        "A row with named values → the value of one column.",
        _RECORD,
        records.read_column,
        target_source="intrinsic",
        target_in_input="allowed",
    ),
    "describe_record": Task(
        "Some values of a row → the sentence of its text that holds them.",
        _RECORD,
        records.describe_record,
        target_source="mined",
    ),
    "extract_columns": Task(
        "A sentence of a row's text → the values of the row that it holds.",
        _RECORD,
        records.extract_columns,
        target_source="mined",
        target_in_input="allowed",
    ),
}

LANGUAGE_TASKS = {
    "identify_text_language": Task(
        "A text that a translation is known of → the language it is in.",
        _TRANSLATED,
        languages.identify_text_language,
        target_source="parallel",
        target_in_input="never",
    ),
}

MUSIC_TASKS = {
    "name_key": Task(
        "A tune with its accidentals written out → its key.",
        _TUNE,
        music.name_key,
        target_source="metadata",
        target_in_input="allowed",
    ),
    "name_metre": Task(
        "A tune → its metre; every bar is as long as it.",
        _TUNE,
        music.name_metre,
        target_source="metadata",
        target_in_input="allowed",
    ),
    "continue_tune": Task(
        "A tune without its last four bars → these.",
        _TUNE,
        music.continue_tune,
        target_source="intrinsic",
        target_in_input="allowed",
    ),
    "write_tune": Task(
        "Title, metre and key → the tune.",
        _TUNE,
        music.write_tune,
        target_source="intrinsic",
    ),
    "title_tune": Task(
        "A tune → its title.",
        _TUNE,
        music.title_tune,
        target_source="metadata",
    ),
}

COMPOSITIONS = {
    "order_then_continue": Task(
        "Numbered sentences in disorder → their order, and the next sentence.",
        _TEXT,
        compositions.order_then_continue,
        target_source="intrinsic",
        composition=("order_sentences", "complete_passage"),
    ),
    "title_then_keywords": Task(
        "A passage → the heading of its section, and its key phrases.",
        _PROSE,
        compositions.title_then_keywords,
        target_source="mined",
        composition=("name_topic", "list_keywords"),
    ),
    "identify_then_translate": Task(
        "A text that is not English → its language, and the text in English.",
        ("locale", *_TRANSLATED),
        compositions.identify_then_translate,
        target_source="parallel",
        composition=("identify_language", "translate_dates"),
    ),
}

TEXT_TASKS = {
    **DISCOURSE_TASKS,
    **SUMMARY_TASKS,
    **DENOISING_TASKS,
    **RECORD_TASKS,
    **LANGUAGE_TASKS,
    **MUSIC_TASKS,
    **COMPOSITIONS,
}
