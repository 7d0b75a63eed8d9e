#!/usr/bin/env bash
# Record as much as possible on a GPU in a few minutes, the most valuable first; runs unattended.
#
#     OUT=DIR bash benchmarks/first_gpu.sh A|B [SECONDS]
#
# Run it in the root of a checkout, with the dependencies of bsprobe installed; bsprobe need not be.
# A is for a first session, B for a second one, which continues from tests/data/truth. It takes at
# most SECONDS (535) and writes results to $OUT as soon as possible: at most 8 files of 16 MiB.
#
#     OUT/log-A.txt                 the whole output
#     OUT/outside.jsonl             memory outside the allocator, stage by stage
#     OUT/truth-1.tar, -2, -3, -4   recordings of benchmarks/record_truth.py, for tests/data/truth
#     OUT/plans.json.gz             cuDNN's plans and kernels, from benchmarks/card_plans.py
#     OUT/run.tgz, runs.tgz         folders of bsprobe run, explain and study
#
# PY names the Python, W the folder for work in progress. A wheel of nvidia-cudnn-frontend in .whl/
# is installed if possible. REHEARSE=1 uses small networks, to test the script on this machine.
set -u
cd "$(dirname "$0")/.." || exit 2
part=${1:-} limit=${2:-535}
if ! [[ $part =~ ^[AB]$ && $limit =~ ^[0-9]+$ && -n ${OUT:-} ]]; then
  echo "usage: OUT=DIR bash benchmarks/first_gpu.sh A|B [SECONDS]" >&2
  exit 2
fi
if [ -z "${FIRST_GPU_IN_TIME:-}" ]; then  # enforces the limit even if a command hangs
  FIRST_GPU_IN_TIME=1 exec timeout -s TERM -k 3 "$((limit > 8 ? limit - 4 : limit))" \
    bash benchmarks/first_gpu.sh "$part" "$limit"
fi

PY=${PY:-python3} W=${W:-$PWD/.first-gpu}
mkdir -p "$OUT" "$W"
OUT=$(cd "$OUT" && pwd) W=$(cd "$W" && pwd)
exec > >(tee -a "$OUT/log-$part.txt") 2>&1
export PYTHONUNBUFFERED=1 MPLCONFIGDIR=$W/mpl PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
small=() network=(--model deeplabv2-resnet101) first=140
if [ -n "${REHEARSE:-}" ]; then
  small=(--rehearse) first=40
  network=(--model deeplabv2-mini --resolution 64x128 --precision amp-fp16 --norm batch --max-batch 64)
fi

left() { echo $((limit - SECONDS)); }
say() { echo "=== [${SECONDS} s, $(left) s left] $*"; }
box() {  # box SECONDS COMMAND...: run within the time left; a failure does not stop the script
  local seconds=$1
  shift
  if (($(left) < 25)); then say "skipped: $*"; return; fi
  ((seconds > $(left) - 14)) && seconds=$(($(left) - 14))
  say "at most $seconds s: $*"
  timeout -s INT -k 6 "$seconds" "$@" </dev/null
  say "ended with $?"
}
pack() {  # pack FOLDER...: archive each in $OUT, without pickles if it is too large
  local folder partial
  for folder in "$@"; do
    [ -d "$W/$folder" ] || continue
    partial=$W/$folder.partial
    tar -czf "$partial" -C "$W" "$folder" 2>/dev/null
    if (($(wc -c <"$partial") > 15 << 20)); then
      tar -czf "$partial" -C "$W" --exclude='*.pickle' "$folder" 2>/dev/null
    fi
    (($(wc -c <"$partial") <= 15 << 20)) && cp "$partial" "$W/$folder.tgz" && mv "$W/$folder.tgz" "$OUT/"
  done
}
begun() { [ ! -e "$W/$1/journal.jsonl" ] || echo --resume; }  # the option that continues a run
minutes() { awk "BEGIN { print ($1) / 60 }"; }
record() {  # record SECONDS [OPTION...]: record missing trials
  local seconds=$1
  shift
  ((seconds > $(left) - 40)) && seconds=$(($(left) - 40))
  ((seconds < 30)) && { say "skipped: recording"; return; }
  box $((seconds + 25)) "$PY" benchmarks/record_truth.py --out "$W/truth" --archive "$OUT/truth.tar" \
    --minutes "$(minutes "$seconds")" "${small[@]}" "$@"
}
study() {  # study FOLDER: a short study of drawn images
  "$PY" -m bsprobe sample-data "$W/images" >/dev/null 2>&1 || true
  box 50 "$PY" -m bsprobe study --data "$W/images" --model deeplabv2-mini --resolution 64x128 \
    --base-lr 0.004 --base-batch 8 --batches 8,32 --seeds 1 --images 160 --out "$1"
}

