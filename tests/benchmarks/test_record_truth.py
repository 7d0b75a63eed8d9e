"""The recorder's plan and its tiers, with stubs instead of child processes."""

import dataclasses
import re
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from benchmarks import record_truth, truth_archive
from benchmarks.record_truth import (
    BROKEN,
    Ended,
    Session,
    main,
    record_boundaries,
    record_trials,
    run_command,
)
from benchmarks.truth_archive import pack
from benchmarks.truth_plan import (
    Configuration,
    in_order,
    rehearsed,
    tier_1,
    tier_2,
    tier_3_memory,
    tier_3_times,
)
from benchmarks.truth_records import (
    boundary_folder,
    load_trial,
    save_trial,
    trial_path,
    unfinished_folder,
)
from benchmarks.truth_trials import START_AGAIN, STOPPED, died, waiting
from bsprobe.records.errors import DeviceError, WorkerError
from bsprobe.records.failures import Outcome
from bsprobe.records.variants import Norm, Precision
from bsprobe.records.workload import NOTHING_OWN
from bsprobe.training.models.factory import check_model_name

MATRIX = next(each for each in tier_2() if each.variant.own == NOTHING_OWN)
PLAN, SEARCHES = tier_1()[:3], tier_2()[:3]
Answer = Callable[[Sequence[str], dict[str, str]], Ended]
NOW = "2026-01-01"


def ended(status: int = 0, *, in_time: bool = True, last_words: str = "") -> Ended:
    return Ended(status=status, in_time=in_time, last_words=last_words)


class Bench:
    """A session whose child processes are replaced by a function."""

    def __init__(
        self,
        root: Path,
        answer: Answer,
        *,
        minutes: float = 60,
        archive: Path | None = None,
        since: str = NOW,
    ) -> None:
        self.commands: list[Sequence[str]] = []
        self.environments: list[dict[str, str]] = []
        self._answer = answer
        self.session = Session(
            root=root,
            folder=root / "card",
            deadline=time.monotonic() + 60 * minutes,
            since=since,
            archive=archive,
            spawn=self._spawn,
        )

    def _spawn(self, command: Sequence[str], environment: dict[str, str], _: float) -> Ended:
        self.commands.append(command)
        self.environments.append(environment)
        return self._answer(command, environment)

    def save(self, configuration: Configuration) -> None:
        """Save a complete result."""
        path = trial_path(self.session.folder, configuration.name)
        trial = died(configuration, status=0, last_words="stub")
        save_trial(path, dataclasses.replace(trial, outcome=Outcome.OUT_OF_MEMORY), None)

    def begin(self, configuration: Configuration) -> None:
        """Note that a configuration is being recorded, like a child process."""
        self.session.folder.mkdir(parents=True, exist_ok=True)
        (self.session.folder / "being-recorded.txt").write_text(configuration.name)

    def children(self) -> list[list[str]]:
        return [command[command.index("--child") + 1].split(",") for command in self.commands]


# The plan.


def test_every_file_has_a_unique_name_that_any_disk_accepts() -> None:
    names = [each.name for each in (*tier_1(), *tier_3_memory(), *tier_3_times())]
    searches = [each.name for each in tier_2()]
    assert len(set(names)) == len(names)
    assert len(set(searches)) == len(searches)
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+", name) for name in names + searches)


def test_tier_1_covers_every_model_norm_precision_and_layout_at_two_batches() -> None:
    plan = tier_1()
    assert len(plan) == 80
    variants = [each.spec.variant for each in plan]
    assert len(set(variants)) == 40
    assert {v.norm for v in variants} == set(Norm) - {
        Norm.SYNC_BATCH,
        Norm.AS_BUILT,
    }  # several processes; recorded networks
    assert {v.precision for v in variants} == set(Precision)
    assert len({v.model for v in variants}) == 5
    for model in {v.model for v in variants}:
        check_model_name(model)
    assert not any(each.environment for each in plan), "they share a process"


