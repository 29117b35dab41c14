#!/usr/bin/env bash
# Executes the notebooks again, in .venv, and fails if a cell of one does. Arguments are notebooks; by default all.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

bash experiments/install.sh
bash experiments/benchmark/environment.sh   # for fold_and_load_in_pytorch.ipynb
python=.venv/bin/python
if ! "$python" -c 'import ipykernel, nbclient, nbformat' 2>/dev/null; then
  "$python" -m pip install --quiet --disable-pip-version-check -e '.[notebooks]'
fi
exec "$python" experiments/notebooks/execute.py "$@"
