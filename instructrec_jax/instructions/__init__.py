"""Step 1 and 2 of the paradigm: raw corpora to instruction examples."""
