"""Trials that several processes run together: rank 0 says which, all run it, the weakest decides.

Every trial has fresh workers in a process group of its own. A worker whose peer has failed would
wait in a collective for ever: its parent stops it as soon as it hears of the failure.
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
from bsprobe.worker.endings import PeerFailedError, again_if_unexplained
from bsprobe.worker.process import ReportPhase
from bsprobe.worker.protocol import Ready
from bsprobe.worker.ranks.launch import Launch
from bsprobe.worker.ranks.merge import joined_device, joined_trial
from bsprobe.worker.ranks.world import Store, World, reason_of
from bsprobe.worker.runner import TrialRunner

_GRACE_SECONDS = 3.0
"""For a rank to come to its own verdict once another has failed: equal ones fail together."""
_NO_MORE = ""

Connect = Callable[[Launch], Store]


def rank_request(request: DeviceRequest, launch: Launch) -> DeviceRequest:
    """The device of one rank: its own GPU, or its own share of the memory.

    Raises:
        UsageError: One GPU was named for all, or limits for another number of processes.
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
            hint="for example --memory-limit 2GiB, or --memory-limit 2GiB,1GiB for unlike ones",
        )
    name = device if device == "cpu" else f"cuda:{launch.local_rank}"
    return replace(request, device=name, memory_limit_bytes=limit, rank_limits_bytes=())


class WorldRunner:
    """Runs trials together with the other ranks; one that fails on any has failed.

    Args:
        asked: The settings of the command line, which must be the same for all ranks.
        launch: What torchrun says.
        connect: Connects to the store at which the ranks meet: `store.connect`, which needs torch.

    Raises:
        OutOfReachError: The store cannot be reached.
        UsageError: The ranks were asked for different things.
        DeviceError: This rank's device cannot be used.
        WorkerError: Another rank's cannot, or it is gone.
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
        """Run one trial on all ranks, each in a fresh process, and say what the weakest says.

        Where one dies, and nothing says of what, all run it once more.
        """
        del process  # a process that has been in one group is used for no other
        return again_if_unexplained(partial(self._run_together, spec, purpose, on_phase))

    def _run_together(self, spec: TrialSpec, purpose: Purpose, on_phase: ReportPhase) -> Trial:
        order = {"spec": to_json(spec), "purpose": str(purpose)}
        self._world.publish(f"order/{self._trial + 1}", json.dumps(order))
        self._attempt(spec, purpose, on_phase)
        said = self._world.wait_for_all(f"trial/{self._trial}")
        self._stop_worker()
        return joined_trial([from_json(Trial, json.loads(text)) for text in said])

    def follow(self) -> None:
        """Run what rank 0 says until it says that there is no more.

        Raises:
            BsprobeError: This rank cannot go on, or another one is gone.
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
        """Run this rank's part of the next trial, and tell the others what came of it.

        They are told before the worker goes: what its going does to theirs comes after the cause.
        """
        assert self._runner is not None  # noqa: S101 - it is there until the end
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
        """Look after the other ranks while this one's worker is waited for."""
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
                    f"rank {rank} was asked for something else than rank 0: {', '.join(different)}",
                    hint="start the same command on every machine",
                )

    def _all_ready(self, ready: Ready) -> Ready:
        """This rank's worker, with the device that all ranks make together."""
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
            with suppress(WorkerError):  # without a meeting place nobody waits there
                self._world.publish(f"order/{self._trial + 1}", _NO_MORE)
        self._world.close(None if error is None else reason_of(error))


def _ignore_phase(_phase: str) -> None:
    """Do nothing: a rank that follows shows nothing."""
