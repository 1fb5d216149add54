"""What the generators on running text and records make of small documents, by hand."""

import re

import pytest
from text_documents import (
    CHINESE,
    KEYWORDS_PASSAGE,
    LEAD,
    PASSAGE,
    REST,
    REVIEW,
    all_documents,
    document,
    prose,
)

from instructrec_jax.instructions.document import KINDS
from instructrec_jax.instructions.filters import _is_copy
from instructrec_jax.instructions.tasks import TASKS
from instructrec_jax.instructions.tasks.keywords import keywords_of
from instructrec_jax.instructions.tasks.sentences import is_sound, joined, sentences
from instructrec_jax.instructions.tasks.text_bank import TEXT_TASKS

CONTRAST = (
    "The keeper lights the lamp every evening.",
    "The lamp goes out in a heavy storm.",
)
CONSEQUENCE = ("Ships cannot see the coast without the lamp.", "Captains stay far from the coast.")


def pairs(drafts):
    return [(draft.input, draft.target) for draft in drafts]


def test_sentences_end_where_they_end():
    text = "See e.g. Linux. Dr. Hill came.  Then he left! Why? 他来了。“走吧。”她说。"
    assert sentences(text) == [
        "See e.g. Linux.",
        "Dr. Hill came.",
        "Then he left!",
        "Why? 他来了。",
        "“走吧。”",
        "她说。",
    ]
    assert joined(["One.", "Two."]) == "One. Two." and joined(["一。", "二。"]) == "一。二。"


@pytest.mark.parametrize(
    ("sentence", "sound"),
    [
        ("The lamp goes out in a storm.", True),
        ("the lamp goes out in a storm.", False),
        ("The lamp goes out in a storm", False),
        ("The lamp (goes out in a storm.", False),
        ("Call f(x) = y[0] to light the lamp.", False),
        ("See https://example.com for the lamp.", False),
        ("Table 3 shows all lamps of the coast.", False),
        ("THE LAMP IS PROVIDED WITHOUT ANY WARRANTY.", False),
        ("Too short.", False),
        ("灯塔的灯在暴风雨中熄灭了。", True),
        ("灯塔的灯（在暴风雨中熄灭了。", False),
    ],
)
def test_what_a_sentence_is(sentence, sound):
    assert is_sound(sentence) is sound


def test_relations_lose_their_connective(drafts_of):
    seen = set()
    for number in range(30):
        for draft in drafts_of("relate_sentences", prose(PASSAGE, uri=str(number))):
            first, second = re.fullmatch(r"1\. (.*)\n2\. (.*)", draft.input).groups()
            assert sorted(draft.options) == ["consequence", "contrast", "neither"]
            assert "However" not in draft.input and "Therefore" not in draft.input
            if draft.target == "neither":
                text = PASSAGE.replace("\n", " ")
                assert text.index(first) < text.index(second)
                assert text[text.index(first) : text.index(second)].count(".") >= 3
            else:
                expected = CONTRAST if draft.target == "contrast" else CONSEQUENCE
                assert (first, second) == expected
            seen.add(draft.target)
    assert seen == {"consequence", "contrast", "neither"}


@pytest.mark.parametrize(
    "passage",
    [
        # Nothing is shared; a fragment; a connective on both sides; not the sentence before.
        "The keeper lights the lamp. However, bread became dear in those years.",
        "Lamps, of old. However, lamps of glass break in the cold of winter.",
        "However, the keeper lights the lamp. Therefore, the lamp shines in the night.",
        "The keeper lights the lamp every evening.\nHowever, the lamp goes out in a storm.",
    ],
)
def test_pairs_without_a_tie_are_left_out(drafts_of, passage):
    assert drafts_of("relate_sentences", prose(passage)) == []
    assert drafts_of("state_effect", prose(passage)) == []


