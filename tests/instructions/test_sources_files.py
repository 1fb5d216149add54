"""Readers of text, pages, code, subtitles and tunes, each traced back to the bytes it read."""

import os
import random
import tracemalloc

import pytest
from corpora import corpus, lines_hash, read, reasons

from instructrec_jax.errors import DataError
from instructrec_jax.instructions.sources import READERS, files, line_files
from instructrec_jax.instructions.sources.subtitles import Cue, aligned

PARAGRAPH = "A sentence that is here to fill the passage up with many words. " * 6
TEXT = f"""A Long Walk

It began in the morning, on a road that
nobody knew. The sun was up.

CHAPTER II

{PARAGRAPH}

{PARAGRAPH}

| 1 | 2 | 3 |
| 4 | 5 | 6 |

The last paragraph comes after the table.
"""
MARKDOWN = f"""---
title: "The Manual"
---

# Installing

First [read](http://x.org) the `README` file,
then go on. ![badge](b.png)

```python
x = 1
```

## On Linux

- {PARAGRAPH}
- Second item of the list.

| a | b |
|---|---|
| 1 | 2 |

Setext title
------------
Under the setext title.
"""
HTML = f"""<!DOCTYPE html>
<html lang="en-GB"><head><title>All about frogs</title>
<script>var secret = "never";</script><style>p {{ color: red }}</style></head>
<body>
<nav><a href="/">Home page</a></nav>
<h1>Frogs</h1>
<p>Frogs are <b>small</b> animals.
They live near water.<p>Unclosed paragraph &amp; entity.
<h2>Food</h2>
<ul><li>They eat flies.</li><li>They eat worms.</li></ul>
<table><tr><td>never shown</td></tr></table>
<div>Text in a div<br>over two lines. {PARAGRAPH}</div>
<pre>code never shown</pre>
</body></html>
"""
CODE = '''"""Module."""


class Frog:
    """A frog."""

    def jump(self, far):
        """Jump."""
        return far * 2


def lone(x):
    return [
        x,
    ]
'''
SRT = """1
00:00:01,000 --> 00:00:02,500
- Where have <i>you</i> been?

2
00:00:02,600 --> 00:00:04,000
[door slams]

3
00:00:04,100 --> 00:00:06,000
I was out
with friends.

4
00:01:04,100 --> 00:01:06,000
Much later.
"""
ABC = """% a collection
X:1
T:The Frog
R:jig
M:6/8
L:1/8
K:Gmaj
GAB c2d|e2d c2B|

Some words about it.

X:2
T:No key
ABC|

X:3
T:No notes
K:C
w: la la
"""
SOURCES = {
    "text": ("walk.txt", TEXT, "together=file"),
    "markdown": ("manual.md", MARKDOWN, ""),
    "html": ("frogs.html", HTML, ""),
    "python": ("frog.py", CODE, ""),
    "subtitles": ("film.en.srt", SRT, ""),
    "abc": ("tunes.abc", ABC, ""),
}


@pytest.mark.parametrize("reader", SOURCES)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_every_document_is_traced_to_its_lines(tmp_path, reader, encoding):
    name, text, _ = SOURCES[reader]
    if reader == "python" and encoding == "utf-16":
        pytest.skip("Python source is never in UTF-16")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    file = tmp_path / "deep" / "er" / name
    file.write_bytes(text.replace("\n", "\r\n").encode(encoding))
    documents, _ = read(reader, tmp_path, licence="CC0-1.0")
    assert documents
    for document in random.Random(0).choices(documents, k=10):
        path = document.uri.partition("#")[0]
        assert path == f"deep/er/{name}"
        told = "utf-8-sig" if document.encoding == "utf-8-sig" else encoding
        assert lines_hash(tmp_path / path, document.span, told) == document.sha256
        assert document.licence == "CC0-1.0"
    assert len({document.identity for document in documents}) == len(documents)


