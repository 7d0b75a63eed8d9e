"""Tests are skipped if their package is missing, and fail under CI."""

import re
import tomllib
from pathlib import Path

import pytest

from tests.support import commands
from tests.support.hidden_modules import hide
from tests.support.optional_packages import PACKAGES, is_there, may_be_skipped


def test_the_packages_are_those_that_the_extra_installs() -> None:
    project = tomllib.loads((commands.ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extra = project["project"]["optional-dependencies"]["test"]
    assert sorted(re.split(r"[>=<]", line)[0] for line in extra) == sorted(PACKAGES.values())


def test_continuous_integration_has_all_of_them() -> None:
    missing = [name for name in PACKAGES if not is_there(name)]
    assert may_be_skipped() or missing == []


@pytest.mark.parametrize(
    ("package", "module"),
    [
        ("cityscapesscripts", "training/cityscapes/test_labels.py"),
        pytest.param("hypothesis", "records/test_units.py", marks=pytest.mark.nightly),
        pytest.param("yaml", "test_workflows.py", marks=pytest.mark.nightly),
    ],
)
def test_a_module_whose_package_is_missing_is_skipped_but_not_under_ci(
    package: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(package, folder=tmp_path, monkeypatch=monkeypatch)
    # Pytest would still load the plugin of a hidden package.
    arguments = ("-m", "pytest", "-p", "no:hypothesispytest", "-p", "no:xdist", "--collect-only")

    def collected(ci: str) -> str:
        program = (*arguments, "-q", "-rs", f"tests/{module}")
        return commands.python(*program, cwd=commands.ROOT, timeout=120, CI=ci).stdout

    elsewhere = collected(ci="")
    assert re.search(rf"SKIPPED .*{package}", elsewhere)
    assert "error" not in elsewhere
    assert "1 error" in collected(ci="true")
