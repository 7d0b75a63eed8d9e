"""A worker from its parent's side: start it, send requests, kill it after a time-out."""

import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress

from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.errors import DeviceError, WorkerError
from bsprobe.records.failures import STOPPED_WITH_ITS_PEERS, Certainty, Outcome
from bsprobe.records.fits import CardFit
from bsprobe.records.gpus import Gpu
from bsprobe.records.runs import DeviceRequest
from bsprobe.records.trials import DataSource, Failure, TrialSpec
from bsprobe.records.variants import Variant
from bsprobe.records.workload import TORCHVISION
from bsprobe.storage.codec import MalformedError
from bsprobe.worker.endings import (
    PeerFailedError,
    TimedOutError,
    WorkerDeath,
    WorkerDiedError,
    death_of,
    endings_as_errors,
)
from bsprobe.worker.interruption import undisturbed
from bsprobe.worker.memory_watch import MemoryWatch
from bsprobe.worker.protocol import (
    KINDS,
    Answer,
    FitCards,
    Fitted,
    Group,
    Kinds,
    Message,
    OpenDevice,
    Progress,
    Ready,
    Refused,
    Request,
    RunTrial,
    TrialDone,
    decode,
    encode,
)
from bsprobe.worker.spawning import prepared
from bsprobe.worker.without_gpu import without_gpu

COMMAND = (sys.executable, "-m", "bsprobe.worker.child")
"""Program of a worker that runs, predicts and explains trials."""
OPEN_TIMEOUT_SECONDS = 300.0
"""Time to import torch and open the device; a network disk with a cold cache is slow."""
_IN_TIME = f"within {OPEN_TIMEOUT_SECONDS:.0f} s"
_GRACE_SECONDS = 5.0
_POLL_SECONDS = 0.2
"""Interval between two checks of a worker that sends nothing."""
_LAST_WORDS_BYTES = 4000

ReportPhase = Callable[[str], None]
Watch = Callable[[], None]
"""Called repeatedly while the parent waits for a worker; an exception ends the wait."""


