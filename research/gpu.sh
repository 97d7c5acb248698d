#!/usr/bin/env bash
# Fifteen minutes of a GPU, in three parts: is it right, how fast is it, and a better model.
#
#   research/gpu.sh [right] [fast] [better]        all three without arguments
#
# A part that fails does not stop the next one. Settings are variables of the environment:
#   OUT     folder for the reports and the weights (gpu-results)
#   TRAIN   seconds of pretraining (300)
#   RECIPE, PACK   of the pretraining (small, pack), and CHANGES, more words for `pretrain`
#   PYTHON  the interpreter (python)
#
# Weights are cut into files of 15 MiB: cat model.safetensors.* > model.safetensors
set -uo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD
OUT=${OUT:-gpu-results} TRAIN=${TRAIN:-300} RECIPE=${RECIPE:-small} PACK=${PACK:-pack}
PYTHON=${PYTHON:-python}
LIMIT=180 # seconds of every other command
mkdir -p "$OUT"

report() { # NAME SECONDS WORDS...: what it prints goes to OUT/NAME.txt, its last lines here
    local name=$1 limit=$2
    shift 2
    timeout --signal TERM --kill-after 30 "$limit" "$PYTHON" -m "$@" > "$OUT/$name.txt" 2>&1
    echo "== $name: exit code $?"
    tail -n 12 "$OUT/$name.txt" | tr '\r' '\n' | tail -n 12
}

right() { # the tests for a GPU: parity, devices, a run that resumes, one process of torchrun
    report right $LIMIT pytest -m gpu -q -p no:cacheprovider
}

fast() { # embedding, and a training step: of MW-MAE beside MAE, in tiles and plain
    local b=research.benchmarks
    report embed $LIMIT $b.embed --device cuda --size tiny --size base --batch 64
    for size in tiny base; do
        report "step-$size" $LIMIT $b.pretrain --device cuda --size $size --batch 256 --compile
    done
    report attention $LIMIT $b.attention --device cuda --batch 256 --precision bfloat16 --compile
}

better() { # a checkpoint is written at the end of the time, and the same command goes on from it;
    # the newest model is cut into pieces
    # shellcheck disable=SC2086 # CHANGES are words
    report better "$TRAIN" hear_mwmae.cli pretrain "$RECIPE" "$PACK" "$OUT/run" --device cuda \
        --set keep_every=20 ${CHANGES:-}
    rm -f "$OUT"/model.safetensors.*
    split -b 15M -d "$(ls -t "$OUT"/run/model*/model.safetensors | head -n 1)" \
        "$OUT/model.safetensors."
}

[ $# -gt 0 ] || set -- right fast better
for part in "$@"; do
    "$part"
done
