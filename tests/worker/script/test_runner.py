"""Trials of a command that writes its records itself: without PyTorch, and so in a moment."""

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bsprobe.analysis.search import Process
from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.failures import ALLOCATOR_COUNT, Certainty, Outcome
from bsprobe.records.runs import DeviceInfo, DeviceRequest, Settings, Target
from bsprobe.records.scripts import MemoryLimit, Script, ScriptFacts, View
from bsprobe.records.trials import Purpose, Source, Trial
from bsprobe.records.units import GIB, MIB
from bsprobe.records.variants import Norm, Variant
from bsprobe.worker.protocol import Ready
from bsprobe.worker.script import runner as script_runner
from bsprobe.worker.script.runner import ScriptRunner, chosen_gpu
from bsprobe.worker.script.trial import run_trial
from tests.support.commands import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="commands are probed on Linux")
PROGRAM = str(ROOT / "tests" / "support" / "recording_script.py")
CPU = DeviceInfo(
    kind=DeviceKind.CPU,
    name="CPU",
    source=Source.MEASURED,
    total_bytes=8 * GIB,
    capacity_bytes=GIB,
    limit_bytes=GIB,
)
CARD = replace(CPU, kind=DeviceKind.CUDA, name="card")


def settings(*words: str, seconds: float = 20, timeout: float = 60) -> Settings:
    script = Script(command=words, seconds=seconds)
    variant = Variant(
        model=script.name, resolution=None, norm=Norm.AS_BUILT, classes=None, script=script
    )
    return Settings(
        variants=(variant,),
        device=DeviceRequest(device="cpu"),
        target=Target(),
        max_batch=64,
        trial_timeout_seconds=timeout,
        warmup_steps=2,
        measured_steps=3,
    )


def opened(asked: Settings, monkeypatch: pytest.MonkeyPatch, device: DeviceInfo) -> ScriptRunner:
    ready = Ready(device=device, torch="2.9.0", cuda=None, cudnn=None, cpu_threads=1)
    monkeypatch.setattr(script_runner, "_opened", lambda _: ready)
    return ScriptRunner(asked)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> "Ran":
    monkeypatch.chdir(tmp_path)
    return Ran(monkeypatch)