def test_tier_2_asks_for_every_limit() -> None:
    assert {each.limit_bytes // 2**30 for each in tier_2()} == {8, 12, 16, 24, 40}
    ours = [each for each in tier_2() if each.variant.own == NOTHING_OWN][:5]
    assert len({each.limit_bytes for each in ours}) == 5, "the default matrix comes first"
    assert all(len(each.precisions) * len(each.norms) == 4 for each in ours)


def test_the_memory_of_tier_3_comes_before_the_second_half_of_tier_1() -> None:
    stages = in_order()
    assert [stage.tier for stage in stages] == ["4", "1", "3", "1", "2", "3"]
    assert [len(stage.configurations) for stage in stages] == [22, 40, 12, 40, 0, 16]
    assert (*stages[1].configurations, *stages[3].configurations) == tier_1()
    assert len({each.process for each in stages[2].configurations}) == 3


def test_timed_convolutions_share_no_process_with_others_of_their_sizes() -> None:
    by_process: dict[str, set[str]] = {}
    for each in tier_3_memory():
        by_process.setdefault(each.process, set()).add(each.spec.variant.cudnn_benchmark)
    assert all(len(settings) == 1 for settings in by_process.values())


def test_a_rehearsal_has_every_configuration_of_a_small_network() -> None:
    for stage in in_order():
        small = rehearsed(stage)
        assert len(small.configurations) == len(stage.configurations)
        assert {each.spec.variant.model for each in small.configurations} <= {"deeplabv2-mini"}
        assert [each.name for each in small.searches] == [
            f"rehearsed-{each.name}" for each in stage.searches
        ]


# Trials: those that share a process.


def test_a_process_that_was_spoilt_is_followed_by_another(tmp_path: Path) -> None:
    def answer(*_: object) -> Ended:
        bench.save(PLAN[len(bench.commands) - 1])
        return ended(START_AGAIN if len(bench.commands) < 3 else 0)

    bench = Bench(tmp_path, answer)
    record_trials(bench.session, PLAN)
    names = [each.name for each in PLAN]
    assert bench.children() == [names, names[1:], names[2:]]


def test_a_death_is_blamed_on_the_trial_that_ran(tmp_path: Path) -> None:
    def answer(*_: object) -> Ended:
        if len(bench.commands) == 1:
            bench.save(PLAN[0])
            bench.begin(PLAN[1])
            return ended(-11, last_words="Segmentation fault")
        bench.save(PLAN[2])
        return ended()

    archive = tmp_path / "kept.tar"
    bench = Bench(tmp_path / "root", answer, archive=archive)
    record_trials(bench.session, PLAN)
    trial = load_trial(trial_path(bench.session.folder, PLAN[1].name))
    assert trial.outcome is Outcome.FAILED
    assert trial.failure is not None
    assert trial.failure.message == "Segmentation fault"
    assert bench.children()[1:] == [[PLAN[2].name]]
    with tarfile.open(tmp_path / "kept-1.tar") as tar:
        assert f"card/trials/{PLAN[1].name}.json.gz" in tar.getnames()
    next_session = Bench(tmp_path / "root", lambda *_: ended(), since="9999-01-01")
    record_trials(next_session.session, PLAN)
    assert next_session.children() == [[PLAN[1].name]]


def test_a_death_after_the_figures_were_saved_fails_no_other_trial(tmp_path: Path) -> None:
    def answer(*_: object) -> Ended:
        if len(bench.commands) == 1:
            bench.save(PLAN[0])
            bench.begin(PLAN[0])  # it was being reduced
            return ended(-9)
        return ended()

    bench = Bench(tmp_path, answer)
    record_trials(bench.session, PLAN)
    assert [path.name for path in tmp_path.rglob("*.json.gz")] == [f"{PLAN[0].name}.json.gz"]
    assert bench.children()[1] == [each.name for each in PLAN[1:]]


def test_processes_that_die_before_any_trial_stop_after_three_and_blame_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = Bench(tmp_path, lambda *_: ended(1, last_words="ImportError: no torch"))
    record_trials(bench.session, PLAN)
    assert len(bench.commands) == 3
    assert list(tmp_path.rglob("*.json.gz")) == []
    assert "ImportError: no torch" in capsys.readouterr().err


@pytest.mark.parametrize("answer", [ended(0), ended(STOPPED), ended(-2, in_time=False)])
def test_a_process_that_has_ended_as_it_should_is_not_followed(
    tmp_path: Path, answer: Ended
) -> None:
    bench = Bench(tmp_path, lambda *_: answer)
    record_trials(bench.session, PLAN)
    assert len(bench.commands) == 1


def test_what_breaks_every_trial_is_recorded_as_none(tmp_path: Path) -> None:
    bench = Bench(tmp_path, lambda *_: ended(BROKEN, last_words="error: no space left"))
    with pytest.raises(WorkerError, match="no space left"):
        record_trials(bench.session, PLAN)
    assert list(tmp_path.rglob("*.json.gz")) == []


def test_nothing_is_started_without_time_or_without_need(tmp_path: Path) -> None:
    hurried = Bench(tmp_path, lambda *_: ended(), minutes=0)
    record_trials(hurried.session, PLAN)
    idle = Bench(tmp_path, lambda *_: ended())
    for configuration in PLAN:
        idle.save(configuration)
    record_trials(idle.session, PLAN)
    assert hurried.commands == idle.commands == []
    assert waiting(idle.session.folder, PLAN, since=NOW) == ()


def test_tier_3_has_a_process_for_each_of_its_settings(tmp_path: Path) -> None:
    bench = Bench(tmp_path, lambda *_: ended())
    record_trials(bench.session, tier_3_memory())
    assert [len(names) for names in bench.children()] == [8, 2, 2]
    assert [list(each) for each in bench.environments] == [[], [], ["PYTORCH_CUDA_ALLOC_CONF"]]


# Tier 2: searches.


def finishing(command: Sequence[str], _: dict[str, str]) -> Ended:
    folder = Path(command[command.index("--out") + 1])
    folder.mkdir()
    (folder / "run.json").write_text("{}")
    (folder / "report.md").write_text("large")
    return ended()


def test_a_finished_search_is_a_boundary_and_loses_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path, finishing)
    record_boundaries(bench.session, SEARCHES)
    record_boundaries(bench.session, SEARCHES)
    assert len(bench.commands) == 3
    folder = bench.session.folder
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert found == sorted(
        path
        for each in SEARCHES
        for path in (f"boundaries/{each.name}/run.json", f"unfinished/{each.name}.1/report.md")
    )


