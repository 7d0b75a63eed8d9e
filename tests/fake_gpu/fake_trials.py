"""Trials on the fake GPU: the real code runs, and its predicted requests are played beside it.

Each trial of each process adds a line to `FAKE_GPU_FOLDER/trials.log`. `FAKE_GPU_FAULTS` lists the
faults by trial, counted from 1 over all processes: `oom@3,segv@7,bug@9-12`.
"""

import functools
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from bsprobe.devices.simulated import Tracers
from bsprobe.records.trials import TrialSpec
from bsprobe.records.units import format_bytes
from bsprobe.simulate.allocator.caching import SimulatedOutOfMemoryError
from bsprobe.simulate.cuda.libraries import playback_on
from bsprobe.simulate.cudnn.workspace import Workspaces
from bsprobe.simulate.explain.peak import place_of
from bsprobe.simulate.timeline import Action, Kind, Section
from tests.fake_gpu.fake_card import CAPABILITY, MULTIPROCESSORS, card

if TYPE_CHECKING:
    from bsprobe.simulate.playback import Playback

_SECONDS_PER_IMAGE = 0.05
_TRACERS = Tracers()
_WORKSPACES = Workspaces(CAPABILITY)
_ILLEGAL = "CUDA error: an illegal memory access was encountered"


class _Trial:
    """The running trial."""

    def __init__(self, spec: TrialSpec, fault: str) -> None:
        self.fault = fault
        self._spec = spec
        with _simulating():
            tracer = _TRACERS.find(spec)
            self._timeline = tracer.timeline(spec.batch_size, spec.accumulation_steps)
        self._playback: Playback = playback_on(
            CAPABILITY,
            self._timeline,
            spec.batch_size,
            allocator=card().memory,
            workspaces=_WORKSPACES,
            multiprocessors=MULTIPROCESSORS,
            benchmark=spec.variant.cudnn_benchmark,
        )
        self._steps = 0
        if not card().is_recording:
            card().memory.forget()

    def set_up(self) -> None:
        """Play the building of the network."""
        card().load_kernels(self._spec.variant)
        self._play(Section.SETUP)

    def step(self) -> None:
        """Play a training step."""
        self._steps += 1
        if self._steps == 1:
            self._go_wrong()
        sections = self._timeline.steps(2)
        self._play(sections[min(self._steps, len(sections)) - 1])
        images = self._spec.batch_size * self._spec.accumulation_steps
        card().seconds += _SECONDS_PER_IMAGE * images

    def validate(self) -> None:
        """Play the validation."""
        self._play(Section.VALIDATION)

    def end(self) -> None:
        """Free the memory of the trial; a leaking trial leaves some."""
        with _simulating():
            card().memory.give_back_all()
            _WORKSPACES.save()
            if self.fault == "leak":
                card().memory.malloc(512)

    def _play(self, section: Section) -> None:
        def watch(action: Action, subject: int, _inside: int) -> None:
            if card().is_recording:
                card().memory.place(place_of(self._timeline, action, subject), Kind.WORKSPACE)

        try:
            with _simulating():
                self._playback.play(section, watch)
        except SimulatedOutOfMemoryError as error:
            self._run_out(error.segment_bytes)

    def _run_out(self, size: int) -> None:
        free = card().free_bytes
        card().driver.trace.append(
            {"action": "oom", "device_free": free, "size": size, "stream": 0, "frames": []}
        )
        raise torch.OutOfMemoryError(
            f"CUDA out of memory. Tried to allocate {format_bytes(size)}. GPU 0 has a total "
            f"capacity of 79.19 GiB of which {format_bytes(max(0, free))} is free."
        )

    def _go_wrong(self) -> None:
        match self.fault:
            case "oom":
                self._run_out(2**31)
            case "sticky":
                card().broken = _ILLEGAL
                raise RuntimeError(_ILLEGAL)
            case "segv":
                signal.signal(signal.SIGSEGV, signal.SIG_DFL)
                os.kill(os.getpid(), signal.SIGSEGV)
            case "bug":
                raise RuntimeError("The size of tensor a (3) must match the size of tensor b (4)")
            case "hang":
                time.sleep(3600)
            case "unknown-event":
                card().driver.note("workspace_snapshot", 0, 0)


_running: list[_Trial] = []


def install(stepping: ModuleType) -> None:
    """Play the steps of `bsprobe.devices.stepping` while they run."""

    @_instead_of(stepping, "run_steps")
    def run_steps(original: Any, spec: TrialSpec, **named: Any) -> Any:
        with _on_card(_Trial(spec, _fault_of(_count(spec)))):
            return original(spec, **named)

    @_instead_of(stepping, "rehearse")
    def rehearse(original: Any, spec: TrialSpec, device: torch.device) -> None:
        with _on_card(_Trial(spec, "")):
            original(spec, device)

    _followed(stepping, "build_task", _Trial.set_up)
    _followed(stepping, "training_step", _Trial.step)
    _followed(stepping, "evaluation_pass", _Trial.validate)


def _instead_of(module: Any, name: str) -> Callable[[Callable[..., Any]], None]:
    """Replace a function by one that gets the original as its first argument."""

    def put(function: Callable[..., Any]) -> None:
        original = getattr(module, name)
        setattr(module, name, functools.wraps(original)(functools.partial(function, original)))

    return put


@contextmanager
def _on_card(trial: _Trial) -> Iterator[None]:
    _running.append(trial)
    try:
        yield
    finally:
        _running.remove(trial)
        trial.end()


def _followed(module: Any, name: str, play: Callable[[_Trial], None]) -> None:
    @_instead_of(module, name)
    def call(original: Any, *arguments: Any, **named: Any) -> Any:
        result = original(*arguments, **named)
        play(_running[-1])
        return result


@contextmanager
def _simulating() -> Iterator[None]:
    """Restore PyTorch without the fake GPU, as in a process that predicts."""
    with card().switched_off(), _disable_current_modes(), torch.enable_grad():
        yield


def _count(spec: TrialSpec) -> int:
    """Log the trial; return its number."""
    path = Path(os.environ["FAKE_GPU_FOLDER"]) / "trials.log"
    variant = spec.variant
    line = f"{os.getpid()} {variant.precision} {variant.norm} batch {spec.batch_size}\n"
    with path.open("a", encoding="utf-8") as log:
        log.write(line)
    return len(path.read_text(encoding="utf-8").splitlines())


def _fault_of(number: int) -> str:
    for each in filter(None, os.environ.get("FAKE_GPU_FAULTS", "").split(",")):
        fault, _, trials = each.partition("@")
        first, _, last = trials.partition("-")
        if int(first) <= number <= int(last or first):
            return fault
    return ""