class Ran:
    """Runs trials of the recording script."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def __call__(
        self,
        *words: str,
        batch: int = 2,
        accumulation: int = 1,
        device: DeviceInfo = CPU,
        seconds: float = 20,
        timeout: float = 60,
    ) -> Trial:
        asked = settings(*words, seconds=seconds, timeout=timeout)
        runner = opened(asked, self._monkeypatch, device)
        spec = asked.trial(asked.variants[0], batch, accumulation_steps=accumulation)
        return runner.run(
            spec, process=Process.FRESH, purpose=Purpose.SEARCH, on_phase=lambda _: None
        )

    def behaving(self, how: str, **options: object) -> Trial:
        return self(sys.executable, PROGRAM, how, "{batch}", **options)  # type: ignore[arg-type] # as __call__ has them


def test_a_script_is_stopped_and_measured_after_its_steps(ran: Ran) -> None:
    trial = ran.behaving("train", batch=3)
    assert (trial.outcome, trial.fresh_process) == (Outcome.FITS, True)
    assert trial.script == ScriptFacts(
        view=View.INSIDE,
        steps=trial.script.steps if trial.script else 0,
        limit=MemoryLimit.DATA_ABOVE_PYTORCH,
        torch="2.9.0",
        python="3.11.2",
        optimizer="AdamW",
        learning_rates=(0.001,),
    )
    measured = trial.measurement
    assert measured is not None
    assert measured.peak_bytes == 31 * MIB  # 30 MiB resident, 1 MiB mapped
    assert measured.model.parameters == 1234
    assert len(measured.step_seconds) == 3  # means of parts of the steps from the third on
    assert measured.steps >= 24  # short steps: 5 of them would say little of the throughput
    assert measured.images_per_second is not None
    assert 20 < measured.images_per_second < 3 / 0.005


def test_images_per_second_count_accumulated_micro_batches(ran: Ran) -> None:
    trial = ran.behaving("train", batch=2, accumulation=50)
    assert trial.measurement is not None
    assert trial.measurement.images_per_second is not None
    assert trial.measurement.images_per_second > 1000  # steps take about 5 ms


def test_a_script_that_ends_by_itself_ran(ran: Ran) -> None:
    trial = ran.behaving("short")
    assert (trial.outcome, trial.script and trial.script.steps) == (Outcome.FITS, 3)


def test_memory_that_runs_out_is_known_by_the_exception(ran: Ran) -> None:
    trial = ran.behaving("train", batch=13)
    assert trial.outcome is Outcome.OUT_OF_MEMORY
    assert trial.failure is not None
    assert trial.failure.message == "the command ended (exit status 1): MemoryError: batch 13"
    assert trial.failure.proves(trial.outcome, DeviceKind.CPU)


def test_memory_that_ran_out_unseen_by_the_user_still_ran_out(ran: Ran) -> None:
    swallowed = ran.behaving("swallow", batch=13)
    assert swallowed.outcome is Outcome.OUT_OF_MEMORY
    assert swallowed.failure is not None
    assert swallowed.failure.proves(swallowed.outcome, DeviceKind.CPU)
    assert ran.behaving("swallow", batch=12).outcome is Outcome.FITS

    counted = ran.behaving("counted", device=CARD)
    assert counted.outcome is Outcome.OUT_OF_MEMORY
    assert counted.failure is not None
    assert counted.failure.evidence == ALLOCATOR_COUNT
    assert counted.failure.proves(counted.outcome, DeviceKind.CUDA)


def test_the_trials_of_cudnn_s_benchmark_mode_are_no_lack_of_memory(ran: Ran) -> None:
    assert ran.behaving("benchmark", device=CARD).outcome is Outcome.FITS


def test_retries_of_the_allocator_are_told(ran: Ran) -> None:
    trial = ran.behaving("retries", device=CARD)
    assert trial.outcome is Outcome.FITS_WITH_RETRIES
    assert trial.measurement is not None
    assert trial.measurement.allocator_retries == 2


def test_a_script_whose_memory_grows_runs_on(ran: Ran) -> None:
    trial = ran.behaving("grow")
    assert trial.measurement is not None
    ends = trial.measurement.allocated_after_steps
    assert ends[:24] == tuple(number * 20 * MIB for number in range(1, 25))


def test_a_bug_is_no_lack_of_memory(ran: Ran) -> None:
    trial = ran.behaving("bug", batch=4)
    assert trial.outcome is Outcome.FAILED
    assert trial.failure is not None
    assert trial.failure.certainty is Certainty.CERTAIN  # not run a second time
    assert trial.failure.message == "the command ended (exit status 1): ValueError: 4"
    assert "ValueError: 4" in (trial.failure.traceback or "")


@pytest.mark.parametrize("how", ["imports", "stops"])
def test_a_script_that_makes_no_step_is_undecided(how: str, ran: Ran) -> None:
    trial = ran.behaving(how, seconds=0.5)
    assert trial.outcome is Outcome.TIMED_OUT
    assert trial.failure is not None
    assert "--seconds" in trial.failure.message


def test_a_program_without_pytorch_that_lives_counts_as_run(ran: Ran) -> None:
    trial = ran.behaving("sleeps", seconds=0.5)
    assert trial.outcome is Outcome.FITS
    assert trial.script == ScriptFacts(view=View.WITHOUT_PYTORCH, limit=MemoryLimit.DATA)
    assert trial.measurement is not None
    assert 0 < trial.measurement.peak_bytes < GIB
    assert trial.measurement.images_per_second is None


def test_a_script_that_takes_too_long_names_its_option(ran: Ran) -> None:
    trial = ran.behaving("sleeps", timeout=0.5)
    assert trial.outcome is Outcome.TIMED_OUT
    assert trial.failure is not None
    assert "--trial-timeout" in trial.failure.message


@pytest.mark.parametrize(
    "words",
    [
        (sys.executable, PROGRAM, "killed", "{batch}"),
        ("sh", "-c", "exit 137"),  # as a shell or a container reports SIGKILL
    ],
)
def test_a_kill_without_evidence_is_repeated_once(
    words: tuple[str, ...], ran: Ran, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[object] = []

    def counted(*arguments: object) -> object:
        runs.append(arguments)
        return run_trial(*arguments)  # type: ignore[arg-type] # as they came

    monkeypatch.setattr("bsprobe.worker.script.runner.run_trial", counted)
    trial = ran(*words)
    assert len(runs) == 2
    assert trial.failure is not None
    assert (trial.outcome, trial.failure.certainty) == (Outcome.FAILED, Certainty.UNEXPLAINED)
    assert "SIGKILL" in trial.failure.message


def test_no_process_of_a_command_outlives_its_trial(
    ran: Ran, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ignores SIGTERM, and its child has a session of its own."""
    monkeypatch.setattr("bsprobe.worker.script.command.TERM_SECONDS", 0.5)
    monkeypatch.setenv("BSPROBE_TEST_MARK", "stubborn")
    trial = ran.behaving("stubborn")
    assert trial.outcome is Outcome.FITS
    deadline = time.monotonic() + 5
    while (alive := marked_processes()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert alive == []


def marked_processes() -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"BSPROBE_TEST_MARK=stubborn" in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return [pid for pid in found if pid != os.getpid()]


SAYS = """
import os, sys, tempfile
from pathlib import Path
Path(sys.argv[2]).write_text(repr((
    sys.argv[1], os.environ["BSPROBE_BATCH"], os.environ["BSPROBE_ACCUMULATION"],
    os.environ["BSPROBE_TRIAL"], os.environ["WANDB_MODE"], sys.stdin.read(),
    os.getpgrp() == os.getpid(), os.listdir(sys.argv[3]), tempfile.gettempdir() != "/tmp",
)))
"""


def test_a_command_gets_its_numbers_folders_and_an_empty_input(ran: Ran, tmp_path: Path) -> None:
    words = (sys.executable, "-c", SAYS, "{batch}x{accumulation} {other} {{}}", "said", "{out}")
    assert ran(*words, batch=3, accumulation=2).outcome is Outcome.FITS
    said = (tmp_path / "said").read_text()
    assert said == repr(("3x2 {other} {{}}", "3", "2", "1", "offline", "", True, [], True))


def test_the_scratch_folder_of_a_trial_is_removed(ran: Ran, tmp_path: Path) -> None:
    save = "import sys; open(sys.argv[1] + '/model.pt', 'w').close(); print(sys.argv[1])"
    program = f"{save}; open('where', 'w').write(sys.argv[1])"
    assert ran(sys.executable, "-c", program, "{out}").outcome is Outcome.FITS
    where = Path((tmp_path / "where").read_text())
    assert where.is_absolute()
    assert not where.exists()


def test_the_first_trial_tells_what_it_wrote_into_the_working_directory(
    ran: Ran, tmp_path: Path
) -> None:
    (tmp_path / "kept.txt").write_text("as it was")
    (tmp_path / "old.pt").write_text("old")
    os.utime(tmp_path / "old.pt", (1, 1))
    write = "import os; os.mkdir('runs'); open('runs/log', 'w'); open('old.pt', 'w').write('new')"
    trial = ran(sys.executable, "-c", write)
    assert trial.script is not None
    assert trial.script.wrote == ("old.pt", "runs/log")


def test_a_limit_of_a_cpu_holds_from_the_start(ran: Ran) -> None:
    take = "import numpy; numpy.ones((int({batch}), 2**27))"  # 1 GiB
    trial = ran(sys.executable, "-c", take.replace("{batch}", "1"), "{batch}")
    assert trial.outcome is Outcome.OUT_OF_MEMORY
    assert trial.failure is not None
    assert trial.failure.proves(trial.outcome, DeviceKind.CPU)


@pytest.mark.parametrize(
    ("device", "visible", "chosen"),
    [
        (None, "2,3", None),
        ("cuda", "2,3", None),
        ("cuda:1", "2,3", "3"),
        ("cuda:1", "", "1"),
        ("cuda:0", "GPU-5f,GPU-6a", "GPU-5f"),
        ("cpu", "2,3", ""),
    ],
)
def test_a_script_sees_the_chosen_device_alone(
    device: str | None, visible: str, chosen: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert chosen_gpu(DeviceRequest(device=device)) == chosen


def test_a_cleared_environment_is_seen_from_outside(ran: Ran) -> None:
    hold = "import time; held = bytearray(100 << 20); time.sleep(600)"
    trial = ran("env", "-i", sys.executable, "-c", hold, "{batch}", seconds=1.5)
    assert trial.outcome is Outcome.FITS
    assert trial.measurement is not None
    assert trial.measurement.peak_bytes > 100 * MIB


def test_a_small_program_is_not_as_large_as_its_launcher(ran: Ran) -> None:
    for words in (("sleep", "0.5{batch}"), ("true", "{batch}")):
        trial = ran(*words)
        assert trial.measurement is not None
        assert trial.measurement.peak_bytes < 20 * MIB
