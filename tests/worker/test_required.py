"""An error names a missing required package; any other missing module is a bug."""

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
    """Run `bsprobe COMMAND` without a module; return the exit code and the lines of stderr."""
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
def test_a_missing_package_is_an_error_with_the_command_to_install_it(
    module: str, package: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert without(module, command, tmp_path, monkeypatch) == (
        2,
        [
            f"error: the required package {package} is not installed",
            f"hint: python -m pip install {package}",
        ],
    )
    assert list((tmp_path / "out").glob("*")) == []


def test_a_missing_module_of_bsprobe_is_a_bug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, said = without("bsprobe.engine.run", RUN + "deeplabv2-mini", tmp_path, monkeypatch)

    assert code == 101
    assert "bug" in said[-2]
    assert "ModuleNotFoundError: No module named 'bsprobe.engine.run'" in said


def test_every_required_package_can_be_named() -> None:
    project = tomllib.loads((commands.ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    names = {re.match(r"[\w-]+", line)[0] for line in project["project"]["dependencies"]}  # type: ignore[index] # each has a name
    assert names - set(PACKAGES.values()) == {"nvidia-cudnn-frontend"}  # optional for predictions
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
def test_only_a_missing_required_package_is_found(words: str, package: str | None) -> None:
    found = missing_package(words)
    assert (None if found is None else found.hint) == (
        None if package is None else f"python -m pip install {package}"
    )
