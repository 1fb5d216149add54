"""docs/datasets.md says what the readers and filters are called, and no other names."""

import re
from pathlib import Path

from instructrec_jax.instructions.document import KINDS
from instructrec_jax.instructions.filters import COMPARING_FILTERS, CURATING_FILTERS, FILTERS
from instructrec_jax.instructions.sources import READERS
from instructrec_jax.instructions.splitting import HOLDOUTS

PAGE = (Path(__file__).parent.parent / "docs" / "datasets.md").read_text(encoding="utf-8")


def rows(heading):
    """The cells of the table under a heading."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")][2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def names(cell):
    return re.findall(r"`(\w+)`", cell)


def test_every_reader_its_kind_and_its_options_stand_in_the_page():
    told = {}
    for readers, _, kind, options in rows("Readers"):
        same = list(told.values())[0]["options"] if options == "the same" else None
        for name in names(readers):
            told[name] = {"kind": kind, "options": same or set(names(options))}
    # It is written by the build binary alone.
    assert told.keys() == READERS.keys() - {"synthesised"}
    for name, entry in told.items():
        assert entry["kind"] == READERS[name].kind in KINDS
        assert entry["options"] <= READERS[name].options.keys(), name
        missing = READERS[name].options.keys() - entry["options"]
        assert not missing, name


def test_every_filter_and_hold_out_stands_in_the_page():
    filters = {name for first, *_ in rows("Filters") for name in first.split(", ")}
    assert filters == {
        *COMPARING_FILTERS,
        *CURATING_FILTERS,
        *(each.name for each in FILTERS if not each.required),
    }
    assert [names(first)[0] for first, *_ in rows("Hold-outs")] == list(HOLDOUTS)
