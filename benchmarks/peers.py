"""Compare batch size finders: the same network, step and memory limit for bsprobe and others.

    python -m venv .venv-peers && .venv-peers/bin/pip install -e '.[peers]'
    .venv-peers/bin/python benchmarks/peers.py

Each tool searches in its own process (`peers_search.py`), on the CPU under a real limit
(RLIMIT_DATA) and also on a GPU if there is one. bsprobe then runs the batch that each tool found,
and one image more, in fresh processes. Writes `reports/peers.md`, its plot and `peers.json`. The
results of a tool that crashed or was stopped are kept.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.checkout import ROOT, python_path
from benchmarks.peers_messages import recognitions
from benchmarks.peers_report import write_raw, write_reports
from bsprobe._version import __version__
from bsprobe.analysis.search import Process
from bsprobe.records.runs import DeviceRequest
from bsprobe.records.trials import Purpose, TrialSpec
from bsprobe.records.units import parse_bytes, parse_resolution
from bsprobe.records.variants import Variant
from bsprobe.storage.codec import to_json
from bsprobe.storage.runfile import load_run
from bsprobe.worker.runner import TrialRunner

TOOLS = ("lightning-power", "lightning-binsearch", "accelerate", "autobatch", "bsprobe")
_TRIAL_TIMEOUT_SECONDS = 600.0
_LAST_LINES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The result of one tool on one device."""

    tool: str
    device: str
    answer: int | None = None
    """The recommended batch."""
    largest: int | None = None
    """The largest batch that bsprobe proved under the same limit."""
    ran_answer: bool = False
    """True if the search completed an optimizer update at the answer."""
    answer_fits: bool | None = None
    """True if the answer runs in a fresh process; None without an answer."""
    next_fails: bool | None = None
    """True if one more image does not run."""
    trials: int = 0
    held_bytes: tuple[int, ...] = ()
    """Bytes counted by the limit at the start of each trial: the memory left by earlier trials."""
    seconds: float
    """Wall time of the whole command, including the start of Python."""
    cpu_seconds: float
    """CPU time of the command and its child processes; less affected by other load."""
    end: str
    """`trained`, the error, or the signal that ended it."""
    printed: str
    """The last lines of its output."""


def search_command(given: argparse.Namespace, tool: str, device: str, place: Path) -> list[str]:
    """Return the command that runs a tool."""
    asked = [
        f"--device={device}", f"--memory-limit={given.memory_limit}", f"--model={given.model}",
        f"--resolution={given.resolution}",
    ]  # fmt: skip
    if tool == "bsprobe":
        options = ["--precision=fp32", "--norm=batch", f"--out={place / 'run'}"]
        return [sys.executable, "-m", "bsprobe", "run", *asked, *options]
    script = str(Path(__file__).with_name("peers_search.py"))
    return [sys.executable, script, tool, str(place / "events"), *asked]


def run_tool(given: argparse.Namespace, tool: str, device: str) -> Found:
    """Run the search of a tool; its death or time-out is a result."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        # As for bsprobe's own workers: makes glibc return freed memory (see devices/cpu.py).
        environment = {"MALLOC_MMAP_THRESHOLD_": "65536", "PYTHONPATH": python_path()}
        started, computed = time.monotonic(), _cpu_seconds()
        process = subprocess.Popen(
            search_command(given, tool, device, place),
            cwd=place,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            printed, _ = process.communicate(timeout=given.timeout)
            end = "" if process.returncode >= 0 else f"killed by signal {-process.returncode}"
        except subprocess.TimeoutExpired:
            process.kill()
            printed, _ = process.communicate()
            end = f"stopped after {given.timeout:.0f} s"
        found = Found(
            tool=tool,
            device=device,
            seconds=time.monotonic() - started,
            cpu_seconds=_cpu_seconds() - computed,
            end=end,
            printed=_last_lines(printed, place),
        )
        if tool == "bsprobe":
            return _with_run(found, place / "run")
        return _with_events(found, place / "events")


def _cpu_seconds() -> float:
    """Return the CPU seconds of all ended child processes and their children."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _with_run(found: Found, place: Path) -> Found:
    run = load_run(place)
    (result,) = run.results
    largest = result.boundary.largest
    plain = [trial for trial in run.trials if trial.spec.accumulation_steps == 1]
    return replace(
        found,
        answer=largest,
        largest=largest if result.boundary.is_exact else None,
        ran_answer=any(t.ran and t.spec.batch_size == largest for t in plain),
        trials=len(run.trials),
        end=found.end or "trained",
    )