def test_a_search_asks_for_its_variants_under_its_limit(tmp_path: Path) -> None:
    bench = Bench(tmp_path, finishing)
    record_boundaries(bench.session, (SEARCHES[0], MATRIX))
    others, command = bench.commands
    assert others[-2:] == ["--loss", "benchmarks/recorded_networks.py:dice_and_cross_entropy"]
    folder = unfinished_folder(bench.session.folder, MATRIX.name)
    assert list(command[1:6]) == ["-m", "bsprobe", "run", "--out", str(folder)]
    assert " ".join(command[6:]) == (
        "--device cuda --memory-limit 12GiB --search guided --trial-timeout 120 "
        "--model deeplabv2-resnet101 --input 3x512x1024 --precision fp32,amp-fp16 "
        "--norm batch,group --memory-format nchw --optimizer sgd --checkpointing off"
    )


def test_a_search_in_the_checkout_keeps_no_path_of_the_machine() -> None:
    command = run_command(MATRIX, Path(record_truth.__file__).resolve().parents[1] / "truth" / "a")
    assert command[command.index("--out") + 1] == "truth/a"


def measuring(*trials: str) -> Answer:
    """Return a search that adds these trials to its journal and does not finish."""
    waiting_trials = list(trials)

    def answer(command: Sequence[str], _: dict[str, str]) -> Ended:
        folder = Path(command[command.index("--out") + 1])
        folder.mkdir(exist_ok=True)
        with (folder / "journal.jsonl").open("a") as journal:
            journal.write(waiting_trials.pop(0) if waiting_trials else "")
        return ended(2, last_words="error: the GPU is gone")

    return answer


