#!/usr/bin/env bash
# The GLUE and SuperGLUE tables at full length on one GPU or TPU, at most 9 minutes a call; call it again to go on.
#
#   bash experiments/accelerator.sh RESULTS MODEL DATA
#
# RESULTS  folder that keeps everything small: every cell's JSON, the source adapters, the tables
# MODEL    folder of a BERT-, RoBERTa- or XLM-R-shaped encoder; `accelerator.py halve SRC DST` makes a float16 copy
# DATA     folder with glue/TASK and superglue/TASK, each with train and validation files
#
# Needs jax for the device, flax, optax, transformers, safetensors and PyYAML; nothing is downloaded. PYTHON names the
# interpreter (default python3).
set -euo pipefail
[ $# -eq 3 ] || { sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2; }
results=$(realpath -m "$1") model=$(realpath -m "$2") data=$(realpath -m "$3")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export HF_HUB_OFFLINE=1 TRANSFORMERS_NO_ADVISORY_WARNINGS=1 PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
exec timeout --kill-after=10 530 "${PYTHON:-python3}" experiments/accelerator.py run "$results" "$model" "$data" --minutes "${MINUTES:-7.5}"
