"""The recorder's plan and its tiers, with stubs in the place of its child processes."""

import re
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import record_truth
import torch
from record_truth import Ended, Session, main, pack, record_tier_1, record_tier_2, record_tier_3
from truth_plan import Configuration, tier_1, tier_2, tier_3
from truth_records import boundary_folder, load_trial, save_trial, trial_path
from truth_trials import START_AGAIN, died

from bsprobe.errors import DeviceError, WorkerError
from bsprobe.failures import Outcome
from bsprobe.models.factory import check_model_name
from bsprobe.variants import Norm, Precision

PLAN, SEARCHES = tier_1()[:3], tier_2()[:3]
Answer = Callable[[Sequence[str], dict[str, str]], Ended]


def ended(status: int = 0, *, in_time: bool = True, last_words: str = "") -> Ended:
    return Ended(status=status, in_time=in_time, last_words=last_words)


class Bench:
    """A session whose children only do what an answer does."""

    def __init__(self, root: Path, answer: Answer, *, minutes: float = 60) -> None:
        self.commands: list[Sequence[str]] = []
        self.environments: list[dict[str, str]] = []
        self._answer = answer
        self.session = Session(
            root=root,
            folder=root / "card",
            deadline=time.monotonic() + 60 * minutes,
            archive=None,
            spawn=self._spawn,
        )

    def _spawn(self, command: Sequence[str], environment: dict[str, str], _: float) -> Ended:
        self.commands.append(command)
        self.environments.append(environment)
        return self._answer(command, environment)

    def save(self, configuration: Configuration) -> None:
        path = trial_path(self.session.folder, configuration.name)
        save_trial(path, died(configuration, status=0, last_words="stub"), None)


# The plan.


def test_every_file_has_a_name_of_its_own_that_any_disk_takes() -> None:
    names = [each.name for each in (*tier_1(), *tier_3())]
    searches = [each.name for each in tier_2()]
    assert len(set(names)) == len(names)
    assert len(set(searches)) == len(searches)
    assert all(re.fullmatch(r"[a-z0-9_.-]+", name) for name in names + searches)


def test_tier_1_covers_every_model_norm_precision_and_layout_at_two_batches() -> None:
    plan = tier_1()
    assert len(plan) == 80
    variants = [each.spec.variant for each in plan]
    assert len(set(variants)) == 40
    assert {v.norm for v in variants} == set(Norm) - {Norm.SYNC_BATCH}  # of several processes
    assert {v.precision for v in variants} == set(Precision)
    assert len({v.model for v in variants}) == 5
    for model in {v.model for v in variants}:
        check_model_name(model)
    assert not any(each.environment for each in plan), "they share a process"