def test_a_search_out_of_time_is_kept_packed_and_gone_on_with(tmp_path: Path) -> None:
    def interrupted(command: Sequence[str], environment: dict[str, str]) -> Ended:
        measuring("measured")(command, environment)
        return ended(130, in_time=False)

    bench = Bench(tmp_path / "root", interrupted, archive=tmp_path / "kept.tar")
    record_boundaries(bench.session, SEARCHES)
    assert len(bench.commands) == 1
    kept = unfinished_folder(bench.session.folder, SEARCHES[0].name) / "journal.jsonl"
    assert kept.read_text() == "measured"
    with tarfile.open(tmp_path / "kept-1.tar") as tar:
        assert tar.getnames() == [f"card/unfinished/{SEARCHES[0].name}/journal.jsonl"]


def test_a_search_that_fails_keeps_what_it_measured_and_goes_on_with_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path, measuring("one ", "two "))
    record_boundaries(bench.session, SEARCHES[:1])
    record_boundaries(bench.session, SEARCHES[:1])
    assert ["--resume" in command for command in bench.commands[:2]] == [False, True]
    journal = unfinished_folder(bench.session.folder, SEARCHES[0].name) / "journal.jsonl"
    assert journal.read_text() == "one two "
    failed = boundary_folder(bench.session.folder, SEARCHES[0].name) / "failed.txt"
    assert failed.read_text() == "error: the GPU is gone"


def test_a_search_that_cannot_be_gone_on_with_is_set_aside_and_begun_anew(tmp_path: Path) -> None:
    bench = Bench(tmp_path, measuring("one ", "", "two "))
    for _ in range(3):
        record_boundaries(bench.session, SEARCHES[:1])
    unfinished = unfinished_folder(bench.session.folder, SEARCHES[0].name)
    aside = unfinished.with_name(f"{unfinished.name}.1")
    assert (aside / "journal.jsonl").read_text() == "one "
    assert (unfinished / "journal.jsonl").read_text() == "two "


# The whole script.


def test_a_child_runs_and_what_it_said_is_kept() -> None:
    code = "import os, sys; sys.stderr.write(os.environ['TRIED'] + '\\n'); sys.exit(3)"
    found = record_truth.spawn([sys.executable, "-c", code], {"TRIED": "yes"}, 60)
    assert found == ended(3, last_words="yes\n")


def test_a_child_that_takes_too_long_is_interrupted() -> None:
    code = "import time\ntry: time.sleep(60)\nexcept KeyboardInterrupt: raise SystemExit(130)"
    found = record_truth.spawn([sys.executable, "-c", code], {}, 1.0)
    assert (found.status, found.in_time) == (130, False)


def test_everything_is_packed_into_archives_that_have_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, archive = tmp_path / "root", tmp_path / "all.tar"
    bench = Bench(root, lambda *_: ended())
    for configuration in PLAN:
        bench.save(configuration)
    (root / "too-large").write_bytes(bytes(60_000))
    monkeypatch.setattr(truth_archive, "PART_BYTES", 17_500)
    pack(root, archive)
    pack(root, archive)
    packed = []
    for part in sorted(tmp_path.glob("all-*.tar")):
        assert part.stat().st_size <= 17_500
        with tarfile.open(part) as tar:
            packed += tar.getnames()
    assert packed == [f"card/trials/{each.name}.json.gz" for each in PLAN]
    assert {path.name for path in tmp_path.iterdir()} == {"root", "all-1.tar", "all-2.tar"}
    assert re.search("not packed.*59 KiB.*too-large", capsys.readouterr().err)


def test_an_archive_that_cannot_be_written_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = Bench(tmp_path / "root", lambda *_: ended())
    bench.save(PLAN[0])
    pack(tmp_path / "root", tmp_path / "missing" / "all.tar")
    assert capsys.readouterr().err.startswith("not packed: ")


def test_no_more_archives_are_made_than_can_be_carried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    for number in range(6):
        (root / f"file-{number}").write_bytes(bytes(4_000))
    monkeypatch.setattr(truth_archive, "PART_BYTES", 17_000)
    pack(root, tmp_path / "all.tar")
    assert len(list(tmp_path.glob("all-*.tar"))) == 4
    errors = capsys.readouterr().err.splitlines()
    assert [("not packed" in each, "1 files" in each) for each in errors] == [(True, True)] * 2


def test_without_a_gpu_nothing_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="no GPU"):
        main(["--out", str(tmp_path)])
