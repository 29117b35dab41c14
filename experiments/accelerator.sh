#!/usr/bin/env bash
# Studies on one GPU or TPU, at most 9 minutes a call; call it again to go on.
# First, for at most two of them, the speed of a training step on this device: RESULTS/benchmark/README.md.
#
#   bash experiments/accelerator.sh RESULTS MODEL DATA [STUDY.yaml ...]
#
# RESULTS  folder that keeps everything small: every cell's JSON, the source adapters, the tables
# MODEL    folder of an encoder, of a family in `scalearn list backbones`; `experiments/accelerator/run.py halve SRC DST` makes a float16 copy
# DATA     folder with glue/TASK and superglue/TASK, each with train and validation files
# STUDY    what to run (default: experiments/glue_mpnet.yaml)
#
# Downloads nothing. PYTHON names the interpreter (default python3), which has jax for the device and what setup.cfg
# requires; what it lacks is taken from WHEELS, a folder that `experiments/accelerator/wheels.sh` fills elsewhere.
# PROCESSES=N shares a study's cells among N processes on the device: compiling one cell leaves it idle.
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,15s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ -z "${WHEELS:-}" ] || WHEELS=$(realpath "$WHEELS")
results=$(realpath -m "$1") model=$(realpath -m "$2") data=$(realpath -m "$3")
shift 3
studies=()
[ $# -eq 0 ] || mapfile -t studies < <(realpath -m "$@")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export HF_HUB_OFFLINE=1 TRANSFORMERS_NO_ADVISORY_WARNINGS=1 PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
python=${PYTHON:-python3}
if [ -n "${WHEELS:-}" ]; then  # a place of its own: the image's packages stay as they are
  site=$(mktemp -d) && trap 'rm -rf "$site"' EXIT
  "$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile --target "$site" "$WHEELS"/*.whl
  export PYTHONPATH=$PYTHONPATH:$site
fi
if [ -e "$model/config.json" ]; then  # otherwise the input is wrong, which is reported below
  timeout --kill-after=10 120 "$python" -m experiments.benchmark.accelerator "$results/benchmark" --minutes 1.5 >&2 \
    || echo "accelerator: benchmark not complete (code $?); the next call goes on with it" >&2
fi
minutes=$(awk -v all="${MINUTES:-7.5}" -v gone="$SECONDS" 'BEGIN { left = all - gone / 60; print (left > 0 ? left : 0) }')
timeout --kill-after=10 "$((530 - SECONDS))" "$python" experiments/accelerator/run.py run "$results" "$model" "$data" --minutes "$minutes" \
  --processes "${PROCESSES:-1}" ${studies[@]+--studies "${studies[@]}"}
