"""A whole study: what is finished is on the disk, and is not made again."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bsprobe.records.errors import DeviceError, FileError
from bsprobe.records.failures import Certainty
from bsprobe.records.trials import Failure
from bsprobe.study.conduct import Studying, checkpoint_name
from bsprobe.study.journal import StudyJournal
from bsprobe.study.records import Ending, LoaderSpec, Loading, Study, Training, TrainingSpec
from bsprobe.study.studyfile import load_study, save_study
from tests.support.builders import DEVICE, ENVIRONMENT
from tests.support.study_builders import (
    FormulaTrainer,
    Quiet,
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


class Breaking(FormulaTrainer):
    """Refuses a training, as if its images were damaged."""

    def train(
        self, spec: TrainingSpec, checkpoint: Path, *, on_phase: Callable[[str], None]
    ) -> Training:
        if len(self.asked) == 3:
            checkpoint.write_bytes(b"how far it came")
            raise DeviceError("an image is damaged")
        return super().train(spec, checkpoint, on_phase=on_phase)


class Resuming(FormulaTrainer):
    """Goes on from whatever checkpoint it is given."""

    found: bytes | None = None

    def train(
        self, spec: TrainingSpec, checkpoint: Path, *, on_phase: Callable[[str], None]
    ) -> Training:
        if checkpoint.exists():
            self.found = checkpoint.read_bytes()
            checkpoint.unlink()
        return super().train(spec, checkpoint, on_phase=on_phase)


def resumed(folder: Path, trainer: FormulaTrainer) -> Study:
    found = StudyJournal.resume(folder)
    assert found is not None
    journal, contents = found
    with journal:
        return Studying(
            contents.header.settings,
            trainer=trainer,
            device=DEVICE,
            journal=journal,
            folder=folder,
            listener=Quiet(),
            known=contents.trainings,
            processors=8,
        ).run(ENVIRONMENT)


def test_a_study_that_was_stopped_goes_on_and_repeats_nothing(tmp_path: Path) -> None:
    with pytest.raises(DeviceError):
        made_study(tmp_path, trainer=Breaking())
    trainer = Resuming()

    study = resumed(tmp_path, trainer)

    assert trainer.found == b"how far it came"
    assert [(s.plan.effective_batch, s.seed) for s in trainer.asked] == [(4, 1), (8, 0), (8, 1)]
    (tmp_path / "whole").mkdir()
    assert study == made_study(tmp_path / "whole")
    assert [path.name for path in tmp_path.glob("*.checkpoint")] == []


def test_what_a_kill_left_behind_is_gone_when_a_study_ends(tmp_path: Path) -> None:
    for name in ("batch-9-micro-9-seed-0.checkpoint", ".batch-2-micro-2-seed-0.checkpoint.partial"):
        (tmp_path / name).write_bytes(b"half")

    made_study(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["study-journal.jsonl"]


def test_each_training_has_a_checkpoint_of_its_own(tmp_path: Path) -> None:
    study = made_study(tmp_path, study_settings(4, 8), FormulaTrainer(holds=5))

    names = [checkpoint_name(training.spec) for training in study.trainings]

    assert names[:3] == [
        "batch-4-micro-4-seed-0.checkpoint",
        "batch-4-micro-4-seed-1.checkpoint",
        "batch-8-micro-8-seed-0.checkpoint",
    ]
    assert len(set(names)) == len(names)


class Unswept(FormulaTrainer):
    """A trainer whose sweep dies."""

    def measure_loading(
        self, spec: LoaderSpec, *, on_phase: Callable[[str], None]
    ) -> Loading | Failure:
        on_phase("timing")
        return Failure(
            message="no", certainty=Certainty.CERTAIN, evidence="", phase=f"{len(spec.settings)}"
        )


def test_a_sweep_that_failed_leaves_the_study_whole(tmp_path: Path) -> None:
    study = made_study(tmp_path, trainer=Unswept())

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
