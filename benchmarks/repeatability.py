"""Measure how far equal trials differ: the noise that `bsprobe compare` allows for.

    python benchmarks/repeatability.py [--device cuda] [--repeats 6]

Each trial runs in its own process. The spread of peaks is the largest minus the smallest; that of
throughput is divided by the median. The spread that single trials report is printed beside it.
"""

import argparse
import statistics

from bsprobe.analysis.equal_trials import step_noise
from bsprobe.analysis.search import Process
from bsprobe.records.runs import DeviceRequest
from bsprobe.records.trials import Measurement, Purpose, TrialSpec
from bsprobe.records.units import MIB, format_bytes, parse_bytes, parse_resolution
from bsprobe.records.variants import Variant
from bsprobe.worker.runner import TrialRunner

_BATCHES = (1, 2, 4)
_TIMEOUT_SECONDS = 300


def measure(runner: TrialRunner, spec: TrialSpec, repeats: int) -> list[Measurement]:
    """Run the same trial several times, each in a fresh process."""
    measured = []
    for _ in range(repeats):
        trial = runner.run(
            spec, process=Process.FRESH, purpose=Purpose.PROOF, on_phase=lambda _: None
        )
        if trial.measurement is None:
            raise SystemExit(f"batch {spec.batch_size}: {trial.outcome}")
        measured.append(trial.measurement)
    return measured


def spread(values: list[int]) -> str:
    """Format the largest minus the smallest value."""
    return format_bytes(max(values) - min(values))


def describe(batch: int, trials: list[Measurement]) -> str:
    """Format the spread of each figure over equal trials as one line."""
    reserved = [m.peak_reserved_bytes for m in trials if m.peak_reserved_bytes is not None]
    rates = [m.images_per_second for m in trials if m.images_per_second is not None]
    within = [step_noise(m.step_seconds) for m in trials]
    return (
        f"batch {batch}: peak {spread([m.peak_bytes for m in trials])}, "
        f"allocated {spread([m.peak_allocated_bytes for m in trials])}, "
        f"reserved {spread(reserved) if reserved else '-'}; "
        f"images/s {(max(rates) - min(rates)) / statistics.median(rates):.1%} between trials, "
        f"{statistics.median(within):.1%} within one"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Spread of equal trials.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory-limit", default="500MiB", type=parse_bytes)
    parser.add_argument("--model", default="deeplabv2-resnet50")
    parser.add_argument("--resolution", default="64x128", type=parse_resolution)
    parser.add_argument("--repeats", default=6, type=int)
    given = parser.parse_args()
    limit = given.memory_limit if given.device == "cpu" else None
    request = DeviceRequest(device=given.device, memory_limit_bytes=limit)
    variant = Variant(model=given.model, resolution=given.resolution)
    with TrialRunner(request, timeout=_TIMEOUT_SECONDS) as runner:
        device = runner.ready.device
        print(f"{device.name}, {device.capacity_bytes / MIB:.0f} MiB, {given.repeats} trials each")
        for batch in _BATCHES:
            spec = TrialSpec(variant=variant, batch_size=batch)
            print(describe(batch, measure(runner, spec, given.repeats)), flush=True)


if __name__ == "__main__":
    main()
