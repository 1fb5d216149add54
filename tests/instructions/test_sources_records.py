"""Readers of rows, catalogues, aligned files and datasets by name."""

import io
import json
import random

import pytest
from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from corpora import corpus, lines_hash, read, reasons

from instructrec_jax.errors import DataError
from instructrec_jax.instructions import hashing
from instructrec_jax.instructions.sources import READERS, files, line_files, parallel_files, records

FIELDS = {"title": "headline", "text": "body", "rating": "stars"}
CSV = """headline,body,stars,right
"Good, very",First line.\r
Short,row,3,MIT
Frogs,"They live
near ""water"".",4.5,CC0-1.0
Stray,"quote never closed,1,MIT
Newts,They swim.,2,
,,,
Toads,A,B,C,D
Last,One.,1,MIT
"""


def test_csv_rows_and_broken_ones(tmp_path):
    (tmp_path / "news.csv").write_text(CSV, newline="")
    documents, unreadable = read(
        "records", tmp_path, fields=FIELDS, licence_field="right", licence="MIT-0"
    )
    assert [d.content["title"] for d in documents] == ["Short", "Frogs", "Newts", "Last"]
    frogs = documents[1]
    assert frogs.content == {
        "title": "Frogs", "text": 'They live\nnear "water".', "rating": "4.5",
        "columns": {"headline": "Frogs", "body": 'They live\nnear "water".', "stars": "4.5",
                    "right": "CC0-1.0"},
    }  # fmt: skip
    assert frogs.span == (4, 5)
    assert [d.licence for d in documents] == ["MIT", "CC0-1.0", "MIT-0", "MIT"]
    assert reasons(unreadable) == {
        "news.csv:2": "broken_row",
        "news.csv:6": "broken_row",
        "news.csv:8": "empty_row",
        "news.csv:9": "broken_row",
    }
    for document in documents:
        assert lines_hash(tmp_path / "news.csv", document.span) == document.sha256


@pytest.mark.parametrize(("name", "sign"), [("a.tsv", "\t"), ("a.csv", ";"), ("a.csv", "|")])
def test_delimiters_are_found(tmp_path, name, sign):
    (tmp_path / name).write_text(f"a{sign}b\n1{sign}2, 3\n")
    (document,), _ = read("records", tmp_path)
    assert document.content["columns"] == {"a": "1", "b": "2, 3"}
    (tmp_path / name).write_text(f"1{sign}2\n")
    (document,), _ = read("records", tmp_path, columns=("x", "y"), delimiter=sign)
    assert document.content["columns"] == {"x": "1", "y": "2"}


def test_csv_in_parts_is_the_same_csv(tmp_path, monkeypatch):
    rows = [f'"Title {n}","Text {n}\nsecond ""line"" of it",{n}\n' for n in range(400)]
    for place in (50, 220):
        rows.insert(place, 'stray,"quote,1\n')
    (tmp_path / "a.csv").write_text("headline,body,stars\n" + "".join(rows))
    whole = read("records", tmp_path, fields=FIELDS)
    for module in (files, line_files, records):
        monkeypatch.setattr(module, "ROWS_BYTES", 3_000)
    assert len(list(READERS["records"].units(corpus("records", tmp_path)))) > 4
    assert read("records", tmp_path, fields=FIELDS) == whole
    assert len(whole[0]) == 400 and len(whole[1]) == 2


def test_json_lines(tmp_path, monkeypatch):
    lines = [
        '{"headline": "A", "body": "B", "stars": 4, "meta": {"by": "x"}}',
        "",
        '{"headline": ',
        "[1]",
        '{"headline": null, "body": ""}',
        '{"body": "half \\ud83d"}',
        '{"body": "C"}',
    ]
    data = "\n".join(lines).encode() + b'\n{"body": "caf\xe9"}\n'
    (tmp_path / "a.jsonl").write_bytes(data)
    fields = {**FIELDS, "author": "meta.by"}
    # One bad byte among so few good ones says nothing: the encoding is given.
    documents, unreadable = read("records", tmp_path, fields=fields, encoding="utf-8")
    assert [d.content["text"] for d in documents] == ["B", "C"]
    assert documents[0].content["author"] == "x" and documents[0].content["rating"] == "4"
    assert documents[1].content["title"] == ""
    assert reasons(unreadable) == {
        "a.jsonl:3": "broken_row", "a.jsonl:4": "broken_row", "a.jsonl:5": "empty_row",
        "a.jsonl:6": "half_a_character", "a.jsonl:8": "undecodable",
    }  # fmt: skip
    for document in documents:
        assert document.sha256 == hashing.sha256(lines[document.span[0] - 1])
    monkeypatch.setattr(line_files, "ROWS_BYTES", 50)
    again = read("records", tmp_path, fields=fields, encoding="utf-8")
    assert again == (documents, unreadable)


