"""Compare predictions with recordings from GPUs; write `reports/accuracy.md` and its plot.

    PYTHONPATH=. python benchmarks/accuracy.py [--truth DIR] [--out DIR]
    PYTHONPATH=. python benchmarks/accuracy.py --load FILE ... [--out DIR]

Needs no GPU: the measurements are in `tests/data/truth` (written by `record_truth.py`), and the
predictions are computed again. Peaks and boundaries are always compared. Requests are compared only
if the installed PyTorch and cuDNN are the recorded ones; `bash benchmarks/judge.sh` makes such an
environment and runs this script in it. `--save FILE` keeps the figures of one environment instead
of writing the report; `--load` writes one report from the figures of several environments.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.accuracy_figures import (
    Accuracy,
    CheckedBoundary,
    CheckedMachine,
    CheckedTrial,
    joined,
)
from benchmarks.accuracy_file import load, save
from benchmarks.accuracy_report import write
from benchmarks.evaluated import recorded_device
from benchmarks.fake_reports import REPORTS, check_folder
from benchmarks.script_errors import exit_from
from benchmarks.truth_prediction import compared, gpu_of, predicted_boundary, predicted_measurement
from benchmarks.truth_records import ROOT, Fakes, Truth, TruthTrial, load_all
from benchmarks.truth_versions import recorded_versions, versions_here
from bsprobe.devices.simulated import SimulatedDevice
from bsprobe.records.errors import FileError
from bsprobe.records.trials import Measurement
from bsprobe.simulate.allocator.caching import SimulatedOutOfMemoryError


def checked(truth: Truth) -> Accuracy:
    """Compare everything recorded on one machine with its prediction."""
    machine = checked_machine(truth)
    return Accuracy(
        machines=(machine,),
        trials=tuple(checked_trials(truth, machine)),
        boundaries=tuple(checked_boundaries(truth)),
    )


def checked_machine(truth: Truth) -> CheckedMachine:
    """Return the versions that recorded a machine and those that predict for it."""
    return CheckedMachine(
        name=truth.name,
        is_fake=truth.machine.is_fake,
        recorded=recorded_versions(truth.machine),
        predicted=versions_here(truth.machine),
    )


def checked_trials(truth: Truth, machine: CheckedMachine) -> Iterator[CheckedTrial]:
    """Predict the trials, and their requests if the installed versions recorded the history."""
    device = recorded_device(gpu_of(truth.machine), None)
    for path, trial in truth.trials:
        is_compared = (
            machine.difference is None and bool(trial.marks) and trial.measurement is not None
        )
        yield CheckedTrial(
            machine=truth.name,
            trial=trial,
            predicted=_prediction(trial, device),
            requests=compared(path, trial, truth.machine) if is_compared else None,
        )


def checked_boundaries(truth: Truth) -> Iterator[CheckedBoundary]:
    """Predict the proven boundaries."""
    for run in truth.boundaries:
        device = recorded_device(gpu_of(truth.machine), run.device.limit_bytes)
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
    """Write the report and print its first line, or save the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--truth", type=Path, default=ROOT)
    parser.add_argument("--out", type=Path, default=REPORTS)
    parser.add_argument("--fake", action="store_true", help="accept what a fake GPU recorded")
    parser.add_argument(
        "--save", type=Path, metavar="FILE", help="save the figures and write no report"
    )
    parser.add_argument(
        "--load", type=Path, metavar="FILE", nargs="+", help="report on these figures"
    )
    given = parser.parse_args(arguments)
    fakes = Fakes.ACCEPT if given.fake else Fakes.REFUSE
    if given.load:
        found = joined(map(load, given.load))
        _check_fakes(given.out, fakes, is_fake=found.is_fake)
    else:
        truths = tuple(load_all(given.truth, fakes=fakes))
        if given.save is None:  # fail before predicting, which takes minutes
            _check_fakes(given.out, fakes, is_fake=any(each.machine.is_fake for each in truths))
        found = joined(map(checked, truths))
    if given.save is None:
        print(write(found, given.out))
    else:
        save(found, given.save)


def _check_fakes(out: Path, fakes: Fakes, *, is_fake: bool) -> None:
    if not is_fake:
        return
    if fakes is Fakes.REFUSE:
        raise FileError("these figures were recorded on a fake GPU", hint="add --fake")
    check_folder(out)


if __name__ == "__main__":
    exit_from(main)
