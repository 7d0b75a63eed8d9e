"""Versions: requests are compared only with the versions that recorded them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import truth_versions
from benchmarks.truth_versions import Versions, recorded_versions, version_difference, versions_here
from bsprobe.records.errors import FileError
from bsprobe.simulate.cudnn.workspace import Workspaces
from tests.support.fabricated_truth import ELSEWHERE, MACHINE, write_machine

RECORDED = Versions(torch="2.11.0", cudnn="9.19.0")


def test_the_recorded_versions_are_the_release_and_cudnns_number_as_words() -> None:
    environment = replace(MACHINE.environment, torch="2.11.0+cu130", cudnn="91900")
    machine = replace(MACHINE, environment=environment)
    assert recorded_versions(machine) == RECORDED
    assert recorded_versions(replace(machine, environment=replace(environment, cudnn=None))) == (
        Versions(torch="2.11.0", cudnn=None)
    )


def test_the_installed_versions_are_those_that_predict() -> None:
    assert versions_here(MACHINE) == Versions(
        torch=torch.__version__.partition("+")[0], cudnn=Workspaces((8, 9)).cudnn_version
    )


@pytest.mark.parametrize(
    ("here", "words"),
    [
        (Versions(torch="2.11.0", cudnn="9.19.0"), None),
        (Versions(torch="2.11.1", cudnn="9.19.0"), "PyTorch 2.11.1 instead of 2.11.0"),
        (Versions(torch="2.11.0", cudnn="9.19.1"), "cuDNN 9.19.1 instead of 9.19.0"),
        (Versions(torch="2.11.0", cudnn=None), "no cuDNN instead of 9.19.0"),
        (
            Versions(torch="2.15.0", cudnn="9.26.0"),
            "PyTorch 2.15.0 instead of 2.11.0 and cuDNN 9.26.0 instead of 9.19.0",
        ),
    ],
)
def test_a_difference_names_each_version_that_differs(here: Versions, words: str | None) -> None:
    assert here.difference_to(RECORDED) == words


def test_a_build_for_another_cuda_is_the_same_release() -> None:
    release = torch.__version__.partition("+")[0]
    for text in (release, f"{release}+cu130", f"{release}+cpu"):
        environment = replace(MACHINE.environment, torch=text)
        assert version_difference(replace(MACHINE, environment=environment)) is None


def test_the_command_prints_the_difference_or_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_machine(tmp_path / "here")
    truth_versions.main([str(tmp_path / "here")])
    assert capsys.readouterr().out == ""
    other = replace(MACHINE, environment=ELSEWHERE)
    write_machine(tmp_path / "other", other)
    truth_versions.main([str(tmp_path / "other")])
    assert capsys.readouterr().out == f"{version_difference(other)}\n"
    with pytest.raises(FileError, match="has no machine"):
        truth_versions.main([str(tmp_path / "nowhere")])
