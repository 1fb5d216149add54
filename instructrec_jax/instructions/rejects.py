"""What is refused, on its way to rejected.jsonl.gz: all of it, or the first of a kind by hash.

Secrets and personal data are masked in it, whatever the record was refused for: the file and the
datasheet are there to be read and passed on.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instructrec_jax.instructions import hashing
from instructrec_jax.instructions.document import Unreadable
from instructrec_jax.instructions.flow import FILES, Emission, Group, Run
from instructrec_jax.instructions.personal_data import masked, parts_of
from instructrec_jax.instructions.tally import Tally
from instructrec_jax.instructions.writing import gzipped, json_line

if TYPE_CHECKING:
    from instructrec_jax.instructions.construct import NumberedUnit

REJECTED = "rejected.jsonl.gz"
_SHOWN = 2
# What of a record is no text: it tells where the record comes from, and stays as it is.
_NAMES = frozenset(
    ("id", "task", "template", "split", "holdout", "target_source", "provenance", "corpus", "uri")
)


def write_reject(
    task: str,
    reason: str,
    order: str,
    record: Callable[[], dict[str, Any]],
    run: Run,
    *,
    texts: tuple[str, ...] = (),
) -> Iterator[Emission]:
    """Keep the record among the samples of its task and reason, or send it on where all are kept.

    `order`, a hash, tells which come first; `record()` is called for those alone. `texts` are those
    that it was made of: what is secret there is masked also where the record holds a part of it.
    """
    most = run.recipe.filters.rejects_written

    def line_of() -> str:
        found = record()
        if run.recipe.filters.uses("personal_data"):
            found = masked_record(found, parts_of(*texts))
        return json_line({"reason": reason, "record": found})

    if not most:
        line = line_of()
        # The datasheet shows some.
        run.tally.keep("shown_reject", task, reason, order=order, value=line, most=_SHOWN)
        yield "rejects", order[:2], ((task, reason, order), line)
    elif run.tally.admits("reject", task, reason, order=order, most=most):
        line = line_of()
        run.tally.keep("reject", task, reason, order=order, value=line, most=most)


def masked_record(record: dict[str, Any], parts: Iterable[str] = ()) -> dict[str, Any]:
    """An example's record with secrets and personal data masked in all its texts."""
    return {key: value if key in _NAMES else _masked(value, parts) for key, value in record.items()}


def _masked(value: Any, parts: Iterable[str]) -> Any:
    if isinstance(value, str):
        return masked(value, parts)
    if isinstance(value, dict):
        return {key: _masked(item, parts) for key, item in value.items()}
    return [_masked(item, parts) for item in value] if isinstance(value, list | tuple) else value


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
