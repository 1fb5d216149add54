#!/usr/bin/env bash
# Trains on a Cloud TPU VM or a slice of many: create, set up, run on all workers, logs, delete.
#
#   launch/tpu_vm.sh create --name=t5 --zone=us-central2-b --type=v4-32 --version=tpu-ubuntu2204-base
#   launch/tpu_vm.sh setup  --name=t5 --zone=us-central2-b
#   launch/tpu_vm.sh run    --name=t5 --zone=us-central2-b -- \
#       --config=configs/t5_xl.py --workdir=/mnt/shared/t5_xl --dataset=/mnt/shared/instructions
#   launch/tpu_vm.sh logs   --name=t5 --zone=us-central2-b
#   launch/tpu_vm.sh delete --name=t5 --zone=us-central2-b
#
# Options: --name --zone (both always), --project, --type, --version, --spot, --folder (checkout on
# the workers, default instructrec_jax), --dry_run (print every call and make none).
# `setup` copies this checkout, as committed, to every worker and installs it with the tpu extra, with
# Python 3.11 from Ubuntu's packages where the image has only an older one.
# `run` starts `python -m instructrec_jax.train --distributed ...` on all workers and stays; a run
# that was preempted and saved (exit code 75) is started again, any other failure is not.
# `logs` brings the log of each worker to ./logs/NAME/.
# All workers must see the same --workdir and --dataset: a network disk, or a bucket mounted as one;
# where one of them does not, none begins. Over several slices, say how many: --config.mesh.slice=2.
set -euo pipefail

usage() { sed -n '2,19p' "$0" | sed 's/^# \{0,1\}//'; }
fail() { echo "error: $1" >&2; exit 2; }

action=${1:-}
case "$action" in
    create | setup | run | logs | delete) shift ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; fail "the first word must be create, setup, run, logs or delete" ;;
esac

name='' zone='' project='' type='' version='' folder=instructrec_jax spot='' dry_run=''
while [ $# -gt 0 ]; do
    case "$1" in
        --name=*) name=${1#*=} ;;
        --zone=*) zone=${1#*=} ;;
        --project=*) project=${1#*=} ;;
        --type=*) type=${1#*=} ;;
        --version=*) version=${1#*=} ;;
        --folder=*) folder=${1#*=} ;;
        --spot) spot=1 ;;
        --dry_run) dry_run=1 ;;
        --) shift; break ;;
        *) fail "unknown option $1; the options of train go after --" ;;
    esac
    shift
done
[ -n "$name" ] || fail "--name=NAME of the TPU VM is missing"
[ -n "$zone" ] || fail "--zone=ZONE is missing, for example us-central2-b"
if [ -z "$dry_run" ] && ! command -v gcloud >/dev/null; then
    fail "gcloud is not installed; --dry_run prints the calls without it"
fi

place=(--zone="$zone")
[ -z "$project" ] || place+=(--project="$project")

call() {
    if [ -n "$dry_run" ]; then
        printf '%q ' "$@"
        echo
    else
        "$@"
    fi
}
tpu() { call gcloud compute tpus tpu-vm "$@"; }
on_all_workers() { tpu ssh "$name" "${place[@]}" --worker=all --command="$1"; }

case "$action" in
    create)
        [ -n "$type" ] || fail "--type=TYPE is missing, for example v4-32"
        [ -n "$version" ] || fail "--version=VERSION is missing, for example tpu-ubuntu2204-base"
        extra=()
        [ -z "$spot" ] || extra+=(--spot)
        tpu create "$name" "${place[@]}" --accelerator-type="$type" --version="$version" ${extra[@]+"${extra[@]}"}
        ;;
    setup)
        cd "$(dirname "$0")/.."
        archive=${TMPDIR:-/tmp}/instructrec_jax-$$.tar.gz
        call git archive --format=tar.gz --output="$archive" HEAD
        tpu scp "$archive" "$name:instructrec_jax.tar.gz" "${place[@]}" --worker=all
        on_all_workers "mkdir -p $folder && tar -xzf instructrec_jax.tar.gz -C $folder &&
cd $folder && if python3 -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))'; then
python=python3; else sudo apt-get update -q && sudo apt-get install -qy python3.11-venv && python=python3.11; fi &&
\$python -m venv .venv && .venv/bin/pip install --quiet --editable '.[tpu]' &&
.venv/bin/python -c 'import jax; print(jax.devices())'"
        ;;
    run)
        [ $# -gt 0 ] || fail "no options for train; for example: -- --config=configs/t5_xl.py"
        arguments=$(printf '%q ' "$@")
        # All workers end with code 75 together, so each may start again by itself.
        on_all_workers "cd $folder && code=75 && while [ \$code -eq 75 ]; do
code=0; .venv/bin/python -m instructrec_jax.train --distributed $arguments >> train.log 2>&1 ||
code=\$?; done; tail -n 5 train.log; exit \$code"
        ;;
    logs)
        call mkdir -p "logs/$name"
        count=1
        if [ -z "$dry_run" ]; then
            count=$(gcloud compute tpus tpu-vm describe "$name" "${place[@]}" \
                --format='value(networkEndpoints.len())')
        fi
        for ((worker = 0; worker < count; worker++)); do
            tpu scp "$name:$folder/train.log" "logs/$name/worker-$worker.log" "${place[@]}" \
                --worker="$worker"
        done
        ;;
    delete)
        tpu delete "$name" "${place[@]}" --quiet
        ;;
esac
