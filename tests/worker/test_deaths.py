"""The death of a trial's process counts as out of memory only with evidence."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bsprobe.analysis.search import Process
from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.failures import Certainty, KernelKill, Outcome
from bsprobe.records.gpus import find_gpu
from bsprobe.records.runs import DeviceRequest
from bsprobe.records.trials import Failure, Purpose, Trial, TrialSpec
from bsprobe.records.units import GIB, MIB, Resolution
from bsprobe.records.variants import Variant
from bsprobe.worker.runner import TrialRunner
from tests.support import on_fake_gpu
from tests.support.control_group import ControlGroup, control_group
from tests.support.dying_network import ABOVE, DEAD, MANNER, MANNERS
from tests.support.fake_cuda import HAS_FAKE_CUDA

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the CPU device is Linux's")
CPU, CUDA, SIMULATED = DeviceKind.CPU, DeviceKind.CUDA, DeviceKind.SIMULATED
REQUESTS = {
    CPU: DeviceRequest(device="cpu", memory_limit_bytes=GIB),
    CUDA: DeviceRequest(device="cuda"),
    SIMULATED: DeviceRequest(gpu=find_gpu("RTX 3090")),
}
VARIANT = Variant(
    model="tests.support.dying_network:Dying", resolution=Resolution(height=64, width=64)
)
UNEXPLAINED = {
    "segmentation fault": "killed by SIGSEGV",
    "abort": "killed by SIGABRT",
    "SIGKILL": "killed by SIGKILL",
    "SIGTERM": "killed by SIGTERM",
    "sys.exit(137)": "exit status 137",
    "os._exit(0)": "exit status 0",
}
MEMORY, HOST, FAILED = Outcome.OUT_OF_MEMORY, Outcome.HOST_MEMORY, Outcome.FAILED
EXPLAINED = {
    ("bad_alloc", CPU): MEMORY,
    ("ENOMEM", CPU): MEMORY,
    ("bad_alloc", CUDA): HOST,
    ("ENOMEM", CUDA): HOST,
    ("card is full", CUDA): MEMORY,
    ("bad_alloc", SIMULATED): HOST,
    ("ENOMEM", SIMULATED): HOST,
}


def often(kind: DeviceKind) -> tuple[pytest.MarkDecorator, ...]:
    """Return the marks of a test: on the CPU it always runs, on other devices by night."""
    return () if kind is CPU else (pytest.mark.nightly,)


@contextmanager
def runner(kind: DeviceKind, folder: Path, manner: str) -> Iterator[TrialRunner]:
    if kind is CUDA and not HAS_FAKE_CUDA:
        pytest.skip("the fake GPU does not know this PyTorch")
    environment = {MANNER: manner, ABOVE: "1", DEAD: str(folder / "dead")}
    if kind is CUDA:
        environment |= on_fake_gpu.environment(folder)
    with TrialRunner(REQUESTS[kind], timeout=120, environment=environment) as opened:
        assert opened.ready.device.kind is kind
        yield opened


def run(trials: TrialRunner, batch: int) -> Trial:
    spec = TrialSpec(variant=VARIANT, batch_size=batch)
    return trials.run(spec, process=Process.ANY, purpose=Purpose.SEARCH, on_phase=lambda _: None)


def died(folder: Path, kind: DeviceKind, manner: str) -> tuple[Outcome, Failure, int]:
    """Return the outcome and failure of a trial that dies, and the number of its processes."""
    with runner(kind, folder, manner) as trials:
        trial = run(trials, 2)
    assert trial.failure is not None
    return trial.outcome, trial.failure, len(dead(folder))


def dead(folder: Path) -> list[str]:
    """Return the processes that died."""
    numbers = (folder / "dead").read_text(encoding="ascii").split()
    assert len(set(numbers)) == len(numbers)
    return numbers


@pytest.mark.parametrize(
    ("kind", "manner"),
    [
        # Ordered by kind, because each kind has its own fork server.
        pytest.param(kind, manner, marks=often(kind))
        for kind in DeviceKind
        for manner in UNEXPLAINED
    ],
)
def test_a_death_without_evidence_is_tried_once_more_and_then_a_failure(
    tmp_path: Path, kind: DeviceKind, manner: str
) -> None:
    outcome, why, processes = died(tmp_path, kind, manner)
    assert (outcome, why.certainty, processes) == (FAILED, Certainty.UNEXPLAINED, 2)
    assert why.evidence == UNEXPLAINED[manner]


@pytest.mark.parametrize(
    ("manner", "kind"),
    [pytest.param(manner, kind, marks=often(kind)) for manner, kind in EXPLAINED],
)
def test_a_death_with_evidence_is_out_of_that_memory(
    tmp_path: Path, manner: str, kind: DeviceKind
) -> None:
    outcome, why, processes = died(tmp_path, kind, manner)
    assert (outcome, why.certainty) == (EXPLAINED[manner, kind], Certainty.CERTAIN)
    assert processes == 1


@pytest.mark.parametrize(
    "kind", [CPU, *(pytest.param(each, marks=pytest.mark.nightly) for each in (CUDA, SIMULATED))]
)
def test_a_trial_whose_first_process_was_killed_runs_in_a_second(
    tmp_path: Path, kind: DeviceKind
) -> None:
    with runner(kind, tmp_path, "SIGKILL, once") as trials:
        trial = run(trials, 2)
    assert (trial.outcome, trial.fresh_process) == (Outcome.FITS, True)


def test_every_manner_of_dying_is_tried() -> None:
    explained = {manner for manner, _ in EXPLAINED}
    assert {*UNEXPLAINED, *explained, "SIGKILL, once", "fill the memory"} == set(MANNERS)


@pytest.fixture
def group() -> Iterator[ControlGroup]:
    with control_group(limit_bytes=700 * MIB) as made:
        if made is None:
            pytest.skip("this process may not make memory control groups")
        yield made


@pytest.mark.parametrize(
    ("kind", "outcome"),
    [
        (CPU, MEMORY),
        pytest.param(CUDA, HOST, marks=pytest.mark.nightly),
        pytest.param(SIMULATED, HOST, marks=pytest.mark.nightly),
    ],
)
def test_a_kill_in_a_full_control_group_is_evidence(
    tmp_path: Path, group: ControlGroup, kind: DeviceKind, outcome: Outcome
) -> None:
    with runner(kind, tmp_path, "fill the memory") as trials:
        worker = trials._worker
        assert worker is not None
        group.take(worker._process.pid)
        trial = run(trials, 2)
    assert trial.failure is not None
    assert (trial.outcome, trial.failure.evidence, trial.failure.certainty) == (
        outcome,
        KernelKill.OWN_GROUP,
        Certainty.CERTAIN,
    )
    assert len(dead(tmp_path)) == 1


def test_a_kill_in_another_control_group_is_no_evidence(
    tmp_path: Path, group: ControlGroup
) -> None:
    """The counters of another control group and of the machine increase while the trial runs."""
    with runner(CPU, tmp_path, "SIGKILL") as trials:
        group.have_one_killed()
        trial = run(trials, 2)
    assert trial.failure is not None
    assert trial.failure.certainty is Certainty.UNEXPLAINED