def test_causes_and_effects(drafts_of):
    assert pairs(drafts_of("state_effect", prose(PASSAGE))) == [CONSEQUENCE]
    assert pairs(drafts_of("state_cause", prose(PASSAGE))) == [
        ("The old tower needs new stones.", "The sea washes the mortar away.")
    ]
    passage = (
        "Because the sea washes the mortar away, the old tower needs new stones. "
        "The lamp goes out every winter. This is because the oil freezes in the cold nights."
    )
    both = ("The sea washes the mortar away.", "The old tower needs new stones.")
    assert pairs(drafts_of("state_effect", prose(passage))) == [both]
    assert pairs(drafts_of("state_cause", prose(passage))) == [
        both[::-1],
        ("The lamp goes out every winter.", "The oil freezes in the cold nights."),
    ]


@pytest.mark.parametrize(
    "sentence",
    [
        "The keeper does not stay only because the harbour pays him.",
        "The keeper did not leave the tower because he was tired.",
        "The tower fell because of the heavy storms of that winter.",
        "It needs new stones because the sea washes the mortar away.",
        "The keeper asked whether the tower fell because the sea rose.",
        "The tower fell because the sea rose and because the stones were old.",
    ],
)
def test_causes_that_are_none(drafts_of, sentence):
    assert drafts_of("state_cause", prose(sentence)) == []


def test_chinese(drafts_of):
    cause, effect = "大雨连续下了三天。", "山里的小路完全被冲毁了。"
    later = ("管理员修好了山上的木桥。", "游客可以重新走木桥上山。")
    assert pairs(drafts_of("state_effect", prose(CHINESE))) == [later, (cause, effect)]
    assert pairs(drafts_of("state_cause", prose(CHINESE))) == [(effect, cause)]
    assert pairs(drafts_of("define_term", prose(CHINESE))) == [
        ("灯塔", "灯塔是一种为船只指明海岸位置的高大建筑。")
    ]
    targets = {
        draft.target: draft.input
        for n in range(10)
        for draft in drafts_of("relate_sentences", prose(CHINESE, uri=str(n)))
    }
    assert targets["contrast"] == "1. 游客们都想上山看日出。\n2. 上山看日出的小路已经关闭。"


def test_paraphrases_and_definitions(drafts_of):
    assert pairs(drafts_of("paraphrase_sentence", prose(PASSAGE))) == [
        (
            "A keeper works alone through the long winter nights.",
            "Nobody helps the keeper in the winter.",
        )
    ]
    sentence = "A lighthouse is a tall building with a lamp that shows ships where the coast lies."
    assert pairs(drafts_of("define_term", prose(PASSAGE))) == [("lighthouse", sentence)]
    assert pairs(drafts_of("name_term", prose(PASSAGE))) == [
        (sentence.replace("lighthouse", "____"), "lighthouse")
    ]


@pytest.mark.parametrize(
    "sentence",
    [
        "This is a tall building with a lamp for ships on the coast.",
        "The problem is a lamp that goes out in every storm of winter.",
        "Below is a list of the towers that stand on the northern coast.",
        "Most keepers are a bit afraid of the long nights of the winter.",
        "Painting the tower is a good idea in the dry months of summer.",
        "Towers are a problem for the birds that fly over the coast.",
    ],
)
def test_sentences_that_define_nothing(drafts_of, sentence):
    assert drafts_of("define_term", prose(sentence)) == []


def test_questions(drafts_of):
    passage = "Question: Who pays?\nAnswer: The harbour.\n\nQ: When?\nA: Twice a year."
    assert pairs(drafts_of("answer_question", prose(passage))) == [
        ("Who pays?", "The harbour."),
        ("When?", "Twice a year."),
    ]
    title = "How is the lamp lit?"
    found = drafts_of("answer_question", prose("The keeper lights the lamp.", title=title))
    assert pairs(found) == [(title, "The keeper lights the lamp.")]
    for unclear in (prose(PASSAGE, title="But why?"), prose(PASSAGE, title=title, opens=False)):
        assert drafts_of("answer_question", unclear) == []
    record = document("record", **REVIEW, context="On kettles.")
    assert pairs(drafts_of("answer_question", record)) == [
        ("On kettles.\n\nHow fast does it boil?", "In two minutes.")
    ]


