"""What other batch size finders find, beside bsprobe: the same network, step and memory limit.

    python -m venv .venv-peers && .venv-peers/bin/pip install -e '.[peers]'
    .venv-peers/bin/python benchmarks/peers.py

Each tool searches in a process of its own (`peers_search.py`), on the CPU under a real limit
(RLIMIT_DATA) and, where there is a GPU, on it as well. bsprobe then runs what each found, and one
more, in fresh processes. Writes `reports/peers.md`, its plot and `peers.json`; what a tool had
done when it crashed or was stopped is kept.
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
    """What one tool came to on one device."""

    tool: str
    device: str
    answer: int | None = None
    """The batch that it says to use."""
    largest: int | None = None
    """The largest batch that bsprobe proved under the same limit."""
    ran_answer: bool = False
    """Whether its search completed an optimizer update at the answer."""
    answer_fits: bool | None = None
    """Whether the answer runs in a fresh process; None where nothing was answered."""
    next_fails: bool | None = None
    """Whether one more image does not."""
    trials: int = 0
    held_bytes: tuple[int, ...] = ()
    """What the limit counted at the start of each trial: what earlier ones have left behind."""
    seconds: float
    """The whole command, from the start of Python, on a clock."""
    cpu_seconds: float
    """What it and its processes computed: other load on the machine plays a smaller part."""
    end: str
    """How it ended: `trained`, or the error, or the signal."""
    printed: str
    """The last lines of its output."""


def search_command(given: argparse.Namespace, tool: str, device: str, place: Path) -> list[str]:
    """What is run for a tool."""
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
    """Let a tool search; its death or time-out is a result."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        # Only what bsprobe's own workers get: glibc returns what is freed (see devices/cpu.py).
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
    """Of all processes that were started and have ended, and of theirs."""
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
    """The last lines that say something, without this machine's folders."""
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
    """The CPU, and the GPU where there is one."""
    if asked is not None:
        return asked.split(",")
    import torch  # noqa: PLC0415 - only to look

    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def environment() -> dict[str, str]:
    """Versions of everything that was compared, and the machine."""
    packages = ("torch", "lightning", "accelerate")
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {
        **versions,
        "bsprobe": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def main() -> None:
    """Search, verify, write."""
    parser = argparse.ArgumentParser(description="Batch size finders, side by side.")
    parser.add_argument("--devices", help="cpu, cuda, or both  [default: what is there]")
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