def test_text_has_titles_chapters_and_whole_paragraphs(tmp_path):
    (tmp_path / "walk.txt").write_text(TEXT)
    documents, unreadable = read("text", tmp_path, language="en")
    told = [(d.content["headings"], d.content["opens"], d.span) for d in documents]
    assert told == [
        (("A Long Walk",), True, (3, 4)),
        (("A Long Walk", "CHAPTER II"), True, (8, 8)),
        (("A Long Walk", "CHAPTER II"), False, (10, 15)),
    ]
    first = documents[0].content
    assert first["passage"].startswith("It began in the morning, on a road that nobody knew.")
    assert (first["title"], first["work"], first["language"]) == ("A Long Walk", "", "en")
    assert documents[1].content["work"] == "A Long Walk"
    assert {d.group for d in documents} == {"walk.txt"}
    assert reasons(unreadable) == {"walk.txt": "no_running_text"}


def test_a_corpus_of_one_file_is_split_by_passage(tmp_path):
    file = tmp_path / "walk.txt"
    file.write_text(TEXT)
    documents, _ = read("text", file)
    assert len({d.group for d in documents}) == len(documents) == 3
    assert {d.uri for d in documents} == {"walk.txt"}


def test_chinese_lines_are_joined_without_spaces_and_long_ones_cut(tmp_path):
    (tmp_path / "a.txt").write_text("第一章 开始\n\n今天天气\n很好。" + "我们去公园。" * 500 + "\n")
    documents, _ = read("text", tmp_path)
    assert documents[0].content["title"] == "第一章 开始"
    assert documents[0].text.startswith("今天天气很好。")
    assert len(documents) > 3 and all(len(d.text) < 1_500 for d in documents)
    # All on the same lines: the number tells them apart.
    assert [d.uri for d in documents[:3]] == ["a.txt", "a.txt#2", "a.txt#3"]


def test_markdown(tmp_path):
    (tmp_path / "manual.md").write_text(MARKDOWN)
    documents, unreadable = read("markdown", tmp_path)
    assert documents[0].text == "First read the README file, then go on."
    assert [d.content["headings"] for d in documents] == [
        ("The Manual", "Installing"),
        ("The Manual", "Installing", "On Linux"),
        ("The Manual", "Installing", "Setext title"),
    ]
    assert documents[1].text.endswith("Second item of the list.")
    assert sorted(item.reason for item in unreadable) == ["code_block", "table"]


def test_html(tmp_path):
    (tmp_path / "frogs.html").write_text(HTML)
    documents, unreadable = read("html", tmp_path)
    text = "\n".join(d.text for d in documents)
    assert "never" not in text and "Home page" not in text
    assert documents[0].text == (
        "Frogs are small animals. They live near water.\nUnclosed paragraph & entity."
    )
    assert documents[0].content["headings"] == ("All about frogs", "Frogs")
    assert documents[0].content["language"] == "en_GB"
    assert documents[1].content["title"] == "Food"
    assert documents[1].text.startswith("They eat flies.\nThey eat worms.\nText in a div over two")
    assert sorted(item.reason for item in unreadable) == ["code_block", "navigation", "table"]


def test_html_that_is_not_shown_is_not_read(tmp_path):
    (tmp_path / "a.html").write_text(
        "<title>Frogs</title><h2 hidden>Secret</h2><p>A frog <b style='color:red'>lives</b> in a"
        " pond<span aria-hidden='true'> UNSEEN icon</span>, mostly.</p>"
        "<p hidden>UNSEEN one</p><div style='margin:0; Display : none'><p>UNSEEN two</p></div>"
        "<ul><li style='visibility:hidden'>UNSEEN three</li><li aria-hidden='false'>It swims.</li>"
        "</ul><p data-hidden='1'>It jumps.</p><i hidden></i>"
    )
    (document,), (left,) = read("html", tmp_path)
    assert document.text == "A frog lives in a pond, mostly.\nIt swims.\nIt jumps."
    assert document.content["headings"] == ("Frogs",)
    assert left.reason == "hidden_text" and left.detail.startswith("5 of them")


def test_html_believes_its_charset_where_it_fits(tmp_path):
    page = '<meta charset="{}"><p>Привет всем, кто это читает.</p>'
    (tmp_path / "a.html").write_bytes(page.format("koi8-r").encode("koi8-r"))
    (tmp_path / "b.html").write_bytes(page.format("ascii").encode("utf-8"))
    documents, _ = read("html", tmp_path)
    assert [d.text for d in documents] == ["Привет всем, кто это читает."] * 2
    assert [d.encoding for d in documents] == ["koi8-r", "utf-8"]


