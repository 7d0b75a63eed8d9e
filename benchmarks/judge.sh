#!/usr/bin/env bash
# Holds predictions against recordings of GPUs, with the PyTorch and the cuDNN that recorded them:
#
#   bash benchmarks/judge.sh [--out OUT] TRUTH ...
#
# `--help` says the rest. Needs Python from 3.11 on, and a network when an environment is made.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# The data filter, which keeps an archive from writing outside, came with 3.11.4.
suits='import sys, tarfile; sys.exit(sys.version_info < (3, 11) or not hasattr(tarfile, "data_filter"))'
for python in python3 python3.12 python3.13 python3.11 python3.14 python; do
  if "$python" -c "$suits" 2>/dev/null; then
    PYTHONPATH="$(dirname "$here")" exec "$python" "$here/judge.py" "$@"
  fi
done
echo "error: no Python from 3.11.4 on is on PATH" >&2
echo "hint: install one, or put the folder of one at the front of PATH" >&2
exit 2