class Worker:
    """One child process with an open device.

    Args:
        request: The device to open.
        variants: The variants of later requests.
        data: The images of later requests.
        command: The program to start.
        kinds: The messages that this program sends.
        environment: Variables to set in addition to those of this process.
        watch: Called repeatedly while the parent waits for the worker.

    Raises:
        DeviceError: The device, or something that is named, does not exist.
        WorkerError: The program does not start.
    """

    def __init__(
        self,
        request: DeviceRequest,
        *,
        variants: tuple[Variant, ...] = (),
        data: DataSource | None = None,
        command: tuple[str, ...] = COMMAND,
        kinds: Kinds = KINDS,
        environment: Mapping[str, str] | None = None,
        watch: Watch | None = None,
    ) -> None:
        self._watch = watch
        self._kinds = kinds
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        self._said_before = 0
        self._memory: MemoryWatch | None = None
        self._inbox: queue.Queue[Message | MalformedError | None] = queue.Queue()
        self.trials_run = 0
        self.is_clean = True
        with ExitStack() as undo:
            undo.callback(self._stderr.close)
            kept_away = {} if request.gpu is None else without_gpu(os.environ)
            birth = prepared(
                command,
                {**kept_away, **(environment or {})},
                imports=_imports_of(variants, data),
            )
            with undisturbed():
                self._process = birth.start(self._stderr)
                undo.callback(self.close)
            threading.Thread(target=self._read, name="worker output", daemon=True).start()
            self.ready = self._open(OpenDevice(request=request, variants=variants, data=data))
            undo.pop_all()

    def run(
        self,
        spec: TrialSpec,
        *,
        timeout: float,
        on_phase: ReportPhase,
        group: Group | None = None,
    ) -> TrialDone:
        """Run one trial; the death of the worker becomes the outcome.

        Args:
            spec: The trial.
            timeout: Time limit in seconds.
            on_phase: Called with each phase of the worker.
            group: The process group of a trial of several processes.

        Raises:
            DeviceError: The worker refused the trial: a value that only it can check is invalid.
        """
        self.trials_run += 1
        answer = self.ask(RunTrial(spec=spec, group=group), timeout=timeout, on_phase=on_phase)
        if isinstance(answer, WorkerDeath):
            return TrialDone(outcome=answer.outcome, failure=answer.failure, clean=False)
        assert isinstance(answer, TrialDone)  # noqa: S101 - the answer to a trial
        self.is_clean = answer.clean
        return answer

    def ask(
        self, request: Request, *, timeout: float, on_phase: ReportPhase
    ) -> "Answer | WorkerDeath":
        """Send a request and wait for its answer, or for the death of the worker.

        Args:
            request: The request.
            timeout: Time limit in seconds, after which the worker is killed.
            on_phase: Called with each phase of the worker.

        Raises:
            DeviceError: The worker refused: a value that only it can check is invalid.
        """
        phase = "building"
        deadline = time.monotonic() + timeout
        self._said_before = self._said_bytes()
        self._memory = memory = self._watched_memory()
        try:
            self._send(request)
            while True:
                message = self._accepted(deadline)
                if isinstance(message, Progress):
                    phase = message.phase
                    on_phase(phase)
                elif isinstance(message, Answer):
                    return message
        except TimedOutError:
            words = f"not finished after {timeout:.0f} s"
            return self._lost(Outcome.TIMED_OUT, words, "time-out", phase)
        except PeerFailedError:
            return self._lost(Outcome.FAILED, STOPPED_WITH_ITS_PEERS, "peers", phase)
        except WorkerDiedError as death:
            self._forsake()
            kind = self.ready.device.kind
            return death_of(death, kind, killed=memory.evidence(), phase=phase)

    def fit(
        self, variants: Sequence[Variant], gpus: Sequence[Gpu], *, max_batch: int
    ) -> Iterator[CardFit]:
        """Predict the largest batch of each variant on each card; yield each result.

        Args:
            variants: The variants to predict.
            gpus: The cards to predict for.
            max_batch: The largest batch to try.

        Raises:
            DeviceError: A network cannot be traced.
            WorkerError: The worker died or did not answer in time.
        """
        with endings_as_errors(
            silent=(f"the prediction for a card did not end {_IN_TIME}", "try a smaller network"),
            died=("the prediction failed", None),
        ):
            self._send(FitCards(variants=tuple(variants), gpus=tuple(gpus), max_batch=max_batch))
            for _ in range(len(variants) * len(gpus)):
                message = self._accepted(time.monotonic() + OPEN_TIMEOUT_SECONDS)
                assert isinstance(message, Fitted)  # noqa: S101 - the only answer
                yield message.fit

    def close(self) -> None:
        """End the worker and all processes that it started."""
        if self._process.stdin is not None:
            with suppress(OSError):  # the worker is dead and the pipe is broken
                self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=_GRACE_SECONDS)
        self._kill_group()
        self._process.wait()
        self._stderr.close()

    def _open(self, opening: OpenDevice) -> Ready:
        with endings_as_errors(
            silent=(
                f"the worker did not open its device {_IN_TIME}",
                "check with nvidia-smi that the GPU responds",
            ),
            died=(
                "the worker could not start",
                "check that `python -c 'import torch, torchvision'` works",
            ),
        ):
            self._send(opening)
            message = self._accepted(time.monotonic() + OPEN_TIMEOUT_SECONDS)
        assert isinstance(message, Ready)  # noqa: S101 - the first answer, unless refused
        return message

    def _accepted(self, deadline: float) -> Message:
        """Return the next message; raise DeviceError for a refusal."""
        message = self._receive(deadline)
        if isinstance(message, Refused):
            raise DeviceError(message.message, hint=message.hint)
        return message

    def _send(self, message: Message) -> None:
        assert self._process.stdin is not None  # noqa: S101 - a pipe was asked for
        try:
            self._process.stdin.write(encode(message))
            self._process.stdin.flush()
        except OSError:
            raise self._death() from None

    def _receive(self, deadline: float) -> Message:
        message = self._next_in_inbox(deadline)
        if isinstance(message, MalformedError):
            self._kill_group()
            raise WorkerError(f"invalid message from the worker: {message}") from message
        if message is None:
            raise self._death()
        return message

    def _next_in_inbox(self, deadline: float) -> Message | MalformedError | None:
        """Return the next message, or None once the worker is dead and its output is read.

        The end of the pipe alone is no sign of the death: a process that the worker started and
        that outlives it holds the pipe open.
        """
        while (left := deadline - time.monotonic()) > 0:
            died = self._process.poll() is not None
            if self._memory is not None:
                self._memory.look()
            if self._watch is not None:
                self._watch()
            try:
                return self._inbox.get(timeout=min(left, _POLL_SECONDS))
            except queue.Empty:
                if died:
                    return None
        raise TimedOutError

    def _read(self) -> None:
        """Put every message, then None at the end of the pipe, into the inbox."""
        assert self._process.stdout is not None  # noqa: S101 - a pipe was asked for
        for line in self._process.stdout:
            try:
                self._inbox.put(decode(line, self._kinds))
            except MalformedError as error:
                # A worker that is killed while it writes leaves half a line.
                if line.endswith(b"\n"):
                    self._inbox.put(error)
        self._inbox.put(None)

    def _death(self) -> WorkerDiedError:
        try:
            status = self._process.wait(timeout=_GRACE_SECONDS)
        except subprocess.TimeoutExpired:  # it closed its pipe but still runs
            self._kill_group()
            status = self._process.wait()
        self._stderr.seek(max(self._said_before, self._said_bytes() - _LAST_WORDS_BYTES))
        return WorkerDiedError(status, self._stderr.read().decode(errors="replace"))

    def _lost(self, outcome: Outcome, message: str, evidence: str, phase: str) -> WorkerDeath:
        self._forsake()
        failure = Failure(
            message=message, certainty=Certainty.CERTAIN, evidence=evidence, phase=phase
        )
        return WorkerDeath(outcome=outcome, failure=failure)

    def _forsake(self) -> None:
        """Kill the worker and all processes that it started."""
        self.is_clean = False
        self._kill_group()

    def _said_bytes(self) -> int:
        """Return the size of the worker's standard error."""
        return os.fstat(self._stderr.fileno()).st_size

    def _watched_memory(self) -> MemoryWatch:
        """Watch the memory that a trial may fill: its limit, or that of the machine."""
        device = self.ready.device
        limit = device.capacity_bytes if device.kind is DeviceKind.CPU else None
        return MemoryWatch(self._process.pid, limit_bytes=limit)

    def _kill_group(self) -> None:
        """Kill the worker's process group: data-loader processes outlive a killed parent."""
        if hasattr(os, "killpg"):
            with suppress(ProcessLookupError, PermissionError):  # no process is left
                os.killpg(self._process.pid, signal.SIGKILL)
        else:
            self._process.kill()


def _imports_of(variants: tuple[Variant, ...], data: DataSource | None) -> tuple[str, ...]:
    """Return the slow imports that only some workers need."""
    is_needed = data is not None or any(each.model.startswith(TORCHVISION) for each in variants)
    return ("torchvision",) if is_needed else ()
