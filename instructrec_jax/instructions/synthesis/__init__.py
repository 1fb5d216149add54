"""Instructions without an outside model: proposed from examples, judged by their likelihood.

Reading order: traits (what a task's examples show), grammar (phrasings for it), likelihood (a
checkpoint's log-probabilities), curation (what they say of an instruction or example), design (the
best phrasings as a file of templates), backward (examples turned round, to train a synthesiser),
generation (documents to instructions by such a checkpoint), corpus (what it made, as a corpus of a
build), curated_file (a dataset that a checkpoint has looked through).

Nothing here imports JAX but `likelihood.load_judge`, when it is called.
"""
