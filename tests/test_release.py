"""The release: declared dependencies, and running outside the repository."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
IMPORTED_AS = {"nvidia-cudnn-frontend": "cudnn", "nvidia-ml-py": "pynvml", "pillow": "PIL"}
"""Packages whose name differs from their module."""


def declared() -> set[str]:
    """Return the modules of the declared dependencies."""
    names = {re.split(r"[<>=!~; \[]", text)[0] for text in PROJECT["project"]["dependencies"]}
    return {IMPORTED_AS.get(name, name) for name in names}


def imported() -> set[str]:
    """Return the third-party modules that the package imports anywhere.

    The modules inside a user's script are a folder on its path. They import each other, and
    nothing outside the standard library (`tests/worker/script/test_inside.py`).
    """
    found = set()
    for path in (ROOT / "bsprobe").rglob("*.py"):
        if path.parent.name == "inside":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module is not None:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"bsprobe"}


def test_what_is_imported_is_declared_and_nothing_else_is() -> None:
    assert imported() == declared()


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A wheel and an sdist of this checkout."""
    pytest.importorskip("hatchling")
    place = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "--directory", place, cwd=ROOT)
    (wheel,), (sdist,) = list(place.glob("*.whl")), list(place.glob("*.tar.gz"))
    return wheel, sdist


def package_files(root: Path) -> set[str]:
    """Return the files of the package, without generated ones."""
    return {
        path.relative_to(root).as_posix()
        for path in (root / "bsprobe").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_the_package_its_types_and_its_licence(built: tuple[Path, Path]) -> None:
    wheel, _ = built
    names = set(zipfile.ZipFile(wheel).namelist())
    inside = {name for name in names if name.startswith("bsprobe/")}
    assert inside == package_files(ROOT)
    assert "bsprobe/py.typed" in inside
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.partition("/")[0] for name in names - inside} == {
        next(name for name in names - inside).partition("/")[0]
    }


@pytest.mark.nightly
def test_the_sdist_builds_the_same_wheel_and_holds_what_its_tests_look_at(
    built: tuple[Path, Path], tmp_path: Path
) -> None:
    wheel, sdist = built
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    run(
        sys.executable,
        "-m",
        "hatchling",
        "build",
        "-t",
        "wheel",
        "--directory",
        tmp_path,
        cwd=folder,
    )
    (again,) = tmp_path.glob("*.whl")
    assert set(zipfile.ZipFile(again).namelist()) == set(zipfile.ZipFile(wheel).namelist())
    tests = ("tests/test_readme.py", "tests/test_documents.py", "tests/test_rooms.py")
    run(sys.executable, "-m", "pytest", "-q", *tests, cwd=folder, PYTHONPATH=str(folder))


def installed(wheel: Path, target: Path) -> None:
    """Install only a wheel; its dependencies come from this environment."""
    has_pip = shutil.which("uv") is None
    installer = [sys.executable, "-m", "pip"] if has_pip else ["uv", "pip"]
    chosen = [] if has_pip else ["--python", sys.executable]
    run(*installer, "install", *chosen, "--no-deps", "--target", target, wheel, cwd=target.parent)


@pytest.mark.nightly
@pytest.mark.skipif(sys.platform != "linux", reason="the CPU device is Linux's")
def test_the_installed_wheel_runs_outside_the_repository(
    built: tuple[Path, Path], tmp_path: Path
) -> None:
    wheel, _ = built
    target = tmp_path / "site"
    target.mkdir()
    installed(wheel, target)

    def bsprobe(*arguments: str) -> str:
        return run(
            sys.executable, "-m", "bsprobe", *arguments, cwd=tmp_path, PYTHONPATH=str(target)
        )

    where = "import bsprobe; print(bsprobe.__file__)"
    found = run(sys.executable, "-c", where, cwd=tmp_path, PYTHONPATH=str(target)).strip()
    assert found == str(target / "bsprobe" / "__init__.py")
    (script,) = [path for path in (target / "bin").iterdir() if path.name == "bsprobe"]
    version = run(script, "--version", cwd=tmp_path, PYTHONPATH=str(target))
    assert version.strip() == f"bsprobe, version {wheel.name.split('-')[1]}"
    printed = bsprobe(
        "run", "--device=cpu", "--memory-limit=80MiB", "--model=deeplabv2-mini",
        "--resolution=64x128", "--precision=fp32", "--norm=batch", "--max-batch=2", "--out=out",
    )  # fmt: skip
    assert "at least 2 (--max-batch)" in printed
    assert "nothing regressed" in bsprobe("compare", "out", "out")
    assert "Wrote out/" in bsprobe("report", "out")


@pytest.mark.nightly
def test_whoever_installs_the_wheel_gets_its_types(
    built: tuple[Path, Path], tmp_path: Path
) -> None:
    pytest.importorskip("mypy")
    wheel, _ = built
    run(sys.executable, "-m", "venv", "--without-pip", "theirs", cwd=tmp_path)
    (site,) = (tmp_path / "theirs").glob("lib/*/site-packages")
    installed(wheel, site)
    (tmp_path / "script.py").write_text(
        "from pathlib import Path\n"
        "from bsprobe.storage.runfile import load_run\n"
        "for result in load_run(Path('run.json')).results:\n"
        "    batch: int | None = result.boundary.largest\n"
        "    reveal_type(result.recommendation)\n",
        encoding="utf-8",
    )
    python = tmp_path / "theirs" / "bin" / "python"
    found = run(
        *(sys.executable, "-m", "mypy", "--strict", "--python-executable", python, "script.py"),
        cwd=tmp_path,
        PYTHONPATH="",
    )
    assert 'Revealed type is "bsprobe.records.runs.Recommendation | None"' in found
    assert "no issues found" in found


@pytest.mark.nightly
def test_the_metadata_declares_what_pyproject_does(built: tuple[Path, Path]) -> None:
    wheel, _ = built
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("METADATA")]
        told = metadata.PathDistribution(zipfile.Path(archive, name.removesuffix("METADATA")))
        required = [text for text in told.requires or [] if "extra ==" not in text]
    # The build backend may change the order of a requirement's specifiers.
    assert set(map(Requirement, required)) == set(
        map(Requirement, PROJECT["project"]["dependencies"])
    )
