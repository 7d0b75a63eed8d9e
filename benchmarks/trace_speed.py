"""How long tracing a training step takes: deeplabv2-resnet101 at two batch sizes, matched.

Each precision is traced in a process of its own; what importing torch and bsprobe takes is not
counted, what PyTorch imports meanwhile for fake tensors (torch._dynamo) is, and is shown. A run
before that is not counted either: it compiles the modules that are imported. From a checkout:

    python benchmarks/trace_speed.py [model]
"""

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time

from benchmarks.checkout import python_path
from bsprobe.records.variants import Precision

GOAL_SECONDS = 5.0
THREADS = 2
REPEATS = 3


def measure(model: str, precision: str) -> dict[str, float]:
    """In this process: seconds of the parts; processor time beside the wall clock's."""
    from bsprobe.records.units import Resolution  # noqa: PLC0415 - with it
    from bsprobe.records.variants import Variant  # noqa: PLC0415 - with it
    from bsprobe.simulate.trace.tracer import StepTracer  # noqa: PLC0415 - imports torch: not counted

    variant = Variant(
        model=model,
        resolution=Resolution(height=512, width=1024),
        precision=Precision(precision),
    )
    start, processor_start = time.perf_counter(), time.process_time()
    importlib.import_module("torch._dynamo.config")  # as FakeTensorMode does
    imported = time.perf_counter()
    timeline = StepTracer(variant).timeline(4)
    end, processor_end = time.perf_counter(), time.process_time()
    assert len(timeline.traced_at) == 2  # noqa: S101, PLR2004 - matched, or nothing is proven
    return {
        "seconds": end - start,
        "dynamo_seconds": imported - start,
        "processor_seconds": processor_end - processor_start,
        "events": sum(map(len, timeline.sections.values())),
    }


def in_a_process(model: str, precision: str, modules: str) -> dict[str, float]:
    """Measure in a fresh process whose compiled modules are kept in a folder."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(THREADS),
        "PYTHONPATH": python_path(),
        "PYTHONPYCACHEPREFIX": modules,
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, __file__, "--measure", model, precision]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def main(model: str) -> None:
    """Measure each precision, print a line for each and the verdict."""
    slowest = 0.0
    with tempfile.TemporaryDirectory() as modules:
        in_a_process(model, Precision.FP32, modules)
        for precision in Precision:
            runs = [in_a_process(model, precision, modules) for _ in range(REPEATS)]
            best = min(runs, key=lambda run: run["seconds"])
            slowest = max(slowest, best["seconds"])
            print(
                f"{model} {precision:<9} {best['seconds']:5.2f} s, of which importing "
                f"torch._dynamo {best['dynamo_seconds']:5.2f} s; processor "
                f"{best['processor_seconds']:5.2f} s; {best['events']:,.0f} events"
            )
    verdict = "reached" if slowest < GOAL_SECONDS else "NOT reached"
    print(f"slowest {slowest:.2f} s (best of {REPEATS}); goal {GOAL_SECONDS:.0f} s: {verdict}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(*sys.argv[2:])))
    else:
        main(sys.argv[1] if sys.argv[1:] else "deeplabv2-resnet101")
