#!/usr/bin/env bash
# The whole paradigm on this machine, in minutes: raw data, instructions, training, evaluation,
# answers. `make demo` runs it in the project's environment; each command can be run by hand.
set -euo pipefail
cd "$(dirname "$0")/.."

config=configs/demo.py
dataset=datasets/demo
run=runs/demo

stage() { printf '\n\033[1m== %s\033[0m\n' "$1"; }
show() { printf '$ %s\n' "$*"; "$@"; }

stage "1 and 2. Collect raw data on this machine and construct instructions from it"
show python -m instructrec_jax.build --config=$config --output=$dataset

stage "3. Train a small T5 from scratch on the CPU by sequence NLL"
show python -m instructrec_jax.train --config=$config --workdir=$run --dataset=$dataset

stage "4. Infer: answers to held-out instructions, beside floors that need no model"
show python -m instructrec_jax.evaluate --checkpoint=$run --dataset=$dataset \
    --output=$run/evaluation
show python -m instructrec_jax.decode --checkpoint=$run \
    --prompt="Translate this English date to German: Thursday, 14 May 2026"

stage "Done in $((SECONDS / 60)) min $((SECONDS % 60)) s"
cat <<TEXT
Look at the data:    $dataset/datasheet.html
Look at the run:     $run/report.html
Look at the answers: $run/evaluation/report.html

Next, your own instructions (Alpaca-style JSON lines: instruction, input, output):
  . .venv/bin/activate
  python -m instructrec_jax.train --config=configs/tiny.py --dataset=examples.jsonl --workdir=runs/own
  python -m instructrec_jax.decode --checkpoint=runs/own --prompt="..."
TEXT
