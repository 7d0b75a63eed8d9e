"""The course of a study, and that finished trainings are kept and not repeated."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bsprobe.records.errors import DeviceError, FileError
from bsprobe.storage.files import partial_name
from bsprobe.study.conduct import checkpoint_name
from bsprobe.study.journal import StudyJournal
from bsprobe.study.records import Ending
from bsprobe.study.studyfile import load_study, save_study
from tests.support.builders import failure
from tests.support.study_builders import (
    FormulaTrainer,
    conducted,
    made_study,
    study_header,
    study_settings,
)


def test_a_study_makes_every_training_and_sweeps_the_loader_for_the_best(tmp_path: Path) -> None:
    trainer = FormulaTrainer()

    study = made_study(tmp_path, trainer=trainer)

    assert [(t.spec.plan.effective_batch, t.spec.seed) for t in study.trainings] == [
        (2, 0), (2, 1), (4, 0), (4, 1), (8, 0), (8, 1),
    ]  # fmt: skip
    (sweep,) = trainer.swept
    assert sweep.training.plan.effective_batch == 4
    assert study.loading is not None
    assert [rate.setting for rate in study.loading.rates] == list(sweep.settings)


def test_every_training_is_in_the_journal_when_it_ends(tmp_path: Path) -> None:
    study = made_study(tmp_path)

    contents = StudyJournal.read(tmp_path)

    assert (contents.trainings, contents.header.settings) == (study.trainings, study.settings)


def test_a_study_that_was_stopped_goes_on_and_repeats_nothing(tmp_path: Path) -> None:
    def stop(checkpoint: Path) -> None:
        if len(broken.asked) == 3:
            checkpoint.write_bytes(b"how far it came")
            raise DeviceError("an image is damaged")

    def take(checkpoint: Path) -> None:
        if checkpoint.exists():
            checkpoints.append(checkpoint.read_bytes())
            checkpoint.unlink()

    checkpoints: list[bytes] = []
    broken, trainer = FormulaTrainer(before=stop), FormulaTrainer(before=take)
    with pytest.raises(DeviceError):
        made_study(tmp_path, trainer=broken)
    found = StudyJournal.resume(tmp_path)
    assert found is not None
    journal, contents = found

    settings = contents.header.settings
    study = conducted(journal, settings, trainer, tmp_path, contents.trainings)

    assert checkpoints == [b"how far it came"]
    assert [(s.plan.effective_batch, s.seed) for s in trainer.asked] == [(4, 1), (8, 0), (8, 1)]
    (tmp_path / "whole").mkdir()
    assert study == made_study(tmp_path / "whole")
    assert [path.name for path in tmp_path.glob("*.checkpoint")] == []


def test_what_a_kill_left_behind_is_gone_when_a_study_ends(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as killed:
        killed.wait()
    left = partial_name("batch-2-micro-2-seed-0.checkpoint", killed.pid)
    written = partial_name("report.md", os.getpid())
    for name in ("batch-9-micro-9-seed-0.checkpoint", left, written):
        (tmp_path / name).write_bytes(b"half")

    made_study(tmp_path)

    assert {path.name for path in tmp_path.iterdir()} == {"study-journal.jsonl", written}


def test_each_training_has_a_checkpoint_of_its_own(tmp_path: Path) -> None:
    study = made_study(tmp_path, study_settings(4, 8), FormulaTrainer(holds=5))

    names = [checkpoint_name(training.spec) for training in study.trainings]

    shapes = ("4-micro-4-seed-0", "4-micro-4-seed-1", "8-micro-8-seed-0")
    assert names[:3] == [f"batch-{shape}.checkpoint" for shape in shapes]
    assert len(set(names)) == len(names)


def test_a_sweep_that_failed_leaves_the_study_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FormulaTrainer, "measure_loading", lambda *_, **__: failure())

    study = made_study(tmp_path)

    assert study.loading is None
    assert {t.ended for t in study.trainings} == {Ending.FINISHED}


def test_a_study_is_read_back_as_it_was_saved(tmp_path: Path) -> None:
    study = made_study(tmp_path, trainer=FormulaTrainer(holds=5))

    save_study(study, tmp_path)

    assert load_study(tmp_path) == study


def test_an_unfinished_study_says_how_to_finish_it(tmp_path: Path) -> None:
    StudyJournal.create(tmp_path, study_header(study_settings()))

    with pytest.raises(FileError, match="is not finished") as refused:
        load_study(tmp_path)

    assert refused.value.hint == f"finish it: bsprobe study --resume --out {tmp_path}"


def test_a_damaged_study_is_refused(tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text('{"schema_version": 1, "trainings": 3}')
    with pytest.raises(FileError, match="is damaged"):
        load_study(tmp_path)
    (tmp_path / "study.json").write_text('{"schema_version": 9}')
    with pytest.raises(FileError, match="schema version 9; this bsprobe reads 1"):
        load_study(tmp_path)
