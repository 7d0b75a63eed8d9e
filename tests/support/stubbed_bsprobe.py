"""The whole command line with a worker without torch: `python stubbed_bsprobe.py BEHAVIOUR run …`.

Everything except the trials is real: processes, pipes, journal, reports.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

OPTIONS = ("--precision=fp32", "--norm=batch,group", "--target-batch=12")
SILENCE = "STUBBED_SILENCE_SECONDS"
"""Variable for the seconds after which a silent rank is given up, instead of half a minute."""
RUN = ("run", "--device=cpu", *OPTIONS, "--out=out")


def start(
    *arguments: str,
    cwd: Path,
    behaviour: str = "arithmetic",
    before_exec: Callable[[], None] | None = None,
    **environment: str,
) -> "subprocess.Popen[str]":
    """Start `bsprobe ARGUMENTS`.

    Args:
        arguments: The arguments of the command.
        cwd: The working directory.
        behaviour: The behaviour of the stub worker.
        before_exec: Runs in the child before the program.
        environment: Additional variables.
    """
    from tests.support.commands import popen  # noqa: PLC0415 - the child, this file, cannot find it

    command = (sys.executable, __file__, behaviour, *arguments)
    return popen(*command, cwd=cwd, before_exec=before_exec, **environment)


def finish(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Wait for the end; return exit code, standard output and standard error."""
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def findings(folder: Path) -> dict[str, Any]:
    """Return the findings of a finished run, without its times and processes."""
    run = json.loads((folder / "run.json").read_text())
    results = []
    for result in run["results"]:
        item = dict(result["recommendation"] or {})
        trial = item.pop("trial", None)
        results.append((result["variant"], result["boundary"], item, trial and trial["spec"]))
    tried = sorted(json.dumps([t["spec"], t["outcome"]]) for t in run["trials"])
    return {"results": results, "tried": list(dict.fromkeys(tried))}


def _main() -> None:
    from bsprobe import __main__  # noqa: PLC0415 - only the child needs it
    from bsprobe.records.runs import DeviceRequest  # noqa: PLC0415 - as above
    from bsprobe.worker import process as worker_process  # noqa: PLC0415 - only the child needs it
    from bsprobe.worker.ranks import runner, world  # noqa: PLC0415 - as above

    stub = (sys.executable, str(Path(__file__).with_name("stub_worker.py")), sys.argv.pop(1))

    class StubbedWorker(worker_process.Worker):
        def __init__(self, request: DeviceRequest, **options: Any) -> None:
            super().__init__(request, **{**options, "command": stub})

    runner._GRACE_SECONDS = 0.5  # shortens the wait for stubs that hang
    worker_process.Worker = StubbedWorker  # type: ignore[misc] # replaces only the started program
    if SILENCE in os.environ:
        world._SILENCE_SECONDS = float(os.environ[SILENCE])
    __main__.main()


if __name__ == "__main__":
    _main()
