"""The layers of the package: who may import whom, and what the parent process never loads."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "bsprobe"

LAYERS = {
    5: "__main__ -> cli | executable_batch -> api",
    4: "explaining | running -> prediction -> probing | studying -> study_runner -> world_runner "
    "-> runner | report | environment -> worker_process",
    3: "worker -> world | devices -> simulate -> training -> models | cityscapes",
    2: "ranks | verdict -> study_plan | noise_scale | caveats -> recommendation | search "
    "| remedies | fleet | compare -> expectation | comparability | equal_trials -> memory_line "
    "| thresholds",
    1: "studyfile -> journal | study_journal | runfile | explanationfile | batch_cache | messages "
    "-> consistency -> explanation | study_records -> records -> trials -> variants -> own_parts "
    "-> model_names | failures | gpus | launch",
    0: "jsonlines -> units | files | serialization | importable | interruption | required "
    "-> errors",
}
"""Imports go down, and within a line along the arrows; `|` stands between strangers."""
SIDEWAYS = {
    ("runfile", "journal"),  # the two files of a run complain in the same words
}
NEEDS_TORCH = 3
"""The one layer that imports torch."""
SLOW_TO_IMPORT = ("torch", "pandas", "matplotlib", "rich")

RANKS = {
    name.strip(): (layer, -place)
    for layer, line in LAYERS.items()
    for place, group in enumerate(line.split("->"))
    for name in group.split("|")
}


def may_import(importer: str, imported: str) -> bool:
    return importer == imported or (
        RANKS[importer] > RANKS[imported] or (importer, imported) in SIDEWAYS
    )


def part_of(path: Path) -> str:
    """The module or subpackage of bsprobe that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def sources() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: a relative import"
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def trespasses(path: Path, importer: str) -> list[str]:
    found = []
    for line, name in imports(path):
        package, _, rest = name.partition(".")
        imported = rest.partition(".")[0]
        is_own = package == "bsprobe" and imported != "__version__"
        if is_own and not may_import(importer, imported):
            found.append(f"{path.name}:{line}: {importer} imports {imported}")
        if package in ("torch", "torchvision") and RANKS[importer][0] != NEEDS_TORCH:
            found.append(f"{path.name}:{line}: {importer} imports {package}")
    return found


def test_every_module_has_its_place() -> None:
    assert {part_of(path) for path in sources()} - RANKS.keys() == set()


def test_imports_go_down_the_layers_alone() -> None:
    assert [line for path in sources() for line in trespasses(path, part_of(path))] == []


@pytest.mark.parametrize(
    ("importer", "line", "is_allowed"),
    [
        ("records", "from bsprobe.search import Process", False),
        ("records", "from bsprobe import search", False),
        ("records", "from bsprobe import __version__", True),
        ("search", "def late():\n    import bsprobe.recommendation", False),
        ("recommendation", "from bsprobe.search import find_boundary", False),
        ("runfile", "from bsprobe.journal import NAME", True),
        ("records", "from bsprobe.study_records import Study", False),
        ("verdict", "from bsprobe.study_plan import final_trainings", True),
        ("journal", "from bsprobe.runfile import NAME", False),
        ("compare", "from bsprobe.search import find_boundary", False),
        ("runner", "from bsprobe.report import tables", False),
        ("report", "from bsprobe.environment import describe_environment", False),
        ("models", "from bsprobe.cityscapes import labels", False),
        ("training", "from bsprobe.simulate import rules", False),
        ("simulate", "from bsprobe.training import step", True),
        ("runner", "from bsprobe.worker import main", True),
        ("failures", "from bsprobe.variants import Norm", False),
        ("errors", "from bsprobe.units import GIB", False),
        ("report", "if True:\n    import torch.nn", False),
        ("models", "from torchvision import models", True),
    ],
)
def test_the_walk_sees_what_is_forbidden(
    importer: str,
    line: str,
    is_allowed: bool,  # noqa: FBT001 - parametrized
    tmp_path: Path,
) -> None:
    path = tmp_path / "module.py"
    path.write_text(line, encoding="utf-8")
    assert (trespasses(path, importer) == []) is is_allowed


@pytest.mark.parametrize(
    "module",
    [
        "bsprobe",
        "bsprobe.api",
        "bsprobe.cli",
        "bsprobe.executable_batch",
        "bsprobe.__main__",
        "bsprobe.probing",
    ],
)
def test_the_parent_process_loads_nothing_slow(module: str) -> None:
    script = f"import sys, {module}; print([m for m in {SLOW_TO_IMPORT} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == "[]"
