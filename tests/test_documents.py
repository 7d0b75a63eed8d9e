"""The documents: their links, their commands, and what they say of the code."""

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch

from bsprobe.cli import COMMANDS
from bsprobe.records.gpus import catalogue
from bsprobe.records.variants import AXES, Norm, Variant
from bsprobe.study.report import terminal as study_terminal
from bsprobe.study.studyfile import load_study
from bsprobe.training import models
from bsprobe.training.models.norms import LAYERS
from tests.support.commands import ROOT, bsprobe, python
from tests.support.pages import blocks, bsprobe_lines, commands_of, links, parse, shown

README = ROOT / "README.md"
DOCS = sorted(set((ROOT / "docs").glob("*.md")) - {ROOT / "docs" / "commands.md"})
PAGES = (README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS)
RUN_ELSEWHERE = ("networks.md", "api.md")
"""Their commands are run by test_others_networks.py and test_python_examples.py."""
RUN = ROOT / "reports" / "predicted-rtx-3090-deeplabv2-resnet101-512x1024"
STUDY = ROOT / "reports" / "study-cpu-deeplabv2-mini-64x128"
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_page_of_commands_is_what_the_commands_say() -> None:
    done = python(ROOT / "docs" / "commands.py", "--check", cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_the_readme_shows_every_command(command: str) -> None:
    assert f"bsprobe {command}" in README.read_text(encoding="utf-8")


def test_the_readme_counts_the_gpus_of_the_catalogue() -> None:
    assert f"`bsprobe gpus` lists {len(catalogue())} of them" in README.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_links_to_exists(page: Path) -> None:
    assert [link for link in links(page) if not link.exists()] == []


def test_every_page_is_found_from_the_readme() -> None:
    found = {link.resolve() for link in links(README)}
    assert [page for page in (ROOT / "docs").glob("*.md") if page.resolve() not in found] == []


@pytest.mark.parametrize("page", [README, *DOCS], ids=lambda page: page.name)
def test_every_command_of_a_page_parses(page: Path) -> None:
    for line in commands_of(page):
        for words in bsprobe_lines(line):
            parse(words)


@pytest.mark.nightly
@pytest.mark.skipif(sys.platform != "linux", reason="the CPU device is Linux's")
@pytest.mark.parametrize(
    ("page", "line"),
    [
        pytest.param(page, line, id=f"{page.stem}: {line}")
        for line, page in {
            line: page for page in (*DOCS, README) for line in commands_of(page)
        }.items()
        if line.startswith(("bsprobe ", "torchrun ")) and page.name not in RUN_ELSEWHERE
    ],
)
def test_a_command_of_a_page_works(page: Path, line: str, folder: Path) -> None:
    program, *words = shlex.split(line)
    if words[0] == "sample-data":
        shutil.rmtree(folder / "D")
    is_ours = program == "bsprobe"
    if not is_ours and "--device" not in words and not torch.cuda.is_available():
        pytest.skip(f"{page.name} says that this needs GPUs")
    module = "bsprobe" if is_ours else "torch.distributed.run"
    done = python("-m", module, *words, cwd=folder, timeout=1200)
    assert done.returncode == 0, done.stderr


def test_the_page_on_studies_shows_what_its_command_prints() -> None:
    page, study = ROOT / "docs" / "study.md", load_study(STUDY)
    assert shown(page) == [study_terminal.render(study).partition("\n\nNote")[0]]
    assert study.environment.command in commands_of(page)


def test_the_study_of_that_page_learns() -> None:
    for training in load_study(STUDY).trainings:
        assert training.result is not None
        first, last = training.result.curve[0], training.result.curve[-1]
        assert (last.validation_loss or 9) < (first.validation_loss or 0)
        assert last.mean_iou > 5 * training.result.chance.mean_iou


@pytest.fixture
def folder(tmp_path: Path, images: Path) -> Path:
    """A folder with what the commands of the pages name."""
    for name in ("docs", "benchmarks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("validation"))
    for name in ("D", "DIR"):
        shutil.copytree(images, tmp_path / name)
    for name in ("BASELINE", "RUN"):
        shutil.copytree(RUN, tmp_path / name)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "module.py").write_text(
        "from torchvision.models import resnet18 as factory\n", encoding="utf-8"
    )
    return tmp_path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn data set."""
    folder = tmp_path_factory.mktemp("images")
    assert bsprobe("sample-data", folder / "D", cwd=folder).returncode == 0
    return folder / "D"


def test_every_file_that_contributing_names_exists() -> None:
    named = re.findall(r"`((?:\w+/)*\w+\.(?:py|md|toml)|(?:\w+/)+|\.ci/\w+)`", CONTRIBUTING)
    missing = [
        name
        for name in named
        if not (ROOT / name).exists() and not (ROOT / "bsprobe" / name).exists()
    ]
    assert (missing, len(named) > 10) == ([], True)


def test_the_recipes_of_contributing_name_what_is_there() -> None:
    assert {axis.field for axis in AXES} <= set(Variant.__dataclass_fields__)
    assert set(LAYERS) == set(Norm) - {Norm.AS_BUILT}
    assert models.__name__ == "bsprobe.training.models"
    for name in ("Variant", "Axis", "LAYERS", "Norm", "Metric"):
        sources = "".join(
            path.read_text(encoding="utf-8") for path in (ROOT / "bsprobe").rglob("*.py")
        )
        assert f"`{name}`" in CONTRIBUTING
        assert re.search(rf"^(class )?{name}\b", sources, re.MULTILINE)


def test_the_lines_that_make_a_script_well_behaved_are_those_of_the_example() -> None:
    (block,) = blocks(ROOT / "docs" / "scripts.md", "python")
    example = (ROOT / "docs" / "examples" / "train.py").read_text(encoding="utf-8")
    theirs = {line.strip() for line in example.splitlines()}
    assert [line for line in block.splitlines() if line.strip() not in theirs] == []