def test_tier_2_asks_for_every_limit() -> None:
    assert {each.limit_bytes // 2**30 for each in tier_2()} == {8, 12, 16, 24, 40}


# Tier 1: one process, or a few.


def test_tier_1_starts_again_where_a_process_was_spoilt(tmp_path: Path) -> None:
    def answer(*_: object) -> Ended:
        bench.save(PLAN[len(bench.commands) - 1])
        return ended(START_AGAIN if len(bench.commands) < 3 else 0)

    bench = Bench(tmp_path, answer)
    record_tier_1(bench.session, PLAN)
    assert len(bench.commands) == 3


def test_tier_1_blames_a_death_on_the_configuration_that_was_next(tmp_path: Path) -> None:
    def answer(*_: object) -> Ended:
        if len(bench.commands) == 1:
            bench.save(PLAN[0])
            return ended(-11, last_words="Segmentation fault")
        bench.save(PLAN[2])
        return ended()

    bench = Bench(tmp_path, answer)
    record_tier_1(bench.session, PLAN)
    trial = load_trial(trial_path(bench.session.folder, PLAN[1].name))
    assert trial.outcome is Outcome.FAILED
    assert trial.failure is not None
    assert trial.failure.message == "Segmentation fault"
    assert len(bench.commands) == 2


@pytest.mark.parametrize("answer", [ended(0), ended(-2, in_time=False)])
def test_tier_1_ends_with_its_time(tmp_path: Path, answer: Ended) -> None:
    bench = Bench(tmp_path, lambda *_: answer)
    record_tier_1(bench.session, PLAN)
    assert len(bench.commands) == 1


def test_what_breaks_every_trial_is_recorded_as_none(tmp_path: Path) -> None:
    bench = Bench(tmp_path, lambda *_: ended(1, last_words="error: no space left"))
    with pytest.raises(WorkerError, match="no space left"):
        record_tier_1(bench.session, PLAN)
    with pytest.raises(WorkerError, match="no space left"):
        record_tier_3(bench.session, PLAN)
    assert list(tmp_path.rglob("*.json.gz")) == []


@pytest.mark.parametrize("record", [record_tier_1, record_tier_3])
def test_nothing_is_started_without_time_or_without_need(
    tmp_path: Path, record: Callable[[Session, Sequence[Configuration]], None]
) -> None:
    hurried = Bench(tmp_path, lambda *_: ended(), minutes=0)
    record(hurried.session, PLAN)
    idle = Bench(tmp_path, lambda *_: ended())
    for configuration in PLAN:
        idle.save(configuration)
    record(idle.session, PLAN)
    assert hurried.commands == idle.commands == []


# Tier 2: searches.


def finishing(command: Sequence[str], _: dict[str, str]) -> Ended:
    folder = Path(command[command.index("--out") + 1])
    folder.mkdir()
    (folder / "run.json").write_text("{}")
    (folder / "report.md").write_text("large")
    return ended()


def test_a_finished_search_leaves_its_run_alone(tmp_path: Path) -> None:
    bench = Bench(tmp_path, finishing)
    record_tier_2(bench.session, SEARCHES)
    record_tier_2(bench.session, SEARCHES)
    assert len(bench.commands) == 3
    folder = bench.session.folder
    left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert left == sorted(f"boundaries/{each.name}/run.json" for each in SEARCHES)


def test_a_search_asks_for_its_variant_under_its_limit(tmp_path: Path) -> None:
    bench = Bench(tmp_path, finishing)
    record_tier_2(bench.session, SEARCHES[:1])
    (command,) = bench.commands
    assert list(command[1:6]) == ["-m", "bsprobe", "run", "--resume", "--out"]
    assert " ".join(command[7:]) == (
        "--device cuda --memory-limit 12GiB --model deeplabv2-resnet101 --resolution 512x1024 "
        "--precision amp-fp16 --norm batch --memory-format nchw"
    )


def test_an_interrupted_search_is_gone_on_with(tmp_path: Path) -> None:
    def interrupted(command: Sequence[str], _: dict[str, str]) -> Ended:
        folder = Path(command[command.index("--out") + 1])
        folder.mkdir()
        (folder / "trials.jsonl").write_text("kept")
        return ended(130, in_time=False)

    bench = Bench(tmp_path, interrupted)
    record_tier_2(bench.session, SEARCHES)
    assert len(bench.commands) == 1
    assert "--resume" in bench.commands[0]
    (kept,) = bench.session.folder.rglob("trials.jsonl")
    assert kept.parent == bench.session.folder / "unfinished" / SEARCHES[0].name


def test_a_search_that_fails_says_why_and_is_tried_again_next_time(tmp_path: Path) -> None:
    bench = Bench(tmp_path, lambda *_: ended(2, last_words="error: used up"))
    record_tier_2(bench.session, SEARCHES[:2])
    record_tier_2(bench.session, SEARCHES[:1])
    assert len(bench.commands) == 3
    folder = boundary_folder(bench.session.folder, SEARCHES[0].name)
    assert (folder / "failed.txt").read_text() == "error: used up"


# Tier 3, and the whole.


def test_tier_3_gives_each_a_process_with_its_own_settings(tmp_path: Path) -> None:
    bench = Bench(tmp_path, lambda *_: ended())
    record_tier_3(bench.session, tier_3())
    children = [command[command.index("--child") + 1] for command in bench.commands]
    assert children == [each.name for each in tier_3()]
    expandable = [name for name, e in zip(children, bench.environments, strict=True) if e]
    assert expandable == [name for name in children if name.endswith("-expandable")]


def test_a_child_runs_and_what_it_said_is_kept() -> None:
    code = "import os, sys; sys.stderr.write(os.environ['TRIED'] + '\\n'); sys.exit(3)"
    found = record_truth.spawn([sys.executable, "-c", code], {"TRIED": "yes"}, 60)
    assert found == ended(3, last_words="yes\n")


def test_a_child_that_takes_too_long_is_interrupted() -> None:
    code = "import time\ntry: time.sleep(60)\nexcept KeyboardInterrupt: raise SystemExit(130)"
    found = record_truth.spawn([sys.executable, "-c", code], {}, 1.0)
    assert (found.status, found.in_time) == (130, False)


def test_everything_is_packed_into_one_file(tmp_path: Path) -> None:
    root, archive = tmp_path / "root", tmp_path / "all.tar"
    bench = Bench(root, lambda *_: ended())
    bench.save(PLAN[0])
    pack(root, archive)
    pack(root, archive)
    with tarfile.open(archive) as tar:
        assert tar.getnames() == [f"card/trials/{PLAN[0].name}.json.gz"]
    assert {path.name for path in tmp_path.iterdir()} == {"root", "all.tar"}


def test_without_a_gpu_nothing_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="no GPU"):
        main(["--out", str(tmp_path)])