def test_html_of_any_depth(tmp_path):
    (tmp_path / "a.html").write_text("<div>" * 20_000 + "deep text" + "</div>" * 20_000)
    documents, unreadable = read("html", tmp_path)
    assert len(documents) + len(unreadable) == 1


def test_python_of_a_repository(tmp_path):
    for name, text in {
        "src/frog.py": CODE,
        "src/broken.py": "def f(:\n",
        "src/made_pb2.py": CODE,
        "src/made.py": "# Generated by a tool. DO NOT EDIT.\n" + CODE,
        "src/latin.py": "# -*- coding: latin-1 -*-\ndef f(x):\n    return 'é'\n",
        "src/empty.py": "",
        "src/notes.txt": "x",
        "env/pyvenv.cfg": "home = x",
        "env/lib.py": CODE,
        ".git/hook.py": CODE,
        "vendor/other.py": CODE,
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="latin-1" if "latin" in name else "utf-8")
    (tmp_path / "loop").symlink_to(tmp_path)
    documents, unreadable = read("python", tmp_path, licence="MIT")
    assert [d.uri for d in documents] == [
        "src/frog.py#Frog", "src/frog.py#Frog.jump", "src/frog.py#lone", "src/latin.py#f",
    ]  # fmt: skip
    assert documents[3].encoding == "iso-8859-1" and "é" in documents[3].text
    assert reasons(unreadable) == {
        "src/broken.py": "does_not_parse",
        "src/made_pb2.py": "generated_file",
        "src/made.py": "generated_file",
        "src/empty.py": "empty",
        "src/notes.txt": "other_file_type",
        "env": "virtual_environment",
        ".git": "hidden_folder",
        "vendor": "skipped_folder",
        "loop": "linked_folder",
    }


def test_links_stay_inside_unless_told_and_end_in_circles_never(tmp_path):
    outside, root = tmp_path / "home", tmp_path / "corpus"
    for folder in (outside / "deep", root / "own"):
        folder.mkdir(parents=True)
        (folder / "text.txt").write_text(PARAGRAPH)
    for link, target in {
        "secret.txt": outside / "deep/text.txt",
        "inside.txt": root / "own/text.txt",
        "self.txt": root / "self.txt",
        "home": outside,
        "own/up": root,
        "own/around": root / "own",
    }.items():
        (root / link).symlink_to(target)
    (outside / "back").symlink_to(root)
    documents, unreadable = read("text", root)
    assert [document.uri for document in documents] == ["inside.txt", "own/text.txt"]
    assert reasons(unreadable) == {
        "secret.txt": "link_out_of_folder",
        "self.txt": "unreadable",
        **dict.fromkeys(("home", "own/up", "own/around"), "linked_folder"),
    }
    # The corpus's own folder may be a link, and so may a file that is named by itself.
    (tmp_path / "link").symlink_to(root)
    assert len(read("text", tmp_path / "link")[0]) == 2
    assert len(read("text", root / "secret.txt")[0]) == 1
    assert len(read("text", root / "*.txt")[0]) == 1
    documents, unreadable = read("text", root, follow_links="true")
    assert [document.uri for document in documents] == [
        *("home/deep/text.txt", "inside.txt", "own/text.txt", "secret.txt")
    ]
    before = ("home/back", "own/around", "own/up")
    assert reasons(unreadable) == {
        "self.txt": "unreadable",
        **dict.fromkeys(before, "folder_entered_before"),
    }


def test_subtitles_as_dialogue(tmp_path):
    (tmp_path / "film.en.srt").write_text(SRT)
    (document,), (sound,) = read("subtitles", tmp_path)
    assert document.text == "Where have you been? I was out with friends.\nMuch later."
    assert document.content["language"] == "en"
    assert sound.reason == "no_words"


