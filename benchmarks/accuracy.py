"""How far predictions are from what was recorded on GPUs: `reports/accuracy.md` and its plot.

    PYTHONPATH=. python benchmarks/accuracy.py [--truth DIR] [--out DIR]

Needs no GPU: what was measured stands in `tests/data/truth` (`record_truth.py` writes it), and what
is predicted is predicted anew.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from accuracy_figures import Accuracy, CheckedBoundary, CheckedTrial
from accuracy_report import write
from truth_prediction import compared, gpu_of, predicted_boundary, predicted_measurement
from truth_records import ROOT, Truth, TruthTrial, load_all

from bsprobe.devices.simulated import SimulatedDevice
from bsprobe.simulate.allocator import SimulatedOutOfMemoryError
from bsprobe.trials import Measurement

REPORTS = Path(__file__).parents[1] / "reports"


def checked(truth: Truth) -> Accuracy:
    """Everything that was recorded on one machine beside its prediction."""
    return Accuracy(
        trials=tuple(checked_trials(truth)), boundaries=tuple(checked_boundaries(truth))
    )


def checked_trials(truth: Truth) -> Iterator[CheckedTrial]:
    """The trials, request by request too where the allocator's history was recorded."""
    device = SimulatedDevice(gpu_of(truth.machine), None)
    for path, trial in truth.trials:
        has_history = bool(trial.marks) and trial.measurement is not None
        yield CheckedTrial(
            machine=truth.name,
            trial=trial,
            predicted=_prediction(trial, device),
            requests=compared(path, trial, truth.machine) if has_history else None,
        )


def checked_boundaries(truth: Truth) -> Iterator[CheckedBoundary]:
    """The boundaries that were proven."""
    for run in truth.boundaries:
        device = SimulatedDevice(gpu_of(truth.machine), run.device.limit_bytes)
        for result in run.results:
            if result.boundary.is_exact and result.boundary.largest is not None:
                found = predicted_boundary(run, result.variant, device)
                yield CheckedBoundary(
                    machine=truth.name,
                    variant=result.variant,
                    capacity_bytes=run.device.capacity_bytes,
                    measured=result.boundary.largest,
                    predicted=found.largest or 0,
                )


def _prediction(trial: TruthTrial, device: SimulatedDevice) -> Measurement | None:
    try:
        return predicted_measurement(trial, device)
    except SimulatedOutOfMemoryError:
        return None


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the report; print its first line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--truth", type=Path, default=ROOT)
    parser.add_argument("--out", type=Path, default=REPORTS)
    given = parser.parse_args(arguments)
    found = [checked(truth) for truth in load_all(given.truth)]
    print(
        write(
            Accuracy(
                trials=tuple(each for part in found for each in part.trials),
                boundaries=tuple(each for part in found for each in part.boundaries),
            ),
            given.out,
        )
    )


if __name__ == "__main__":
    main()
