"""Small documents of which every task on text, records, languages and tunes makes a draft."""

from instructrec_jax.instructions.document import Document

# Two paragraphs: a contrast, a consequence, a cause, a restatement, a definition, a question.
PASSAGE = (
    "A lighthouse is a tall building with a lamp that shows ships where the coast lies. "
    "The keeper lights the lamp every evening. However, the lamp goes out in a heavy storm. "
    "Ships cannot see the coast without the lamp. Therefore, captains stay far from the coast. "
    "The old tower needs new stones because the sea washes the mortar away.\n"
    "A keeper works alone through the long winter nights. "
    "In other words, nobody helps the keeper in the winter. "
    "The harbour pays the keepers twice a year. "
    "Captains send the harbour small gifts from distant islands. "
    "A bell replaces the lamp on foggy mornings."
)
KEYWORDS_PASSAGE = (
    "The storage engine writes every page to the page cache first. "
    "A page cache keeps pages in memory until the storage engine asks for them. "
    "When the memory is full, the storage engine drops the oldest pages from memory."
)
LEAD = "Keepers light the lamps of the coast at night."
REST = (
    "Every lamp is lit by its own keeper when the night falls over the coast. "
    "The keepers fill the lamps with oil in the morning and clean the glass. "
    "On the northern coast some lamps burn through the whole day in the winter."
)
CHINESE = (
    "因为大雨连续下了三天，所以山里的小路完全被冲毁了。游客们都想上山看日出。"
    "但是，上山看日出的小路已经关闭。管理员修好了山上的木桥。因此，游客可以重新走木桥上山。"
    "灯塔是一种为船只指明海岸位置的高大建筑。"
)
TUNE = {
    "title": "The Short Way Home",
    "metre": "4/4",
    "key": "D",
    "unit_length": "1/8",
    "rhythm": "reel",
    "headers": "X:1\nT:The Short Way Home\nR:reel\nM:4/4\nL:1/8\nK:D",
    "body": "A2|d2fd A2FA|B2dB A4|d2fd e2ge|f2d2 d2:|\n|:fg|a2fa b2ag|f2df e4|a2fa g2ec|d2d2 d2:|",
}
REVIEW = {
    "title": "Kettle",
    "text": "I love this wonderful kettle. It boils fast. Anna Hill from Leeds bought it in 2031.",
    "summary": "A kettle that pleases.",
    "label": "kitchen",
    "rating": "5",
    "question": "How fast does it boil?",
    "answer": "In two minutes.",
    "term": "kettle",
    "definition": "A ____ is a vessel for boiling water.",
    "columns": {"buyer": "Anna Hill", "town": "Leeds", "year": "2031", "note": ""},
}


def document(kind: str, /, *, uri: str = "uri", **content: object) -> Document:
    """A document of this content."""
    text = repr(content)
    return Document("corpus", uri, None, text, "MIT", "group", kind=kind, content=content)


def prose(
    passage: str, *, title: str = "Lighthouses", opens: bool = True, uri: str = "uri"
) -> Document:
    """A passage of a manual."""
    content = {"title": title, "work": "", "passage": passage, "opens": opens}
    return document("prose", uri=uri, **content)


def all_documents() -> list[Document]:
    """Documents of every kind, enough for a draft of every task of this module's subject."""
    questions = "Q: Who pays the keeper of the lamp?\nA: The harbour pays twice a year."
    texts = {"en": "The lamp goes out.", "de": "Die Lampe geht aus.", "zh": "灯熄灭了。"}
    names = {"en": "English", "de": "German", "zh": "Chinese"}
    return [
        # Which relations are kept of a document, its hash decides.
        *(prose(PASSAGE, uri=f"lighthouse{n}") for n in range(8)),
        prose(KEYWORDS_PASSAGE, title="Buffers"),
        prose(f"{LEAD} {REST}"),
        prose(questions),
        prose(CHINESE, title="灯塔"),
        document("record", **REVIEW),
        document("tune", **TUNE),
        *(document("parallel", uri=f"p{n}", texts=texts, names=names) for n in range(5)),
        document("catalogue_message", texts=texts, names=names, context="", comment=""),
    ]