def test_plain_ratings_get_their_scale(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"s": 4}\n{"s": "7.5"}\n{"s": "3/5"}\n{"s": "good"}\n')
    for highest, expected in (
        (10, ["4/10", "7.5/10", "3/5", "good"]),
        (0, ["4", "7.5", "3/5", "good"]),
    ):
        documents, _ = read("records", tmp_path, fields={"rating": "s"}, highest_rating=highest)
        assert [document.content["rating"] for document in documents] == expected


def test_an_owner_names_the_columns_that_hold_a_field(tmp_path):
    (tmp_path / "a.csv").write_text("review,topic,stars,label\nGood food.,food,5,x\n")
    plain = {"review": "Good food.", "topic": "food", "stars": "5", "label": "x"}
    (document,), _ = read("records", tmp_path, label="topic", rating="stars", text="review")
    assert document.text == "Good food."
    fields = {name: value for name, value in document.content.items() if name != "columns"}
    assert fields == plain | {"label": "food", "rating": "5", "text": "Good food."}
    (document,), _ = read("records", tmp_path, label="topic", fields={"text": "review"})
    assert document.content == {"text": "Good food.", "label": "food", "columns": plain}
    (problem,) = READERS["records"].problems(corpus("records", tmp_path, label="topics"))
    assert problem.startswith("label: a.csv has no column 'topics'; did you mean 'topic'?")


def test_json_and_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"body": f"Text {n}", "stars": n} for n in range(25)]
    (tmp_path / "a.json").write_text(json.dumps({"count": 25, "rows": rows}))
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "b.parquet", row_group_size=10)
    (tmp_path / "c.parquet").write_bytes(b"PAR1 no more")
    (tmp_path / "d.json").write_text("[1, {")
    fields = {"text": "body", "rating": "stars"}
    documents, unreadable = read("records", tmp_path, fields=fields)
    assert len(documents) == 50
    for document in random.Random(0).choices(documents, k=10):
        row = rows[document.span[0] - 1]
        text = json.dumps(row, ensure_ascii=False, sort_keys=True)
        assert document.sha256 == hashing.sha256(text)
        assert document.content["text"] == row["body"]
    assert reasons(unreadable) == {"c.parquet": "broken_file", "d.json": "broken_file"}
    units = list(READERS["records"].units(corpus("records", tmp_path / "b.parquet")))
    assert [unit[0] for unit in units] == ["row_group"] * 3


def test_a_file_without_the_columns_is_counted(tmp_path):
    (tmp_path / "a.csv").write_text("headline,body\nA,B\n")
    (tmp_path / "b.csv").write_text("title,body\nA,B\n")
    fields = {"title": "headline", "text": "body"}
    documents, (missing,) = read("records", tmp_path, fields=fields)
    assert len(documents) == 1
    assert missing.reason == "missing_column" and "it has title, body" in missing.detail
    (line,) = READERS["records"].problems(
        corpus("records", tmp_path, fields={"title": "headlin", "text": "body"})
    )
    assert line == (
        "fields.title: a.csv has no column 'headlin'; did you mean 'headline'?; "
        "it has headline, body"
    )


PO = """msgid ""
msgstr ""
"Content-Type: text/plain; charset={charset}\\n"
"PO-Revision-Date: yesterday\\n"
{language}
#. On the toolbar
#: a.c:3
msgctxt "menu"
msgid "Open the "
"file %s"
msgstr "Datei %s "
"öffnen"

#, fuzzy
msgid "Close"
msgstr "Schliessen"

msgid "%d file"
msgid_plural "%d files"
msgstr[0] "%d Datei"
msgstr[1] "%d Dateien"

msgid "Untranslated"
msgstr ""

msgid "OK"
msgstr "OK"

msgid "%d of"
msgstr "von"

msgid "login.title"
msgstr "Anmelden"

msgid "Quit"
msgstr "Beenden"
"""


