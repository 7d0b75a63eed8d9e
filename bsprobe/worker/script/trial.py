"""One trial of a command: start it, watch it until it is decided, stop it, and record it."""

import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.failures import Outcome
from bsprobe.records.runs import DeviceInfo
from bsprobe.records.scripts import MemoryLimit, Script, ScriptFacts, View
from bsprobe.records.trials import Failure, Measurement, TrialSpec
from bsprobe.worker.memory_watch import MemoryWatch
from bsprobe.worker.process import ReportPhase
from bsprobe.worker.script.command import Command
from bsprobe.worker.script.environment import Place, environment_of
from bsprobe.worker.script.outside import Outside
from bsprobe.worker.script.seen import Records, Seen, training_of
from bsprobe.worker.script.steps import fewest_steps, has_enough, measured, wanted_steps
from bsprobe.worker.script.verdict import End, Ending, decided, memory_verdict

_LOOK_SECONDS: Final = 0.05
"""Interval between two looks at the records."""
_NEW_SECONDS: Final = 2.0
"""Time in which the looks are ten times as frequent, for programs that end soon."""
_LOOK_OUTSIDE_SECONDS: Final = 0.25
"""Interval between two searches for the processes of a command, which read all of /proc."""
_SETTLE_SECONDS: Final = 1.0
"""Time for the other processes of a command to end after its leader."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """The result of one run of a command."""

    outcome: Outcome
    measurement: Measurement | None
    failure: Failure | None
    facts: ScriptFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A trial of a command, and the limits of its run."""

    spec: TrialSpec
    device: DeviceInfo
    timeout_seconds: float
    outside_bytes: int | None
    """Memory of a GPU that a process holds outside PyTorch's allocator, from an earlier trial."""
    gpu: str | None
    """The value of `CUDA_VISIBLE_DEVICES`; None to leave it."""

    @property
    def script(self) -> Script:
        """The script of the trial."""
        assert self.spec.variant.script is not None  # noqa: S101 - a trial of a script
        return self.spec.variant.script


def run_trial(asked: Asked, base: Mapping[str, str], on_phase: ReportPhase) -> Ran:
    """Run a command once.

    Args:
        asked: The trial.
        base: The environment of bsprobe.
        on_phase: Called with each phase.
    """
    with ExitStack() as undo:
        place = Place.new()
        undo.callback(shutil.rmtree, place.root, ignore_errors=True)
        command = _started(asked, base, place)
        undo.callback(command.kill)
        return _Watch(asked, command, Records(place.records), on_phase).watched()


def _started(asked: Asked, base: Mapping[str, str], place: Place) -> Command:
    spec, device = asked.spec, asked.device
    is_on_cpu = device.kind is DeviceKind.CPU
    return Command(
        asked.script.words(spec.batch_size, spec.accumulation_steps, str(place.out)),
        environment=environment_of(
            spec, device, place, base, outside_bytes=asked.outside_bytes, gpu=asked.gpu
        ),
        data_limit_bytes=device.capacity_bytes if is_on_cpu else None,
        mark=place.mark,
        log=place.log,
    )


