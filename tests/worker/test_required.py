"""A required package that is missing is named, in the parent and in the worker; a bug stays one."""

import re
import tomllib
from pathlib import Path

import pytest

from bsprobe.worker.required import PACKAGES, missing_package
from tests.support import commands
from tests.support.hidden_modules import hide

RUN = (
    "run --device cpu --memory-limit 300MiB --resolution 32x64 --precision fp32 --norm batch "
    "--max-batch 1 --out out --model "
)


def without(
    module: str, command: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[int, list[str]]:
    """The exit code and the complaints of `bsprobe COMMAND` where a module cannot be found."""
    hide(module, folder=folder, monkeypatch=monkeypatch)
    done = commands.bsprobe_process(*command.split(), cwd=folder, timeout=120)
    return done.returncode, done.stderr.splitlines()


@pytest.mark.parametrize(
    ("module", "package", "command"),
    [
        ("click", "click", "--version"),
        ("rich", "rich", RUN + "deeplabv2-mini"),
        ("pandas", "pandas", RUN + "deeplabv2-mini"),
        ("matplotlib", "matplotlib", "explain --model deeplabv2-mini --resolution 32x64"),
        ("PIL", "pillow", "study --data . --out out"),
        ("numpy", "numpy", RUN + "deeplabv2-mini"),
        ("torch", "torch", RUN + "deeplabv2-mini"),
        pytest.param(
            *("torchvision", "torchvision", RUN + "torchvision:lraspp_mobilenet_v3_large"),
            marks=pytest.mark.nightly,
        ),
        pytest.param("pynvml", "nvidia-ml-py", "gpus --this", marks=pytest.mark.nightly),
    ],
)
def test_a_missing_package_is_one_clear_line_and_how_to_install_it(
    module: str, package: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert without(module, command, tmp_path, monkeypatch) == (
        2,
        [
            f"error: the package {package} is not installed, which bsprobe requires",
            f"hint: python -m pip install {package}",
        ],
    )
    assert list((tmp_path / "out").glob("*")) == []


def test_a_module_of_our_own_that_is_missing_is_a_bug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, said = without("bsprobe.engine.run", RUN + "deeplabv2-mini", tmp_path, monkeypatch)

    assert (code, said[-2]) == (101, "error: this is a bug in bsprobe")
    assert "ModuleNotFoundError: No module named 'bsprobe.engine.run'" in said


def test_every_required_package_can_be_named() -> None:
    project = tomllib.loads((commands.ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    names = {re.match(r"[\w-]+", line)[0] for line in project["project"]["dependencies"]}  # type: ignore[index] # each has a name
    assert names - set(PACKAGES.values()) == {"nvidia-cudnn-frontend"}  # predictions go without
    assert set(PACKAGES.values()) <= names


@pytest.mark.parametrize(
    ("words", "package"),
    [
        ("No module named 'rich'", "rich"),
        ("ModuleNotFoundError: No module named 'PIL'", "pillow"),
        ("Unable to import required dependencies:\nnumpy: No module named 'numpy'", "numpy"),
        ("No module named 'torch.new'", None),
        ("No module named 'timm'", None),
        ("No module named 'rich.live'; 'rich' is not a package", None),
        ("cannot import name 'Console' from 'rich'", None),
        ("libcudart.so.13: cannot open shared object file", None),
    ],
)
def test_a_missing_package_is_told_from_other_failures(words: str, package: str | None) -> None:
    found = missing_package(words)
    assert (None if found is None else found.hint) == (
        None if package is None else f"python -m pip install {package}"
    )
