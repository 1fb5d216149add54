#!/usr/bin/env bash
# Trains in several processes on this machine that work as one, as the hosts of a cluster do: each
# has simulated CPU devices of its own, and they talk over the loopback interface (gloo).
#
#   launch/local_processes.sh [--processes=2] [--devices=4] [--port=12765] [--grace=10] \
#       [--dry_run] -- \
#       --config=configs/tiny.py --dataset=examples.jsonl --workdir=runs/local
#
# What follows `--` goes to `python -m instructrec_jax.train`. Words of process N after the first
# are prefixed with [N]. Ends with the first exit code that is not 0; then the others are stopped,
# and killed after --grace seconds: without the first they may wait for its figures for ever.
set -euo pipefail

if [ "${BASH_VERSINFO[0]}" -lt 5 ]; then
    echo "error: this script needs bash 5 (macOS: brew install bash)" >&2
    exit 2
fi
processes=2 devices=4 port=12765 grace=10 dry_run=
while [ $# -gt 0 ]; do
    case "$1" in
        --processes=*) processes=${1#*=} ;;
        --devices=*) devices=${1#*=} ;;
        --port=*) port=${1#*=} ;;
        --grace=*) grace=${1#*=} ;;
        --dry_run) dry_run=1 ;;
        --) shift; break ;;
        *) echo "error: unknown option $1; put the options of train after --" >&2; exit 2 ;;
    esac
    shift
done
if [ $# -eq 0 ]; then
    echo "error: no options for train; for example: -- --config=configs/tiny.py" >&2
    exit 2
fi

pids=() signalled=
stop_all() { [ ${#pids[@]} -eq 0 ] || kill -"$1" "${pids[@]}" 2>/dev/null || true; }
trap 'signalled=1; stop_all TERM' TERM
trap 'signalled=1; stop_all INT' INT

for ((index = 0; index < processes; index++)); do
    call=(env JAX_PLATFORMS=cpu
        "XLA_FLAGS=${XLA_FLAGS:-} --xla_force_host_platform_device_count=$devices"
        "JAX_COORDINATOR_ADDRESS=127.0.0.1:$port"
        "JAX_NUM_PROCESSES=$processes" "JAX_PROCESS_ID=$index"
        python -m instructrec_jax.train --distributed "$@")
    if [ -n "$dry_run" ]; then
        printf '%q ' "${call[@]}"; echo
    elif [ "$index" -eq 0 ]; then
        "${call[@]}" & pids+=($!)
    else
        "${call[@]}" 2> >(sed -u "s/^/[$index] /" >&2) & pids+=($!)
    fi
done

code=0 running=${#pids[@]}
while [ "$running" -gt 0 ]; do
    one=0
    wait -n || one=$?
    if [ -n "$signalled" ]; then
        # The signal ended `wait`, not a process; the processes save and end by themselves.
        signalled=
        continue
    fi
    running=$((running - 1))
    if [ "$one" -ne 0 ] && [ "$code" -eq 0 ]; then
        code=$one
        if [ "$one" -ne 75 ] && [ "$running" -gt 0 ]; then
            echo "error: a process of the run ended with code $one; the others are stopped." \
                "The same command goes on from the newest checkpoint" >&2
            stop_all TERM
            (sleep "$grace"; stop_all KILL) &
            disown
        fi
    fi
done
exit "$code"
