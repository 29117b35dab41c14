#!/usr/bin/env bash
# Makes .venv-torch or reuses it: PyTorch and AdapterHub's `adapters`, the other side of experiments/benchmark and of
# tests/interop. They ask for an older transformers than the package does, so they get an environment of their own.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

python=.venv-torch/bin/python

versions() {
  "$python" -c 'import torch, adapters, transformers as t; print(f"torch {torch.__version__}, adapters {adapters.__version__}, transformers {t.__version__}")'
}

found=$(versions 2>/dev/null || true)
if [[ "$found" != "torch 2.13.0"*", adapters 1.3.0, "* ]]; then
  echo "installing PyTorch into .venv-torch (a few minutes, once)" >&2
  rm -rf .venv-torch
  "${PYTHON:-python3}" -m venv .venv-torch
  "$python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 adapters==1.3.0 numpy
  found=$(versions)
fi
echo "$found"
