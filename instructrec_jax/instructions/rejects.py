"""What is refused, on its way to rejected.jsonl.gz: all of it, or the first of a kind by hash."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instructrec_jax.instructions import hashing
from instructrec_jax.instructions.document import Unreadable
from instructrec_jax.instructions.flow import FILES, Emission, Group, Run
from instructrec_jax.instructions.tally import Tally
from instructrec_jax.instructions.writing import gzipped, json_line

if TYPE_CHECKING:
    from instructrec_jax.instructions.construct import NumberedUnit

REJECTED = "rejected.jsonl.gz"
_SHOWN = 2


def write_reject(
    task: str, reason: str, order: str, record: Callable[[], dict[str, Any]], run: Run
) -> Iterator[Emission]:
    """Keep the record among the samples of its task and reason, or send it on where all are kept.

    `order`, a hash, tells which come first; `record()` is called for those alone.
    """
    most = run.recipe.filters.rejects_written
    if not most:
        line = json_line({"reason": reason, "record": record()})
        # The datasheet shows some.
        run.tally.keep("shown_reject", task, reason, order=order, value=line, most=_SHOWN)
        yield "rejects", order[:2], ((task, reason, order), line)
    elif run.tally.admits("reject", task, reason, order=order, most=most):
        line = json_line({"reason": reason, "record": record()})
        run.tally.keep("reject", task, reason, order=order, value=line, most=most)


def write_unreadable(found: Unreadable, unit: "NumberedUnit", run: Run) -> Iterator[Emission]:
    """Count what no document could be made of, and write it beside the refused drafts."""
    run.tally.count("unreadable", unit.source, found.reason)
    record = {"task": "", "corpus": found.corpus, "uri": found.uri, "detail": found.detail}
    order = hashing.digest(found.corpus, found.uri, found.reason, found.detail, unit.number)
    yield from write_reject("", found.reason, order, lambda: record, run)


def order_rejects(key: str, group: Group, run: Run) -> Iterator[Emission]:
    """A part of rejected.jsonl.gz where all are kept: the lines in order, for one hash prefix."""
    lines = [line.encode("utf-8", "surrogatepass") for _, line in sorted(group["rejects"])]
    run.tally.count("rejects_written", by=len(lines))
    yield FILES, f"{REJECTED}.{key}", gzipped(lines)


def write_rejected(source: Path, folder: Path, tally: Tally) -> dict[str, Any]:
    """Write rejected.jsonl.gz out of the samples, or the parts where all are kept; its entry."""
    parts = sorted(source.glob(f"{REJECTED}.??"))
    samples = [line.encode("utf-8", "surrogatepass") for _, line in tally.records("reject")]
    digest = hashlib.sha256()
    with open(folder / REJECTED, "wb") as file:
        # Gzip files one after another are a gzip file.
        for contents in (part.read_bytes() for part in parts) if parts else [gzipped(samples)]:
            digest.update(contents)
            file.write(contents)
    count = tally.counts["rejects_written",] or len(samples)
    return {REJECTED: {"examples": count, "sha256": digest.hexdigest()}}
