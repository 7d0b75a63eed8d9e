"""User-supplied callables, by module and by file."""

import sys
from pathlib import Path

import pytest

from bsprobe.records.errors import UsageError
from bsprobe.training.models.callables import load_callable
from tests.support import own_training


def test_a_callable_is_found_in_a_module_and_inside_a_class_of_it() -> None:
    assert load_callable("--loss", "tests.support.own_training:loss") is own_training.loss
    found = load_callable("--model", "tests.support.own_training:Training.network")
    assert found is own_training.Training.network


def test_a_file_is_run_once_not_as_a_program_and_finds_its_neighbours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "neighbour.py").write_text("runs = []\n")
    (tmp_path / "mine.py").write_text(
        "import neighbour\n"
        "from dataclasses import dataclass\n"
        "neighbour.runs.append(__name__)\n"
        "@dataclass\nclass Own:\n    x: int = 1\n"
        "def build():\n    return neighbour.runs\n"
        "if __name__ == '__main__':\n    raise SystemExit\n"
    )
    monkeypatch.chdir(tmp_path)

    build = load_callable("--model", "mine.py:build")

    assert load_callable("--model", "mine.py:build") is build
    assert len(build()) == 1


def test_a_file_with_a_colon_in_its_name_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my:net.py").write_text("def build():\n    return 3\n")
    monkeypatch.chdir(tmp_path)
    assert load_callable("--model", "my:net.py:build")() == 3


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("no_such_module:build", "No module named 'no_such_module'"),
        ("missing.py:build", "No such file or directory"),
        ("tests.support.own_training:missing", "has no 'missing'"),
        ("tests.support.own_training:Training.missing", "has no 'Training.missing'"),
        ("tests.support.own_training:torch", "a module cannot be called"),
        (":build", "Empty module name"),
    ],
)
def test_a_missing_callable_is_a_usage_error(
    name: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(UsageError, match=f"--loss {name}: .*{why}"):
        load_callable("--loss", name)


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("\nraise RuntimeError('no licence')", r"RuntimeError: no licence \(mine\.py, line 2\)"),
        ("open('gone.txt')", r"FileNotFoundError: .*'gone\.txt' \(mine\.py, line 1\)"),
        ("int('x')", r"ValueError: invalid literal .* \(mine\.py, line 1\)"),
        ("undefined", r"NameError: name 'undefined' is not defined \(mine\.py, line 1\)"),
        ("import not_installed", r"ModuleNotFoundError: .*'not_installed' \(mine\.py, line 1\)"),
        ("def def", r"invalid syntax"),
    ],
)
def test_a_module_that_fails_while_it_is_imported_says_where(
    code: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(code)

    with pytest.raises(UsageError, match=f"--model mine.py:f: {why}") as caught:
        load_callable("--model", "mine.py:f")
    assert "import fails" in str(caught.value.hint)


TRAINS = """
import argparse
import torch
from torch import nn

net = nn.Linear(2, 1)
try:
    net(torch.ones(1, 2)).sum().backward()
except Exception:
    pass
"""
ENDS = """
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("data")
arguments = parser.parse_args([])
"""
FAILS = """
import torch
device = torch.device("meta")
weights = torch.zeros(2, device=device).tolist()
"""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (TRAINS, r".* training \(script.py, line 8\)"),
        (ENDS, r".* exits .*\(script.py, line 5\)"),
        (FAILS, r"NotImplementedError: .*\(script.py, line 4\)"),
    ],
    ids=["trains", "ends", "fails"],
)
def test_a_script_that_does_its_work_when_it_is_imported_is_refused_with_its_line(
    text: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "script.py").write_text(text)

    with pytest.raises(UsageError, match=rf"--model script.py:net: {why}"):
        load_callable("--model", "script.py:net")


def test_a_mistyped_name_suggests_the_nearest_and_shows_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "unet.py").write_text("def build():\n    return None\n")

    with pytest.raises(
        UsageError, match=r"--model unet\.py:buildd: unet\.py has no 'buildd'"
    ) as found:
        load_callable("--model", "unet.py:buildd")
    assert found.value.hint == "did you mean build?"
