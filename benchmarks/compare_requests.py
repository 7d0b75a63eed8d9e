"""Compare recorded histories with their predictions, request by request.

    PYTHONPATH=. python benchmarks/compare_requests.py [FILE ...] [--truth DIR] [--show 10|all]

Without files, compares everything below `tests/data/truth`. Prints for each history the number of
requests of equal size in the same place, the number of convolutions with equal workspaces, and the
first differences; at the end, the operators that the differences occur in. Requires the recorded
PyTorch and cuDNN: `bash benchmarks/judge.sh` makes such an environment.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.fake_reports import FAKE_TITLE
from benchmarks.script_errors import exit_from
from benchmarks.truth_prediction import compared
from benchmarks.truth_records import (
    ROOT,
    Fakes,
    Machine,
    TruthTrial,
    check_fake,
    load_machine,
    load_trial,
)
from benchmarks.truth_versions import JUDGE, version_difference
from benchmarks.validation.comparison import Comparison, Difference
from bsprobe.records.errors import NotComparableError


def machines_of(paths: Sequence[Path], fakes: Fakes) -> dict[Path, Machine]:
    """Return the machines of these files if this environment can compare all of them.

    Raises:
        NotComparableError: A machine was recorded with other versions than the installed ones.
        FileError: A machine has a fake GPU, and fakes are refused.
    """
    found = {}
    for folder in sorted({gpu_folder(path) for path in paths}):
        machine = load_machine(folder)
        if machine is None:
            continue
        check_fake(folder, machine, fakes)
        differing = version_difference(machine)
        if differing is not None:
            raise NotComparableError(
                f"the requests of {folder} cannot be compared: this environment has {differing}",
                hint=f"{JUDGE} {folder}",
            )
        found[folder] = machine
    return found


def recorded(
    paths: Sequence[Path], machines: Mapping[Path, Machine]
) -> Iterator[tuple[Path, TruthTrial, Machine]]:
    """Yield the trials that have a history, from these files."""
    for path in paths:
        trial, machine = load_trial(path), machines.get(gpu_folder(path))
        if trial.marks and machine is not None:
            yield path, trial, machine


def gpu_folder(path: Path) -> Path:
    """Return the folder of the GPU that recorded a trial."""
    return path.resolve().parents[1]


def where(difference: Difference) -> str:
    """Return the kind of a difference and the requesting operator, the key for counting."""
    request = difference.predicted or difference.recorded
    assert request is not None  # noqa: S101 - one of the two exists
    operator = request.place.partition(" in ")[0] if difference.predicted else request.place
    return f"{difference.kind}: {operator or 'backward pass'}"


def line(name: str, found: Comparison) -> str:
    """Format a comparison as one line."""
    return (
        f"{name}: {found.matched} of {found.predicted} predicted and {found.recorded} recorded "
        f"requests match, {found.workspaces_equal} of {found.convolutions} workspaces; "
        f"{len(found.differences)} differences"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the comparison of each history and the totals."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument(
        "--truth", type=Path, default=ROOT, help="the folder to search if no files are given"
    )
    parser.add_argument(
        "--show", type=_limit, default=10, help="number of differences shown for each history"
    )
    parser.add_argument("--fake", action="store_true", help="accept what a fake GPU recorded")
    given = parser.parse_args(arguments)
    paths = given.files or sorted(given.truth.glob("*/trials/*.json.gz"))
    machines = machines_of(paths, Fakes.ACCEPT if given.fake else Fakes.REFUSE)
    if any(machine.is_fake for machine in machines.values()):
        print(f"{FAKE_TITLE}: these requests were recorded on a fake GPU")
    counts: Counter[str] = Counter()
    histories = 0
    for path, trial, machine in recorded(paths, machines):
        found = compared(path, trial, machine)
        histories += 1
        counts.update(where(difference) for difference in found.differences)
        print(line(trial.name, found), flush=True)
        for difference in found.differences[: given.show]:
            print(f"  {difference.describe()}")
    print(f"{histories} histories; differences by place:")
    for place, count in counts.most_common():
        print(f"{count:>8}  {place}")


def _limit(text: str) -> int:
    return sys.maxsize if text == "all" else int(text)


if __name__ == "__main__":
    exit_from(main)