def test_spans_go_back_into_their_gaps(drafts_of):
    drafts = []
    for number in range(20):
        drafts += drafts_of("restore_spans", prose(PASSAGE, uri=str(number)))
    assert len(drafts) >= 10
    for draft in drafts:
        spans = dict(re.findall(r"^\((\d)\) (.*)$", draft.target, re.MULTILINE))
        assert len(spans) == draft.fields["count"] in (2, 3)
        restored = draft.input
        for place, span in spans.items():
            assert 2 <= len(span.split()) <= 5
            restored = restored.replace(f"({place})____", span)
        assert restored == " ".join(sentences(PASSAGE)[:2])


def test_a_missing_sentence(drafts_of):
    first, middle, last = sentences(PASSAGE)[:3]
    found = pairs(drafts_of("restore_sentence", prose(PASSAGE)))
    assert found == [(f"{first}\n[...]\n{last}", middle)]


def test_words_in_disorder(drafts_of):
    text = "Captains send the harbour small gifts."
    (draft,) = drafts_of("order_words", prose(text))
    assert sorted(draft.input.split(" / ")) == sorted(
        ["captains", "send", "the", "harbour", "small", "gifts"]
    )
    assert draft.target == text and draft.fields["count"] == 6
    (draft,) = drafts_of("order_words", prose("NASA sends small gifts to captains."))
    assert "NASA" in draft.input.split(" / ")
    for unclear in ("Captains, who sail, send many small gifts.", "Do captains send any gifts?"):
        assert drafts_of("order_words", prose(unclear)) == []


def test_bare_text(drafts_of):
    text = "In winter, Anna’s lamp goes out. Does nobody mind the well-known storm?"
    assert pairs(drafts_of("restore_punctuation", prose(text))) == [
        (
            "in winter anna’s lamp goes out does nobody mind the well-known storm",
            text,
        )
    ]
    # Whoever reads the bare text cannot tell that these marks were there.
    assert drafts_of("restore_punctuation", prose(text.replace("lamp", '"lamp"'))) == []


def test_typing_errors(drafts_of):
    text = "Captains send their harbour several small gifts from distant islands."
    slips = set()
    for number in range(40):
        for draft in drafts_of("correct_spelling", prose(text, uri=str(number))):
            wrong, right = draft.input.split(" "), text.split(" ")
            changed = [(a, b) for a, b in zip(wrong, right, strict=True) if a != b]
            assert draft.target == text and len(changed) == draft.fields["count"] == 1
            for a, b in changed:
                assert a[0] == b[0] and abs(len(a) - len(b)) <= 1
                slips.add(len(a) - len(b))
    assert slips == {-1, 0, 1}


def test_next_sentence(drafts_of):
    (draft,) = drafts_of("choose_next_sentence", prose(PASSAGE))
    shown, _, choices = draft.input.partition("\n\n")
    parts = sentences(PASSAGE.partition("\n")[0])
    assert shown == " ".join(parts[:2])
    letters = dict(line.split(". ", 1) for line in choices.split("\n"))
    assert sorted(letters) == ["A", "B", "C", "D"] and letters[draft.target] == parts[2]
    # What comes after the right one is no wrong answer.
    assert parts[3] not in letters.values()
    assert drafts_of("choose_next_sentence", prose(" ".join(parts[:5]))) == []


