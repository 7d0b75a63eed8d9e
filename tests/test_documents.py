"""What the documents say of the code is what the code says of itself."""

import re

import pytest

from bsprobe.cli import COMMANDS
from bsprobe.records.gpus import catalogue
from bsprobe.records.variants import AXES, Norm, Variant
from bsprobe.training import models
from bsprobe.training.models.norms import LAYERS
from tests.support.commands import ROOT, python

CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_page_of_commands_is_what_the_commands_say() -> None:
    done = python(ROOT / "docs" / "commands.py", "--check", cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_the_readme_shows_every_command(command: str) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"bsprobe {command}" in readme


def test_the_readme_counts_the_gpus_of_the_catalogue() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"`bsprobe gpus` lists {len(catalogue())} of them" in readme


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
