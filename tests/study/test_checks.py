"""A study or its journal in which one value was edited is refused with its place."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from bsprobe.records.errors import FileError
from bsprobe.storage.codec import to_json
from bsprobe.storage.folders import STUDY, STUDY_JOURNAL
from bsprobe.study.journal import StudyJournal
from bsprobe.study.records import Ending, Study
from bsprobe.study.studyfile import load_study, save_study
from tests.support.edits import deleted, edited
from tests.support.study_builders import (
    FormulaTrainer,
    lost,
    made_study,
    study_header,
    study_settings,
)

POINT = "trainings.0.result.curve"
EDITS: dict[str, Any] = {
    "device.source": "predicted",
    "device.capacity_bytes": 2**40,
    "device.kind": "cpu",
    "settings.batches": [8, 4, 2],
    "settings.seeds": [0, 0],
    "settings.target.lr_rule": "cubic",
    "settings.target.base_learning_rate": 0.5,
    "trainings.0.spec.seed": 9,
    "trainings.0.spec.plan.learning_rate": 0.5,
    "trainings.0.spec.plan.updates": 7,
    "trainings.0.spec.plan.warmup_updates": 7,
    "trainings.0.spec.plan.lr_rule": "sqrt",
    "trainings.0.spec.plan.micro_batch": 3,
    "trainings.0.spec.plan.accumulation_steps": 2,
    "trainings.0.spec.noise_steps": 3,
    "trainings.0.spec.workers": 64,
    "trainings.0.spec.variant.classes": 7,
    "trainings.0.result.diverged_at": 3,
    "trainings.0.result.weights_loaded": "All.",
    "trainings.0.result.model.assumptions": ["at the largest sizes"],
    "trainings.0.result.curve": [],
    f"{POINT}.1.updates": 1,
    f"{POINT}.1.images": 7,
    f"{POINT}.1.mean_iou": 0.9,
    f"{POINT}.1.training_loss": None,
    f"{POINT}.0.pixel_accuracy": 1.5,
    "trainings.0.result.noise.0.small_batch": 0,
    "trainings.0.result.noise.0.big_batch": 1,
    f"{POINT}.1.class_iou": [1.0],
    "trainings.0.result.training_images": 9_999_999,
    "trainings.0.result.chance.mean_iou": 0.9,
    "loading.effective_batch": 8,
    "loading.step_images_per_second": 0.0,
    "loading.rates": [],
}
ELSEWHERE = {
    "trainings.0.result.noise.0.small_batch": "$.trainings[0].result.noise[0]: ",
    "trainings.0.result.noise.0.big_batch": "$.trainings[0].result.noise[0]: ",
    f"{POINT}.1.class_iou": "$.trainings[0].result.curve: ",
    "trainings.0.result.training_images": "$.trainings[1].result.training_images: ",
    "trainings.0.result.chance.mean_iou": "$.trainings[1].result.chance: ",
    "device.kind": "$.device.",
    "settings.target.base_learning_rate": "$.trainings[0].spec.plan.learning_rate: ",
    "trainings.0.spec.seed": "$.trainings[0].spec: ",
    "trainings.0.spec.variant.classes": "$.trainings[0].spec.variant: ",
    f"{POINT}.1.updates": "$.trainings[0].result.curve[1].images: ",
}
"""The place that the message names, if it is not the edited one."""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study whose largest batch needs accumulation."""
    return made_study(tmp_path_factory.mktemp("study"), trainer=FormulaTrainer(holds=5))


def as_written(place: str) -> str:
    return "$" + "".join(f"[{p}]" if p.isdecimal() else f".{p}" for p in place.split("."))


def refusal(folder: Path, text: str) -> str:
    (folder / STUDY).write_text(text)
    with pytest.raises(FileError) as refused:
        load_study(folder)
    path, damage = str(refused.value).split(" is damaged: ")
    assert (path, refused.value.hint is None) == (str(folder / STUDY), False)
    return damage


@pytest.mark.parametrize("place", EDITS)
def test_an_edited_value_is_refused_with_its_place(
    place: str, study: Study, tmp_path: Path
) -> None:
    save_study(study, tmp_path)
    assert load_study(tmp_path) == study
    damage = refusal(tmp_path, json.dumps(edited(to_json(study), place, EDITS[place])))
    assert damage.startswith(ELSEWHERE.get(place, as_written(place)))


def test_a_training_too_few_or_twice_is_refused(study: Study, tmp_path: Path) -> None:
    value = to_json(study)
    assert refusal(tmp_path, json.dumps(deleted(value, "trainings.0"))).startswith(
        "$.trainings: none of batch 2 with seed 0"
    )
    value["trainings"].append(value["trainings"][0])
    number = len(value["trainings"]) - 1
    assert refusal(tmp_path, json.dumps(value)).startswith(
        f"$.trainings[{number}]: the training of $.trainings[0] again"
    )


def test_a_duplicate_field_is_refused(study: Study, tmp_path: Path) -> None:
    text = json.dumps(to_json(study)).replace('"seed": 0,', '"seed": 0, "seed": 0,', 1)
    assert "duplicate field 'seed'" in refusal(tmp_path, text)


def test_an_edited_journal_is_refused_with_its_line(study: Study, tmp_path: Path) -> None:
    values = [to_json(study_header(study.settings)), *map(to_json, study.trainings)]

    def read(lines: list[Any]) -> int:
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / STUDY_JOURNAL).write_text(text)
        return len(StudyJournal.read(tmp_path).trainings)

    assert read(values) == len(study.trainings)
    failed = to_json(lost(study.trainings[0].spec, Ending.HOST_MEMORY))
    assert read([values[0], failed, *values[1:]]) == len(study.trainings) + 1
    for place, new, complaint in (
        ("0.device.source", "predicted", "line 1: $.device.source: "),
        ("1.spec.plan.learning_rate", 0.5, "line 2.spec.plan.learning_rate: "),
        ("1.result.curve.1.mean_iou", 0.9, "line 2.result.curve[1].mean_iou: "),
        ("1.result.peak_bytes", -1, "line 2.result.peak_bytes: "),
    ):
        with pytest.raises(FileError) as refused:
            read(edited(values, place, new))
        assert f"is damaged: {complaint}" in str(refused.value)
    twice = deepcopy(values[1])
    twice["result"]["peak_bytes"] += 1
    with pytest.raises(FileError, match="line 3: the training of line 2 again"):
        read([*values[:2], twice, *values[2:]])


def test_settings_without_the_default_workers_decide_the_workers(tmp_path: Path) -> None:
    made = made_study(tmp_path, study_settings(2, seeds=1))
    value = edited(to_json(made), "settings.workers", 2)
    assert refusal(tmp_path, json.dumps(value)).startswith("$.trainings[0].spec.workers: 4")