def test_keywords(drafts_of):
    found = keywords_of("The storage engine writes to disk, and the storage engine is fast.")
    assert found == ["storage engine writes", "disk", "fast"]
    (draft,) = drafts_of("list_keywords", prose(KEYWORDS_PASSAGE))
    assert draft.target == "storage engine, page cache, memory"
    assert draft.fields["count"] == 3
    assert drafts_of("list_keywords", prose(PASSAGE[:200])) == []
    (draft,) = drafts_of("write_from_keywords", prose(PASSAGE))
    assert draft.target == sentences(PASSAGE)[0]
    assert all(key in draft.target for key in draft.input.split(", "))


def test_leads(drafts_of):
    assert pairs(drafts_of("summarise_passage", prose(f"{LEAD} {REST}"))) == [(REST, LEAD)]
    assert drafts_of("summarise_passage", prose(f"{LEAD} {REST}", opens=False)) == []
    other = "Bread, butter, and cheese became very dear that year."
    assert drafts_of("summarise_passage", prose(f"{other} {REST}")) == []


RECORD = document("record", **REVIEW)
WHOLE = f"Kettle\n{REVIEW['text']}"


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("write_title", (REVIEW["text"], "Kettle")),
        ("write_from_title", ("Kettle", REVIEW["text"])),
        ("summarise_record", (REVIEW["text"], "A kettle that pleases.")),
        ("classify_record", (WHOLE, "kitchen")),
        ("write_labelled_text", ("Kettle", REVIEW["text"])),
        ("rate_sentiment", (WHOLE, "positive")),
        ("write_review", ("Kettle", REVIEW["text"])),
        ("judge_sentiment", ("I love this wonderful kettle.", "positive")),
        ("define_term", ("kettle", REVIEW["definition"])),
        (
            "describe_record",
            ("buyer: Anna Hill\ntown: Leeds\nyear: 2031", sentences(REVIEW["text"])[2]),
        ),
        (
            "extract_columns",
            (sentences(REVIEW["text"])[2], "buyer: Anna Hill\ntown: Leeds\nyear: 2031"),
        ),
    ],
)
def test_records(drafts_of, task, expected):
    assert pairs(drafts_of(task, RECORD)) == [expected]
    assert drafts_of(task, document("record", columns={"a": "1"})) == []


def test_inverted_records_say_what_they_are_about(drafts_of):
    fields = {"text": "The old kettle whistles.", "label": "kitchen", "columns": {}}
    (draft,) = drafts_of("write_labelled_text", document("record", **fields))
    assert draft.input == "old kettle whistles" and draft.fields["label"] == "kitchen"
    # A field of texts alone and no label gives nothing.
    assert drafts_of("write_labelled_text", document("record", text="x", columns={})) == []


def test_columns_are_read_off(drafts_of):
    (draft,) = drafts_of("read_column", RECORD)
    assert draft.input == "buyer: Anna Hill\ntown: Leeds\nyear: 2031"
    assert f"{draft.fields['column']}: {draft.target}" in draft.input.split("\n")
    few = document("record", columns={"a": "1", "b": "2", "c": "x" * 200, "d": ""})
    assert drafts_of("read_column", few) == []


@pytest.mark.parametrize(
    ("rating", "sentiment"),
    [
        ("1", "negative"),
        (2, "negative"),
        ("3", "neutral"),
        ("3.5", "neutral"),
        ("4", "positive"),
        (5.0, "positive"),
        ("2/10", "negative"),
        ("5 / 10", "neutral"),
        ("90/100", "positive"),
        ("4 stars", "positive"),
        ("0", ""),
        ("7", ""),
        ("6/5", ""),
        ("good", ""),
        ("nan", ""),
        ("", ""),
    ],
)
def test_ratings(drafts_of, rating, sentiment):
    record = document("record", text="It boils.", rating=rating, columns={})
    expected = [("It boils.", sentiment)] if sentiment else []
    assert pairs(drafts_of("rate_sentiment", record)) == expected