def test_catalogues(tmp_path):
    files = {
        "de/LC_MESSAGES/app.po": ("", "utf-8"),
        "locale/x.po": ('"Language: de_AT\\n"', "latin-1"),
        "app.zh_CN.po": ("", "utf-8"),
        "strange.po": ('"Language: qqq\\n"', "utf-8"),
    }
    for name, (language, charset) in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        text = PO.replace("{charset}", charset).replace("{language}", language)
        (tmp_path / name).write_text(text, encoding=charset)
    documents, unreadable = read("gettext", tmp_path)
    assert len(documents) == 6
    told = {(d.uri, tuple(d.content["texts"])) for d in documents}
    assert told == {
        ("app.zh_CN.po", ("en", "zh_Hans_CN")),
        ("de/LC_MESSAGES/app.po", ("en", "de")),
        ("locale/x.po", ("en", "de_AT")),
    }
    first = next(d for d in documents if d.uri.startswith("de/"))
    assert first.content["texts"] == {"en": "Open the file %s", "de": "Datei %s öffnen"}
    assert first.content["context"] == "menu" and first.content["comment"] == "On the toolbar"
    assert first.content["names"] == {"en": "English", "de": "German"}
    assert first.span == (9, 12)
    for document in documents:
        charset = files[document.uri][1]
        assert lines_hash(tmp_path / document.uri, document.span, charset) == document.sha256
    # A message's translations all go to one split.
    assert len({d.group for d in documents}) == 2
    german = [item.reason for item in unreadable if item.uri.startswith("de/")]
    assert german == [
        "fuzzy", "plural_form", "untranslated", "same_as_source", "other_placeholders",
        "identifier",
    ]  # fmt: skip
    assert reasons(unreadable)["strange.po"] == "unknown_language"


def test_compiled_catalogues(tmp_path):
    catalog = Catalog(locale="fr")
    catalog.add("Quit", "Quitter", context="menu")
    catalog.add("Save all", "Tout enregistrer")
    catalog.add(("%d file", "%d files"), ("%d fichier", "%d fichiers"))
    stream = io.BytesIO()
    write_mo(stream, catalog)
    (tmp_path / "a.mo").write_bytes(stream.getvalue())
    (tmp_path / "b.mo").write_bytes(stream.getvalue()[:90])
    (tmp_path / "c.mo").write_bytes(b"no catalogue")
    documents, unreadable = read("gettext", tmp_path)
    assert {tuple(d.content["texts"].values()) for d in documents} == {
        ("Quit", "Quitter"),
        ("Save all", "Tout enregistrer"),
    }
    assert {d.content["context"] for d in documents} == {"menu", ""}
    for document in documents:
        assert document.sha256 == hashing.sha256("\n".join(document.content["texts"].values()))
    assert sorted(item.reason for item in unreadable) == [
        "no_catalogue", "no_catalogue", "plural_form",
    ]  # fmt: skip
    (tmp_path / "a.po").write_text('msgid "Quit"\nmsgstr "Quitter"\n')
    _, unreadable = read("gettext", tmp_path, language="fr")
    assert reasons(unreadable)["a.mo"] == "compiled_twin"


def test_aligned_files(tmp_path, monkeypatch):
    monkeypatch.setattr(parallel_files, "_LINES_A_UNIT", 3)
    (tmp_path / "talk.en").write_text("\ufeff" + "\n".join(f"Line {n}" for n in range(8)))
    (tmp_path / "talk.de").write_text("\n".join(f"Zeile {n}" if n != 4 else "" for n in range(8)))
    (tmp_path / "talk.log").write_text("x")
    path = tmp_path / "talk.{language}"
    documents, (empty,) = read("parallel", path)
    assert [d.span[0] for d in documents] == [1, 2, 3, 4, 6, 7, 8]
    assert documents[0].content["texts"] == {"de": "Zeile 0", "en": "Line 0"}
    assert documents[0].uri == "talk.{de,en}" and empty.uri == "talk.{de,en}:5"
    for document in documents:
        number = document.span[0]
        both = [
            (tmp_path / f"talk.{code}").read_text().split("\n")[number - 1].lstrip("\ufeff")
            for code in ("de", "en")
        ]
        assert document.sha256 == hashing.sha256("\n".join(both))
    (tmp_path / "talk.fr").write_text("Une ligne\n" * 7)
    with pytest.raises(DataError, match="talk.fr ends before line 8, talk.de and talk.en does not"):
        read("parallel", path)
    documents, _ = read("parallel", path, languages=("en", "de"))
    assert tuple(documents[0].content["texts"]) == ("en", "de")


def test_hugging_face(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = [{"body": f"Text {n}", "stars": n} for n in range(12)]
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "tiny")
    documents, _ = read("huggingface", tmp_path / "tiny", fields={"text": "body"}, licence="MIT")
    assert [d.content["text"] for d in documents] == [row["body"] for row in rows]
    assert documents[3].uri == "huggingface:tiny/train" and documents[3].licence == "MIT"
    text = json.dumps(rows[3], ensure_ascii=False, sort_keys=True)
    assert documents[3].sha256 == hashing.sha256(text)
    with pytest.raises(DataError, match="cannot be loaded"):
        read("huggingface", tmp_path / "none")
