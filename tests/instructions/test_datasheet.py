"""The datasheet: self-contained, complete, and its counts add up."""

import gzip
import json
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from instructrec_jax.instructions.building import TokenizerRecipe, Work, build_dataset
from instructrec_jax.instructions.counting import missing_examples
from instructrec_jax.instructions.datasheet import FAMILIES, REASONS
from instructrec_jax.instructions.filters import FilterSettings

HOSTILE = "</script><script>alert(1)</script><b>bold</b>"
FUNCTION = '''
def scale_{n}(value, factor={n}):
    """Give the value {n} times, and {n} more for the {word}."""
    total = value * factor + {n}
    return total
'''
WORDS = ("river", "forest", "winter", "harbour", "engine", "letter", "window", "garden")


class Page(HTMLParser):
    """The cells of every table, the contents of the JSON blocks, and all addresses."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.data, self.addresses, self._json = [], {}, [], ""
        self._cell = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.addresses += [found[key] for key in ("src", "href", "srcset") if key in found]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self._cell = ""
        self._json = found.get("id", "") if found.get("type") == "application/json" else ""

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.tables[-1][-1].append(" ".join(self._cell.split()))
            self._cell = None
        self._json = ""

    def handle_data(self, data):
        if self._json:
            self.data[self._json] = json.loads(data)
        elif self._cell is not None:
            self._cell += data


def number(text):
    return 0 if text == "·" else int(re.sub(r"[,−]", "", text))


SECRETS = (
    "AKIAJ3Q7PLANTEDKEY42",
    "password: hV7rLq93xTz",
    "admin.roe@uni-berlin.de",
    "+4930901820227",
    "a cut -----BEGIN RSA PRIVATE KEY----- MIIEowIBAAKCAQEAq7Jd82kLs0Pz5mXvGTagaSd3",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, recipe):
    """A dataset of a corpus with rows and functions of many kinds."""
    raw = tmp_path_factory.mktemp("raw")
    (raw / "m.py").write_text(
        "".join(FUNCTION.format(n=n, word=WORDS[n % 8]) for n in range(2, 26))
    )
    rows = [
        f"{word} {n},The {word} number {n} is near the {WORDS[(n * 5 + 3) % 8]}. It has {n} doors."
        for n, word in enumerate(WORDS * 4)
    ]
    rows[3] += HOSTILE
    rows[5] = 'broken,"row'
    rows += [rows[0], "key,Write to jane.roe@example.org or call her tomorrow at the office."]
    rows += [f"lost {n},The door needs {secret} today." for n, secret in enumerate(SECRETS)]
    rows += [f"lost {SECRETS[0]}, "]
    (raw / "rows.csv").write_text("name,body\n" + "\n".join(rows) + "\n")
    (raw / "noise.csv").write_bytes(bytes(range(256)))
    output = raw / "out"
    build_dataset(
        recipe=recipe(
            sources=("rows", "code"),
            corpora=(
                {"name": "rows", "reader": "records", "path": str(raw), "files": ("*.csv",),
                 "fields": {"title": "name", "text": "body"}, "licence": "MIT"},
                {"name": "code", "reader": "python", "path": str(raw)},
            ),
            tasks=("write_title", "complete_passage", "fill_blanks", "predict_output",
                   "summarise_docstring", "read_column", "order_words"),
            holdout_tasks=("order_words",),
            demonstrations=0.5,
            filters=FilterSettings(rejects_written=0),
        ),
        tokenizer=TokenizerRecipe(path="", vocabulary_size=0, sentinels=100, kind="bytes"),
        work=Work(processes=1),
        output=output,
        progress=lambda line: None,
    )  # fmt: skip
    return output


@pytest.fixture(scope="module")
def built(folder):
    """(dataset.json, page, its text)."""
    text = (folder / "datasheet.html").read_text(encoding="utf-8")
    return json.loads((folder / "dataset.json").read_text()), Page(text), text


def test_it_needs_nothing_from_outside_and_runs_no_text_of_the_corpus(built):
    _, page, text = built
    assert all(address.startswith("#") for address in page.addresses)
    anchors = {address[1:] for address in page.addresses}
    assert anchors <= set(re.findall(r'id="([\w-]+)"', text))
    assert "default-src 'none'" in text
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    assert HOSTILE not in text
    assert "url(" not in text and "@import" not in text
    shown = [*page.data["sample-data"], *page.data["refused-data"]]
    assert any(HOSTILE in each["input"] + each["target"] for each in shown)


def test_the_funnel_adds_up_for_each_task_and_over_all(built):
    info, page, _ = built
    table = next(t for t in page.tables if t[0][:2] == ["task", "drafts"])
    *rows, last = [[row[0], *map(number, row[1:-1])] for row in table[1:]]
    assert {row[0] for row in rows} == {t for t, each in info["tasks"].items() if each["drafts"]}
    for name, drafts, *refused, kept in rows:
        assert drafts - sum(refused) == kept == info["tasks"][name]["accepted"]
        told = table[[row[0] for row in table].index(name)][-1]
        by_reason = sum(int(count.replace(",", "")) for count in re.findall(r"[\d,]*\d(?= )", told))
        assert by_reason == sum(refused)
    assert last[1:] == [sum(row[k] for row in rows) for k in range(1, len(last))]
    assert last[1] == info["funnel"]["drafts"]
    assert sum(last[2:-1]) == info["funnel"]["rejected"] > 10


def test_the_documents_of_each_source_add_up(built):
    info, page, _ = built
    tables = [table for table in page.tables if table[0][0] == "items found"]
    assert len(tables) == len(info["sources"]) == 2
    for table, source in zip(tables, info["sources"].values(), strict=True):
        names = [row[0] for row in table]
        counts = [number(row[1]) if row[1].strip("−").replace(",", "").isdigit() else 0
                  for row in table]  # fmt: skip
        found, used = names.index("documents"), names.index("documents used")
        assert counts[0] - sum(counts[1:found]) == counts[found] == source["documents"]
        assert counts[found] - sum(counts[found + 1 : used]) == counts[used]
        assert counts[used] == source["documents_used"] > 0
    assert [row[0] for row in tables[0] if row[0] == "encodings"] == ["encodings"]
    assert any(row[0] == "not read: broken row" for row in tables[0])


def test_samples_lead_to_their_bytes_and_cover_tasks_and_reasons(built):
    info, page, _ = built
    samples, refused = page.data["sample-data"], page.data["refused-data"]
    filled = {name for name, task in info["tasks"].items() if task["accepted"]}
    assert {each["task"] for each in samples} == filled
    for each in samples:
        assert re.search(r"(rows\.csv|m\.py).*, lines \d+-\d+$", each["source"])
        assert "sha256" in each["trace"]
    reasons = Counter(each["reason"] for each in refused)
    unread = {reason for source in info["sources"].values() for reason in source["unreadable"]}
    assert reasons.keys() == info["rejected_by_reason"].keys() | unread
    shown = Counter((each["task"], each["reason"]) for each in refused)
    assert max(shown.values()) <= 2
    assert {"broken_row", "duplicate"} <= reasons.keys()


def test_what_else_a_reader_wants_to_know_is_there(built):
    info, page, text = built
    for part in (
        "How collected code was run",
        "Leak audit",
        "Near-duplicates, by the exact Jaccard similarity",
        "No answer was written by a model.",
        "unknown",
        "Latin",
        "order words",
    ):
        assert part in text, part
    shown = re.search(r"([\d,]+) of ([\d,]+) train examples are shown solved questions", text)
    assert 0 < number(shown[1]) < number(shown[2]) == info["examples"]["train"]


def test_no_file_shows_what_was_refused_as_secret(folder):
    files = [file for file in folder.rglob("*") if file.is_file()]
    texts = {
        file.name: (
            gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        ).decode()
        for file in files
    }
    for secret in SECRETS:
        assert not [name for name, text in texts.items() if secret.split()[-1] in text], secret
    for name in ("secret", "e-mail address", "telephone number"):
        told = f"[{name} masked]"
        assert told in texts["rejected.jsonl.gz"] and told in texts["datasheet.html"]
    # Where it was found is told all the same.
    line = next(line for line in texts["rejected.jsonl.gz"].splitlines() if told in line)
    assert json.loads(line)["record"]["provenance"]["uri"] == "rows.csv"


def test_every_reason_has_one_family():
    assert sorted(reason for reasons in FAMILIES.values() for reason in reasons) == sorted(REASONS)


def test_tasks_without_train_or_test_examples_are_told(built, recipe):
    info, _, text = built
    assert bool(info["missing_examples"]) == ("too few documents" in text)
    entry = {"drafts": 9, "examples": {"train": {"": 3}}}
    tasks = {"name_topic": entry, "order_words": {**entry, "examples": {"test": {"task": 1}}}}
    tasks["write_title"] = {**entry, "examples": {}}
    made = recipe(holdout_tasks=("order_words",))
    told = missing_examples({"tasks": tasks}, made)
    assert told == "no train example: write_title; no test example: name_topic, write_title"
    told = missing_examples({"tasks": tasks}, replace(made, test_fraction=0.0))
    assert told == "no train example: write_title"
    assert missing_examples({"tasks": {"write_title": {**entry, "drafts": 0}}}, made) == ""
