#!/usr/bin/env bash
# Runs the tests in .venv, made on first use; arguments go to pytest, for instance: tests/run.sh tests/cli/test_cli.py -k help
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash experiments/install.sh
exec .venv/bin/python -m pytest -n 2 --dist worksteal "$@"
