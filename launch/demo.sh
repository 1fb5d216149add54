#!/usr/bin/env bash
# The whole paradigm on this machine, in minutes: raw data, instructions, training, evaluation,
# answers. `make demo` runs it in the project's environment; each command can be run by hand.
set -euo pipefail
cd "$(dirname "$0")/.."

config=configs/demo.py
dataset=datasets/demo
run=runs/demo

# Two cores work best as two devices of the mesh, each with rows of its own.
if [ "$(nproc 2>/dev/null || sysctl -n hw.ncpu)" -ge 2 ]; then
    export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=2"
fi
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}

stage() { printf '\n\033[1m== %s\033[0m\n' "$1"; }
show() { printf '$ %s\n' "$*"; "$@"; }

stage "1 and 2. Collect raw data on this machine and construct instructions from it"
if ! show python -m instructrec_jax.build --config=$config --output=$dataset; then
    echo "The demo starts over: $dataset is of an earlier version, and so is $run."
    rm -rf $dataset $run
    show python -m instructrec_jax.build --config=$config --output=$dataset
fi

stage "3. Train a small T5 from scratch on the CPU by sequence NLL"
show python -m instructrec_jax.train --config=$config --workdir=$run --dataset=$dataset

stage "4. Infer: answers to held-out instructions, beside floors that need no model"
show python -m instructrec_jax.evaluate --checkpoint=$run --dataset=$dataset \
    --output=$run/evaluation
cat >$run/questions.jsonl <<'JSON'
{"id": "date", "instruction": "Translate this date from English to German.", "input": "Thursday, May 14, 2026"}
{"id": "time", "instruction": "How do you say this in Chinese?", "input": "in 17 hours"}
{"id": "language", "instruction": "What language is this?", "input": "через 8 лет"}
JSON
show python -m instructrec_jax.decode --checkpoint=$run --input=$run/questions.jsonl --output=-

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
