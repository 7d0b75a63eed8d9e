import os
import sys
from pathlib import Path

import pytest
from click import Command, Option
from click.testing import CliRunner, Result

from bsprobe.cli.data import data
from bsprobe.cli.sample_data import sample_data
from bsprobe.records.errors import FileError, UsageError
from bsprobe.training.cityscapes.samples import Split, list_split
from tests.support.commands import bsprobe


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands write into the current folder unless told otherwise."""
    monkeypatch.chdir(tmp_path)


def run(command: Command, *arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def test_sample_data_draws_and_names_the_next_command() -> None:
    result = run(sample_data, "streets", "--images", "5", "--size", "32x64", "--seed", "1")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == (
        "Drew 5 images, 32 high x 64 wide: 4 train, 1 val.\nNext: bsprobe data streets\n"
    )
    assert len(list_split(Path("streets"), Split.TRAIN).samples) == 4


def test_sample_data_refuses_a_size_that_is_none() -> None:
    result = run(sample_data, "streets", "--size", "64")
    assert isinstance(result.exception, UsageError)
    assert str(result.exception) == "'64' is not a resolution"
    assert not Path("streets").exists()


@pytest.mark.parametrize("arguments", [("--images", "0"), ("--seed", "-1"), ("--images", "two")])
def test_sample_data_refuses_numbers_out_of_range(arguments: tuple[str, str]) -> None:
    result = run(sample_data, "streets", *arguments)
    assert result.exit_code == 2
    assert f"Invalid value for '{arguments[0]}'" in result.stderr


def test_data_tells_what_a_drawn_folder_holds() -> None:
    run(sample_data, "streets", "--images", "5", "--size", "32x64")
    result = run(data, "streets")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[:9] == [
        "streets: 5 usable images",
        "",
        "split  city                           images",
        "train  ahornstadt                          4",
        "val    lindenfurt                          1",
        "",
        "size (high x wide)                    images",
        "32x64                                      5",
        "",
    ]
    assert lines[9] == "id  label                  train id     pixels   images"
    assert lines[-2:] == ["No problems.", "Wrote streets-sample.png"]
    assert max(len(line) for line in lines) <= 80
    assert Path("streets-sample.png").read_bytes().startswith(b"\x89PNG")


def test_data_writes_the_picture_where_it_is_told_to() -> None:
    run(sample_data, "streets", "--images", "1", "--size", "32x64")
    result = run(data, "streets", "--picture", "seen/one.png")
    assert result.stdout.splitlines()[-1] == "Wrote seen/one.png"
    assert Path("seen/one.png").is_file()
    assert not Path("streets-sample.png").exists()


def test_data_lists_every_problem_and_then_fails_with_their_number() -> None:
    run(sample_data, "streets", "--images", "5", "--size", "32x64")
    samples = list_split(Path("streets"), Split.TRAIN).samples
    samples[0].image_path.unlink()
    samples[1].image_path.write_bytes(b"")
    result = run(data, "streets")
    assert isinstance(result.exception, FileError)
    assert str(result.exception) == "streets has 2 problems and 3 usable images"
    assert result.exception.hint == "see the list above: under each file it says what to do"
    assert result.exception.exit_code == 2
    lines = result.stdout.splitlines()
    start = lines.index(str(samples[0].label_path))
    assert lines[start:] == [
        "streets/gtFine/train/ahornstadt/ahornstadt_000000_000019_gtFine_labelIds.png",
        "    has no image",
        "    (leftImg8bit/train/ahornstadt/ahornstadt_000000_000019_leftImg8bit.png)",
        "    -> copy the missing file, or delete this one",
        "streets/leftImg8bit/train/ahornstadt/ahornstadt_000002_000019_leftImg8bit.png",
        "    is cut off, or no PNG image",
        "    -> copy or download this file again",
        "Wrote streets-sample.png",
    ]


def test_data_fails_for_a_folder_that_is_not_there() -> None:
    result = run(data, "nowhere")
    assert isinstance(result.exception, FileError)
    assert str(result.exception) == "nowhere has 1 problem and nothing usable"
    first, _, named, *_, last = result.stdout.splitlines()
    assert (first, named) == ("nowhere: 0 usable images", "nowhere")
    assert last == "No picture: there is no usable image with a label."


@pytest.mark.parametrize("command", [sample_data, data])
def test_every_option_is_explained_with_its_default(command: Command) -> None:
    options = [one for one in command.params if isinstance(one, Option)]
    assert options
    for option in options:
        assert str(option.help).endswith(".")
        assert option.show_default


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pipes with a path")
def test_a_picture_takes_the_place_of_no_pipe() -> None:
    run(sample_data, "streets", "--images", "1", "--size", "32x64")
    os.mkfifo("pipe")
    result = bsprobe("data", "streets", "--picture", "pipe")
    assert (result.returncode, result.stderr) == (
        2,
        (
            "error: pipe is not a regular file\n"
            "hint: give another path, or move the existing one away\n"
        ),
    )
    assert Path("pipe").is_fifo()
