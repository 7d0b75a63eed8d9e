"""Trials that all ranks run together: rank 0 chooses the trial, and the weakest rank decides.

Every trial has fresh workers in its own process group. A worker whose peer has failed would wait in
a collective for ever, so its parent stops it soon after the failure.
"""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Self

from bsprobe.analysis.search import Process
from bsprobe.records.errors import UsageError, WorkerError
from bsprobe.records.runs import DeviceInfo, DeviceRequest, Settings
from bsprobe.records.trials import Purpose, Trial, TrialSpec
from bsprobe.storage.codec import from_json, to_json
from bsprobe.worker.endings import PeerFailedError, again_if_unexplained, keeping_training
from bsprobe.worker.process import ReportPhase
from bsprobe.worker.protocol import Ready
from bsprobe.worker.ranks.launch import Launch
from bsprobe.worker.ranks.merge import joined_device, joined_trial
from bsprobe.worker.ranks.world import Store, World, reason_of
from bsprobe.worker.runner import TrialRunner

_GRACE_SECONDS = 3.0
"""Time for a rank to end its own trial after another has failed: equal ranks fail together."""
_NO_MORE = ""

Connect = Callable[[Launch], Store]


def rank_request(request: DeviceRequest, launch: Launch) -> DeviceRequest:
    """Return the device of one rank: its own GPU, or its own share of the memory.

    Raises:
        UsageError: The request names a single GPU, or the CPU without a memory limit.
    """
    device = request.device or "cuda"
    if ":" in device:
        raise UsageError(
            f"--device {device}: torchrun's processes cannot share a GPU",
            hint="give --device cuda: each takes the GPU of its LOCAL_RANK",
        )
    limit = request.memory_limit_bytes
    if limits := request.rank_limits_bytes:
        limit = limits[launch.rank]
    elif device == "cpu" and limit is None:
        raise UsageError(
            "--device cpu needs --memory-limit where several processes share the memory",
            hint="for example --memory-limit 2GiB, or --memory-limit 2GiB,1GiB for each rank",
        )
    name = device if device == "cpu" else f"cuda:{launch.local_rank}"
    return replace(request, device=name, memory_limit_bytes=limit, rank_limits_bytes=())


class WorldRunner:
    """Runs trials together with the other ranks; a trial that fails on any rank has failed.

    Args:
        asked: The settings of the command line, which must be the same for all ranks.
        launch: The variables of torchrun.
        connect: Connects to the store of the ranks (`store.connect`, which imports torch).

    Raises:
        OutOfReachError: The store cannot be reached.
        UsageError: The ranks were started with different options.
        DeviceError: The device of this rank cannot be used.
        WorkerError: Another rank cannot use its device, or is gone.
    """

    def __init__(self, asked: Settings, launch: Launch, connect: Connect) -> None:
        request = rank_request(asked.device, launch)
        self._world = World(launch, connect(launch))
        self._timeout = asked.trial_timeout_seconds
        self._runner: TrialRunner | None = None
        self._trial = 0
        self._failed_since: float | None = None
        try:
            self._agree(asked)
            self._runner = TrialRunner(
                request,
                timeout=self._timeout,
                variants=asked.variants,
                data=asked.data,
                watch=self._watch,
            )
            self.ready = self._all_ready(self._runner.ready)
        except BaseException as error:
            self._close(error)
            raise

    def run(
        self, spec: TrialSpec, *, process: Process, purpose: Purpose, on_phase: ReportPhase
    ) -> Trial:
        """Run one trial on all ranks, each in a fresh process, and return the merged record.

        If a process dies without a known cause, all ranks run the trial once more.

        Args:
            spec: The trial.
            process: Ignored, because every trial has fresh processes.
            purpose: The purpose of the trial, for its record.
            on_phase: Called with each phase of the worker of this rank.

        Raises:
            WorkerError: Another rank is gone.
        """
        del process  # a process can join only one group

        def attempt(asked: TrialSpec) -> Trial:
            return again_if_unexplained(partial(self._run_together, asked, purpose, on_phase))

        return keeping_training(attempt, spec)

    def _run_together(self, spec: TrialSpec, purpose: Purpose, on_phase: ReportPhase) -> Trial:
        order = {"spec": to_json(spec), "purpose": str(purpose)}
        self._world.publish(f"order/{self._trial + 1}", json.dumps(order))
        self._attempt(spec, purpose, on_phase)
        said = self._world.wait_for_all(f"trial/{self._trial}")
        self._stop_worker()
        return joined_trial([from_json(Trial, json.loads(text)) for text in said])

    def follow(self) -> None:
        """Run the trials that rank 0 publishes, until it publishes the end.

        Raises:
            BsprobeError: This rank cannot continue, or another one is gone.
        """
        while order := self._world.wait_for(f"order/{self._trial + 1}", 0):
            self._stop_worker()
            asked = json.loads(order)
            self._attempt(
                from_json(TrialSpec, asked["spec"]), Purpose(asked["purpose"]), _ignore_phase
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close(error)

    def _attempt(self, spec: TrialSpec, purpose: Purpose, on_phase: ReportPhase) -> None:
        """Run this rank's part of the next trial, and publish the result.

        The result is published before the worker is stopped, because the stop can make the other
        workers fail.
        """
        assert self._runner is not None  # noqa: S101 - set until the runner is closed
        self._trial += 1
        self._failed_since = None
        trial = self._runner.attempt(
            spec,
            process=Process.FRESH,
            purpose=purpose,
            on_phase=on_phase,
            group=self._world.group(self._trial, timeout=self._timeout),
        )
        self._world.publish(f"trial/{self._trial}", json.dumps(to_json(trial)))
        if not trial.ran:
            self._world.note(f"failed/{self._trial}")

    def _watch(self) -> None:
        """Check the other ranks while this rank waits for its worker."""
        self._world.check()
        if self._trial == 0 or not self._world.has_happened(f"failed/{self._trial}"):
            return
        now = time.monotonic()
        self._failed_since = self._failed_since or now
        if now - self._failed_since > _GRACE_SECONDS:
            raise PeerFailedError

    def _agree(self, asked: Settings) -> None:
        self._world.publish("asked", json.dumps(to_json(asked)))
        said = [json.loads(text) for text in self._world.wait_for_all("asked")]
        for rank, other in enumerate(said):
            if other != said[0]:
                different = [key for key in said[0] if other.get(key) != said[0][key]]
                raise UsageError(
                    f"rank {rank} was started with other options than rank 0: "
                    f"{', '.join(different)}",
                    hint="start the same command on every machine",
                )

    def _all_ready(self, ready: Ready) -> Ready:
        """Return the answer of this rank's worker, with the merged device of all ranks."""
        self._world.publish("device", json.dumps(to_json(ready.device)))
        devices = [
            from_json(DeviceInfo, json.loads(text)) for text in self._world.wait_for_all("device")
        ]
        return replace(ready, device=joined_device(devices))

    def _stop_worker(self) -> None:
        if self._runner is not None:
            self._runner.close()

    def _close(self, error: BaseException | None) -> None:
        self._stop_worker()
        if error is None and self._world.launch.leads:
            with suppress(WorkerError):  # without the store no rank waits for the end
                self._world.publish(f"order/{self._trial + 1}", _NO_MORE)
        self._world.close(None if error is None else reason_of(error))


def _ignore_phase(_phase: str) -> None:
    """Do nothing: only rank 0 shows phases."""
