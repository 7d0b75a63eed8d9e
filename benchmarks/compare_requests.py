"""Recorded histories held against what is predicted for them, request by request.

    PYTHONPATH=. python benchmarks/compare_requests.py [FILE ...] [--show 10]

Without files, everything below `tests/data/truth`. For each history: how many requests have the
same size in the same place, how many convolutions the same workspace, and the first differences;
at the end, which operators the differences stand in.
"""

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from truth_prediction import compared
from truth_records import ROOT, Machine, TruthTrial, load_machine, load_trial

from bsprobe.simulate.comparison import Comparison, Difference


def recorded(paths: Sequence[Path]) -> Iterator[tuple[Path, TruthTrial, Machine]]:
    """The trials with a history, among these files or everywhere."""
    for path in paths or sorted(ROOT.glob("*/trials/*.json.gz")):
        trial, machine = load_trial(path), load_machine(path.resolve().parents[1])
        if trial.marks and machine is not None:
            yield path, trial, machine


def where(difference: Difference) -> str:
    """What the differences are counted by: the kind and who asked."""
    request = difference.predicted or difference.recorded
    assert request is not None  # noqa: S101 - one of the two is there
    operator = request.place.partition(" in ")[0] if difference.predicted else request.place
    return f"{difference.kind}: {operator or 'backward pass'}"


def line(name: str, found: Comparison) -> str:
    """A comparison in a line."""
    return (
        f"{name}: {found.matched} of {found.predicted} predicted and {found.recorded} recorded "
        f"requests match, {found.workspaces_equal} of {found.convolutions} workspaces; "
        f"{len(found.differences)} differences"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--show", type=int, default=10, help="differences of each history")
    given = parser.parse_args(arguments)
    counts: Counter[str] = Counter()
    histories = 0
    for path, trial, machine in recorded(given.files):
        found = compared(path, trial, machine)
        histories += 1
        counts.update(where(difference) for difference in found.differences)
        print(line(trial.name, found), flush=True)
        for difference in found.differences[: given.show]:
            print(f"  {difference.describe()}")
    print(f"{histories} histories; differences by place:")
    for place, count in counts.most_common():
        print(f"{count:>8}  {place}")


if __name__ == "__main__":
    main()
