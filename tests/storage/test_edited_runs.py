"""A run file in which one value was edited is refused with the file, the place and a hint."""

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bsprobe._version import __version__
from bsprobe.records.errors import FileError
from bsprobe.records.gpus import find_gpu
from bsprobe.records.runs import Run
from bsprobe.records.units import GIB
from bsprobe.storage.codec import to_json
from bsprobe.storage.runfile import NAME, load_run
from tests.support.builders import AMP, ENVIRONMENT, GROUP, VARIANT, probed_run, settings
from tests.support.commands import ROOT
from tests.support.edits import deleted, edited

REPORTS = ROOT / "reports"
FILES = {
    "predicted": REPORTS / "predicted-rtx-3060-12gb-deeplabv2-resnet101-512x1024",
    "assumed": REPORTS / "predicted-rtx-3090-deeplabv2-resnet101-512x1024",
    "command": REPORTS / "cpu-300mib-train.py",
    "ranks": REPORTS / "cpu-2-processes-deeplabv2-mini-64x128",
    "older": REPORTS / "measured-h200-deeplabv2-resnet101-512x1024",
}
CARD = to_json(find_gpu("RTX 3060 12GB"))
ITEM = "results.0.recommendation"
MEASURED_FIGURES = {
    "trials.0.measurement.images_per_second": 93.1,
    "trials.0.measurement.step_seconds": [0.1, 0.1, 0.1],
    "trials.0.measurement.loader_images_per_second": 93.1,
    f"{ITEM}.trial.measurement.images_per_second": 93.1,
}
"""Figures that a prediction does not have."""
EDITS: dict[str, dict[str, Any]] = {
    "predicted": {
        **MEASURED_FIGURES,
        "trials.0.source": "measured",
        f"{ITEM}.trial.source": "measured",
        f"{ITEM}.trial.wall_seconds": 1.25,
        "trials.0.fresh_process": False,
        "trials.0.rank": 0,
        "trials.0.measurement.other_processes_bytes": 2**20,
        "trials.0.measurement.first_step.reserved_bytes": None,
        "trials.0.measurement.updates_applied": 3,
        "trials.0.measurement.allocator_retries": 2,
        "trials.0.measurement.allocated_after_steps": [1],
        "trials.0.measurement.validation": {"peak": {"allocated_bytes": 1, "reserved_bytes": 2}},
        "trials.0.budget_bytes": 2**30,
        "trials.0.measurement.first_step.allocated_bytes": 2**40,
        "trials.0.measurement.outside_allocator_bytes": 2**40,
        "trials.0.spec.warmup_steps": 2,
        "trials.0.spec.measured_steps": 1,
        "trials.0.spec.processes": 2,
        "trials.0.spec.ddp": "static-graph",
        "trials.0.spec.seed": 1,
        "trials.0.spec.data": {"root": "D"},
        "trials.0.spec.validation": {"resolution": {"height": 64, "width": 64}},
        "trials.0.spec.variant.classes": 7,
        "device.source": "measured",
        "device.kind": "cuda",
        "device.is_assumed": True,
        "device.driver": "580.65.06",
        "device.capacity_bytes": 2**40,
        "device.limit_bytes": 2**30,
        "device.compute_capability": "8",
        "device.name": "H100",
        "settings.target.lr_rule": "cubic",
        "settings.seeks_validation_batch": True,
        "results.0.boundary.stop": "kernel limit",
        f"{ITEM}.safe": 1,
        f"{ITEM}.best": 1,
        f"{ITEM}.best_is_measured": True,
        f"{ITEM}.reaches_target": False,
        f"{ITEM}.starred": True,
        f"{ITEM}.plan.learning_rate": 0.5,
        f"{ITEM}.plan.group_learning_rates.1": ["head", 0.5],
        f"{ITEM}.plan.lr_rule": "sqrt",
        f"{ITEM}.plan.updates": 7,
        f"{ITEM}.plan.warmup_updates": 7,
        f"{ITEM}.plan.rate_formula": "lr * 1000",
        f"{ITEM}.plan.ddp": "static-graph",
        f"{ITEM}.without_accumulation.learning_rate": 0.5,
        "results.0.growth": [
            {"batch": 1, "bytes_per_step": 5, "steps": 4, "full_at_step": 2_000_000}
        ],
        "results.0.validation_boundary": {"stop": "max batch", "largest": 4096},
    },
    "assumed": {
        "device.is_assumed": False,
        "device.limit_bytes": 2**30,
    },
    "measured": {
        "trials.0.source": "predicted",
        "trials.0.measurement.images_per_second": 93.1,
        "trials.0.measurement.step_seconds.0": 0.01,
        "trials.0.measurement.step_seconds": [0.1],
        "trials.0.measurement.steps": 3,
        "trials.1.measurement.images_per_second": None,
        "trials.0.measurement.updates_applied": 9,
        "trials.1.measurement.updates_applied": 0,
        "trials.1.measurement.model.parameters": 7,
        "trials.1.measurement.model.groups": [],
        "trials.0.measurement.loader_images_per_second": 93.1,
        "trials.0.measurement.model.assumptions": ["at the largest sizes"],
        "trials.0.measurement.steady.reserved_bytes": None,
        "trials.0.budget_bytes": 2**40,
        "trials.0.script": {"view": "inside"},
        "trials.0.rank": 1,
        "trials.4.failure.evidence": "SimulatedOutOfMemoryError",
        "trials.6.failure.evidence": "killed by SIGKILL",
        "device.is_assumed": True,
        "device.limit_bytes": None,
        "device.compute_capability": None,
        "settings.device.device": "cpu",
        "settings.device.gpu": CARD,
        "settings.device.memory_limit_bytes": None,
        "results.0.boundary.first_failure": 16,
        f"{ITEM}.safe": 10,
    },
    "command": {
        "trials.1.script": None,
        "settings.device.device": None,
        "settings.device.memory_limit_bytes": 2**40,
        "settings.batch_multiple": 7,
        "trials.1.script.torch": "1.0.0",
        "trials.1.fresh_process": False,
        "trials.1.measurement.loader_images_per_second": 9.1,
        "trials.1.script.ranks": 4,
        "trials.1.measurement.images_per_second": 93.1,
        "trials.1.measurement.first_step.reserved_bytes": 2**40,
        "trials.1.measurement.allocator_ooms": 7,
        f"{ITEM}.plan.lr_rule": "linear",
        "device.limit_bytes": 2**30,
    },
    "ranks": {
        "trials.0.rank": None,
        "trials.1.rank": 2,
        "trials.0.measurement.images_per_second": 9300.1,
    },
    "older": {
        f"{ITEM}.safe": 35,
        f"{ITEM}.best": 35,
        f"{ITEM}.plan.learning_rate": 0.5,
        f"{ITEM}.starred": True,
        "trials.0.source": "predicted",
        "trials.0.measurement.images_per_second": 93.1,
    },
}  # fmt: skip
"""By file, a value for each place; every one of them contradicts the rest of the file."""
ELSEWHERE = {
    "trials.0.spec.variant.classes": "$.trials[0].spec.variant: ",
    "trials.0.measurement.validation": "$.trials[0].measurement.validation: ",
    "trials.0.measurement.first_step.reserved_bytes": "$.trials[0].measurement: ",
    "trials.0.measurement.first_step.allocated_bytes": "$.trials[0].measurement: ",
    "trials.0.measurement.outside_allocator_bytes": "$.trials[0].measurement: ",
    "trials.1.measurement.first_step.reserved_bytes": "$.trials[1].measurement: ",
    "trials.0.measurement.steady.reserved_bytes": "$.trials[0].measurement: ",
    "trials.0.measurement.allocator_retries": "$.trials[0].outcome: ",
    "trials.1.measurement.allocator_ooms": "$.trials[1].measurement.allocator_retries: ",
    "trials.0.measurement.step_seconds.0": "$.trials[0].measurement.images_per_second: ",
    "trials.1.script.ranks": "$.trials[1].measurement.images_per_second: ",
    f"{ITEM}.trial.wall_seconds": "$.results[0].recommendation.trial: it is none of $.trials",
    f"{ITEM}.plan.group_learning_rates.1": "$.results[0].recommendation.plan.group_learning_rates",
    "device.kind": "$.device.source: ",
    "device.limit_bytes": "$.device.",
    "settings.seeks_validation_batch": "$.settings.validation: ",
    "settings.device.device": "$.device.kind: ",
    "settings.device.gpu": "$.device.source: ",
    "settings.device.memory_limit_bytes": "$.device.limit_bytes: ",
    "settings.batch_multiple": "$.trials[0].spec.batch_size: ",
    "results.0.boundary.first_failure": "$.results[0]: ",
    f"{ITEM}.safe": "$.results[0].recommendation.",
}
"""The place that the message names, if it is not the edited one."""


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The JSON of each file."""
    folder = tmp_path_factory.mktemp("run")
    made = probed_run(folder, settings(VARIANT, AMP, GROUP))
    made = replace(made, environment=replace(ENVIRONMENT, bsprobe=__version__))
    saved = {name: json.loads((place / NAME).read_text()) for name, place in FILES.items()}
    return {"measured": to_json(made), **saved}


@pytest.fixture
def load(tmp_path: Path) -> Callable[[Any], Run]:
    def loaded(value: Any) -> Run:
        (tmp_path / NAME).write_text(json.dumps(value))
        return load_run(tmp_path)

    return loaded


def refusal(load: Callable[[Any], Run], value: Any) -> str:
    """Return the message of the refusal, from its place on."""
    with pytest.raises(FileError) as refused:
        load(value)
    path, damage = str(refused.value).split(" is damaged: ")
    assert (Path(path).name, len(damage.splitlines())) == (NAME, 1)
    assert refused.value.hint is not None
    return damage


def as_written(place: str) -> str:
    """Return a place as messages write it: `$.trials[0].source`."""
    return "$" + "".join(f"[{p}]" if p.isdecimal() else f".{p}" for p in place.split("."))


@pytest.mark.parametrize("name", EDITS)
def test_a_file_without_edits_is_loaded(
    name: str, contents: dict[str, Any], load: Callable[[Any], Run]
) -> None:
    assert load(contents[name]).environment.bsprobe == contents[name]["environment"]["bsprobe"]


@pytest.mark.parametrize(
    ("name", "place"), [(name, place) for name, places in EDITS.items() for place in places]
)
def test_an_edited_value_is_refused_with_its_place(
    name: str, place: str, contents: dict[str, Any], load: Callable[[Any], Run]
) -> None:
    damage = refusal(load, edited(contents[name], place, EDITS[name][place]))
    assert damage.startswith(ELSEWHERE.get(place, as_written(place)))


@pytest.mark.parametrize("place", ["trials.0.source", *MEASURED_FIGURES])
def test_another_version_in_the_file_is_no_way_around_measured_and_predicted(
    place: str, contents: dict[str, Any], load: Callable[[Any], Run]
) -> None:
    value = edited(contents["predicted"], place, EDITS["predicted"][place])
    for version in ("0.1.0", "9.0.0", "none"):
        damage = refusal(load, edited(value, "environment.bsprobe", version))
        assert damage.startswith(as_written(place))


def test_a_prediction_that_is_called_measured_throughout_is_refused(
    contents: dict[str, Any], load: Callable[[Any], Run]
) -> None:
    """A card to predict for is no card of the machine, and nothing was timed."""
    text = json.dumps(contents["assumed"]).replace('"predicted"', '"measured"')
    value = json.loads(text.replace('"kind": "simulated"', '"kind": "cuda"'))
    assert refusal(load, value).startswith("$.device.is_assumed: ")
    value = edited(value, "device.is_assumed", False)  # noqa: FBT003 - a value of JSON
    assert refusal(load, value).startswith("$.trials[0].measurement.step_seconds: ")


@pytest.mark.parametrize("version", ["9.0.0", "none"])
def test_rates_do_not_follow_whatever_later_version_is_named(
    version: str, contents: dict[str, Any], load: Callable[[Any], Run]
) -> None:
    value = edited(contents["predicted"], "environment.bsprobe", version)
    load(value)
    damage = refusal(load, edited(value, f"{ITEM}.plan.learning_rate", 0.5))
    assert f"by the rules of bsprobe {__version__}; '{version}' wrote the file" in damage


def test_a_removed_and_an_added_trial_are_refused(
    contents: dict[str, Any], load: Callable[[Any], Run]
) -> None:
    value = contents["measured"]
    batches = [each["spec"]["batch_size"] for each in value["trials"]]
    lone = next(n for n, batch in enumerate(batches) if n and batches.count(batch) == 1)
    removed = refusal(load, deleted(value, f"trials.{lone}"))
    assert removed.startswith("$.")
    added = deepcopy(value)
    added["trials"].insert(1, added["trials"][0])
    assert refusal(load, added).startswith("$.trials[1]: the run does not ask for it")


def test_a_peak_that_makes_another_batch_safe_is_refused(
    contents: dict[str, Any], load: Callable[[Any], Run]
) -> None:
    value = deepcopy(contents["measured"])
    for trial in value["trials"]:
        if trial["spec"]["batch_size"] == 12 and trial["measurement"] is not None:
            for step in ("first_step", "steady"):
                trial["measurement"][step]["reserved_bytes"] = 10 * GIB
    assert refusal(load, value).startswith("$.")