def _with_events(found: Found, path: Path) -> Found:
    events: dict[str, list[dict[str, Any]]] = defaultdict(list)
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            event = json.loads(line)
            events[event["event"]].append(event)
    answer = events["answer"][-1]["batch"] if events["answer"] else None
    errors = [f"{each['type']}: {each['message']}" for each in events["error"]]
    end = (*errors, found.end, "died without a word")[0]
    return replace(
        found,
        answer=answer,
        ran_answer=any(each["batch"] == answer for each in events["step"]),
        trials=len(events["try"]),
        held_bytes=tuple(each["held_bytes"] for each in events["try"]),
        end="trained" if events["trained"] else end,
    )


def _last_lines(text: str, place: Path) -> str:
    """Return the last non-empty lines, without paths of this machine."""
    text = text.replace(str(place) + "/", "").replace(str(ROOT) + "/", "")
    text = re.sub(r"/\S+?/(?:lib/python\d\.\d+|site-packages)/(?:site-packages/)?", "", text)
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "\n".join(lines[-_LAST_LINES:])


def verified(found: list[Found], given: argparse.Namespace, device: str) -> list[Found]:
    """Run every answer, and one more image, in fresh processes."""
    (largest,) = [each.largest for each in found if each.tool == "bsprobe"]
    variant = Variant(model=given.model, resolution=parse_resolution(given.resolution))
    request = DeviceRequest(device=device, memory_limit_bytes=parse_bytes(given.memory_limit))
    known: dict[int, bool] = {}

    def runs(runner: TrialRunner, batch: int) -> bool:
        if batch not in known:
            trial = runner.run(
                TrialSpec(variant=variant, batch_size=batch),
                process=Process.FRESH,
                purpose=Purpose.PROOF,
                on_phase=lambda _: None,
            )
            known[batch] = trial.ran
            print(f"  batch {batch} in a fresh process: {trial.outcome}", flush=True)
        return known[batch]

    with TrialRunner(request, timeout=_TRIAL_TIMEOUT_SECONDS) as runner:
        return [
            replace(
                each,
                largest=largest,
                answer_fits=runs(runner, each.answer) if each.answer else None,
                next_fails=not runs(runner, each.answer + 1) if each.answer else None,
            )
            for each in found
        ]


def devices(asked: str | None) -> list[str]:
    """Return the CPU, and the GPU if there is one."""
    if asked is not None:
        return asked.split(",")
    import torch  # noqa: PLC0415 - only to check for a GPU

    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def environment() -> dict[str, str]:
    """Return the versions of all compared packages, and the machine."""
    packages = ("torch", "lightning", "accelerate")
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {
        **versions,
        "bsprobe": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def main() -> None:
    """Search, verify and write the reports."""
    parser = argparse.ArgumentParser(description="Batch size finders, side by side.")
    parser.add_argument("--devices", help="cpu, cuda, or both  [default: all available]")
    parser.add_argument("--memory-limit", default="700MiB")
    parser.add_argument("--model", default="deeplabv2-resnet50")
    parser.add_argument("--resolution", default="64x128")
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds for each tool")
    parser.add_argument("--out", type=Path, default=ROOT / "reports")
    given = parser.parse_args()
    raw = {
        "command": " ".join(["python", "benchmarks/peers.py", *sys.argv[1:]]),
        "environment": environment(),
        "limit": given.memory_limit,
        "model": given.model,
        "resolution": given.resolution,
        "messages": recognitions(),
        "found": [],
    }
    found: list[Found] = []
    for device in devices(given.devices):
        here = []
        for tool in TOOLS:
            print(f"{tool} on {device} …", flush=True)
            here.append(run_tool(given, tool, device))
            print(
                f"  batch {here[-1].answer}, {here[-1].seconds:.0f} s, {here[-1].end}", flush=True
            )
            write_raw(raw | {"found": to_json([*found, *here])}, given.out)
        found += verified(here, given, device)
    raw["found"] = to_json(found)
    write_raw(raw, given.out)
    write_reports(raw, given.out)
    print(f"Wrote {given.out}/peers.md, peers.json, peers.png and peers.svg")


if __name__ == "__main__":
    main()
