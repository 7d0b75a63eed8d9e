"""Compare predictions with recordings, under the PyTorch and cuDNN that made the recordings.

    bash benchmarks/judge.sh [--out OUT] TRUTH ...

TRUTH is a folder such as `tests/data/truth`, the folder of one GPU in it, or a tar archive written
by `record_truth.py --archive`; give all parts of an archive together. For each pair of versions
among the recordings, the script makes an environment `.venv-judge-TORCH-CUDNN` beside this folder
and keeps it; it uses `uv` if installed, else `venv` and `pip`. In the environment it runs
`accuracy.py`, which writes OUT/accuracy.md and its plot, and `compare_requests.py`, whose output
(every request that differs) goes to OUT/requests.txt. It can be run again after an interruption.

The variable JUDGE_PYTHON names a Python to use instead of making an environment. Results from a
fake GPU are marked as such and need an --out outside `reports`.
"""

import argparse
import os
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.fake_reports import REPORTS, check_folder
from benchmarks.judge_environment import Wanted, prepare, wanted_by
from benchmarks.judge_sources import gather
from benchmarks.script_errors import exit_from
from benchmarks.truth_records import Machine
from bsprobe.records.errors import BsprobeError
from bsprobe.storage.files import file_errors, write_atomically

HERE: Final = Path(__file__).resolve().parent
_REFUSED: Final = 2


class ScriptFailedError(BsprobeError):
    """A script failed; it has printed its own error if it could."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """The scripts beside this one, run with one environment's Python."""

    python: str
    fake: tuple[str, ...]
    """`--fake` if fakes are accepted."""

    def run(self, script: str, *arguments: str | Path) -> str:
        """Run a script and return its standard output.

        Raises:
            ScriptFailedError: The script does not start or exits with an error.
        """
        command = [self.python, str(HERE / script), *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
        try:
            done = subprocess.run(
                command, env=environment, stdout=subprocess.PIPE, text=True, check=False
            )
        except OSError as error:
            raise ScriptFailedError(f"{self.python} does not start: {error.strerror}") from error
        if done.returncode == _REFUSED:
            raise SystemExit(_REFUSED)
        if done.returncode:
            raise ScriptFailedError(f"{script} ended with status {done.returncode}")
        return done.stdout

    def requests(self, truth: Path, folders: Iterable[Path]) -> str:
        """Return every request that differs, or a note if the versions differ."""
        for folder in folders:
            differing = self.run("truth_versions.py", folder).strip()
            if differing:
                note = f"{folder.name}: requests are not compared: this environment has {differing}"
                print(f"note: {note}; peaks and boundaries are", flush=True)
                return f"{note}\n"
        return self.run("compare_requests.py", "--truth", truth, "--show", "all", *self.fake)


def judge(sources: Sequence[Path], out: Path, python: str | None) -> None:
    """Compare every recording in some folders and archives with its prediction.

    Args:
        sources: The folders and archives.
        out: Where the report goes.
        python: The Python to use instead of an environment with the recorded versions.

    Raises:
        BsprobeError: A source or version is missing, damaged, refused or cannot be installed.
    """
    with tempfile.TemporaryDirectory(prefix="bsprobe-judge-") as temporary:
        staging = Path(temporary)
        machines = gather(sources, staging)
        is_fake = any(machine.is_fake for machine in machines.values())
        if is_fake:
            check_folder(out)
        with file_errors(out):
            out.mkdir(parents=True, exist_ok=True)
        fake = ("--fake",) if is_fake else ()
        figures, requests = [], []
        for number, (wanted, names) in enumerate(by_environment(machines)):
            truth = staging / f"environment-{number}"
            truth.mkdir()
            folders = [folder.rename(truth / folder.name) for folder in names]
            judging = Judge(python=python or str(prepare(wanted, HERE.parent)), fake=fake)
            print(
                f"{', '.join(each.name for each in folders)}: compared with {judging.python}; ",
                end="",
            )
            print("this takes seconds for each trial", flush=True)
            figures.append(staging / f"figures-{number}.json")
            judging.run("accuracy.py", "--truth", truth, "--save", figures[-1], *fake)
            requests.append(judging.requests(truth, folders))
        write_atomically(out / "requests.txt", "\n".join(requests).encode())
        print(judging.run("accuracy.py", "--load", *figures, "--out", out, *fake), end="")
    print(
        f"The report is {out / 'accuracy.md'}, each request that differs in {out / 'requests.txt'}."
    )


def by_environment(machines: dict[Path, Machine]) -> list[tuple[Wanted, list[Path]]]:
    """Group the folders of GPUs by the environment that compares them."""
    found: dict[str, tuple[Wanted, list[Path]]] = {}
    for folder, machine in machines.items():
        wanted = wanted_by(machine)
        found.setdefault(wanted.folder_name, (wanted, []))[1].append(folder)
    return list(found.values())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="judge.sh",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("truth", nargs="+", type=Path, metavar="TRUTH")
    parser.add_argument("--out", type=Path, default=REPORTS)
    given = parser.parse_args(arguments)
    judge(given.truth, given.out, os.environ.get("JUDGE_PYTHON"))


if __name__ == "__main__":
    exit_from(main)