if compgen -G '.whl/*.whl' >/dev/null; then
  "$PY" -m pip install -q --no-index --no-deps --no-cache-dir .whl/*.whl ||
    { "$PY" -m pip install -q --no-index --no-deps --no-cache-dir --target "$W/site" .whl/*.whl &&
      export PYTHONPATH=$PYTHONPATH:$W/site; }
fi
{ nvidia-smi -q -d MEMORY | head -25; nproc; free -g | head -2; } 2>&1
"$PY" - <<'P'
import importlib

for name in ("torch", "torchvision", "numpy", "pandas", "rich", "matplotlib", "click", "PIL",
             "pynvml", "cudnn", "timm", "hypothesis", "pytest"):
    try:
        print(name, getattr(importlib.import_module(name), "__version__", "?"))
    except BaseException as error:
        print("MISSING", name, repr(error)[:200])
P
say "imports are warm"
if [ ! -d "$W/truth" ] && [ -d tests/data/truth ]; then cp -r tests/data/truth "$W/"; fi
(while sleep 10; do pack run runs; done) &
mirror=$!
trap 'kill $mirror 2>/dev/null; pack run runs' EXIT

if [ "$part" = A ]; then
  box 75 "$PY" benchmarks/outside_stages.py "$OUT/outside.jsonl" "${small[@]}"
  record "$first" --tier all
  box 320 "$PY" -m bsprobe run $(begun run) --search guided --trial-timeout 150 --out "$W/run" "${network[@]}"
  record 600 --tier all  # the time that the run left
else
  mkdir -p "$W/runs"
  export XDG_CACHE_HOME=$W/cache
  box 60 "$PY" -m pytest -m gpu tests/devices/test_identity.py tests/engine/test_executable_batch_on_gpu.py \
    -q -p no:cacheprovider
  record 75 --tier 4
  box 45 "$PY" -m torch.distributed.run --nproc-per-node 1 -m bsprobe run $(begun runs/torchrun) \
    --search guided --model deeplabv2-mini --resolution 256x512 --precision amp-fp16 --norm batch \
    --out "$W/runs/torchrun"
  box 75 "$PY" -m bsprobe run $(begun runs/script) --memory-limit 3GiB --out "$W/runs/script" \
    -- "$PY" docs/examples/train.py --batch-size '{batch}'
  record 110 --tier 2
  box 120 "$PY" -m bsprobe explain --memory-limit 24GiB --out "$W/runs/explain" "${network[@]}"
  if [ ! -e "$W/plans.json.gz" ]; then
    box 75 "$PY" benchmarks/card_plans.py "$W/plans.json.gz" --minutes 1
    cp "$W/plans.json.gz" "$OUT/" 2>/dev/null
  fi
  study "$W/runs/study"
  record 70 --tier 1
  box 90 "$PY" -m bsprobe run $(begun runs/whole) --search guided --trial-timeout 60 --out "$W/runs/whole" \
    "${network[@]}"
  box 60 "$PY" -m pytest -m gpu tests/engine/test_measuring_on_gpu.py -q -p no:cacheprovider
  box 85 "$PY" -m pytest -m gpu tests/devices/test_cuda.py -q -x -p no:cacheprovider
  record 600 --tier all
fi
say "done"