@pytest.mark.parametrize(
    ("sentence", "polarity"),
    [
        ("The food was excellent and the staff were wonderful.", "positive"),
        ("The room was horrible and the bed was disgusting.", "negative"),
        # One strong word; both ways; turned round; terms of a trade.
        ("The food was excellent at the corner of the street.", ""),
        ("The food was excellent but the room was horrible.", ""),
        ("The food was not excellent and not wonderful at all.", ""),
        ("The true value is shared like an error argument.", ""),
    ],
)
def test_strong_words(drafts_of, sentence, polarity):
    record = document("record", text=sentence, columns={})
    expected = [(sentence, polarity)] if polarity else []
    assert pairs(drafts_of("judge_sentiment", record)) == expected


def test_languages_of_texts(drafts_of):
    names = {"en": "English", "de": "German"}
    seen = set()
    for number in range(20):
        texts = {"en": f"The lamp goes out {number}.", "de": f"Die Lampe geht aus {number}."}
        source = document("parallel", texts=texts, names=names)
        (draft,) = drafts_of("identify_text_language", source)
        assert sorted(draft.options) == ["English", "German"]
        assert texts["en" if draft.target == "English" else "de"] == draft.input
        seen.add(draft.target)
        chained = drafts_of("identify_then_translate", source)
        expected = [(texts["de"], f"German\n{texts['en']}")] if draft.target == "German" else []
        assert pairs(chained) == expected
    assert seen == {"English", "German"}
    same = document("parallel", texts={"en": "Restaurant", "de": "Restaurant"}, names=names)
    assert drafts_of("identify_text_language", same) == []


def test_chained_tasks(drafts_of):
    (draft,) = drafts_of("order_then_continue", prose(PASSAGE))
    order, following = draft.target.split("\n")
    lines = [line.partition(". ")[2] for line in draft.input.split("\n")]
    parts = sentences(PASSAGE)
    assert [lines[int(number) - 1] for number in order.split()] == parts[:3]
    assert following == parts[3]
    (draft,) = drafts_of("title_then_keywords", prose(KEYWORDS_PASSAGE, title="Buffers"))
    assert draft.target == "Buffers\nstorage engine, page cache, memory"
    assert drafts_of("title_then_keywords", prose(KEYWORDS_PASSAGE, title="Memory")) == []


def test_chains_are_of_known_tasks():
    for task in TASKS.values():
        if task.composition:
            assert len(task.composition) == 2 and set(task.composition) <= set(TASKS)


@pytest.mark.parametrize("task", TEXT_TASKS)
def test_every_task_says_where_its_targets_come_from_and_gives_drafts(drafts_of, task):
    entry = TEXT_TASKS[task]
    assert entry.target_source in ("intrinsic", "metadata", "mined", "parallel")
    assert set(entry.kinds) <= set(KINDS)
    found = [
        draft
        for item in all_documents()
        if item.kind in entry.kinds
        for draft in drafts_of(task, item)
        if not _is_copy(draft.target, draft.input, policy=entry.target_in_input)
    ]
    assert found
    assert all(draft.target == draft.target.strip() != "" for draft in found)
    assert all(draft.target in draft.options for draft in found if draft.options)


@pytest.mark.parametrize("task", TEXT_TASKS)
@pytest.mark.parametrize(
    "text", ["", "x", "。", "\n\n", "However, ", "because because.", "A. B. C.", "() [] {}"]
)
def test_poor_documents_are_no_mistake(drafts_of, task, text):
    contents = {
        "prose": {"title": text, "work": "", "passage": text, "opens": True},
        "record": {"text": text, "columns": {text: text}, "rating": text},
        "package": {"name": text, "summary": text, "description": text},
        "tune": dict.fromkeys(("title", "metre", "key", "unit_length", "body"), text),
        "parallel": {"texts": {"en": text, "de": text}, "names": {"en": "English", "de": "German"}},
    }
    for kind in set(TEXT_TASKS[task].kinds) & set(contents):
        drafts_of(task, document(kind, **contents[kind]))
