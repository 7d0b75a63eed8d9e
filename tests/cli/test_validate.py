"""The options of the validation, and the older ones that they replace."""

import click
import pytest

from bsprobe.cli import bsprobe as commands
from bsprobe.cli.options.run import settings_from
from bsprobe.records.runs import Settings
from bsprobe.records.trials import Validation
from bsprobe.records.units import Resolution

FULL = Resolution(height=1024, width=2048)
HALF = Resolution(height=512, width=1024)


def settings_of(*words: str) -> Settings:
    command = commands.get_command(click.Context(commands), "run")
    assert command is not None
    return settings_from(command.make_context("run", [*words]).params)


@pytest.mark.parametrize(
    ("words", "validation", "seeks"),
    [
        ((), None, False),
        (("--validate=1024x2048",), Validation(resolution=FULL), False),
        (
            ("--validate=512x1024", "--validate-batch=3"),
            Validation(resolution=HALF, batch_size=3),
            False,
        ),
        (("--validate=512x1024", "--validate-batch=max"), Validation(resolution=HALF), True),
        (
            ("--validate=256x256", "--model=torchvision:resnet18"),
            Validation(resolution=Resolution(height=256, width=256)),
            False,
        ),
        (
            ("--validate=8x64x96", "--input=1x32x64x64", "--model=tests.support.home_made:UNet3d"),
            Validation(resolution=Resolution(height=64, width=96, slices=8)),
            False,
        ),
    ],
)
def test_the_options_are_the_validation_of_the_settings(
    words: tuple[str, ...], validation: Validation | None, *, seeks: bool
) -> None:
    found = settings_of(*words)
    assert (found.validation, found.seeks_validation_batch) == (validation, seeks)


@pytest.mark.parametrize(
    ("words", "size"),
    [(("--evaluate",), FULL), (("--evaluate", "--evaluate-at=512x1024"), HALF)],
)
def test_the_older_options_are_the_new_one_and_a_line_says_so(
    words: tuple[str, ...], size: Resolution, capsys: pytest.CaptureFixture[str]
) -> None:
    assert settings_of(*words).validation == Validation(resolution=size)
    (line,) = capsys.readouterr().err.splitlines()
    assert "--evaluate" in line
    assert f"--validate {size}" in line
