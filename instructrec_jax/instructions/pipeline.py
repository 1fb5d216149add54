"""The stages of a build after construction, in order; two runners work through this table."""

from instructrec_jax.instructions import decisions, phrase, rejects
from instructrec_jax.instructions.flow import FILES, Stage

# The streams that construction gives: keys to compare by, and documents with all their drafts.
CONSTRUCTED = ("texts", "bands", "drafts", "documents", "rejects")
STAGES = (
    Stage("held_out_text", ("texts",), ("refused_documents",), decisions.held_out_text),
    Stage("near_duplicates", ("bands",), ("refused_documents",), decisions.near_duplicates),
    Stage(
        "refuse_documents",
        ("drafts", "refused_documents"),
        ("questions", "verdicts"),
        decisions.refuse_documents,
    ),
    Stage("questions", ("questions",), ("answers", "verdicts"), decisions.answer_questions),
    Stage("answers", ("answers",), ("buckets", "compared", "verdicts"), decisions.held_out_answers),
    Stage("shared_buckets", ("buckets",), ("meetings",), decisions.shared_buckets),
    Stage("meetings", ("compared", "meetings"), ("similar",), decisions.words_of_meetings),
    Stage("similar_questions", ("similar",), ("refused_drafts",), decisions.similar_questions),
    Stage("survivors", ("compared", "refused_drafts"), ("kept", "verdicts"), decisions.survivors),
    Stage(
        "phrase",
        ("documents", "verdicts", "kept"),
        ("lines", "rejects"),
        phrase.phrase,
        side=decisions.bounds_of,
    ),
    Stage("shards", ("lines",), (FILES,), phrase.write_shard),
    Stage("rejects", ("rejects",), (FILES,), rejects.order_rejects),
)
