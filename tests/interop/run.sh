#!/usr/bin/env bash
# Runs the interop tests, with PyTorch and AdapterHub's library in .venv-torch, made on first use; arguments go to pytest.
# Where that environment cannot be made, without a network for instance, it says so and succeeds.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if ! bash experiments/benchmark/environment.sh; then
  echo "skipped: experiments/benchmark/environment.sh could not make .venv-torch, for the reason above"
  exit 0
fi
exec bash tests/run.sh tests/interop "$@"
