#!/usr/bin/env bash
# Runs tests in .venv, made on first use:
#   tests/run.sh                all but those marked slow
#   tests/run.sh --all          all
#   tests/run.sh ARGUMENT...    what pytest makes of them, for instance: tests/run.sh tests/cli/test_cli.py -k help
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash experiments/install.sh
case "${1-}" in
"") set -- -m "not slow" ;;
--all) shift ;;
esac
exec .venv/bin/python -m pytest -n 2 --dist worksteal "$@"