def test_subtitles_in_step(tmp_path):
    german = SRT.replace("Where have <i>you</i> been?", "Wo warst du?")
    german = german.replace("I was out\nwith friends.", "Aus, mit Freunden.")
    german = german.replace("00:01:04,100 --> 00:01:06,000", "00:02:04.100 --> 00:02:06.000")
    (tmp_path / "film.en.srt").write_text(SRT)
    (tmp_path / "film.de.srt").write_text(german)
    (tmp_path / "other.de.srt").write_text(german)
    documents, unreadable = read("parallel_subtitles", tmp_path, languages=("en", "de"))
    assert [d.content["texts"] for d in documents] == [
        {"en": "Where have you been?", "de": "Wo warst du?"},
        {"en": "I was out with friends.", "de": "Aus, mit Freunden."},
    ]
    assert documents[1].span == (10, 12) and documents[1].uri == "film.{en,de}.srt"
    assert [item.reason for item in unreadable] == ["out_of_step"] * 2 + ["no_other_language"]


def test_cues_that_share_time_belong_together():
    def cue(start, end):
        return Cue(start, end, 1, 1, "x")

    one = [cue(0, 2), cue(2, 4), cue(10, 12)]
    other = [cue(0.1, 4.1), cue(10.2, 12.1)]
    assert list(aligned([one, other])) == [[one[:2], other[:1]], [one[2:], other[1:]]]


def test_tunes(tmp_path):
    (tmp_path / "tunes.abc").write_text(ABC)
    (tune,), unreadable = read("abc", tmp_path)
    assert tune.content == {
        "title": "The Frog", "metre": "6/8", "key": "Gmaj", "unit_length": "1/8", "rhythm": "jig",
        "headers": "X:1\nT:The Frog\nR:jig\nM:6/8\nL:1/8\nK:Gmaj",
        "body": "GAB c2d|e2d c2B|",
    }  # fmt: skip
    assert tune.span == (2, 8)
    assert reasons(unreadable) == {"tunes.abc:12": "no_key", "tunes.abc:16": "no_notes"}


def test_globs_folders_and_order(tmp_path):
    for name in ("b/2.txt", "a/1.txt", "a/deep/3.txt", "a/4.dat"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("Some words that make a paragraph.")

    def listed(path):
        return [unit[1] for unit in READERS["text"].units(corpus("text", path))]

    assert listed(tmp_path) == ["a/1.txt", "a/deep/3.txt", "a", "b/2.txt"]
    assert listed(tmp_path / "*" / "*.txt") == ["a/1.txt", "b/2.txt"]
    assert listed(tmp_path / "**" / "*.txt") == ["a/1.txt", "a/deep/3.txt", "b/2.txt"]
    assert listed(tmp_path / "a" / "?.dat") == ["4.dat"]
    assert listed(tmp_path / "a" / "4.dat") == ["4.dat"]
    with pytest.raises(DataError, match="there is no .*nowhere"):
        listed(tmp_path / "nowhere")


def test_large_files_are_read_in_parts_with_their_own_lines(tmp_path, monkeypatch):
    paragraphs = [f"Paragraph number {n} has words.\nAnd more of them." for n in range(300)]
    (tmp_path / "a.txt").write_text("\n\n".join(paragraphs) + "\n")
    whole, _ = read("text", tmp_path)
    for module in (files, line_files):
        monkeypatch.setattr(module, "PART_BYTES", 2_000)
    units = list(READERS["text"].units(corpus("text", tmp_path)))
    assert len(units) > 4 and {unit[0] for unit in units} == {"part"}
    parts, _ = read("text", tmp_path)
    for document in parts:
        assert lines_hash(tmp_path / "a.txt", document.span) == document.sha256

    def words(documents):
        return "\n".join(d.text for d in documents)

    assert words(parts) == words(whole)


def test_listing_and_reading_hold_one_piece_at_a_time(tmp_path):
    line = '{"text": "' + "word " * 160 + '"}\n'
    with open(tmp_path / "big.jsonl", "w") as file:
        for _ in range(15_000):
            file.write(line)
    made = corpus("records", tmp_path)
    tracemalloc.start()
    units = list(READERS["records"].units(made))
    documents = sum(1 for unit in units for _ in READERS["records"].documents(made, unit))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert documents == 15_000 and len(units) >= 3
    assert peak < 3 << 20


def test_pipes_are_told_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.txt")
    (tmp_path / "b.txt").symlink_to("gone.txt")
    documents, unreadable = read("text", tmp_path)
    assert documents == []
    assert reasons(unreadable) == {"a.txt": "no_regular_file", "b.txt": "unreadable"}
    assert [path.name for path in files.input_files(corpus("text", tmp_path))] == ["b.txt"]
