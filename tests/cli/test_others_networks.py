"""Networks of other libraries, measured on the CPU and predicted, by the commands in the docs."""

import shlex
import shutil
import sys
from pathlib import Path

import pytest

from tests.support import commands
from tests.support.commands import ROOT
from tests.support.pages import blocks_in

FIRST_PART, TEN = (ROOT / "docs" / "networks.md").read_text(encoding="utf-8").split("## Ten")


def blocks(text: str) -> list[list[str]]:
    return [block.splitlines() for block in blocks_in(text, "sh")]


FIRST = [command for block in blocks(FIRST_PART) for command in block]
MEASURED, PREDICTED = blocks(TEN)
PACKAGES = {"timm:": "timm", "smp:": "segmentation_models_pytorch", "hf:": "transformers"}
"""By prefix of a model, the package that builds it."""
PREDICTED_BY_DEFAULT = ("torchvision:resnet18",)
"""The others run in the nightly tests."""


def model_of(command: str) -> str:
    words = shlex.split(command)
    return words[words.index("--model") + 1]


def often(command: str, *, default: tuple[str, ...]) -> list[pytest.MarkDecorator]:
    """The marks of a network."""
    return [] if model_of(command) in default else [pytest.mark.nightly]


def run(command: str, folder: Path) -> list[dict[str, str]]:
    """Run a command of the docs and return its trials."""
    for prefix, package in PACKAGES.items():
        if model_of(command).startswith(prefix):
            pytest.importorskip(package)
    program, *words = shlex.split(command)
    assert program == "bsprobe"
    done = commands.bsprobe(*words, "--out=out", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "out" / "snippet.py").exists()
    return commands.rows(folder / "out" / "trials.csv")


@pytest.mark.skipif(sys.platform != "linux", reason="the CPU device is Linux's")
@pytest.mark.nightly
@pytest.mark.parametrize("command", FIRST)
def test_the_first_command_recommends_a_batch_for_other_networks(
    command: str, tmp_path: Path
) -> None:
    if "volumes" in command:
        pytest.importorskip("monai")
    shutil.copytree(ROOT / "docs" / "examples", tmp_path / "docs" / "examples")

    trials = run(command, tmp_path)

    assert {trial["source"] for trial in trials} == {
        "measured" if "--device" in command else "predicted"
    }
    chosen = commands.rows(tmp_path / "out" / "recommendation.csv")
    assert {each["recommended_outcome"] for each in chosen} == {"fits"}
    assert all(int(each["effective_batch"]) > 1 for each in chosen)


def test_the_docs_name_ten_networks_six_of_torchvision_four_of_timm() -> None:
    models = [model_of(command) for command in MEASURED]

    assert [model_of(command) for command in PREDICTED] == models
    assert len(set(models)) == 10
    assert sum(model.startswith("torchvision:") for model in models) == 6
    assert sum(model.startswith("timm:") for model in models) == 4


@pytest.mark.skipif(sys.platform != "linux", reason="the CPU device is Linux's")
@pytest.mark.parametrize(
    "command",
    [pytest.param(each, id=model_of(each), marks=pytest.mark.nightly) for each in MEASURED],
)
def test_a_network_of_others_is_probed_on_the_cpu(command: str, tmp_path: Path) -> None:
    trials = run(command, tmp_path)

    assert {trial["source"] for trial in trials} == {"measured"}
    assert ("4", "fits") in {(trial["batch_size"], trial["outcome"]) for trial in trials}
    (chosen,) = commands.rows(tmp_path / "out" / "recommendation.csv")
    assert (chosen["accumulation_steps"], chosen["recommended_outcome"]) == ("1", "fits")
    assert chosen["rate_formula"] == f"lr * ({chosen['micro_batch']} / your batch)"


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(each, id=model_of(each), marks=often(each, default=PREDICTED_BY_DEFAULT))
        for each in PREDICTED
    ],
)
def test_a_network_of_others_is_predicted_for_a_named_gpu(command: str, tmp_path: Path) -> None:
    trials = run(command, tmp_path)

    assert {trial["source"] for trial in trials} == {"predicted"}
    assert ("64", "fits") in {(trial["batch_size"], trial["outcome"]) for trial in trials}
    peaks = {int(t["batch_size"]): int(t["peak_bytes"]) for t in trials if t["peak_bytes"]}
    assert peaks[64] > peaks[2]
