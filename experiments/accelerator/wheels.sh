#!/usr/bin/env bash
# Downloads what a GPU image with JAX may lack, a few MB of wheels, for `WHEELS=DIR bash experiments/accelerator.sh ...`
# on a machine without a network.
#
#   bash experiments/accelerator/wheels.sh DIR [PYTHON_VERSION]     # of the other machine, by default 3.12; Linux x86-64
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2; }
version=${2:-3.12}
mkdir -p "$1"
platforms=(--platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64)
"${PYTHON:-python3}" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --dest "$1" \
  --python-version "$version" --implementation cp "${platforms[@]}" \
  datasets dill multiprocess pydantic annotated-types typing-inspection ruamel.yaml tabulate jinja2 markupsafe
# pydantic takes one version of its core only.
core=$("${PYTHON:-python3}" - "$1" <<'PY'
import glob, re, sys, zipfile
wheel = zipfile.ZipFile(glob.glob(f"{sys.argv[1]}/pydantic-*.whl")[0])
name = next(name for name in wheel.namelist() if name.endswith("METADATA"))
print(re.search(r"Requires-Dist: (pydantic-core==[\w.]+)", wheel.read(name).decode())[1])
PY
)
"${PYTHON:-python3}" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --dest "$1" \
  --python-version "$version" --implementation cp "${platforms[@]}" "$core"
du -sh "$1"
