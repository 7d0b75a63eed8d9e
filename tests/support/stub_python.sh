#!/usr/bin/env bash
# Stub of the Python or uv of a judge environment: logs its arguments and prints canned answers.
set -euo pipefail
echo "$(basename "$0") $*" | sed "s#[^ ]*/benchmarks/##" >> "$STUB_LOG"
case "$*" in
  *sys.version_info*) echo "${STUB_MINOR:-3.12}" ;;
  *torch.__version__*)
    # PyTorch does not start if the last installed cuDNN is too old for it.
    ! grep " install " "$STUB_LOG" | tail -n 1 | grep -q "${STUB_TOO_OLD:-none is}" || exit 1
    echo "${STUB_FACTS:-2.11.0+cu130 13.0 91900}" ;;
  *truth_versions.py*) echo "${STUB_DIFFERENCE:-}" ;;
  *accuracy.py*--load*) echo "# Accuracy: stub"; [ -z "${STUB_FAILS:-}" ] || exit "$STUB_FAILS" ;;
  *compare_requests.py*) echo "requests of a stub" ;;
  "--version") echo "uv 1" ;;
  venv*|"-m venv"*) mkdir -p "${@: -1}/bin"; cp "$0" "${@: -1}/bin/python" ;;
  *install*"${STUB_MISSING:-none is missing}"*) echo "Could not find a version" >&2; exit 1 ;;
esac