class _Watch:
    """Watches a command until its outcome is known."""

    def __init__(
        self, asked: Asked, command: Command, records: Records, on_phase: ReportPhase
    ) -> None:
        self._asked = asked
        self._command = command
        self._records = records
        self._on_phase = on_phase
        self._outside = Outside()
        limit = asked.device.capacity_bytes if asked.device.kind is DeviceKind.CPU else None
        self._memory = MemoryWatch(command.pid, limit_bytes=limit)
        self._seen: list[Seen] = []
        self._steps = 0
        self._stepped_at = self._started_at = time.monotonic()
        self._looked_at = 0.0
        self._pids: list[int] = []
        self._has_begun = False
        self._phase = "before step 1 ended"

    def watched(self) -> Ran:
        """Wait until the outcome is known, stop the command, and return the result."""
        self._on_phase("starting the command")
        while (ending := self._ending()) is None:
            is_new = time.monotonic() - self._started_at < _NEW_SECONDS
            time.sleep(_LOOK_SECONDS / 10 if is_new else _LOOK_SECONDS)
        self._look_outside()
        if ending is Ending.EXITED:
            deadline = time.monotonic() + _SETTLE_SECONDS
            while self._command.processes() and time.monotonic() < deadline:
                time.sleep(_LOOK_SECONDS)
            self._command.kill()
        else:
            self._on_phase("stopping the command")
            self._command.stop()
        self._seen = self._records.look()  # what was written at the end
        return self._result(ending)

    def _ending(self) -> Ending | None:
        """The reason to end the trial; None to go on."""
        self._look()
        now, script = time.monotonic(), self._asked.script
        has_exited = self._command.poll() is not None
        if not self._has_begun and (has_exited or self._command.has_begun):
            self._has_begun, self._stepped_at = True, now
        if memory_verdict(self._seen, self._asked.device.kind) and not has_exited:
            return Ending.RAN_OUT
        if has_enough(self._seen, self._asked.spec, self._asked.device.kind):
            return Ending.STEPS
        if has_exited:
            return Ending.EXITED
        if self._has_begun and now - self._stepped_at > script.seconds:
            return Ending.SECONDS
        if now - self._started_at > self._asked.timeout_seconds:
            return Ending.TIMED_OUT
        return None

    def _look(self) -> None:
        self._seen = self._records.look()
        made = max((each.steps[-1].step for each in training_of(self._seen)), default=0)
        if made > self._steps:
            self._steps, self._stepped_at = made, time.monotonic()
            self._phase = f"after step {made}"
            most = max(made, wanted_steps(self._asked.spec))
            self._on_phase(f"step {made} of {most}")
        if time.monotonic() - self._looked_at > _LOOK_OUTSIDE_SECONDS:
            self._look_outside()
        # A fast program ends before its processes are searched for again.
        self._outside.look([*self._pids, *([self._command.pid] if self._has_begun else [])])

    def _look_outside(self) -> None:
        self._pids = self._command.processes()
        self._outside.look(self._pids)
        self._outside.look_for_torch(self._pids)
        if self._asked.device.kind is DeviceKind.CUDA:
            self._outside.look_at_gpus(self._pids)
        self._memory.look(self._pids)
        self._looked_at = time.monotonic()

    def _result(self, ending: Ending) -> Ran:
        status = self._command.poll()
        assert status is not None  # noqa: S101 - it was stopped
        is_late = ending is Ending.TIMED_OUT
        end = End(
            ending=ending,
            exit_status=status,
            output=self._command.output(),
            killed=self._memory.evidence(),
            seconds=self._asked.timeout_seconds if is_late else self._asked.script.seconds,
            phase=self._phase,
        )
        facts = self._facts()
        outcome, failure = decided(end, self._seen, facts.view, self._asked.device.kind)
        ran = failure is None
        return Ran(
            outcome=outcome,
            measurement=measured(self._seen, self._outside, self._asked.spec) if ran else None,
            failure=failure,
            facts=facts,
        )

    def _facts(self) -> ScriptFacts:
        training = training_of(self._seen)
        found = (*training, *self._seen)  # first those that train
        imported = next((each.imported for each in found if each.imported), None)
        last = training[0].steps[-1] if training else None
        return ScriptFacts(
            view=self._view(),
            steps=fewest_steps(self._seen),
            ranks=1 if last is None else last.world,
            limit=self._limit(imported.limit if imported else None),
            torch=imported.torch if imported else None,
            python=imported.python if imported else None,
            optimizer=" and ".join(training[0].optimizers) if training else None,
            learning_rates=_distinct(training[0].optimizers.values()) if training else (),
        )

    def _view(self) -> View:
        if training_of(self._seen):
            return View.INSIDE
        if self._seen:  # the first record is of the import of PyTorch
            return View.NO_STEP
        return View.KEPT_OUT if self._outside.loads_torch else View.WITHOUT_PYTORCH

    def _limit(self, found: MemoryLimit | None) -> MemoryLimit | None:
        """The way in which the limit was applied; without PyTorch it is absolute on a CPU."""
        if found is None and self._asked.device.kind is DeviceKind.CPU:
            return MemoryLimit.DATA
        return found


def _distinct(rates: Iterable[tuple[float, ...]]) -> tuple[float, ...]:
    return tuple(dict.fromkeys(rate for each in rates for rate in each))
