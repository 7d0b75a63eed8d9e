#!/usr/bin/env bash
# Compare predictions with recordings of GPUs, under the PyTorch and cuDNN that made the recordings:
#
#   bash benchmarks/judge.sh [--out OUT] TRUTH ...
#
# See `--help`. Needs Python 3.11.4 or newer, and a network to make an environment.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# The data filter of tarfile, which restricts archives to the target folder, exists since 3.11.4.
suits='import sys, tarfile; sys.exit(sys.version_info < (3, 11) or not hasattr(tarfile, "data_filter"))'
for python in python3 python3.12 python3.13 python3.11 python3.14 python; do
  if "$python" -c "$suits" 2>/dev/null; then
    PYTHONPATH="$(dirname "$here")" exec "$python" "$here/judge.py" "$@"
  fi
done
echo "error: no Python 3.11.4 or newer on PATH" >&2
echo "hint: install one, or add its folder to PATH" >&2
exit 2
