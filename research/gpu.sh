#!/usr/bin/env bash
# Fifteen minutes of a GPU, in three parts: is it right, how fast is it, and a better model.
#
#   research/gpu.sh [right] [fast] [better]        all three without arguments
#
# A part that fails does not stop the next one. Settings are variables of the environment:
#   OUT     folder for the reports and the weights (gpu-results)
#   DEVICE  cuda; with cpu, everything runs with the smallest sizes, as the tests do
#   LIMIT   seconds for each part (180)
#   TRAIN   seconds of pretraining (300)
#   RECIPE, PACK   of the pretraining (small, pack), and CHANGES, more words for `pretrain`
#   PYTHON  the interpreter (python)
#
# Weights are cut into files of 15 MiB: cat model.safetensors.* > model.safetensors
set -uo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD
OUT=${OUT:-gpu-results} DEVICE=${DEVICE:-cuda} LIMIT=${LIMIT:-180} TRAIN=${TRAIN:-300}
RECIPE=${RECIPE:-small} PACK=${PACK:-pack} PYTHON=${PYTHON:-python}
mkdir -p "$OUT"
RUN=$OUT/run

if [ "$DEVICE" = cpu ]; then
    sizes=(--size tiny) rounds=(--rounds 1) batch=1 clips=1 compile=()
    precisions=(--precision float32) attention=float32
else
    sizes=(--size tiny --size base) rounds=(--rounds 7) batch=256 clips=64 compile=(--compile)
    precisions=() attention=bfloat16
fi

report() { # NAME SECONDS COMMAND...: what it prints goes to OUT/NAME.txt, its last lines here
    local name=$1 limit=$2
    shift 2
    timeout --signal TERM --kill-after 30 "$limit" "$@" > "$OUT/$name.txt" 2>&1
    echo "== $name: exit code $?"
    tail -n 12 "$OUT/$name.txt" | tr '\r' '\n' | tail -n 12
}

right() { # the tests for a GPU: parity, devices, one process of DDP and of FSDP2
    report right "$LIMIT" "$PYTHON" -m pytest -m gpu -q -p no:cacheprovider
}

fast() { # as shares of the rate of a product that is measured beside it
    local b=research.benchmarks
    report fast-embed "$LIMIT" "$PYTHON" -m $b.embed --device "$DEVICE" \
        "${sizes[@]}" "${rounds[@]}" --batch $clips
    for size in "${sizes[@]}"; do
        [ "$size" = --size ] && continue
        report "fast-step-$size" "$LIMIT" "$PYTHON" -m $b.pretrain --device "$DEVICE" \
            --size "$size" --batch-size $batch "${precisions[@]}" "${rounds[@]}" "${compile[@]}"
    done
    report fast-attention "$LIMIT" "$PYTHON" -m $b.attention --device "$DEVICE" \
        --batch $batch --precision $attention "${rounds[@]}" "${compile[@]}"
}

better() { # a checkpoint is written at the end of the time, and the same command goes on from it
    # shellcheck disable=SC2086 # CHANGES are words
    report better "$TRAIN" "$PYTHON" -m hear_mwmae.cli pretrain "$RECIPE" "$PACK" "$RUN" \
        --device "$DEVICE" ${CHANGES:-}
    report weights "$LIMIT" "$PYTHON" -m research.snapshot "$RUN" -o "$OUT/weights"
    rm -f "$OUT"/weights/model.safetensors.*
    split -b 15M -d "$OUT/weights/model.safetensors" "$OUT/weights/model.safetensors."
    rm "$OUT/weights/model.safetensors"
}

[ $# -gt 0 ] || set -- right fast better
for part in "$@"; do
    "$part"
done
